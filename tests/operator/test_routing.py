"""With the Gateway API a weight is exact: pods come before it on the way up, and go after it on the way down."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.operator.world import World, challenged, spec

from serinus_operator import manifests
from serinus_operator.gates.judge import Verdict
from serinus_operator.manifests import Release
from serinus_operator.rollout.actions import Route, Scale
from serinus_operator.spec import Gateway, Spec

RELEASE = Release("default", "embedder", "uid")
GATEWAY = Gateway(({"name": "public", "namespace": "infra"},), ("embed.example.org",))
ROUTING = {"type": "GatewayAPI", "parentRefs": [{"name": "public", "namespace": "infra"}]}


def routed(**strategy: Any) -> Spec:
    return spec(strategy={"routing": ROUTING, **strategy})


def weight(world: World) -> int:
    assert world.serving is not None
    assert world.serving.route is not None
    return world.serving.route.weight


def rolling(chosen: Spec) -> World:
    world = challenged()
    world.spec = chosen
    return world.run(1)


def walk(world: World, ticks: int = 60) -> list[int]:
    """The route's weights, in order; on every tick each side that gets requests has a ready pod."""
    seen: list[int] = []
    for _ in range(ticks):
        before = weight(world)
        canary, stable = world.status.canary, world.status.stable
        decided = world.tick()
        for action in decided.actions:
            if isinstance(action, Scale) and action.replicas == 0 and canary is not None and stable is not None:
                assert action.revision != canary.revision or before == 0
                assert action.revision != stable.revision or before == 100
        if world.status.canary is not None and weight(world) > 0:
            assert world.sides[world.status.canary.revision].ready > 0
        if weight(world) not in seen[-1:]:
            seen.append(weight(world))
    return seen


def test_weights_are_exact_and_follow_the_pods_up() -> None:
    world = rolling(routed())
    assert walk(world) == [0, 25, 50, 60, 75, 100, 0]
    assert world.status.stable is not None
    assert world.status.stable.version == "2"
    assert weight(world) == 0  # promoted: stable's Service has the new revision
    assert world.fewest_ready >= 4
    assert world.decide().actions == ()


def test_one_replica_of_each_still_divides_ten_to_ninety() -> None:
    world = rolling(replace(routed(steps=[{"setWeight": 10}, {"pause": {}}]), replicas=1))
    walk(world, 20)
    assert weight(world) == 10


def test_a_step_ends_only_when_the_route_has_its_weight() -> None:
    world = rolling(routed(steps=[{"setWeight": 25}, {"pause": {}}]))
    while not (world.status.step and world.status.step.index):
        assert weight(world) in (0, 25)
        world.tick()
    assert weight(world) == 25


@pytest.mark.parametrize("on_failure", ["KeepFloor", "Immediate"])
def test_a_failed_canary_loses_its_weight_before_its_pods(on_failure: str) -> None:
    world = rolling(routed(onFailure=on_failure))
    while weight(world) < 50:
        world.tick()
    world.verdict = Verdict.FAIL
    falling = walk(world)
    assert falling[-1] == 0
    assert falling == sorted(falling, reverse=True)
    assert on_failure == "KeepFloor" or falling == [0]
    assert world.status.canary is None
    assert world.fewest_ready >= 4 or on_failure == "Immediate"


def test_a_request_that_names_a_version_or_a_space_goes_straight_there() -> None:
    route = Route(GATEWAY, 10, ("1", "space-1"), ("2", "space-2"))
    rendered = manifests.http_route(RELEASE, route)
    straight = {
        (match["headers"][0]["name"], match["headers"][0]["value"]): rule["backendRefs"][0]["name"]
        for rule in rendered["spec"]["rules"][:-1]
        for match in rule["matches"]
    }
    assert straight == {
        ("x-model-version", "1"): "embedder-stable",
        ("x-model-version", "2"): "embedder-canary",
        ("x-embedding-space", "space-1"): "embedder-stable",
        ("x-embedding-space", "space-2"): "embedder-canary",
    }
    assert [each["weight"] for each in rendered["spec"]["rules"][-1]["backendRefs"]] == [90, 10]


def test_versions_in_one_space_share_its_requests_by_weight() -> None:
    rendered = manifests.http_route(RELEASE, Route(GATEWAY, 10, ("1", "space"), ("2", "space")))
    assert "x-embedding-space" not in json.dumps(rendered)


@pytest.mark.parametrize("named", [None, ("1", "space")])
def test_a_stored_route_is_read_back_as_it_was_meant(named: tuple[str, str] | None) -> None:
    route = Route(GATEWAY, 30, named, named and ("2", "space"))
    stored = manifests.http_route(RELEASE, route)
    stored["spec"]["parentRefs"][0] |= {"group": "gateway.networking.k8s.io", "kind": "Gateway"}  # defaults of the API
    assert manifests.route_of(stored) == route
    stored["spec"]["rules"][-1]["backendRefs"][1]["weight"] = 99
    assert manifests.route_of(stored) == replace(route, weight=99)
    del stored["spec"]["rules"]
    assert manifests.route_of(stored) is None
