"""Real parts for the integration tests: API server and controllers, an MLflow server, the operator's own process.

Pods have no node here, so a thread plays the kubelet: it writes pod status, as a kubelet does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import chart
from tests.cluster.binaries import gateway_api_crds, tail
from tests.cluster.control_plane import ControlPlane
from tests.integration.surroundings import (
    Metrics,
    Operator,
    account_kubeconfig,
    eventually,
    operator_environment,
    pods_of,
    serve_mlflow,
    wait_established,
)
from tests.integration.team import MlflowClient, Team

from serinus_contract.verification import Check, VerifyReport

__all__ = ["Kubelet", "Metrics", "Operator", "eventually"]

CRD = Path(__file__).parents[2] / "crds" / "modelreleases.yaml"


OPERATOR = "system:serviceaccount:default:serinus-operator"
_INSTALLED = ("Lease", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount", "ValidatingAdmissionPolicy",
              "ValidatingAdmissionPolicyBinding")  # fmt: skip


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """With what the chart installs beside the operator's own pod."""
    with ControlPlane(tmp_path_factory.mktemp("control-plane"), audited_user=OPERATOR) as plane:
        chart.install(plane, _INSTALLED)
        applied = plane.kubectl("apply", "-f", str(CRD))
        assert applied.returncode == 0, applied.stderr
        wait_established(plane, "modelreleases.serinus.dev")
        yield plane


@pytest.fixture(scope="module")
def gateway_api(control_plane: ControlPlane) -> Iterator[None]:
    """Before the operator starts, which looks for the kind once."""
    files = [
        f"--filename={gateway_api_crds() / f'gateway.networking.k8s.io_{kind}.yaml'}"
        for kind in ("gateways", "httproutes")
    ]
    applied = control_plane.kubectl("apply", "--server-side", *files)
    assert applied.returncode == 0, applied.stderr
    names = [f"{kind}.gateway.networking.k8s.io" for kind in ("gateways", "httproutes")]
    wait_established(control_plane, *names)
    yield
    control_plane.kubectl("delete", "crd", *names)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_mlflow(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@dataclass
class Kubelet:
    """Plays the node: pods become ready, verify pods end with a report. `unready` names revisions whose pods never do."""

    plane: ControlPlane
    verify_passes: bool = True
    unready: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)
    errors: list[str] = field(default_factory=list)

    def run(self) -> None:
        while not self.stop.wait(0.2):
            for pod in pods_of(self.plane, "app.kubernetes.io/managed-by=serinus"):
                self._advance(pod)

    def _advance(self, pod: dict[str, Any]) -> None:
        metadata, phase = pod["metadata"], pod["status"].get("phase")
        namespace, name, labels = metadata["namespace"], metadata["name"], metadata["labels"]
        if metadata.get("deletionTimestamp"):
            self.plane.call("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}?gracePeriodSeconds=0")
        elif phase == "Pending" and "serinus.dev/verify" in labels:
            self._write(
                pod, {"phase": "Succeeded" if self.verify_passes else "Failed", "containerStatuses": [self._ended(pod)]}
            )
        elif phase == "Pending" and labels["serinus.dev/revision"] not in self.unready:
            self._write(pod, {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})

    def _ended(self, pod: dict[str, Any]) -> dict[str, Any]:
        environment = {each["name"]: each.get("value", "") for each in pod["spec"]["containers"][0]["env"]}
        message = "top-10 neighbour overlap " + ("0.97" if self.verify_passes else "0.69, 0.80 needed")
        checks = (Check("neighbours", self.verify_passes, message),)
        report = VerifyReport(checks, {}, "1", environment["SERINUS_MODEL_DIGEST"], "space")
        ended = {"exitCode": 0 if self.verify_passes else 1, "reason": "Completed", "message": report.to_json()}
        common = {"name": "server", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
        return {**common, "state": {"terminated": ended}}

    def _write(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/status"
        code, answer = self.plane.call("PATCH", path, {"status": status}, "application/merge-patch+json")
        if code not in (200, 404):
            self.errors.append(str(answer))


@pytest.fixture
def kubelet(control_plane: ControlPlane) -> Iterator[Kubelet]:
    playing = Kubelet(control_plane)
    thread = threading.Thread(target=playing.run, daemon=True)
    thread.start()
    yield playing
    playing.stop.set()
    thread.join(20)
    assert playing.errors == []


@pytest.fixture
def metrics(control_plane: ControlPlane) -> Iterator[Metrics]:
    with Metrics(control_plane).serve() as source:
        yield source


@pytest.fixture(scope="session")
def operators_kubeconfig(control_plane: ControlPlane) -> Path:
    """The operator's own service account, with the rights that the chart gives it and no other."""
    return account_kubeconfig(control_plane, "serinus-operator", control_plane.folder / "operators-kubeconfig")


@pytest.fixture
def operator(operators_kubeconfig: Path, mlflow_server: str, metrics: Metrics, tmp_path: Path) -> Iterator[Operator]:
    environment = operator_environment(operators_kubeconfig, mlflow_server, metrics.url)
    quick = {"SERINUS_SCRAPE_LAG_SECONDS": "1", "SERINUS_REGISTRY_POLL_SECONDS": "1"}
    notified = {"SERINUS_NOTIFY_URL": f"{metrics.url}/notify"}
    started = Operator(environment | quick | notified, tmp_path / "operator.log")
    started.start()
    yield started
    started.stop()
    assert "Traceback" not in started.log.read_text(), tail(started.log, 60)
    assert " 403 " not in started.log.read_text(), tail(started.log, 60)  # the chart's rights are enough


@pytest.fixture
def team(control_plane: ControlPlane, mlflow_server: str, request: pytest.FixtureRequest) -> Iterator[Team]:
    registry = MlflowClient(tracking_uri=mlflow_server, registry_uri=mlflow_server)
    name = request.node.name.removeprefix("test_")[:38].strip("_").replace("_", "-")
    yield Team(control_plane, registry, name)
    control_plane.kubectl("delete", "modelrelease", name, "--ignore-not-found")
