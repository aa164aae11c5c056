"""How a version behaved is told to the registry at the end of each step: once, with what was counted in that step."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from tests.operator.world import START, World, challenged, spec

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS, SUMMARISED_LATENCIES_SECONDS
from serinus_operator import status_codec
from serinus_operator.gates.behaviour import Behaviour, Tally
from serinus_operator.gates.judge import Verdict
from serinus_operator.gates.windows import Counters, Window
from serinus_operator.rollout.model import StepSummary

BOUNDS = [bound for pair in COMPARED_LATENCIES_SECONDS for bound in pair]


def counted(seconds: np.ndarray) -> Counters:
    within = tuple(float((seconds <= bound).sum()) for bound in BOUNDS)
    summarised = tuple(float((seconds <= bound).sum()) for bound in SUMMARISED_LATENCIES_SECONDS)
    return Counters(len(seconds), 3, float(seconds.sum()), len(seconds), within=within, summarised=summarised)


def test_quantiles_are_those_of_prometheus_within_a_bucket() -> None:
    seconds = np.random.default_rng(1).lognormal(-3.5, 0.9, 5000)
    tally = Tally().add(counted(seconds[:2000])).add(counted(seconds[2000:]))
    edges = [0.0, *sorted([*BOUNDS, *SUMMARISED_LATENCIES_SECONDS])]
    for share in (0.5, 0.95, 0.99):
        exact = float(np.quantile(seconds, share))
        bucket = np.searchsorted(edges, exact)
        assert edges[bucket - 1] <= tally.quantile(share) <= edges[bucket]
    assert tally.figures()["requests"] == 5000
    assert tally.figures()["latency_mean_ms"] == pytest.approx(1000 * seconds.mean(), abs=1e-3)


def test_slower_than_every_bound_is_the_highest_bound_and_a_bound_that_a_pod_lacks_is_left_out() -> None:
    assert Tally().add(counted(np.full(10, 99.0))).quantile(0.5) == max(SUMMARISED_LATENCIES_SECONDS)
    foreign = Counters(
        10, 0, 1.0, 10, within=(math.nan,) * len(BOUNDS), summarised=(math.nan,) * len(SUMMARISED_LATENCIES_SECONDS)
    )
    figures = Tally().add(foreign).figures()
    assert "latency_p99_ms" not in figures
    assert figures["latency_mean_ms"] == 100


def test_nothing_counted_says_nothing_but_that() -> None:
    assert Tally().figures() == {"requests": 0, "errors": 0, "tokens": 0}


def test_what_was_counted_survives_being_stored() -> None:
    window = Window(START, START + timedelta(seconds=10), {"c": counted(np.full(9, 0.02))})
    world = World()
    world.status = status_codec.decode(
        status_codec.encode(challenged().status)
        | status_codec.encode(type(world.status)(behaviour=Behaviour("c", START, START).add(window, "s")))
    )
    assert world.status.behaviour == Behaviour("c", START, START).add(window, "s")


def summaries(world: World, version: str) -> dict[str, StepSummary]:
    return dict(world.registry.summaries.get(version, {}))


def test_each_step_with_requests_is_told_and_the_bake_after_them() -> None:
    world = challenged()
    world.spec = spec(strategy={"bake": "1m", "scaleDownDelay": "1m"})
    world.run(80)
    found = summaries(world, "2")
    assert [(tag, summary.label) for tag, summary in found.items()] == [
        ("serinus.step.2", "setWeight 25"),
        ("serinus.step.3", "analysis 1m"),
        ("serinus.step.4", "setWeight 50"),
        ("serinus.step.5", "pause 1m"),
        ("serinus.step.6", "setWeight 100"),
        ("serinus.step.bake", "bake"),
    ]
    analysed = found["serinus.step.3"]
    assert analysed.figures["requests"] == 50 * round((analysed.until - analysed.since).total_seconds() / 5)
    told = json.loads(analysed.text())
    assert (told["release"], told["step"], told["beside"]["version"]) == ("team/release", "analysis 1m", "1")
    assert told["latency_mean_ms"] == pytest.approx(1000 / 49, abs=1e-3)
    instants = [(summary.since, summary.until) for summary in found.values()]
    assert all(before[1] <= after[0] for before, after in pairwise(instants))


def test_the_step_in_which_a_gate_failed_is_told_too() -> None:
    world = challenged()
    world.run(8)
    world.verdict = Verdict.FAIL
    world.run(30)
    assert world.registry.tags["2"]["serinus.result"] == "RolledBack"
    assert list(summaries(world, "2"))[-1] in ("serinus.step.2", "serinus.step.3")


def test_a_first_release_and_another_revision_of_one_version_are_told_of_no_step() -> None:
    world = World().run(30)
    assert world.registry.summaries == {}
