"""Steps: in the order that the spec gives, by default, edited in the middle; and until when each of them waits."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.operator.world import World, challenged, defaulted, released, spec

from serinus_operator.gates.judge import Verdict
from serinus_operator.rollout.draft import describe
from serinus_operator.rollout.observed import Resolved
from serinus_operator.spec_parser import parse_spec


def walked(steps: list[dict[str, Any]] | None, ticks: int = 400) -> list[str]:
    """The labels of a good version's steps, as `kubectl get` shows them, until it is promoted."""
    world = released()
    world.spec = spec(strategy={} if steps is None else {"steps": steps})
    if steps is None:
        world.spec = parse_spec(defaulted({"model": {"name": "m", "alias": "challenger"}, "replicas": 4}))
    world.resolution = Resolved("2", "digest-2", "space-2")
    labels: list[str] = []
    for _ in range(ticks):
        world.tick()
        if world.status.step_label not in ("", *labels[-1:]):
            labels.append(world.status.step_label)
    assert world.status.stable is not None
    assert world.status.stable.version == "2"
    return labels


@pytest.mark.parametrize(
    "steps",
    [
        [{"pause": {"duration": "10s"}}, {"setWeight": 40}, {"analysis": {"duration": "10s"}}, {"verify": {}}, {"setWeight": 100}],
        [{"setWeight": 20}, {"pause": {"duration": "10s"}}, {"analysis": {"duration": "10s"}}, {"setWeight": 60}],
        [{"analysis": {"duration": "10s"}}, {"setWeight": 50}],
        [],
    ],
    ids=["verify-late-and-100-said", "no-verify", "analysis-first", "none"],
)  # fmt: skip
def test_steps_are_walked_in_the_order_that_the_spec_gives_and_100_promotes(steps: list[dict[str, Any]]) -> None:
    given = [describe(step) for step in spec(strategy={"steps": steps}).strategy.steps]
    if given[-1:] != ["setWeight 100"]:
        given.append("setWeight 100")
    seen = walked(steps)
    assert set(seen) <= {f"{index}/{len(given)} {step}" for index, step in enumerate(given, 1)}
    assert seen == sorted(seen)
    assert seen[-1] == f"{len(given)}/{len(given)} setWeight 100"


def test_without_steps_in_the_spec_the_crds_own_are_walked() -> None:
    assert [label.partition(" ")[2] for label in walked(None)] == [
        "verify", "setWeight 10", "analysis 5m", "setWeight 50", "analysis 5m", "setWeight 100",
    ]  # fmt: skip


def test_editing_the_steps_in_the_middle_restarts_them_with_the_same_canary() -> None:
    world = challenged()
    world.verdict = Verdict.INCONCLUSIVE
    world.run(30)
    before = world.status
    assert (before.step_label, before.weight.desired) == ("3/6 analysis 1m", 25)
    assert before.canary is not None
    world.spec = spec(strategy={"steps": [{"verify": {}}, {"pause": {"duration": "1h"}}, {"setWeight": 60}]})
    world.run(5)
    after = world.status
    assert (after.step_label, after.weight.desired) == ("2/4 pause 1h", 0)  # verify has passed for this revision
    assert after.canary is not None
    assert (after.canary.revision, after.canary.started_at) == (before.canary.revision, before.canary.started_at)
    assert after.evidence is not None
    assert before.evidence is not None
    assert after.evidence.requests > before.evidence.requests  # what was seen of it counts still


def test_a_step_says_until_when_it_waits_unless_for_a_person() -> None:
    world = challenged()
    seen = {}
    while world.status.canary is not None or not seen:
        world.tick()
        if world.status.step is not None:
            seen[world.status.step_label] = world.status.step
    step = seen["3/6 analysis 1m"]
    assert step.deadline == step.started_at + timedelta(minutes=31)
    step = seen["5/6 pause 1m"]
    assert step.deadline == step.started_at + timedelta(minutes=1)
    step = seen["6/6 setWeight 100"]
    assert step.deadline == step.progressed_at + timedelta(minutes=10)


@pytest.mark.parametrize("held", ["paused", "by a step", "no verdict in time"])
def test_while_a_person_is_waited_for_a_step_has_no_deadline(held: str) -> None:
    world = challenged()
    world.verdict = Verdict.INCONCLUSIVE
    if held == "paused":
        world.spec = spec(paused=True)
    if held == "by a step":
        world.spec = spec(strategy={"steps": [{"setWeight": 25}, {"pause": {}}]})
    _run_until_paused(world)
    assert world.status.step is not None
    assert world.status.step.deadline is None


def _run_until_paused(world: World) -> None:
    for _ in range(500):
        world.tick()
        if world.status.phase == "Paused":
            return
    raise AssertionError("it never waits for a person")
