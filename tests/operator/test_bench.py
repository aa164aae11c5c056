"""The benchmark judges thousands of releases at once: it must say what the operator's judge would. A small one of it runs here."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import pytest
from tests.bench.gates import ALPHA, ANALYSIS, OURS, Job, Scenario, share, simulate
from tests.bench.many_releases import DEFAULT_RULES, ManyReleases
from tests.bench.traffic_model import START, WINDOW, Canary, Fleet, Noise, identical, nothing_counted

from serinus_operator.gates.judge import Evidence, Verdict, judge, verdicts
from serinus_operator.gates.windows import subtract


@pytest.mark.parametrize("noise", Noise)
def test_the_benchmark_gathers_the_evidence_that_the_judge_gathers(noise: Noise) -> None:
    fleet = Fleet(2, Canary(0.2, slower=1.3, low_confidence=0.3), errors=0.05, rate=50, noise=noise, seed=4)
    many, total, evidence = ManyReleases(DEFAULT_RULES, 2), nothing_counted(2), [Evidence("c", START)] * 2
    failed = 0
    for look in range(1, 25):
        counts, end = fleet.window(), START + look * WINDOW
        many.add(counts)
        for release in range(2):
            window = subtract(end - WINDOW, total.reading(release), end, (total + counts).reading(release))
            evidence[release] = judge(ANALYSIS, evidence[release], window, "s")
            gates = {gate.name: gate.versus for gate in evidence[release].gates}
            for name, log_evidence in many.log_evidence().items():
                versus = gates[name]
                assert versus is not None
                assert log_evidence[release] == pytest.approx(versus.log_evidence(), abs=1e-9)
            found = any(gate.verdict is Verdict.FAIL for gate in verdicts(ANALYSIS, evidence[release]))
            assert found == (many.log_together()[release] >= -math.log(ALPHA))
            failed += found
        total = total + counts
    assert failed > 0
    assert timedelta(seconds=10) == WINDOW == ANALYSIS.interval


@pytest.mark.parametrize("noise", Noise)
def test_identical_versions_are_rarely_failed_however_often_they_are_looked_at(noise: Noise) -> None:
    found = simulate(Job(Scenario(identical(0.05), noise=noise, looks=60), releases=60, seed=3))
    assert share(found[OURS], math.inf) <= ALPHA


def test_the_rules_in_use_fail_good_releases_when_they_look_often() -> None:
    found = simulate(Job(Scenario(identical(0.05), looks=60), releases=20, seed=3, rules=True))
    shares = {rule: share(looks, math.inf) for rule, looks in found.items()}
    assert shares["one window > 1.25 × stable"] == 1.0
    assert shares["z-test at 5 %, every look"] > ALPHA
    assert np.isfinite(found["three such windows in a row"]).any()
