"""From windows to verdicts. `judge` adds one window to the evidence; `verdicts` reads the evidence.

Evidence runs from the first canary traffic to promotion and is never reset between steps; it is keyed by the window's end, so that a
restart neither loses a window nor counts one twice.

The comparisons of all gates together fail a release when their mean wealth reaches 1/α: valid under any dependence between gates, and
never weaker than Bonferroni. Absolute limits have an α of their own, and fail a canary only while stable keeps them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, assert_never

from serinus_operator.gates.betting import log_evidence, log_weighted
from serinus_operator.gates.limits import (
    Tally,
    describe_limit,
    describe_tally,
    limit_of,
    observe,
    observe_inputs,
)
from serinus_operator.gates.queries import Measurement, Record, Said, within_bounds
from serinus_operator.gates.versus import Versus, add_window, bounds_of, harmless_rate
from serinus_operator.gates.windows import Window
from serinus_operator.spec import (
    AnalysisSpec,
    ConfidenceGate,
    CountedRule,
    DriftGate,
    ErrorRateGate,
    Gate,
    GateRule,
    PromQLGate,
    RestartsGate,
)

_LARGEST_SHOWN: Final = 60.0  # log of evidence, so that what is shown stays a number
_LIGHT, _HEAVY = 1.0, 2.0
_MOST_TOLERATED: Final = 10.0  # as the CRD's schema allows a person to say
_OTHER_BOUNDS: Final = "goes on with the evidence of another operator version, which compared by other bounds"
_STARTED_ANEW: Final = "its evidence began anew: the gate was edited, or another operator version wrote what was there"
UNREADABLE: Final = "unreadable"  # stands for the rule that evidence was gathered for, where it cannot be read
_NOT_ASKED: Final[Mapping[str, Measurement]] = MappingProxyType({})


class Verdict(StrEnum):
    """What a gate says. Missing data is neither success nor failure."""

    PASS = "Pass"
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"
    NO_DATA = "NoData"
    ERROR = "Error"


@dataclass(frozen=True, slots=True)
class GateEvidence:
    """Evidence of one gate. `rule` says what it was gathered for: a gate that was edited starts again.

    `inputs` are both versions' texts, for drift; `record` is what the user's own query said; `note` says when it is not whole.
    """

    name: str
    rule: str
    canary: Tally = field(default_factory=Tally)
    stable: Tally = field(default_factory=Tally)
    versus: Versus | None = None
    inputs: Tally | None = None
    record: Record | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything a canary's verdicts rest on. `window_end` is the end of the last window that was added.

    `confidence_tolerance` is that of a confidence gate whose spec names none; None for the default.
    """

    canary_revision: str
    window_end: datetime
    gates: tuple[GateEvidence, ...] = ()
    requests: float = 0.0  # that the canary has answered in the windows so far
    confidence_tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class Restarts:
    """Container restarts of each side's pods, as their status counts them."""

    canary: int = 0
    stable: int = 0


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """One gate's verdict with its reason in words. `evidence` is the wealth nearest to failing; Fail at `needed`.

    `alert` is what a person should know although it fails no canary; empty when there is nothing.
    """

    name: str
    verdict: Verdict
    requests: int
    evidence: float
    needed: float
    message: str
    dry_run: bool = False
    alert: str = ""


def judge(
    analysis: AnalysisSpec,
    evidence: Evidence,
    window: Window,
    stable_revision: str,
    measurements: Mapping[str, Measurement] = _NOT_ASKED,
) -> Evidence:
    """Adds one window, and what the users' queries said at its end, by gate. A window that was added before changes nothing."""
    if window.end <= evidence.window_end:
        return evidence
    known = _known(evidence)
    gates = []
    for gate in analysis.gates:
        identity = _identity(gate.rule)
        before = known.get((gate.name, identity)) or _begun(gate.name, identity, evidence)
        match gate.rule:
            case RestartsGate():
                continue
            case PromQLGate():
                measured = measurements.get(gate.name, Record().last)
                gates.append(replace(before, record=(before.record or Record()).add(gate.rule, measured)))
            case rule:
                if isinstance(rule, ConfidenceGate) and rule.tolerance is None:
                    rule = replace(rule, tolerance=evidence.confidence_tolerance)
                gates.append(_add_counts(rule, before, window, evidence.canary_revision, stable_revision))
    requests = evidence.requests + window.of(evidence.canary_revision).requests
    return replace(evidence, window_end=window.end, gates=tuple(gates), requests=requests)


def weight_of(rule: CountedRule) -> float:
    """A comparison's weight beside the others; the release's evidence is their weighted mean.

    Errors count double: a doubled rate of 5 % is then found within 5 minutes in 87 instead of 84 of 100 canaries, and 25 % more latency,
    which has evidence to spare, still in all of them within 10.
    """
    return _HEAVY if isinstance(rule, ErrorRateGate) else _LIGHT


def confidence_tolerance(measured: float | None) -> float | None:
    """Twice the odds ratio, canary to stable, of a text of low confidence that verify measured on shared texts; 2 at least, 10 at most.

    A ratio below 1 is no reason to ask more of the canary than of any other: verify has few texts.
    """
    return None if measured is None else min(_MOST_TOLERATED, 2 * max(1.0, measured))


def _add_counts(rule: CountedRule, before: GateEvidence, window: Window, canary: str, stable: str) -> GateEvidence:
    ours, theirs = window.of(canary), window.of(stable)
    if before.versus is not None and before.versus.bounds != bounds_of(rule):
        before = replace(before, note=_OTHER_BOUNDS)
    return replace(
        before,
        canary=observe(rule, before.canary, ours),
        stable=observe(rule, before.stable, theirs),
        versus=add_window(rule, before.versus, window, canary, stable) if rule.compare else None,
        inputs=observe_inputs(rule, before.inputs, ours + theirs) if isinstance(rule, DriftGate) else None,
    )


def verdicts(
    analysis: AnalysisSpec, evidence: Evidence, restarts: Restarts = Restarts()
) -> tuple[GateVerdict, ...]:  # fmt: skip
    """One verdict per gate of the spec, in its order."""
    known = _known(evidence)
    court = _Court(analysis, known)
    found = []
    for gate in analysis.gates:
        gathered = known.get((gate.name, _identity(gate.rule)))
        match gate.rule:
            case RestartsGate():
                found.append(_restarts(gate, gate.rule, restarts))
            case PromQLGate():
                found.append(_own_query(gate, gate.rule, (gathered and gathered.record) or Record()))
            case rule:
                found.append(court.verdict(gate, rule, gathered, evidence.requests))
    return tuple(found)


def overall(gates: Sequence[GateVerdict]) -> Verdict:
    """The verdict on the canary: one Fail fails it, only all Pass passes it; dry runs do not count. No gates at all: Pass."""
    heard = {gate.verdict for gate in gates if not gate.dry_run}
    for verdict in (Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA, Verdict.INCONCLUSIVE):
        if verdict in heard:
            return verdict
    return Verdict.PASS


def new_alerts(before: Sequence[GateVerdict], now: Sequence[GateVerdict]) -> tuple[GateVerdict, ...]:
    """The gates that alert now and did not before: said once, and again only when it had ended."""
    alerting = {gate.name for gate in before if gate.alert}
    return tuple(gate for gate in now if gate.alert and gate.name not in alerting)


class _Court:
    """What the gates of one release need of each other: the comparisons' evidence together, and how much is needed."""

    def __init__(self, analysis: AnalysisSpec, known: dict[tuple[str, str], GateEvidence]) -> None:
        self._min_requests = analysis.min_requests
        self._log_alpha = math.log(analysis.false_rollback_probability)
        rules = [(gate.name, gate.rule) for gate in analysis.gates if not gate.dry_run]
        counted = [(name, rule) for name, rule in rules if isinstance(rule, CountedRule)]
        limits = sum(limit_of(rule) is not None for _, rule in counted)
        self.log_limit_needed = math.log(max(1, limits)) - self._log_alpha
        compared = {name: _log_versus(known.get((name, _identity(rule)))) for name, rule in counted if rule.compare}
        self._weights = {name: weight_of(rule) for name, rule in counted if rule.compare}
        together = log_weighted(tuple(compared.values()), tuple(self._weights.values())) if compared else 0.0
        fails = together >= -self._log_alpha
        self._worst = max(compared, key=lambda name: compared[name] - self.log_versus_needed(name)) if fails else None

    def log_versus_needed(self, name: str) -> float:
        """What one gate's comparison must reach to fail the canary alone. One that does not count, a dry run, is judged as a light one."""
        total = sum(self._weights.values()) or _LIGHT
        return math.log(total / self._weights.get(name, _LIGHT)) - self._log_alpha

    def verdict(self, gate: Gate, rule: CountedRule, evidence: GateEvidence | None, requests: float) -> GateVerdict:
        """One gate's verdict."""
        if evidence is None or evidence.canary.count <= 0:
            return self._without_data(gate, rule, requests)
        canary, stable, versus = evidence.canary, evidence.stable, evidence.versus
        limit = limit_of(rule)
        parts = [f"{gate.name}: canary {describe_tally(rule, canary)}, stable {describe_tally(rule, stable)}"]
        log_limit, log_versus, log_versus_needed = -math.inf, -math.inf, self.log_versus_needed(gate.name)
        if limit is not None:
            log_limit = log_evidence(canary.log_wealth)
            parts.append(_shown(f"limit {describe_limit(rule)}, evidence", log_limit, self.log_limit_needed))
        if versus is not None:
            log_versus = versus.log_evidence()
            parts.append(_shown("comparison", log_versus, log_versus_needed))
        parts += [evidence.note] if evidence.note else []
        verdict, conclusion = self._conclude(gate, rule, evidence, log_limit, log_versus)
        by_limit = log_limit - self.log_limit_needed >= log_versus - log_versus_needed
        log_shown, log_needed = (log_limit, self.log_limit_needed) if by_limit else (log_versus, log_versus_needed)
        shown = math.exp(min(log_shown, _LARGEST_SHOWN))
        needed, alert = math.exp(log_needed), self._alert(gate, rule, evidence)
        message = "; ".join([*parts, alert] if alert else parts) + f": {conclusion}"
        return GateVerdict(gate.name, verdict, int(canary.count), shown, needed, message, gate.dry_run, alert)

    def _alert(self, gate: Gate, rule: CountedRule, evidence: GateEvidence) -> str:
        """What is wrong with the traffic, or with both versions: a person should know, the canary is not to blame."""
        inputs = evidence.inputs
        if (
            isinstance(rule, DriftGate)
            and inputs
            and inputs.count
            and log_evidence(inputs.log_wealth) >= -self._log_alpha
        ):
            return f"inputs have drifted: {inputs.mean:.1%} of texts have an unusual length, {rule.input_alert:.0%} are tolerated"
        if self._over_limit(evidence.canary) and self._over_limit(evidence.stable):
            return f"stable breaks the limit of gate {gate.name} too"
        return ""

    def _over_limit(self, tally: Tally) -> bool:
        return bool(tally.log_wealth) and log_evidence(tally.log_wealth) >= self.log_limit_needed

    def _conclude(
        self, gate: Gate, rule: CountedRule, evidence: GateEvidence, log_limit: float, log_versus: float
    ) -> tuple[Verdict, str]:
        canary, stable, limit = evidence.canary, evidence.stable, limit_of(rule)
        if log_limit >= self.log_limit_needed:
            if stable.count > 0 and log_evidence(stable.log_wealth) >= self.log_limit_needed:
                return Verdict.INCONCLUSIVE, "stable breaks the limit too, so it says nothing of the canary"
            return Verdict.FAIL, "over the limit"
        if gate.name == self._worst or (gate.dry_run and log_versus >= self.log_versus_needed(gate.name)):
            return Verdict.FAIL, "worse than stable"
        if canary.count < self._min_requests:
            return Verdict.INCONCLUSIVE, f"{self._min_requests} requests are needed"
        if limit is not None and canary.mean > limit:
            return Verdict.INCONCLUSIVE, "over the limit, evidence still thin"
        if evidence.versus is not None and not evidence.versus.compared:
            return (
                Verdict.INCONCLUSIVE,
                "nothing to compare: a side has no warm requests, or the versions count by other bounds",
            )
        needed = self.log_versus_needed(gate.name)
        if evidence.versus is not None and not evidence.versus.could_have_seen(needed, harmless_rate(rule)):
            return Verdict.INCONCLUSIVE, "a difference would not have shown yet"
        return Verdict.PASS, "pass"

    def _without_data(self, gate: Gate, rule: CountedRule, requests: float) -> GateVerdict:
        needed = math.exp(self.log_versus_needed(gate.name))
        may_lack = isinstance(rule, ConfidenceGate | DriftGate) and rule.only_with_reference
        if may_lack and requests >= self._min_requests:
            message = f"{gate.name}: the model has no reference profile, so it is not judged"
            return GateVerdict(gate.name, Verdict.PASS, 0, 1.0, needed, message, gate.dry_run)
        message = f"{gate.name}: no requests yet"
        return GateVerdict(gate.name, Verdict.NO_DATA, 0, 1.0, needed, message, gate.dry_run)


def _restarts(gate: Gate, rule: RestartsGate, restarts: Restarts) -> GateVerdict:
    """Judged on what the pods say now: a crash is no random event to gather evidence on."""
    verdict, conclusion = Verdict.PASS, "pass"
    if restarts.canary > rule.max_restarts:
        verdict, conclusion = Verdict.FAIL, "over the limit"
        if restarts.stable > rule.max_restarts:
            verdict, conclusion = Verdict.INCONCLUSIVE, "stable restarts too, so it says nothing of the canary"
    counted = f"canary {restarts.canary} restarts, stable {restarts.stable}, limit {rule.max_restarts}"
    return GateVerdict(
        gate.name, verdict, 0, float(restarts.canary), rule.max_restarts + 1.0,
        f"{gate.name}: {counted}: {conclusion}", gate.dry_run,
    )  # fmt: skip


def _own_query(gate: Gate, rule: PromQLGate, record: Record) -> GateVerdict:
    """Judged by counting, without an error probability, and the message says so."""
    bounds = [f"{sign} {bound:g}" for sign, bound in (("≥", rule.least), ("≤", rule.most)) if bound is not None]
    counted = (
        f"{record.outside} of {record.looks} looks outside {' and '.join(bounds)}, {rule.failure_limit} are tolerated"
    )
    said = f"{record.last.value:g} at the last look" if record.last.said is Said.NUMBER else record.last.problem
    verdict, conclusion = _conclude_query(rule, record)
    message = f"{gate.name}: {said}; {counted}; carries no error probability: {conclusion}"
    return GateVerdict(
        gate.name, verdict, 0, float(record.outside), rule.failure_limit + 1.0, message, gate.dry_run
    )  # fmt: skip


def _conclude_query(rule: PromQLGate, record: Record) -> tuple[Verdict, str]:
    if record.outside > rule.failure_limit:
        return Verdict.FAIL, "too often outside its bounds"
    match record.last.said:
        case Said.NUMBER if within_bounds(rule, record.last.value):
            return Verdict.PASS, "pass"
        case Said.NUMBER:
            return Verdict.INCONCLUSIVE, "outside its bounds"
        case Said.INFINITE:
            return Verdict.INCONCLUSIVE, "no finite number"
        case Said.NOTHING:
            return Verdict.NO_DATA, "no data"
        case Said.UNREADABLE:
            return Verdict.ERROR, "no answer that can be judged"
        case _:
            assert_never(record.last.said)


def _begun(name: str, identity: str, evidence: Evidence) -> GateEvidence:
    """A gate without evidence. Had there been some that does not count any more, it says so."""
    lost = any(gate.name == name for gate in evidence.gates)
    return GateEvidence(name, identity, note=_STARTED_ANEW if lost else "")


def _known(evidence: Evidence) -> dict[tuple[str, str], GateEvidence]:
    return {(gate.name, gate.rule): gate for gate in evidence.gates}


def _log_versus(evidence: GateEvidence | None) -> float:
    """A gate without evidence has wealth 1: the weights of the gates never change on the way."""
    return 0.0 if evidence is None or evidence.versus is None else evidence.versus.log_evidence()


def _identity(rule: GateRule) -> str:
    return hashlib.sha256(repr(rule).encode()).hexdigest()[:10]


def _shown(what: str, log_value: float, log_needed: float) -> str:
    return f"{what} {math.exp(min(log_value, _LARGEST_SHOWN)):.3g} of {math.exp(log_needed):.3g} needed"
