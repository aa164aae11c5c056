"""The operator dies at every one of its API calls, before it is sent and after it is committed: the end is that of the undisturbed run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
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


@dataclass(frozen=True)
class Moment:
    """Where a play stands before a decision: the world, what is yet to happen to it, and how many calls were made."""

    world: World
    waiting: tuple[Happening, ...]
    calls: int


def play(
    workload: Workload, crash_at: int | None = None, *, committed: bool = False, since: Moment | None = None
) -> tuple[World, list[Moment]]:
    """Plays a workload until nothing is left to do; the call `crash_at` (from 0) is lost, or the last one before the operator starts again.

    `since` is a moment of an undisturbed play, before that call. Returns the world in the end, and the moments that led to it.
    """
    since = since or Moment(
        World(spec=spec(strategy=workload.strategy), gpus=workload.gpus), tuple(workload.happenings), 0
    )
    world, calls, waiting = copied(since.world), since.calls, list(since.waiting)
    moments = []
    for _ in range(_TICKS):
        moments.append(Moment(copied(world), tuple(waiting), calls))
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
        before = dict(world.sides)
        world.settle()
        if not (waiting or decided.actions or stores or decided.check_at) and world.sides == before:
            break  # whatever the time, the next decision would be this one
        world.now += timedelta(seconds=5)
    assert not waiting
    return world, [*moments, Moment(world, (), calls)]


def copied(world: World) -> World:
    """With containers of its own; what is in them is frozen."""
    twin = copy(world)
    vars(twin).update(
        {name: copy(value) for name, value in vars(world).items() if isinstance(value, dict | set | list)}
    )
    return twin


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


@pytest.fixture(scope="module")
def plans() -> Iterator[dict[str, int]]:
    """How many deaths each workload has been played with; `pytest -s` prints them."""
    counted: dict[str, int] = {}
    yield counted
    print(f"\n{sum(counted.values())} plans of {len(counted)} workloads converged: {counted}")


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_crash_at_any_call_ends_in_the_same_state(name: str, plans: dict[str, int]) -> None:
    undisturbed, moments = play(WORKLOADS[name])
    calls = moments[-1].calls
    assert stage_of(undisturbed.status) is Stage.REST
    wanted, wanted_told = end(undisturbed), told(undisturbed)
    for crash_at in range(calls):
        since = next(moment for moment in reversed(moments) if moment.calls <= crash_at)
        for committed in (False, True):
            crashed, _ = play(WORKLOADS[name], crash_at, committed=committed, since=since)
            assert end(crashed) == wanted, f"call {crash_at} of {calls}, committed: {committed}"
            if name in TOLD:
                assert told(crashed) == wanted_told, f"call {crash_at} of {calls}, committed: {committed}"
    plans[name] = 2 * calls


def test_there_are_more_than_400_plans() -> None:
    assert sum(2 * play(workload)[1][-1].calls for workload in WORKLOADS.values()) >= 400
