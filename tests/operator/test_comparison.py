"""Canary against stable: exact against an oracle, rarely wrong about good releases, quick about bad ones."""

import math
from datetime import UTC, datetime, timedelta

import mpmath
import numpy as np
import pytest

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS
from serinus_operator.gates.comparison import Comparison, compare, log_worse, pod_tolerances
from serinus_operator.gates.judge import Evidence, Restarts, Verdict, judge, overall, verdicts
from serinus_operator.gates.tables import Corners, Table, Tables, mid_ranks
from serinus_operator.gates.windows import Counters, Sample, Window, subtract
from serinus_operator.spec import (
    AnalysisSpec,
    ConfidenceGate,
    ErrorRateGate,
    Gate,
    InconclusiveAction,
    LatencyGate,
    RestartsGate,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
DEFAULT = (
    Gate("errors", ErrorRateGate(), dry_run=False),
    Gate("latency", LatencyGate(), dry_run=False),
    Gate("confidence", ConfidenceGate(only_with_reference=True), dry_run=False),
    Gate("restarts", RestartsGate(), dry_run=False),
)
MEDIAN_SECONDS, SPREAD = 0.012, 0.5  # of lognormal latencies


def analysis(*gates: Gate) -> AnalysisSpec:
    return AnalysisSpec(timedelta(seconds=10), 0.05, 200, timedelta(minutes=30), InconclusiveAction.PAUSE, gates)


def side(rng: np.random.Generator, requests: int, *, errors: float, slower: float = 1.0, low: float = 0.1) -> Counters:
    """A side's counters of one window, drawn: so many requests, this error rate, latencies `slower` times the usual."""
    bad = int(rng.binomial(requests, errors))
    seconds = rng.lognormal(math.log(MEDIAN_SECONDS * slower), SPREAD, requests - bad)
    within = tuple(float((seconds <= bound).sum()) for pair in COMPARED_LATENCIES_SECONDS for bound in pair)
    answered = requests - bad
    return Counters(
        requests,
        bad,
        float(seconds.sum()),
        answered,
        0.9 * answered,
        answered,
        int(rng.binomial(answered, low)),
        within,
    )


def window(index: int, canary: Counters, stable: Counters) -> Window:
    end, sides = START + index * timedelta(seconds=10), {"c": canary, "s": stable}
    return Window(end - timedelta(seconds=10), end, sides, sides)


def first_failure(
    spec: AnalysisSpec, rng: np.random.Generator, windows: int, **canary: float
) -> tuple[int | None, str]:
    """The look at which a canary with 10 % of 50 requests a second fails, and the failing gate's message."""
    evidence = Evidence("c", START)
    base = {"errors": 0.05}
    for index in range(1, windows + 1):
        drawn = window(index, side(rng, 50, **{**base, **canary}), side(rng, 450, **base))  # type: ignore[arg-type]
        evidence = judge(spec, evidence, drawn, "s")
        failed = [gate for gate in verdicts(spec, evidence) if gate.verdict is Verdict.FAIL]
        if failed:
            return index, failed[0].message
    return None, "; ".join(gate.message for gate in verdicts(spec, evidence))


@pytest.mark.parametrize("requests", [30, 1_000, 100_000])
@pytest.mark.parametrize("odds_ratio", [1.0, 1.25, 2.0, 6.0])
def test_the_corner_agrees_with_exact_arithmetic(requests: int, odds_ratio: float) -> None:
    rng = np.random.default_rng(requests)
    for bad in (0.001, 0.05, 0.6):
        canary, stable = requests // 10, requests - requests // 10
        table = Table(canary, int(rng.binomial(canary, bad)), stable, int(rng.binomial(stable, bad)))
        corners = Corners(Tables.of(table), np.array([[odds_ratio, 20.0]]))
        logs = corners.log_probabilities(np.array([odds_ratio]))
        rank, log_probability = exact(table, odds_ratio)
        assert corners.seen(mid_ranks(np.exp(logs)))[0] == pytest.approx(rank, abs=1e-12)
        assert corners.seen(logs)[0] == pytest.approx(log_probability, abs=1e-9)


def exact(table: Table, odds_ratio: float) -> tuple[float, float]:
    """Mid-rank and log probability of the corner, in 40 digits."""
    with mpmath.workdps(40):
        low, high = (int(bound[0]) for bound in Tables.of(table).support)
        term = mpmath.binomial(table.canary_total, low) * mpmath.binomial(table.stable_total, table.bad - low)
        below, at, total = mpmath.mpf(0), mpmath.mpf(0), mpmath.mpf(0)
        for count in range(low, high + 1):
            total += term
            if count < table.canary_bad:
                below += term
            elif count == table.canary_bad:
                at = term
            up = (table.canary_total - count) * (table.bad - count) * mpmath.mpf(odds_ratio)
            term = term * up / ((count + 1) * (table.stable_total - table.bad + count + 1))
        return float((below + at / 2) / total), float(mpmath.log(at / total))


def test_ten_million_requests_in_a_window_are_judged() -> None:
    evidence = compare(Comparison(), Table(10**6, 100_100, 9 * 10**6, 900_000), 1.25)
    assert math.isfinite(log_worse(evidence))
    assert log_worse(evidence) < 0


@pytest.mark.parametrize(
    ("canary", "gate", "looks"),
    [
        ({"errors": 0.10}, "errors", 60),
        ({"errors": 0.90}, "errors", 2),
        ({"slower": 1.25}, "latency", 60),
        ({"low": 0.5}, "confidence", 12),
    ],
)
def test_a_worse_canary_is_failed_by_the_right_gate(canary: dict[str, float], gate: str, looks: int) -> None:
    rng = np.random.default_rng(11)
    for _ in range(5):
        look, message = first_failure(analysis(*DEFAULT), rng, looks, **canary)
        assert look is not None, message
        assert message.startswith(f"{gate}: canary ")
        assert message.endswith("worse than stable")


def test_a_faster_canary_never_fails() -> None:
    rng = np.random.default_rng(5)
    assert [first_failure(analysis(*DEFAULT), rng, 60, slower=0.7)[0] for _ in range(10)] == [None] * 10


def test_a_good_canary_passes_only_when_a_difference_would_have_shown() -> None:
    spec, rng, evidence = analysis(*DEFAULT), np.random.default_rng(1), Evidence("c", START)
    seen = []
    for index in range(1, 61):
        evidence = judge(spec, evidence, window(index, side(rng, 50, errors=0.0), side(rng, 450, errors=0.0)), "s")
        seen.append(overall(verdicts(spec, evidence)))
    assert seen[4] is Verdict.INCONCLUSIVE  # 250 requests, 200 are asked for, too few to see a doubling
    assert seen[-1] is Verdict.PASS
    assert seen.index(Verdict.PASS) <= 30


def test_evidence_is_the_same_wherever_the_run_is_cut() -> None:
    from serinus_operator.rollout.model import Status
    from serinus_operator.status_codec import decode, encode

    spec, rng = analysis(*DEFAULT), np.random.default_rng(2)
    windows = [window(i, side(rng, 50, errors=0.1), side(rng, 450, errors=0.05)) for i in range(1, 20)]
    whole = cut = Evidence("c", START)
    for each in windows:
        whole = judge(spec, whole, each, "s")
        restored = decode(encode(Status(evidence=judge(spec, cut, each, "s")))).evidence
        assert restored is not None
        cut = restored
    assert cut == whole


def test_the_evidence_of_a_release_stays_small() -> None:
    import json

    from serinus_operator.rollout.model import Status
    from serinus_operator.status_codec import encode

    spec, rng = analysis(*DEFAULT), np.random.default_rng(2)
    evidence = judge(spec, Evidence("c", START), window(1, side(rng, 50, errors=0.1), side(rng, 450, errors=0.05)), "s")
    assert len(json.dumps(encode(Status(evidence=evidence))["evidence"])) < 16_384


def test_pods_that_lastingly_differ_are_tolerated() -> None:
    bad = np.array([[50.0, 52.0, 48.0, 50.0], [20.0, 50.0, 90.0, 160.0], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    totals = np.array([[1000.0] * 4, [1000.0] * 4, [1000.0, 0.0, 0.0, 0.0], [0.0] * 4])
    alike, apart, alone, silent = pod_tolerances(bad, totals)
    assert alike == alone == silent == 1.0
    assert apart > 2.5


def test_a_cold_pod_is_not_compared() -> None:
    ready_at = START - timedelta(seconds=30)
    readings = {
        ("c", "new"): Sample(Counters(latency_count=9), ready_at),
        ("s", "old"): Sample(Counters(latency_count=9)),
    }
    cut = subtract(START, {}, START + timedelta(seconds=10), readings, timedelta(seconds=60))
    assert set(cut.by_revision) == {"c", "s"}
    assert set(cut.warm) == {"s"}


def test_crashing_containers_fail_the_canary_unless_stable_crashes_too() -> None:
    spec, evidence = analysis(DEFAULT[3]), Evidence("c", START)
    assert verdicts(spec, evidence, Restarts(2, 0))[0].verdict is Verdict.PASS
    assert verdicts(spec, evidence, Restarts(3, 0))[0].verdict is Verdict.FAIL
    assert verdicts(spec, evidence, Restarts(3, 9))[0].verdict is Verdict.INCONCLUSIVE


def test_a_model_without_reference_is_not_judged_by_confidence() -> None:
    spec = analysis(DEFAULT[2])
    silent = Counters(requests=300, latency_count=300)
    evidence = judge(spec, Evidence("c", START), window(1, silent, silent), "s")
    verdict = verdicts(spec, evidence)[0]
    assert verdict.verdict is Verdict.PASS
    assert "no reference profile" in verdict.message
