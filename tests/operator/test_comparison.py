"""Canary against stable: exact against an oracle, rarely wrong about good releases, quick about bad ones."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import mpmath
import numpy as np
import pytest

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS
from serinus_operator.gates.comparison import Comparison, compare, log_worse, pod_tolerances
from serinus_operator.gates.judge import (
    Evidence,
    Restarts,
    Verdict,
    confidence_tolerance,
    judge,
    new_alerts,
    overall,
    verdicts,
)
from serinus_operator.gates.queries import Measurement, Said
from serinus_operator.gates.tables import Corners, Table, Tables, mid_ranks
from serinus_operator.gates.windows import Counters, Sample, Window, subtract
from serinus_operator.spec import (
    MOST_COMPARED_LATENCIES,
    AnalysisSpec,
    ConfidenceGate,
    DriftGate,
    ErrorRateGate,
    Gate,
    InconclusiveAction,
    LatencyGate,
    PromQLGate,
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
        within=within,
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


@pytest.mark.parametrize(
    ("requests", "bad", "precision"),
    [
        *((requests, bad, 1e-9) for requests in (30, 1_000) for bad in (0.001, 0.05, 0.6)),
        *((100_000, bad, 1e-9) for bad in (0.001, 0.05)),
        *((requests, 0.001, 1e-6) for requests in (10**6, 10**7)),
    ],
)
def test_ranks_and_evidence_agree_with_exact_arithmetic(requests: int, bad: float, precision: float) -> None:
    rng, canary = np.random.default_rng(requests), requests // 10
    stable = requests - canary
    table = Table(canary, int(rng.binomial(canary, bad)), stable, int(rng.binomial(stable, bad)))
    for tolerance in (1.0, 1.25, 4.0) if requests <= 1_000 else (1.25,):
        odds = np.array([tolerance])
        corners = Corners(Tables.of(table), odds[:, None])
        rank = float(corners.seen(mid_ranks(np.exp(corners.log_probabilities(odds))))[0])
        assert rank == pytest.approx(exact(table, tolerance)[0], abs=precision)
        found = log_worse(compare(Comparison(), table, tolerance))
        assert found == pytest.approx(exact_log_worse(table, tolerance), abs=precision)


def exact(table: Table, odds_ratio: float) -> tuple[float, mpmath.mpf]:
    """Mid-rank and log probability of the corner, in 40 digits: terms by their recurrence, as far from the mode as they matter."""
    with mpmath.workdps(40):
        low, high = (int(bound[0]) for bound in Tables.of(table).support)
        ratio = mpmath.mpf(odds_ratio)

        def up(count: int) -> mpmath.mpf:  # P(count + 1) / P(count)
            there = (table.canary_total - count) * (table.bad - count) * ratio
            return there / ((count + 1) * (table.stable_total - table.bad + count + 1))

        below, at, term, count = mpmath.mpf(0), mpmath.mpf(1), mpmath.mpf(1), table.canary_bad
        while count > low and (term := term / up(count - 1)) > mpmath.mpf(10) ** -40 * (below + 1):
            below, count = below + term, count - 1
        above, term, count = mpmath.mpf(0), mpmath.mpf(1), table.canary_bad
        while count < high and (term := term * up(count)) > mpmath.mpf(10) ** -40 * (above + 1):
            above, count = above + term, count + 1
        total = below + at + above
        return float((below + at / 2) / total), -mpmath.log(total)


def exact_log_worse(table: Table, tolerance: float) -> float:
    """log of ½·E_ranks + ½·E_ratios after this one window, in 40 digits: the formulas of docs/gates.md."""
    with mpmath.workdps(40):
        rank = mpmath.mpf(exact(table, tolerance)[0])
        bets = [1 + mpmath.mpf(str(bet)) * (2 * rank - 1) for bet in (0.05, 0.15, 0.35, 0.6, 0.9)]
        base = exact(table, 1.6 * tolerance)[1]
        ratios = [
            mpmath.exp(min(mpmath.log(20), exact(table, 1.6 * tolerance * multiple)[1] - base))
            for multiple in (1.5, 2.0, 3.0, 5.0, 10.0)
        ]
        return float(mpmath.log(mpmath.fsum(bets) / 10 + mpmath.fsum(ratios) / 10))


def test_probabilities_agree_with_scipy() -> None:
    from scipy.stats import nchypergeom_fisher

    table = Table(60, 4, 540, 26)
    corners = Corners(Tables.of(table), np.array([[1.25, 20.0]]))
    for odds_ratio in (1.25, 2.0, 6.0):
        found = np.exp(corners.log_probabilities(np.array([odds_ratio])))[0]
        counts = corners.first[0] + np.arange(len(found))
        assert found == pytest.approx(nchypergeom_fisher.pmf(counts, 600, 30, 60, odds_ratio), abs=1e-9)


def test_ten_million_requests_in_a_window_are_judged() -> None:
    evidence = compare(Comparison(), Table(10**6, 100_100, 9 * 10**6, 900_000), 1.25)
    assert math.isfinite(log_worse(evidence))
    assert log_worse(evidence) < 0


def drifting(rng: np.random.Generator, texts: int, *, embeddings: float, inputs: float = 0.2) -> Counters:
    counts = {
        "input_out_of_band": rng.binomial(texts, inputs),
        "embedding_out_of_band": rng.binomial(texts, embeddings),
    }
    return Counters(
        requests=texts, latency_count=texts, banded=texts, **{name: float(each) for name, each in counts.items()}
    )


DRIFT = Gate("drift", DriftGate(), dry_run=False)


def test_embeddings_outside_their_band_fail_the_canary_and_inputs_alone_only_alert() -> None:
    rng, bad, odd = np.random.default_rng(4), Evidence("c", START), Evidence("c", START)
    for index in range(1, 31):
        worse = window(index, drifting(rng, 50, embeddings=0.6), drifting(rng, 450, embeddings=0.2))
        other = window(
            index, drifting(rng, 50, embeddings=0.2, inputs=0.8), drifting(rng, 450, embeddings=0.2, inputs=0.8)
        )
        bad, odd = judge(analysis(DRIFT), bad, worse, "s"), judge(analysis(DRIFT), odd, other, "s")
    failed, alerting = verdicts(analysis(DRIFT), bad)[0], verdicts(analysis(DRIFT), odd)[0]
    assert (failed.verdict, failed.alert) == (Verdict.FAIL, "")
    assert failed.message.startswith("drift: canary 58.1% of 1500 texts outside their band, stable 20.4%")
    assert alerting.verdict is Verdict.PASS
    assert alerting.alert.startswith("inputs have drifted: 80.")
    assert alerting.alert in alerting.message
    assert new_alerts((failed,), (alerting,)) == (alerting,)
    assert new_alerts((alerting,), (alerting,)) == new_alerts((alerting,), (failed,)) == ()


def test_a_server_that_knows_no_band_gives_no_verdict_on_drift() -> None:
    rng = np.random.default_rng(4)
    plain = window(1, side(rng, 500, errors=0.0), side(rng, 450, errors=0.0))
    assert (
        verdicts(analysis(DRIFT), judge(analysis(DRIFT), Evidence("c", START), plain, "s"))[0].verdict
        is Verdict.NO_DATA
    )
    lenient = analysis(Gate("drift", DriftGate(only_with_reference=True), dry_run=False))
    assert verdicts(lenient, judge(lenient, Evidence("c", START), plain, "s"))[0].verdict is Verdict.PASS


def test_what_verify_measured_of_confidence_is_tolerated_where_the_spec_names_no_odds() -> None:
    assert [confidence_tolerance(each) for each in (None, 0.3, 1.0, 1.9, 40.0)] == [None, 2.0, 2.0, 3.8, 10.0]
    gate, named = (
        Gate("confidence", ConfidenceGate(), dry_run=False),
        Gate("confidence", ConfidenceGate(tolerance=2.0), dry_run=False),
    )
    failed = []
    for chosen, tolerance in ((gate, None), (gate, 6.0), (named, 6.0)):
        rng, evidence = np.random.default_rng(6), Evidence("c", START, confidence_tolerance=tolerance)
        for index in range(1, 40):
            drawn = window(index, side(rng, 50, errors=0.0, low=0.3), side(rng, 450, errors=0.0))
            evidence = judge(analysis(chosen), evidence, drawn, "s")
        failed.append(verdicts(analysis(chosen), evidence)[0].verdict is Verdict.FAIL)
    assert failed == [True, False, True]


@pytest.mark.parametrize("cut", range(1, 20))
def test_evidence_is_the_same_wherever_the_run_is_cut(cut: int) -> None:
    from serinus_operator.rollout.model import Status
    from serinus_operator.status_codec import decode, encode

    own = Gate("mine", PromQLGate("q", None, 0.5), dry_run=False)
    spec, rng, said = analysis(*DEFAULT, DRIFT, own), np.random.default_rng(2), Measurement(Said.NUMBER, 1 / 3)
    whole = Evidence("c", START, confidence_tolerance=2.3)
    broken: Evidence | None = whole
    for index in range(1, 20):
        drawn = window(index, side(rng, 50, errors=0.1), side(rng, 450, errors=0.05))
        assert broken is not None
        whole, broken = judge(spec, whole, drawn, "s", {"mine": said}), judge(spec, broken, drawn, "s", {"mine": said})
        if index == cut:
            broken = decode(json.loads(json.dumps(encode(Status(evidence=broken))))).evidence
    assert broken == whole


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
    assert [first_failure(analysis(*DEFAULT), rng, 60, slower=0.7)[0] for _ in range(5)] == [None] * 5


def test_a_good_canary_passes_only_when_a_difference_would_have_shown() -> None:
    spec, rng, evidence = analysis(*DEFAULT), np.random.default_rng(1), Evidence("c", START)
    seen = []
    for index in range(1, 61):
        evidence = judge(spec, evidence, window(index, side(rng, 50, errors=0.0), side(rng, 450, errors=0.0)), "s")
        seen.append(overall(verdicts(spec, evidence)))
    assert seen[4] is Verdict.INCONCLUSIVE  # 250 requests, 200 are asked for, too few to see a doubling
    assert seen[-1] is Verdict.PASS
    assert seen.index(Verdict.PASS) <= 30


def test_the_evidence_of_as_many_gates_as_a_spec_may_have_stays_small() -> None:
    """The longest names, four gates that compare latencies, the rest of whichever kind takes the most."""
    from serinus_operator.rollout.model import Status
    from serinus_operator.status_codec import decode, encode

    rng = np.random.default_rng(2)
    counts = [(side(rng, 500_000, errors=0.1), side(rng, 4_500_000, errors=0.05)) for _ in range(2)]
    largest = 0
    for rule in (ErrorRateGate(0.3), ConfidenceGate(0.5), DriftGate(), PromQLGate("q", None, 0.5)):
        rules = [LatencyGate(timedelta(seconds=0.1))] * MOST_COMPARED_LATENCIES + [rule] * (
            20 - MOST_COMPARED_LATENCIES
        )
        spec = analysis(*(Gate(f"{index:063}", each, dry_run=False) for index, each in enumerate(rules)))
        said = {gate.name: Measurement(Said.UNREADABLE, problem="x" * 330) for gate in spec.gates}
        evidence = Evidence("c" * 40, START, confidence_tolerance=2.3)
        for index, (ours, theirs) in enumerate(counts, start=1):
            evidence = judge(spec, evidence, window(index, ours, theirs), "s", said)
        stored = json.dumps(encode(Status(evidence=evidence)))
        assert decode(json.loads(stored)).evidence == evidence
        largest = max(largest, len(stored))
    assert 12_000 < largest < 16_384


def test_more_latency_gates_than_fit_are_refused_by_name() -> None:
    from tests.operator.world import defaulted

    from serinus_operator.errors import InvalidSpec
    from serinus_operator.spec_parser import parse_spec

    gates = [{"name": f"g{index}", "latency": {}} for index in range(MOST_COMPARED_LATENCIES + 1)]
    one_limits = [*gates[1:], {"name": "limits", "latency": {"compare": False, "maxMean": "1s"}}]
    base = {"model": {"name": "m", "alias": "challenger"}, "replicas": 4}
    assert len(parse_spec(defaulted({**base, "analysis": {"gates": one_limits}})).analysis.gates) == 5
    with pytest.raises(InvalidSpec, match=r"spec\.analysis\.gates.*at most 4 latency gates may compare, 5 do"):
        parse_spec(defaulted({**base, "analysis": {"gates": gates}}))


def latency_windows(count: int, *, seed: int = 3) -> list[Window]:
    rng = np.random.default_rng(seed)
    return [
        window(index, side(rng, 50, errors=0, slower=1.25), side(rng, 450, errors=0)) for index in range(1, count + 1)
    ]


@pytest.mark.parametrize("written", ["by other bounds", "without bounds", "by more bounds"])
def test_evidence_by_other_bounds_goes_on_with_its_wealth(written: str) -> None:
    """As another operator version has written it. Continued, it is the wealth of one supermartingale: nothing is bet twice."""
    from serinus_operator.rollout.model import Status
    from serinus_operator.status_codec import decode, encode

    spec = analysis(DEFAULT[1])
    known = run(spec, latency_windows(8))
    gate = known.gates[0]
    assert gate.versus is not None
    changed = {
        "by other bounds": replace(gate.versus, bounds="5 10 20 50 100 120 200 500"),
        "without bounds": replace(gate.versus, bounds=""),
        "by more bounds": replace(gate.versus, tables=gate.versus.tables * 2, bounds="more"),
    }[written]
    stored = decode(encode(Status(evidence=replace(known, gates=(replace(gate, versus=changed),))))).evidence
    assert stored is not None
    nothing = window(9, Counters(), Counters())
    carried = judge(spec, stored, nothing, "s").gates[0]
    assert carried.versus is not None
    assert carried.versus.log_evidence() == pytest.approx(changed.log_evidence(), abs=1e-12)
    assert not carried.versus.compared
    later = judge(spec, stored, latency_windows(9)[-1], "s")
    assert later.gates[0].versus is not None
    fresh = judge(spec, Evidence("c", START), latency_windows(9)[-1], "s").gates[0].versus
    assert fresh is not None
    gained = later.gates[0].versus.log_evidence() - changed.log_evidence()
    assert gained == pytest.approx(fresh.log_evidence(), abs=1e-12)
    message = verdicts(spec, later)[0].message
    assert "goes on with the evidence of another operator version" in message


def test_identical_canaries_whose_bounds_change_on_the_way_are_rarely_failed() -> None:
    """Each second window is by other bounds: the worst that upgrades could do, on 50 releases looked at 30 times."""
    spec, failed = analysis(DEFAULT[1]), 0
    for seed in range(50):
        rng, evidence = np.random.default_rng(seed), Evidence("c", START)
        for index in range(1, 31):
            evidence = judge(spec, evidence, window(index, side(rng, 50, errors=0), side(rng, 450, errors=0)), "s")
            if verdicts(spec, evidence)[0].verdict is Verdict.FAIL:
                failed += 1
                break
            versus = evidence.gates[0].versus
            assert versus is not None
            if index % 2:
                gates = (replace(evidence.gates[0], versus=replace(versus, bounds="other")),)
                evidence = replace(evidence, gates=gates)
    assert failed <= 2


def test_evidence_that_cannot_be_read_begins_anew_and_says_so() -> None:
    from serinus_operator.rollout.model import Status
    from serinus_operator.status_codec import decode, encode

    spec = analysis(DEFAULT[0], DEFAULT[1])
    drawn = latency_windows(2)
    stored = encode(Status(evidence=run(spec, drawn[:1])))
    stored["evidence"]["gates"][1]["versus"]["tables"][0] = "AAAA"
    evidence = decode(stored).evidence
    assert evidence is not None
    kept, begun = judge(spec, evidence, drawn[1], "s").gates
    assert (kept, kept.note) == (run(spec, drawn).gates[0], "")
    assert begun.versus == run(spec, drawn[1:]).gates[0 + 1].versus
    assert "its evidence began anew" in verdicts(spec, judge(spec, evidence, drawn[1], "s"))[1].message


def run(spec: AnalysisSpec, windows: list[Window]) -> Evidence:
    evidence = Evidence("c", START)
    for each in windows:
        evidence = judge(spec, evidence, each, "s")
    return evidence


def test_a_canary_that_takes_a_second_more_is_failed_where_stable_takes_one() -> None:
    """The slowest pair of bounds: 0.9 s against 1.2 s."""
    spec, rng = analysis(DEFAULT[1]), np.random.default_rng(5)
    scale = 0.9 / MEDIAN_SECONDS

    def drawn(index: int) -> Window:
        stable = side(rng, 450, errors=0, slower=scale)
        return window(index, side(rng, 50, errors=0, slower=4 / 3 * scale), stable)

    assert verdicts(spec, run(spec, [drawn(index) for index in range(1, 61)]))[0].verdict is Verdict.FAIL


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
    before = {pod: Sample(Counters(), sample.ready_at) for pod, sample in readings.items()}
    cut = subtract(START, before, START + timedelta(seconds=10), readings, timedelta(seconds=60))
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
