"""Vectors of two spaces are never mixed unawares: a new space is announced, refused where the spec says so, and has a Service."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.operator.world import World, spec

from serinus_contract.names import space_service
from serinus_operator import manifests
from serinus_operator.manifests import Release
from serinus_operator.rollout.actions import ApplyServing
from serinus_operator.rollout.model import Condition, Phase
from serinus_operator.rollout.observed import Resolved

RELEASE = Release("team", "embedder", "uid")


def changed(space: str = "space-2", **strategy: str) -> World:
    """Version 1 of space-1 is stable, and version 2 has just become the target."""
    world = World(spec=spec(strategy=strategy)).run(20)
    world.resolution = Resolved("2", "digest-2", space)
    return world


def condition(world: World) -> Condition:
    return next(each for each in world.status.conditions if each.type == "EmbeddingSpaceChanged")


def test_a_new_space_is_announced_and_rolled_out_by_default() -> None:
    world = changed()
    plans = [world.tick() for _ in range(60)]
    events = [event for plan in plans for event in plan.events if event.reason == "EmbeddingSpaceChanged"]
    assert [event.type for event in events] == ["Warning"]
    assert "is of vector space space-2, stable version 1 of space-1: never compare their vectors" in events[0].message
    assert world.status.stable is not None
    assert world.status.stable.version == "2"


def test_the_condition_holds_while_two_spaces_are_served() -> None:
    world = changed(scaleDownDelay="1m")
    assert condition(world).status == "False"
    world.run(3)
    assert (condition(world).status, condition(world).reason) == ("True", "Split")
    while world.status.canary is not None:
        world.tick()
    assert (condition(world).status, condition(world).reason) == ("True", "Promoted")
    world.run(20)
    assert (condition(world).status, condition(world).reason) == ("False", "SameSpace")


def test_the_same_space_is_no_news() -> None:
    world = changed(space="space-1")
    plans = [world.tick() for _ in range(60)]
    assert not any(event.reason == "EmbeddingSpaceChanged" for plan in plans for event in plan.events)
    assert condition(world).status == "False"


def test_refuse_starts_nothing_and_says_what_to_do() -> None:
    world = changed(onSpaceChange="Refuse")
    plans = [world.tick() for _ in range(30)]
    assert world.status.canary is None
    assert len(world.sides) == 1
    assert not world.jobs
    assert "set it to Split or Pinned to roll this version out" in world.status.message
    assert world.status.phase is Phase.DEGRADED
    assert (condition(world).status, condition(world).reason) == ("True", "Refused")
    stalled = next(each for each in world.status.conditions if each.type == "Stalled")
    assert (stalled.status, stalled.reason) == ("True", "EmbeddingSpaceChanged")
    assert sum(event.reason == "EmbeddingSpaceChanged" for plan in plans for event in plan.events) == 1


def test_what_was_refused_starts_once_the_spec_allows_it() -> None:
    world = changed(onSpaceChange="Refuse").run(5)
    world.spec = replace(world.spec, strategy=spec(strategy={"onSpaceChange": "Split"}).strategy)
    world.run(60)
    assert world.status.stable is not None
    assert world.status.stable.version == "2"


def test_a_refused_target_never_keeps_one_of_the_same_space_from_starting() -> None:
    world = changed(onSpaceChange="Refuse").run(5)
    world.resolution = Resolved("3", "digest-3", "space-1")
    world.run(60)
    assert world.status.stable is not None
    assert world.status.stable.version == "3"


def test_every_space_with_pods_has_a_service_and_no_other() -> None:
    world = changed(scaleDownDelay="1m")
    seen = [world.serving.spaces if world.serving is not None else ()]
    for _ in range(60):
        world.tick()
        assert world.serving is not None
        if world.serving.spaces not in seen[-1:]:
            seen.append(world.serving.spaces)
    assert seen == [("space-1",), ("space-1", "space-2"), ("space-2",)]


def test_space_services_select_by_space_and_are_read_back() -> None:
    live = ApplyServing("a", "b", spaces=("0123456789abcdef", "fedcba9876543210"))
    rendered = {
        each["metadata"]["name"]: each for each in manifests.serving(RELEASE, live) if each["kind"] == "Service"
    }
    named = rendered["embedder-space-0123456789abcdef"]["spec"]["selector"]
    assert named == {"serinus.dev/release": "embedder", "serinus.dev/space": "0123456789abcdef"}
    assert manifests.served_revisions("embedder", rendered) == live


@pytest.mark.parametrize("name", ["a", "a" * 40])
def test_the_services_name_is_a_dns_label_for_every_release(name: str) -> None:
    assert len(space_service(name, "0" * 16)) <= 63
