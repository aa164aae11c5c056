"""Canary versus stable: which 2×2 tables a gate makes of a window, and the evidence that it has gathered from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

import numpy as np

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS
from serinus_operator.gates.betting import NO_RATE_EVIDENCE, bet_on_low_rate, log_evidence
from serinus_operator.gates.comparison import (
    Comparison,
    compare_each,
    log_power,
    log_worse,
    pod_tolerances,
    starting_at,
)
from serinus_operator.gates.tables import Table
from serinus_operator.gates.windows import Counters, Window
from serinus_operator.spec import ConfidenceGate, CountedRule, DriftGate, ErrorRateGate, LatencyGate

# A canary that is shown to have fewer bad requests than this needs no comparison: there is too little to compare.
_HARMLESS_RATE: Final = 0.01
# So many texts of a model's own reference are below its lowest decile: a canary that has fewer is at home in its traffic.
_REFERENCE_SHARE: Final = 0.10
# And so many are outside its outermost deciles.
_SHARE_OUT_OF_BAND: Final = 0.20
# The odds of a text below the lowest decile that are still good, where verify measured none.
DEFAULT_CONFIDENCE_TOLERANCE: Final = 2.0
# A window with more requests is judged as if it had so many, with the same shares: it says less than it could, in bounded time.
_MOST_REQUESTS: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class TableEvidence:
    """Evidence from one kind of table: is the canary worse. What was counted tells whether there is anything to compare."""

    comparison: Comparison = field(default_factory=Comparison)
    canary_bad: float = 0.0
    canary_total: float = 0.0
    stable_good: float = 0.0
    stable_total: float = 0.0

    def counting(self, table: Table, comparison: Comparison) -> TableEvidence:
        """With one more window's table, whose comparison is this."""
        return TableEvidence(
            comparison,
            self.canary_bad + table.canary_bad,
            self.canary_total + table.canary_total,
            self.stable_good + table.stable_total - table.stable_bad,
            self.stable_total + table.stable_total,
        )

    def has_nothing_to_see(self, log_needed: float, harmless: float) -> bool:
        """Shown that there is too little to compare: hardly any bad request in the canary, or hardly any good one in stable."""
        hardly_bad = bet_on_low_rate(NO_RATE_EVIDENCE, self.canary_bad, self.canary_total, harmless)
        hardly_good = bet_on_low_rate(NO_RATE_EVIDENCE, self.stable_good, self.stable_total, _HARMLESS_RATE)
        return max(log_evidence(hardly_bad), log_evidence(hardly_good)) >= log_needed


@dataclass(frozen=True, slots=True)
class Versus:
    """One gate's comparison: evidence for each kind of table that it makes of a window.

    `bounds` names the bounds by which latencies were compared: another operator version may compare by others.
    """

    tables: tuple[TableEvidence, ...]
    bounds: str = ""

    @property
    def compared(self) -> bool:
        """Has any window had requests of both sides, by a bound that both count by?"""
        return any(table.canary_total and table.stable_total for table in self.tables)

    def log_evidence(self) -> float:
        """log of the mean wealth over the tables."""
        return log_evidence([log_worse(table.comparison) for table in self.tables])

    def could_have_seen(self, log_needed: float, harmless: float) -> bool:
        """Would doubled odds have shown by now in one table, or has every table nothing to see? Passing takes power, not only patience."""
        powerful = any(log_power(table.comparison) >= log_needed for table in self.tables)
        return powerful or all(table.has_nothing_to_see(log_needed, harmless) for table in self.tables)

    def carried_to(self, bounds: str, tables: int) -> Versus:
        """The same wealth, to be bet on tables by other bounds. It stays a supermartingale, so that nothing is lost of the guarantee.

        What the old tables would have shown by now, and what they counted, is not known of the new ones.
        """
        carried = TableEvidence(starting_at(self.log_evidence()))
        return Versus((carried,) * tables, bounds)


def add_window(rule: CountedRule, before: Versus | None, window: Window, canary: str, stable: str) -> Versus:
    """The evidence with one more window. A side without a request in the window leaves it as it was."""
    tables, bounds = _tables(rule, window, canary, stable), bounds_of(rule)
    before = before or Versus((TableEvidence(),) * len(tables), bounds)
    if before.bounds != bounds or len(before.tables) != len(tables):
        before = before.carried_to(bounds, len(tables))
    if all(table.canary_total == 0 or table.stable_total == 0 for table in tables):
        return before
    tolerances = _tolerances(rule, window.pods.get(stable, ()))
    compared = compare_each([known.comparison for known in before.tables], tables, tolerances)
    added = zip(before.tables, tables, compared, strict=True)
    return replace(before, tables=tuple(known.counting(table, comparison) for known, table, comparison in added))


def bounds_of(rule: CountedRule) -> str:
    """By which bounds the gate makes its tables, in milliseconds; empty for one that compares no latencies."""
    return (
        " ".join(f"{1000 * bound:g}" for bound, _ in COMPARED_LATENCIES_SECONDS)
        if isinstance(rule, LatencyGate)
        else ""
    )


def harmless_rate(rule: CountedRule) -> float:
    """The share of bad requests below which there is nothing to compare."""
    match rule:
        case ErrorRateGate(max_rate):
            return _HARMLESS_RATE if max_rate is None else max_rate
        case ConfidenceGate():
            return _REFERENCE_SHARE
        case DriftGate():
            return _SHARE_OUT_OF_BAND
        case LatencyGate():
            return _HARMLESS_RATE
        case _:
            assert_never(rule)


def _tables(rule: CountedRule, window: Window, canary: str, stable: str) -> tuple[Table, ...]:
    match rule:
        case ErrorRateGate():
            ours, theirs = window.of(canary), window.of(stable)
            return (_table(ours.requests, ours.errors, theirs.requests, theirs.errors),)
        case ConfidenceGate():
            ours, theirs = window.of(canary), window.of(stable)
            return (_table(ours.confidence_count, ours.low_confidence, theirs.confidence_count, theirs.low_confidence),)
        case DriftGate():
            ours, theirs = window.of(canary), window.of(stable)
            return (_table(ours.banded, ours.embedding_out_of_band, theirs.banded, theirs.embedding_out_of_band),)
        case LatencyGate():
            ours, theirs = window.warm.get(canary, Counters()), window.warm.get(stable, Counters())
            return tuple(_slower(ours, theirs, 2 * pair) for pair in range(len(COMPARED_LATENCIES_SECONDS)))
        case _:
            assert_never(rule)


def _slower(ours: Counters, theirs: Counters, bound: int) -> Table:
    """Canary slower than 1.1·b against stable slower than b. Says nothing where one of the versions does not count by that bound."""
    ours_within, theirs_within = ours.within[bound + 1], theirs.within[bound]
    if math.isnan(ours_within) or math.isnan(theirs_within):
        return Table(0, 0, 0, 0)
    ours_slower, theirs_slower = ours.latency_count - ours_within, theirs.latency_count - theirs_within
    return _table(ours.latency_count, ours_slower, theirs.latency_count, theirs_slower)


def _table(canary_total: float, canary_bad: float, stable_total: float, stable_bad: float) -> Table:
    """Counters of one scrape may be a request apart from each other: what is bad is at most what there is."""
    fewer = min(1.0, _MOST_REQUESTS / max(1.0, canary_total + stable_total))
    ours, theirs = math.floor(canary_total * fewer), math.floor(stable_total * fewer)
    ours_bad, theirs_bad = round(canary_bad * fewer), round(stable_bad * fewer)
    return Table(ours, min(ours, max(0, ours_bad)), theirs, min(theirs, max(0, theirs_bad)))


def _tolerances(rule: CountedRule, pods: tuple[Counters, ...]) -> tuple[float, ...]:
    """What the gate tolerates for each table, or how far stable's own pods lastingly are from each other, if that is more."""
    if not pods:
        return tuple(_least_tolerance(rule) for _ in _pod_counts(rule, Counters()))
    counts = np.array([_pod_counts(rule, pod) for pod in pods])  # (pods, tables, 2)
    apart = pod_tolerances(counts[:, :, 0].T, counts[:, :, 1].T)
    return tuple(max(_least_tolerance(rule), float(each)) for each in apart)


def _least_tolerance(rule: CountedRule) -> float:
    match rule:
        case ErrorRateGate() | DriftGate():
            return rule.tolerance
        case ConfidenceGate():
            return DEFAULT_CONFIDENCE_TOLERANCE if rule.tolerance is None else rule.tolerance
        case LatencyGate():
            return 1.0  # its tolerance is in time: canary slower than 1.1·b against stable slower than b
        case _:
            assert_never(rule)


def _pod_counts(rule: CountedRule, pod: Counters) -> list[tuple[float, float]]:
    """One pod's bad requests and all of them, for each table that the gate makes."""
    match rule:
        case ErrorRateGate():
            return [(pod.errors, pod.requests)]
        case ConfidenceGate():
            return [(pod.low_confidence, pod.confidence_count)]
        case DriftGate():
            return [(pod.embedding_out_of_band, pod.banded)]
        case LatencyGate():
            return [(pod.latency_count - within, pod.latency_count) for within in pod.within[::2]]
        case _:
            assert_never(rule)
