"""The operator dies at every one of its API calls, before it is sent and after it is committed: the end is that of the undisturbed run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from tests.operator.world import World, spec

from serinus_operator.gates.judge import Verdict
from serinus_operator.rollout.observed import Command, Resolved
from serinus_operator.rollout.stages import Stage, stage_of

pytestmark = pytest.mark.long

KEPT = {"scaleDownDelay": "1m", "bake": "1m"}
_TICKS = 150


@dataclass(frozen=True)
class Happening:
    """Something that is done to the world once `when` holds."""

    when: Callable[[World], bool]
    what: Callable[[World], None]


@dataclass
class Workload:
    """A world and what happens to it, one thing after another."""

    happenings: Sequence[Happening]
    strategy: dict[str, Any] = field(default_factory=dict)
    gpus: int = 10**9


_OF_THE_MOMENT = ("serinus.at", "serinus.evidence")


def alias(version: str) -> Callable[[World], None]:
    def move(world: World) -> None:
        world.resolution = Resolved(version, f"digest-{version}", f"space-{version}")

    return move


def say(verb: str) -> Callable[[World], None]:
    return lambda world: setattr(world, "command", Command(f"the only {verb}", verb))


def judge(verdict: Verdict) -> Callable[[World], None]:
    return lambda world: setattr(world, "verdict", verdict)


def rests_on(version: str) -> Callable[[World], bool]:
    return lambda world: (
        stage_of(world.status) is Stage.REST
        and world.status.stable is not None
        and world.status.stable.version == version
    )


def at_weight(percent: int) -> Callable[[World], bool]:
    return lambda world: world.status.weight.desired >= percent


def bakes(world: World) -> bool:
    return stage_of(world.status) is Stage.BAKE


def scale(world: World) -> None:
    world.spec = spec(replicas=6)


TO_2 = Happening(rests_on("1"), alias("2"))
WORKLOADS: dict[str, Workload] = {
    "a first release": Workload([]),
    "a promotion": Workload([TO_2]),
    "a promotion that bakes": Workload([TO_2], KEPT),
    "a version that verify refuses": Workload([Happening(rests_on("1"), lambda world: setattr(world, "verify_passes", False)), TO_2]),
    "a gate that fails": Workload([TO_2, Happening(at_weight(50), judge(Verdict.FAIL))]),
    "a gate that fails, with Immediate": Workload([TO_2, Happening(at_weight(50), judge(Verdict.FAIL))], {"onFailure": "Immediate"}),
    "another target in the middle": Workload([TO_2, Happening(at_weight(25), alias("3"))]),
    "a return to stable": Workload([TO_2, Happening(at_weight(25), alias("1"))]),
    "an abort": Workload([TO_2, Happening(at_weight(25), say("abort"))]),
    "a limit broken while baking": Workload([TO_2, Happening(bakes, judge(Verdict.FAIL))], KEPT),
    "an undo while baking": Workload([TO_2, Happening(bakes, say("undo"))], KEPT),
    "a swap": Workload([TO_2], {"capacityFloor": "50%"}, gpus=4),
    "a scaling in the middle": Workload([TO_2, Happening(at_weight(25), scale)]),
}  # fmt: skip


def play(workload: Workload, crash_at: int | None = None, *, committed: bool = False) -> tuple[World, int]:
    """Plays a workload; the call number `crash_at` (from 0) is lost or is the last one before the operator starts again.

    Returns the world in the end, and how many calls were made.
    """
    world, calls, waiting = (
        World(spec=spec(strategy=workload.strategy), gpus=workload.gpus),
        0,
        list(workload.happenings),
    )
    for _ in range(_TICKS):
        while waiting and waiting[0].when(world):
            waiting.pop(0).what(world)
        decided = world.decide()
        stores = [] if decided.status == world.status else [decided.status]
        for call in (*decided.actions, *stores):
            dies = calls == crash_at
            calls += 1
            if dies and not committed:
                break
            if call in stores:
                world.status = decided.status
            else:
                world.do(call)  # type: ignore[arg-type]
            if dies:
                break
        world.settle()
        world.now += timedelta(seconds=5)
    assert not waiting
    return world, calls


def end(world: World) -> dict[str, Any]:
    """Objects, registry and history, without instants."""
    status = world.status
    tags = {v: {k: t for k, t in each.items() if k not in _OF_THE_MOMENT} for v, each in world.registry.tags.items()}
    return {
        "objects": world.sides, "jobs": world.jobs, "serving": world.serving, "aliases": world.registry.aliases,
        "stages": world.registry.stages, "tags": tags, "stable": status.stable, "target": status.target,
        "history": [(entry.version, entry.result, entry.reason) for entry in status.history], "stage": stage_of(status),
        "writes": world.decide().actions,
    }  # fmt: skip


# Where the rollout is not cut short: what was counted until a cut depends on the moment of it.
TOLD = ("a promotion", "a promotion that bakes", "a swap", "a scaling in the middle")


def told(world: World) -> dict[str, set[str]]:
    """The steps of each version that the registry was told of."""
    return {version: set(each) for version, each in world.registry.summaries.items()}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_crash_at_any_call_ends_in_the_same_state(name: str) -> None:
    undisturbed, calls = play(WORKLOADS[name])
    assert stage_of(undisturbed.status) is Stage.REST
    for crash_at in range(calls):
        for committed in (False, True):
            crashed, _ = play(WORKLOADS[name], crash_at, committed=committed)
            assert end(crashed) == end(undisturbed), f"call {crash_at} of {calls}, committed: {committed}"
            if name in TOLD:
                assert told(crashed) == told(undisturbed), f"call {crash_at} of {calls}, committed: {committed}"


def test_there_are_more_than_400_plans() -> None:
    assert sum(2 * play(workload)[1] for workload in WORKLOADS.values()) >= 400
