"""The operator's own process against a real API server, real controllers and a real MLflow server."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.integration.conftest import Kubelet, Metrics, Operator, eventually

from serinus_contract.names import DIGEST_TAG, SPACE_TAG

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlflow import MlflowClient

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]


class Team:
    """A user: registers versions, applies releases, looks at them."""

    def __init__(self, plane: ControlPlane, registry: MlflowClient, name: str) -> None:
        self.plane, self.registry, self.name, self.model = plane, registry, name, f"model-{name}"
        registry.create_registered_model(self.model)

    def register(self) -> str:
        run = self.registry.create_run("0").info
        version = self.registry.create_model_version(self.model, f"{run.artifact_uri}/model", run_id=run.run_id).version
        self.registry.set_model_version_tag(self.model, version, DIGEST_TAG, f"digest-{version}")
        self.registry.set_model_version_tag(self.model, version, SPACE_TAG, f"space{version}")
        self.registry.set_registered_model_alias(self.model, "challenger", version)
        return str(version)

    def apply(self, **changes: Any) -> None:
        spec = {
            "model": {"name": self.model, "alias": "challenger"},
            "replicas": 3,
            "strategy": {
                "progressDeadline": "30s",
                "steps": [{"verify": {}}, {"setWeight": 30}, {"analysis": {"duration": "3s"}}],
            },
            "analysis": {"interval": "1s", "minRequests": 50},
            "registry": {
                "onCanary": {"alias": "canary", "stage": "Staging"},
                "onPromote": {"alias": "champion", "stage": "Production", "archivePrevious": True},
                "onRollback": {"tag": {"rolled-back": "{{ reason }}"}},
            },
        }
        release = {
            "apiVersion": "serinus.dev/v1alpha1",
            "kind": "ModelRelease",
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": spec | changes,
        }
        done = self.plane.kubectl("apply", "-f", "-", stdin=json.dumps(release))
        assert done.returncode == 0, done.stderr

    def status(self) -> dict[str, Any]:
        shown = self.plane.kubectl("get", "modelrelease", self.name, "-o", "json")
        status: dict[str, Any] = json.loads(shown.stdout).get("status", {}) if shown.returncode == 0 else {}
        return status

    def stable_version(self) -> str | None:
        status = self.status()
        settled = status.get("phase") == "Healthy"
        version: str | None = status.get("stable", {}).get("version") if settled else None
        return version

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        shown = self.plane.kubectl("get", kind, "-l", f"serinus.dev/release={self.name}", "-o", "json")
        items: list[dict[str, Any]] = json.loads(shown.stdout)["items"]
        return items


@pytest.fixture
def team(control_plane: ControlPlane, mlflow_server: str, request: pytest.FixtureRequest) -> Iterator[Team]:
    registry = MlflowClient(tracking_uri=mlflow_server, registry_uri=mlflow_server)
    name = request.node.name.removeprefix("test_")[:38].strip("_").replace("_", "-")
    yield Team(control_plane, registry, name)
    control_plane.kubectl("delete", "modelrelease", name, "--ignore-not-found")


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


def test_killed_operator_goes_on_where_it_was(team: Team, operator: Operator, kubelet: Kubelet) -> None:
    team.register()
    team.apply()
    eventually("version 1 is stable", lambda: team.stable_version() == "1")
    team.register()
    eventually("the canary has traffic", lambda: team.status().get("weight", {}).get("desired"))
    operator.kill()
    operator.start()
    eventually("version 2 is stable", lambda: team.stable_version() == "2", 150)
    assert [entry["result"] for entry in team.status()["history"]] == ["Promoted", "Promoted"]


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
