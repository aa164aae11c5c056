"""Weights by an HTTPRoute: the operator's own process, with the Gateway API's own CRDs in a real API server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration.conftest import Kubelet, Operator, eventually
from tests.integration.team import Team

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("gateway_api"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

STEPS = [{"verify": {}}, {"setWeight": 10}, {"pause": {}}]
ROUTING = {
    "type": "GatewayAPI",
    "parentRefs": [{"name": "public", "namespace": "infra"}],
    "hostnames": ["embed.example.org"],
}


def route(team: Team) -> dict[str, Any]:
    shown = team.plane.kubectl("get", "httproute", team.name, "-o", "json")
    found: dict[str, Any] = json.loads(shown.stdout) if shown.returncode == 0 else {}
    return found


def weights(team: Team) -> list[int]:
    rules = route(team).get("spec", {}).get("rules", [{}])
    return [each["weight"] for each in rules[-1].get("backendRefs", [])]


def test_an_httproute_carries_the_exact_weight_and_follows_the_rollout(
    team: Team, operator: Operator, kubelet: Kubelet
) -> None:
    strategy = {"scaleDownDelay": "0s", "bake": "0s", "steps": STEPS, "routing": ROUTING}
    team.register()
    team.apply(strategy=strategy)
    eventually("version 1 is stable", lambda: team.stable_version() == "1")
    assert weights(team) == [100, 0]

    team.register()
    eventually("it waits for a person", lambda: team.status().get("phase") == "Paused")
    assert weights(team) == [90, 10]
    straight = [
        each["headers"][0]["value"]
        for rule in route(team)["spec"]["rules"]
        for each in rule["matches"]
        if "headers" in each
    ]
    assert straight == ["1", "2", "space1", "space2"]

    team.plane.kubectl("patch", "httproute", team.name, "--type=json", "-p", json.dumps(
        [{"op": "replace", "path": "/spec/rules/4/backendRefs/1/weight", "value": 70}]
    ))  # fmt: skip
    eventually("what somebody else wrote is put right", lambda: weights(team) == [90, 10])

    command = json.dumps({"id": "1", "verb": "promote"})
    team.plane.kubectl("annotate", "modelrelease", team.name, f"serinus.dev/command={command}")
    eventually("version 2 is stable", lambda: team.stable_version() == "2")
    assert weights(team) == [100, 0]

    team.apply(strategy={**strategy, "routing": {"type": "Replicas"}})
    eventually("without it the route goes", lambda: route(team) == {})
