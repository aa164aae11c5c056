"""The judge: good canaries are rarely failed however often they are looked at, bad ones soon."""

import math
import random
from datetime import UTC, datetime, timedelta

import pytest

from serinus_operator.gates.betting import NO_MEAN_EVIDENCE, NO_RATE_EVIDENCE, bet_on_mean, bet_on_rate, log_evidence
from serinus_operator.gates.judge import Evidence, Verdict, judge, overall, verdicts
from serinus_operator.gates.windows import Counters, Sample, Window, subtract
from serinus_operator.spec import (
    AnalysisSpec,
    ConfidenceGate,
    ErrorRateGate,
    Gate,
    InconclusiveAction,
    LatencyGate,
    PromQLGate,
    RestartsGate,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
LATENCY = Gate("latency", LatencyGate(timedelta(milliseconds=120), compare=False), dry_run=False)
CONFIDENCE = Gate("confidence", ConfidenceGate(0.75, compare=False), dry_run=False)
ERRORS = Gate("errors", ErrorRateGate(0.02, compare=False), dry_run=False)


def analysis(*gates: Gate) -> AnalysisSpec:
    return AnalysisSpec(timedelta(seconds=10), 0.05, 200, timedelta(minutes=30), InconclusiveAction.PAUSE, gates)


def window(index: int, canary: Counters, stable: Counters | None = None) -> Window:
    end = START + index * timedelta(seconds=10)
    return Window(end - timedelta(seconds=10), end, {"c": canary, "s": stable or Counters()})


def served(requests: int, *, mean_ms: float = 20, errors: int = 0, confidence: float = 0.9) -> Counters:
    return Counters(requests, errors, requests * mean_ms / 1000, requests, requests * confidence, requests)


def run(spec: AnalysisSpec, windows: list[Window]) -> Evidence:
    evidence = Evidence("c", START)
    for each in windows:
        evidence = judge(spec, evidence, each, "s")
    return evidence


def test_good_canary_passes_every_gate() -> None:
    spec = analysis(LATENCY, CONFIDENCE, ERRORS)
    gates = verdicts(spec, run(spec, [window(i, served(50), served(400)) for i in range(1, 10)]))
    assert [gate.verdict for gate in gates] == [Verdict.PASS] * 3


@pytest.mark.parametrize(
    ("gate", "bad"),
    [(LATENCY, served(50, mean_ms=400)), (CONFIDENCE, served(50, confidence=0.3)), (ERRORS, served(50, errors=10))],
)
def test_bad_canary_fails_the_right_gate_within_a_minute(gate: Gate, bad: Counters) -> None:
    spec = analysis(gate)
    verdict = verdicts(spec, run(spec, [window(i, bad, served(400)) for i in range(1, 7)]))[0]
    assert verdict.verdict is Verdict.FAIL
    assert verdict.message.startswith(f"{gate.name}: canary ")
    assert "evidence" in verdict.message


def test_a_limit_that_stable_breaks_too_says_nothing_of_the_canary() -> None:
    spec = analysis(LATENCY)
    slow = served(50, mean_ms=400)
    verdict = verdicts(spec, run(spec, [window(i, slow, slow) for i in range(1, 20)]))[0]
    assert (verdict.verdict, verdict.alert) == (Verdict.INCONCLUSIVE, "stable breaks the limit of gate latency too")


def test_missing_data_is_neither_success_nor_failure() -> None:
    spec = analysis(LATENCY)
    assert verdicts(spec, Evidence("c", START))[0].verdict is Verdict.NO_DATA
    gates = verdicts(spec, run(spec, [window(i, Counters(), served(400)) for i in range(1, 9)]))
    assert overall(gates) is Verdict.NO_DATA


def test_few_requests_are_inconclusive() -> None:
    spec = analysis(LATENCY)
    assert verdicts(spec, run(spec, [window(1, served(50))]))[0].verdict is Verdict.INCONCLUSIVE


def test_canary_over_its_limit_does_not_pass_while_the_evidence_is_thin() -> None:
    spec = analysis(LATENCY)
    verdict = verdicts(spec, run(spec, [window(i, served(50, mean_ms=121), served(400)) for i in range(1, 7)]))[0]
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert verdict.message.endswith("over the limit, evidence still thin")


def test_gates_that_count_no_requests_say_so() -> None:
    query, restarts = (
        Gate("mine", PromQLGate("up", 0.0, None), dry_run=False),
        Gate("restarts", RestartsGate(), dry_run=False),
    )
    lacking = Gate("confidence", ConfidenceGate(0.75, only_with_reference=True), dry_run=False)
    spec = analysis(query, restarts, lacking)
    windows = [window(i, Counters(50, 0, 1.0, 50)) for i in range(1, 7)]
    assert [verdict.requests for verdict in verdicts(spec, run(spec, windows))] == [0, 0, 0]


def test_a_window_counts_once() -> None:
    spec = analysis(LATENCY, ERRORS)
    once = run(spec, [window(1, served(50))])
    assert judge(spec, once, window(1, served(50)), "s") is once


def test_a_window_that_ends_before_the_last_one_counts_no_more() -> None:
    spec = analysis(LATENCY, ERRORS)
    later = run(spec, [window(2, served(50))])
    assert judge(spec, later, window(1, served(50)), "s") is later


@pytest.mark.parametrize(("first", "added"), [(LATENCY, ERRORS), (ERRORS, LATENCY)])
def test_gate_that_is_added_says_nothing_of_lost_evidence(first: Gate, added: Gate) -> None:
    evidence = judge(analysis(first, added), run(analysis(first), [window(1, served(50))]), window(2, served(50)), "s")
    assert [gate.note for gate in evidence.gates] == ["", ""]


def test_an_edited_limit_starts_its_evidence_again() -> None:
    slow = [window(i, served(50, mean_ms=400)) for i in range(1, 9)]
    evidence = run(analysis(LATENCY), slow)
    edited = analysis(Gate("latency", LatencyGate(timedelta(seconds=1), compare=False), dry_run=False))
    assert verdicts(edited, evidence)[0].verdict is Verdict.NO_DATA


def test_dry_run_gate_has_no_consequence() -> None:
    spec = analysis(Gate("latency", LATENCY.rule, dry_run=True), ERRORS)
    gates = verdicts(spec, run(spec, [window(i, served(50, mean_ms=400), served(400)) for i in range(1, 9)]))
    assert gates[0].verdict is Verdict.FAIL
    assert overall(gates) is Verdict.PASS


def test_canaries_at_the_limit_are_failed_with_at_most_the_stated_probability() -> None:
    rng = random.Random(7)
    failed = 0
    for _ in range(400):
        mean, rate = NO_MEAN_EVIDENCE, NO_RATE_EVIDENCE
        worst = 0.0
        for _ in range(60):
            mean = bet_on_mean(mean, rng.expovariate(1 / 0.12), 0.12)
            rate = bet_on_rate(rate, sum(rng.random() < 0.02 for _ in range(20)), 20, 0.02)
            worst = max(worst, log_evidence(mean), log_evidence(rate))
        failed += worst >= math.log(2 / 0.05)
    assert failed <= 400 * 0.05


def test_counters_are_subtracted_per_pod_and_survive_resets() -> None:
    at_start = {
        ("c", "kept"): Sample(Counters(requests=100)),
        ("c", "restarted"): Sample(Counters(requests=80)),
        ("c", "gone"): Sample(Counters(50)),
    }
    at_end = {
        ("c", "kept"): Sample(Counters(requests=130)),
        ("c", "restarted"): Sample(Counters(requests=7)),
        ("c", "new"): Sample(Counters(requests=5)),
    }
    assert subtract(START, at_start, START, at_end).of("c").requests == 30 + 7 + 5
    assert subtract(START, at_start, START, at_end).of("other") == Counters()


def test_a_pod_that_comes_back_after_failed_scrapes_is_not_counted_from_its_birth() -> None:
    before, now = (
        START - timedelta(minutes=9),
        {("c", "pod"): Sample(Counters(requests=90_000), START - timedelta(hours=1))},
    )
    assert subtract(START, {}, START, now).of("c") == Counters()
    assert subtract(before, {}, START, {("c", "pod"): Sample(Counters(requests=7), START)}).of("c").requests == 7


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_impossible_observations_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        bet_on_mean(NO_MEAN_EVIDENCE, value, 0.1)
