"""Absolute limits: each side's running tally of one gate, with evidence that it does not keep the limit (betting)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from serinus_operator.durations import format_duration
from serinus_operator.gates.betting import NO_MEAN_EVIDENCE, NO_RATE_EVIDENCE, LogWealth, bet_on_mean, bet_on_rate
from serinus_operator.gates.windows import Counters
from serinus_operator.spec import ConfidenceGate, CountedRule, DriftGate, ErrorRateGate, LatencyGate


@dataclass(frozen=True, slots=True)
class Tally:
    """One side's observations, the sum of what was observed, log wealth per bet against the limit (empty without one).

    Of latency the sum is of seconds, of confidence of 1 − confidence, of errors and of texts outside their band their number.
    """

    count: float = 0.0
    total: float = 0.0
    log_wealth: LogWealth = ()

    @property
    def mean(self) -> float:
        """Mean of what was observed; 0 before anything was."""
        return self.total / self.count if self.count > 0 else 0.0


def limit_of(rule: CountedRule) -> float | None:
    """The most that the mean of a tally may be; None without a limit."""
    match rule:
        case LatencyGate(max_mean):
            return None if max_mean is None else max_mean.total_seconds()
        case ConfidenceGate(min_mean):
            return None if min_mean is None else 1 - min_mean
        case ErrorRateGate(max_rate):
            return max_rate
        case DriftGate():
            return None
        case _:
            assert_never(rule)


def observe(rule: CountedRule, tally: Tally | None, counts: Counters) -> Tally:
    """Adds a window's counts."""
    tally = tally or Tally()
    limit = limit_of(rule)
    match rule:
        case LatencyGate():
            count, total = counts.latency_count, counts.latency_seconds
        case ConfidenceGate():
            count, total = counts.confidence_count, max(0.0, counts.confidence_count - counts.confidence)
        case ErrorRateGate():
            count, total = counts.requests, min(counts.errors, counts.requests)
        case DriftGate():
            count, total = counts.banded, min(counts.embedding_out_of_band, counts.banded)
        case _:
            assert_never(rule)
    if count <= 0:
        return tally
    wealth = tally.log_wealth
    if limit is not None and isinstance(rule, ErrorRateGate):
        wealth = bet_on_rate(wealth or NO_RATE_EVIDENCE, total, count, limit)
    elif limit is not None:
        wealth = bet_on_mean(wealth or NO_MEAN_EVIDENCE, total / count, limit)
    return Tally(tally.count + count, tally.total + total, wealth)


def observe_inputs(rule: DriftGate, tally: Tally | None, counts: Counters) -> Tally:
    """Adds a window's texts of both versions, those of unusual length among them: evidence that their share is above `input_alert`."""
    tally = tally or Tally()
    count, total = counts.banded, min(counts.input_out_of_band, counts.banded)
    if count <= 0:
        return tally
    wealth = bet_on_rate(tally.log_wealth or NO_RATE_EVIDENCE, total, count, rule.input_alert)
    return Tally(tally.count + count, tally.total + total, wealth)


def describe_tally(rule: CountedRule, tally: Tally) -> str:
    """What was observed, in words."""
    if tally.count <= 0:
        return "no data"
    match rule:
        case LatencyGate():
            return f"{tally.mean * 1000:.1f} ms over {tally.count:.0f} requests"
        case ConfidenceGate():
            return f"{1 - tally.mean:.3f} over {tally.count:.0f} texts"
        case ErrorRateGate():
            return f"{tally.total:.0f}/{tally.count:.0f} ({tally.mean:.1%})"
        case DriftGate():
            return f"{tally.mean:.1%} of {tally.count:.0f} texts outside their band"
        case _:
            assert_never(rule)


def describe_limit(rule: CountedRule) -> str:
    """The limit in words, e.g. `mean ≤ 120ms`; empty without one."""
    match rule:
        case LatencyGate(max_mean):
            return "" if max_mean is None else f"mean ≤ {format_duration(max_mean)}"
        case ConfidenceGate(min_mean):
            return "" if min_mean is None else f"mean ≥ {min_mean}"
        case ErrorRateGate(max_rate):
            return "" if max_rate is None else f"rate ≤ {max_rate:.1%}"
        case DriftGate():
            return ""
        case _:
            assert_never(rule)
