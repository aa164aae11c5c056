"""The operator's own process against a real API server, real controllers and a real MLflow server."""

from __future__ import annotations

import json

import pytest
from tests.integration.conftest import Kubelet, Metrics, Operator, eventually
from tests.integration.team import Team

from serinus_contract.names import space_service

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]


def test_versions_are_promoted_refused_and_rolled_back(
    team: Team, operator: Operator, kubelet: Kubelet, metrics: Metrics
) -> None:
    team.register()
    team.apply()
    eventually("version 1 is stable", lambda: team.stable_version() == "1")
    first_pods = {pod["metadata"]["uid"] for pod in team.kinds("pods")}
    assert len(first_pods) == 3

    team.register()
    eventually("version 2 is stable", lambda: team.stable_version() == "2", 120)
    model = team.registry.get_registered_model(team.model)
    eventually("aliases follow", lambda: _aliases(team) == {"challenger": "2", "champion": "2"})
    assert model is not None
    assert eventually("stages follow", lambda: _stages(team) == {"1": "Archived", "2": "Production"})
    eventually("tags follow", lambda: _tags(team, "2").get("serinus.result") == "Promoted")
    eventually("one Deployment is left", lambda: len(team.kinds("deployments")) == 1)
    eventually("one space is left", lambda: _spaces(team) == {"space2"})

    kubelet.verify_passes = False
    team.register()
    rejected = eventually("version 3 is refused", lambda: team.status().get("target", {}).get("rejected"))
    assert rejected
    assert "0.69" in team.status()["target"]["reason"]
    eventually("version 3 is tagged", lambda: "0.69" in _tags(team, "3").get("rolled-back", ""))
    kubelet.verify_passes = True
    team.registry.set_registered_model_alias(team.model, "challenger", "2")
    eventually("healthy again", lambda: team.stable_version() == "2")

    pods = {pod["metadata"]["name"] for pod in team.kinds("pods")}
    team.apply(serving={"resources": {"limits": {"cpu": "50m"}}})
    canary = eventually("a canary starts", lambda: team.status().get("canary", {}).get("revision"))
    metrics.latency_seconds[canary] = 0.9
    eventually("it is rolled back", lambda: team.status()["history"][0]["revision"] == canary, 120)
    assert team.status()["history"][0]["result"] == "RolledBack"
    assert "latency" in team.status()["history"][0]["reason"]
    eventually("stable has all its pods", lambda: team.status()["stable"].get("ready") == 3)
    eventually("no pod of the canary is left", lambda: len(team.kinds("pods")) == 3)
    assert len(pods & {pod["metadata"]["name"] for pod in team.kinds("pods")}) >= 2
    assert _stages(team)["2"] == "Production"
    told = [told["commonLabels"]["alertname"] for told in metrics.told]
    assert told[:2] == ["SerinusPromoted"] * 2  # refused with 503, then taken
    assert told[2:] == ["SerinusPromoted", "SerinusRolledBack", "SerinusRolledBack"]
    assert "latency" in metrics.told[-1]["text"]


def test_a_killed_operator_goes_on_where_it_was_and_an_upgraded_one_touches_no_pod(
    team: Team, operator: Operator, kubelet: Kubelet
) -> None:
    team.register()
    team.apply()
    eventually("version 1 is stable", lambda: team.stable_version() == "1")
    team.register()
    eventually("the canary has traffic", lambda: team.status().get("weight", {}).get("desired"))
    operator.kill()
    operator.start()
    canary = team.status()["canary"]["revision"]
    on_trial = eventually("the canary's first pod", lambda: pods(team, canary))
    eventually("version 2 is stable", lambda: team.stable_version() == "2", 150)
    assert [entry["result"] for entry in team.status()["history"]] == ["Promoted", "Promoted"]
    eventually("only version 2 has pods", lambda: len(team.kinds("pods")) == 3)
    promoted = pods(team, canary)
    assert on_trial <= promoted, "a promoted pod was replaced"

    operator.stop()
    operator.environment["SERINUS_SERVER_IMAGE"] = "example.org/server:2"
    operator.start()
    said = json.dumps({"id": "after the upgrade", "verb": "promote"})
    team.plane.kubectl("annotate", "modelrelease", team.name, f"serinus.dev/command={said}")
    eventually("it was looked at", lambda: team.status().get("command", {}).get("id") == "after the upgrade")
    assert pods(team, canary) == promoted
    (deployment,) = team.kinds("deployments")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "example.org/server:1"


def test_at_rest_nothing_is_written(team: Team, operator: Operator, kubelet: Kubelet) -> None:
    team.register()
    team.apply()
    eventually("version 1 is stable", lambda: team.stable_version() == "1")
    eventually("the registry is in step", lambda: not team.status().get("registry"))
    before = _versions(team)
    kubelet.stop.wait(8)
    assert _versions(team) == before


def test_prometheus_down_neither_promotes_nor_fails(
    team: Team, operator: Operator, kubelet: Kubelet, metrics: Metrics
) -> None:
    team.register()
    team.apply()
    eventually("version 1 is stable", lambda: team.stable_version() == "1")
    metrics.down = True
    team.register()
    eventually("the verdict is Error", lambda: team.status().get("verdict") == "Error", 90)
    kubelet.stop.wait(6)
    assert team.status()["weight"]["desired"] == 30
    metrics.down = False
    eventually("version 2 is stable", lambda: team.stable_version() == "2", 90)


def test_unknown_model_and_alias_are_conditions(team: Team, operator: Operator) -> None:
    team.apply(model={"name": team.model, "alias": "nobody"})
    eventually("a sentence", lambda: "names no model version" in team.status().get("message", ""))
    conditions = {each["type"]: each for each in team.status()["conditions"]}
    assert conditions["ModelResolved"]["status"] == "False"
    assert conditions["ModelResolved"]["reason"] == "NotFound"


def test_what_the_api_server_refuses_is_a_condition_and_stable_goes_on(
    team: Team, operator: Operator, kubelet: Kubelet
) -> None:
    team.register()
    team.apply()
    eventually("version 1 is stable", lambda: team.stable_version() == "1")
    team.apply(serving={"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})
    message = eventually("the refusal", lambda: "must be less than or equal" in team.status().get("message", ""))
    conditions = {each["type"]: each for each in team.status()["conditions"]}
    assert message
    assert (conditions["Stalled"]["status"], conditions["Stalled"]["reason"]) == ("True", "Refused")
    assert len(team.kinds("pods")) == 3
    team.apply()
    eventually("healthy again", lambda: team.stable_version() == "1")


def test_unknown_registry_is_a_condition_that_names_the_field(team: Team, operator: Operator) -> None:
    team.apply(model={"name": team.model, "alias": "a", "registry": "elsewhere"})
    message = eventually("a sentence", lambda: team.status().get("message"))
    assert message.startswith("spec.model.registry: 'elsewhere' is unknown")


def pods(team: Team, revision: str) -> set[str]:
    found = team.kinds("pods")
    return {pod["metadata"]["uid"] for pod in found if pod["metadata"]["labels"]["serinus.dev/revision"] == revision}


def _spaces(team: Team) -> set[str]:
    prefix = space_service(team.name, "")
    names = (service["metadata"]["name"] for service in team.kinds("services"))
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def _aliases(team: Team) -> dict[str, str]:
    return {alias: str(version) for alias, version in team.registry.get_registered_model(team.model).aliases.items()}


def _stages(team: Team) -> dict[str, str]:
    found = team.registry.search_model_versions(f"name='{team.model}'")
    return {str(each.version): each.current_stage for each in found if each.current_stage in ("Production", "Archived")}


def _tags(team: Team, version: str) -> dict[str, str]:
    return dict(team.registry.get_model_version(team.model, version).tags)


def _versions(team: Team) -> dict[str, str]:
    kinds = ("modelreleases", "deployments", "services", "poddisruptionbudgets")
    shown = team.plane.kubectl("get", ",".join(kinds), "-o", "json")
    return {
        f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
        for item in json.loads(shown.stdout)["items"]
        if team.name in item["metadata"]["name"]
    }
