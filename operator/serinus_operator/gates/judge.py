"""From windows to verdicts. `judge` adds one window to the evidence; `verdicts` reads the evidence.

Evidence runs from the first canary traffic to promotion and is never reset between steps; it is keyed by the window's end, so that a
restart neither loses a window nor counts one twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from serinus_operator.gates.betting import (
    NO_MEAN_EVIDENCE,
    NO_RATE_EVIDENCE,
    LogWealth,
    bet_on_mean,
    bet_on_rate,
    log_evidence,
)
from serinus_operator.gates.windows import Counters, Window
from serinus_operator.spec import AnalysisSpec, ConfidenceGate, ErrorRateGate, Gate, GateRule, LatencyGate


class Verdict(StrEnum):
    """What a gate says. Missing data is neither success nor failure."""

    PASS = "Pass"
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"
    NO_DATA = "NoData"
    ERROR = "Error"


@dataclass(frozen=True, slots=True)
class Tally:
    """One side's evidence for one gate: observations, the sum of what was observed, log wealth per bet."""

    count: float
    total: float
    log_wealth: LogWealth


@dataclass(frozen=True, slots=True)
class GateEvidence:
    """Evidence of one gate, for both sides: an absolute limit fails the canary only while stable keeps it.

    Evidence against one `limit` says nothing of another: a gate whose limit was edited starts again.
    """

    name: str
    limit: str
    canary: Tally
    stable: Tally


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything a canary's verdicts rest on. `window_end` is the end of the last window that was added."""

    canary_revision: str
    window_end: datetime
    gates: tuple[GateEvidence, ...] = ()


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """One gate's verdict with its reason in words. `evidence` is the canary's wealth; Fail at `needed`."""

    name: str
    verdict: Verdict
    requests: int
    evidence: float
    needed: float
    message: str
    dry_run: bool = False


def judge(analysis: AnalysisSpec, evidence: Evidence, window: Window, stable_revision: str) -> Evidence:
    """Adds one window. A window that ends no later than the evidence has been added before and changes nothing."""
    if window.end <= evidence.window_end:
        return evidence
    known = _known(evidence)
    canary, stable = window.of(evidence.canary_revision), window.of(stable_revision)
    gates = []
    for gate in analysis.gates:
        limit = describe_limit(gate.rule)
        before = known.get((gate.name, limit))
        gates.append(
            GateEvidence(
                gate.name,
                limit,
                canary=_observe(gate.rule, before.canary if before else None, canary),
                stable=_observe(gate.rule, before.stable if before else None, stable),
            )
        )
    return replace(evidence, window_end=window.end, gates=tuple(gates))


def verdicts(analysis: AnalysisSpec, evidence: Evidence) -> tuple[GateVerdict, ...]:
    """One verdict per gate of the spec, in its order. α is shared evenly over the gates (Bonferroni)."""
    needed = len(analysis.gates) / analysis.false_rollback_probability
    known = _known(evidence)
    return tuple(
        _verdict(gate, known.get((gate.name, describe_limit(gate.rule))), needed, analysis.min_requests)
        for gate in analysis.gates
    )


def overall(gates: tuple[GateVerdict, ...]) -> Verdict:
    """The verdict on the canary: one Fail fails it, only all Pass passes it; dry runs do not count. No gates at all: Pass."""
    heard = {gate.verdict for gate in gates if not gate.dry_run}
    for verdict in (Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA, Verdict.INCONCLUSIVE):
        if verdict in heard:
            return verdict
    return Verdict.PASS


def _known(evidence: Evidence) -> dict[tuple[str, str], GateEvidence]:
    return {(gate.name, gate.limit): gate for gate in evidence.gates}


def _observe(rule: GateRule, tally: Tally | None, counts: Counters) -> Tally:
    match rule:
        case LatencyGate(max_mean):
            tally = tally or Tally(0, 0, NO_MEAN_EVIDENCE)
            return _observe_mean(tally, counts.latency_count, counts.latency_seconds, max_mean.total_seconds())
        case ConfidenceGate(min_mean):
            tally = tally or Tally(0, 0, NO_MEAN_EVIDENCE)
            missing = max(0.0, counts.confidence_count - counts.confidence)
            return _observe_mean(tally, counts.confidence_count, missing, 1 - min_mean)
        case ErrorRateGate(max_rate):
            tally = tally or Tally(0, 0, NO_RATE_EVIDENCE)
            wealth = bet_on_rate(tally.log_wealth, min(counts.errors, counts.requests), counts.requests, max_rate)
            return Tally(tally.count + counts.requests, tally.total + counts.errors, wealth)
        case _:
            assert_never(rule)


def _observe_mean(tally: Tally, count: float, total: float, limit: float) -> Tally:
    if count <= 0:
        return tally
    return Tally(tally.count + count, tally.total + total, bet_on_mean(tally.log_wealth, total / count, limit))


def _verdict(gate: Gate, evidence: GateEvidence | None, needed: float, min_requests: int) -> GateVerdict:
    if evidence is None or evidence.canary.count <= 0:
        return GateVerdict(gate.name, Verdict.NO_DATA, 0, 1.0, needed, f"{gate.name}: no requests yet", gate.dry_run)
    canary, stable = evidence.canary, evidence.stable
    log_canary, log_needed = log_evidence(canary.log_wealth), math.log(needed)
    kept = _kept(gate.rule, canary)
    if log_canary >= log_needed:
        broken_by_both = stable.count > 0 and log_evidence(stable.log_wealth) >= log_needed
        verdict = Verdict.INCONCLUSIVE if broken_by_both else Verdict.FAIL
        conclusion = "stable breaks the limit too, so it says nothing of the canary" if broken_by_both else "fail"
    elif canary.count < min_requests:
        verdict, conclusion = Verdict.INCONCLUSIVE, f"{min_requests} requests are needed"
    elif not kept:
        verdict, conclusion = Verdict.INCONCLUSIVE, "over the limit, evidence still thin"
    else:
        verdict, conclusion = Verdict.PASS, "pass"
    evidence_value = math.exp(min(log_canary, 60.0))
    message = (
        f"{gate.name}: canary {_describe(gate.rule, canary)}, stable {_describe(gate.rule, stable)}, "
        f"limit {describe_limit(gate.rule)}, evidence {evidence_value:.3g} of {needed:.3g} needed: {conclusion}"
    )
    return GateVerdict(gate.name, verdict, int(canary.count), evidence_value, needed, message, gate.dry_run)


def _kept(rule: GateRule, tally: Tally) -> bool:
    mean = tally.total / tally.count
    match rule:
        case LatencyGate(max_mean):
            return mean <= max_mean.total_seconds()
        case ConfidenceGate(min_mean):
            return mean <= 1 - min_mean
        case ErrorRateGate(max_rate):
            return mean <= max_rate
        case _:
            assert_never(rule)


def _describe(rule: GateRule, tally: Tally) -> str:
    if tally.count <= 0:
        return "no data"
    mean = tally.total / tally.count
    match rule:
        case LatencyGate():
            return f"{mean * 1000:.1f} ms over {tally.count:.0f} requests"
        case ConfidenceGate():
            return f"{1 - mean:.3f} over {tally.count:.0f} texts"
        case ErrorRateGate():
            return f"{tally.total:.0f}/{tally.count:.0f} ({mean:.1%})"
        case _:
            assert_never(rule)


def describe_limit(rule: GateRule) -> str:
    """The limit in words, e.g. `mean ≤ 120 ms`."""
    match rule:
        case LatencyGate(max_mean):
            return f"mean ≤ {max_mean.total_seconds() * 1000:.0f} ms"
        case ConfidenceGate(min_mean):
            return f"mean ≥ {min_mean}"
        case ErrorRateGate(max_rate):
            return f"rate ≤ {max_rate:.1%}"
        case _:
            assert_never(rule)
