"""Under `onSpaceChange: Pinned` two spaces never share the Service, and the former one stays for as long as somebody pins it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.operator.test_spaces import RELEASE, changed
from tests.operator.world import World, spec

from serinus_operator import manifests
from serinus_operator.gates.judge import Verdict
from serinus_operator.rollout.actions import ApplyServing, Plan
from serinus_operator.rollout.model import Condition, Result
from serinus_operator.rollout.observed import Command, Pinning, Resolved
from serinus_operator.rollout.retention import pinning
from serinus_operator.storing import patience


def apart(**strategy: Any) -> World:
    return changed(onSpaceChange="Pinned", **{"spaceRetention": "5m", **strategy})


def promoted(**strategy: Any) -> World:
    """Version 2 has just been promoted; clients go on pinning space-1."""
    world = apart(**strategy)
    world.pinned.add("space-1")
    while not (world.status.stable and world.status.stable.version == "2"):
        world.tick()
    return world


def shared(world: World) -> str | None:
    assert world.serving is not None
    return world.serving.alone


def condition(world: World, kind: str) -> Condition | None:
    return next((each for each in world.status.conditions if each.type == kind), None)


def said(plans: list[Plan], reason: str) -> list[str]:
    return [event.message for plan in plans for event in plan.events if event.reason == reason]


def test_the_shared_service_stays_with_stable_and_switches_once_at_promotion() -> None:
    world = apart()
    seen = [shared(world)]
    for _ in range(60):
        world.tick()
        if shared(world) not in seen[-1:]:
            seen.append(shared(world))
    assert world.status.stable is not None
    assert (world.status.stable.version, seen[1:]) == ("2", [world.status.stable.revision])


def test_stable_is_whole_until_then_and_the_canary_has_all_pods_before_the_switch() -> None:
    world = apart(maxSurge=1)
    stable = world.status.stable
    assert stable is not None
    canary_pods = []
    while world.status.canary is not None or not canary_pods:
        world.tick()
        assert world.sides[stable.revision].ready == 4
        if world.status.canary is not None and world.status.canary.revision in world.sides:
            canary_pods.append(world.sides[world.status.canary.revision].ready)
    assert sorted(set(canary_pods)) == [1, 2, 4]


def test_copies_are_sent_while_the_canary_has_a_weight_and_no_longer() -> None:
    world, mirrors = apart(), []
    stable = world.status.stable
    assert stable is not None
    for _ in range(60):
        world.tick()
        assert world.serving is not None
        if world.serving.mirror not in mirrors[-1:]:
            mirrors.append(world.serving.mirror)
    assert world.status.stable is not None
    assert mirrors == [None, (stable.revision, world.status.stable.revision), None]


def test_a_failed_canary_is_withdrawn_and_no_shared_request_has_met_it() -> None:
    world = apart()
    stable = world.status.stable
    assert stable is not None
    while not world.status.weight.desired:
        world.tick()
    world.verdict = Verdict.FAIL
    for _ in range(30):
        world.tick()
        assert shared(world) == stable.revision
    assert world.status.history[0].result is Result.ROLLED_BACK
    assert len(world.sides) == 1
    assert world.status.retained == ()


def test_a_space_that_is_pinned_stays_whole_and_one_that_nobody_pins_goes() -> None:
    world = promoted()
    (kept,) = world.status.retained
    plans = [world.tick() for _ in range(200)]  # a thousand seconds
    assert world.sides[kept.revision].ready == 4
    assert world.serving is not None
    assert world.serving.spaces == ("space-1", "space-2")
    assert len(said(plans, "SpaceStillRetained")) == 1
    assert (found := condition(world, "SpaceRetained")) is not None
    assert found.reason == "StillPinned"
    world.pinned.clear()
    world.run(50)
    assert kept.revision in world.sides  # four minutes
    plans = [world.tick() for _ in range(15)]
    assert said(plans, "SpaceReleased") == ["space space-1 (model version 1): no request has pinned it for 5m"]
    assert world.status.retained == ()
    assert kept.revision not in world.sides
    assert world.serving.spaces == ("space-2",)
    assert condition(world, "SpaceRetained") is None
    assert world.decide().actions == ()


def test_pins_that_nobody_counts_are_not_nobodys() -> None:
    world = promoted()
    world.pinned.clear()
    world.counted = False
    plans = [world.tick() for _ in range(300)]
    assert len(world.status.retained) == 1
    (sentence,) = said(plans, "SpaceStillRetained")
    assert "metrics are missing, so nobody knows" in sentence
    assert (found := condition(world, "SpaceRetained")) is not None
    assert found.reason == "NoMetrics"
    world.counted = True
    world.run(10)
    assert len(world.status.retained) == 1  # counters went on counting meanwhile: there was one more pin
    world.run(60)
    assert world.status.retained == ()


def test_the_next_rollout_does_not_forget_a_space_that_is_pinned() -> None:
    world = promoted()
    world.resolution = Resolved("3", "digest-3", "space-3")
    world.run(60)
    assert world.status.stable is not None
    assert world.status.stable.version == "3"
    assert [each.space for each in world.status.retained] == ["space-1", "space-2"]
    assert world.serving is not None
    assert world.serving.spaces == ("space-1", "space-2", "space-3")
    world.run(40)  # nobody pins space-2
    assert [each.space for each in world.status.retained] == ["space-1"]


def test_the_way_back_is_whole_and_ends_the_retention() -> None:
    world = promoted(scaleDownDelay="10m", bake="10m")
    former = world.status.retained[0].revision
    world.command = Command("1", "undo")
    world.tick()
    assert shared(world) == former
    assert world.status.retained == ()
    world.run(30)
    assert world.status.stable is not None
    assert (world.status.stable.version, len(world.sides)) == ("1", 1)


def test_a_way_back_with_few_pods_switches_once_there_are_enough() -> None:
    world = apart(scaleDownDelay="10m", bake="10m", spaceRetention="0s")
    while not (world.status.stable and world.status.stable.version == "2"):
        world.tick()
    former, current = world.status.former, world.status.stable
    assert former is not None
    assert current is not None
    for side in (former.revision,):
        world.sides[side] = replace(world.sides[side], replicas=1, ready=1, pods=1)
    world.scheduled[former.revision] = 1
    world.command = Command("1", "undo")
    world.tick()
    assert shared(world) == current.revision
    world.run(10)
    assert shared(world) == former.revision


def test_a_retained_version_that_returns_keeps_its_pods_on_trial_and_after_an_abort() -> None:
    world = promoted()
    (kept,) = world.status.retained
    world.resolution = Resolved("1", "digest-1", "space-1")
    while not world.status.weight.desired:
        world.tick()
        assert world.sides[kept.revision].ready == 4
    world.command = Command("1", "abort")
    world.run(10)
    assert world.sides[kept.revision].ready == 4
    assert [each.revision for each in world.status.retained] == [kept.revision]
    world.command = Command("2", "retry")
    world.run(60)
    assert world.status.stable is not None
    assert world.status.stable.version == "1"
    assert [each.space for each in world.status.retained] == ["space-2"]


@pytest.mark.parametrize("failure", ["KeepFloor", "Immediate"])
def test_a_retained_version_that_returns_and_is_refused_by_verify_keeps_its_pods(failure: str) -> None:
    """Its verify Job is there while it is withdrawn, whose pods leave at once under Immediate."""
    world = promoted(onFailure=failure)
    (kept,) = world.status.retained
    world.verify_passes = False
    world.resolution = Resolved("1", "digest-1", "space-1")
    for _ in range(20):
        world.tick()
        assert world.sides[kept.revision].ready == 4
    assert world.status.target is not None
    assert world.status.target.rejected
    assert world.status.canary is None


def test_a_deployment_that_somebody_deleted_is_made_again() -> None:
    world = promoted()
    (kept,) = world.status.retained
    del world.sides[kept.revision]
    world.run(3)
    assert world.sides[kept.revision].ready == 4


def test_without_room_for_both_the_reason_says_so() -> None:
    world = apart(surge="Auto", capacityFloor="50%")
    world.gpus = 4
    world.run(30)
    assert world.status.target is not None
    assert world.status.target.rejected
    assert "onSpaceChange Pinned keeps stable whole" in world.status.target.reason


def test_with_a_gateway_only_what_names_the_canary_meets_it() -> None:
    world = apart(routing={"type": "GatewayAPI", "parentRefs": [{"name": "public"}]})
    named = False
    while world.status.canary is not None or not named:
        world.tick()
        assert world.serving is not None
        assert world.serving.route is not None
        assert world.serving.route.weight == 0
        named |= world.serving.route.canary == ("2", "space-2")
    assert world.status.stable is not None
    assert world.status.stable.version == "2"


def test_one_space_is_rolled_out_as_ever() -> None:
    world = World(spec=spec(strategy={"onSpaceChange": "Pinned"})).run(20)
    world.resolution = Resolved("2", "digest-2", "space-1")
    mixed = False
    for _ in range(60):
        world.tick()
        mixed |= shared(world) is None
    assert mixed
    assert world.status.retained == ()


def test_counts_alone_are_not_stored_and_who_pins_seldom() -> None:
    world = promoted()
    saved = world.status
    world.pinned.clear()
    world.run(2)
    waits = patience(saved, world.status)
    assert waits is None or waits.total_seconds() >= 15
    world.pinned.add("space-1")
    world.run(20)
    settled = world.status
    world.run(1)
    assert (waits := patience(settled, world.status)) is not None
    assert waits.total_seconds() == 900


@pytest.mark.parametrize(
    ("ready", "at_start", "at_end", "expected"),
    [
        (2, {"a": 5, "b": 7}, {"a": 5, "b": 7}, Pinning.NONE),
        (2, {"a": 5, "b": 7}, {"a": 5, "b": 8}, Pinning.SEEN),
        (2, {"a": 5, "b": 7}, {"a": 0, "b": 7}, Pinning.SEEN),  # began anew: what it had counted is lost
        (2, {"a": 5, "b": 7}, {"a": 5}, Pinning.UNKNOWN),
        (1, {"a": 5, "b": 7}, {"a": 5}, Pinning.SEEN),  # b has ended, and may have been pinned before
        (2, {"a": 5}, {"a": 5, "c": 0}, Pinning.NONE),
        (2, {"a": 5}, {"a": 5, "c": 1}, Pinning.SEEN),
        (1, {"a": 5}, {}, Pinning.UNKNOWN),
        (0, {}, {}, Pinning.UNKNOWN),
    ],
)
def test_what_counters_tell(
    ready: int, at_start: dict[str, float], at_end: dict[str, float], expected: Pinning
) -> None:
    others = {("other", "x"): 9.0}
    before, after = ({("r", pod): count for pod, count in at.items()} | others for at in (at_start, at_end))
    assert pinning("r", ready, before, {**after, ("other", "x"): 99.0}) is expected


def test_the_mirrors_services_are_headless_and_read_back() -> None:
    live = ApplyServing("a", "b", "a", spaces=("0123456789abcdef",), mirror=("a", "b"))
    services = {
        each["metadata"]["name"]: each for each in manifests.serving(RELEASE, live) if each["kind"] == "Service"
    }
    for name, revision in (("embedder-mirror-from", "a"), ("embedder-mirror-to", "b")):
        assert services[name]["spec"]["clusterIP"] == "None"
        assert services[name]["spec"]["selector"]["serinus.dev/revision"] == revision
    assert manifests.served_revisions("embedder", services) == live
    del services["embedder-mirror-to"]
    assert manifests.served_revisions("embedder", services) not in (live, replace(live, mirror=None))
