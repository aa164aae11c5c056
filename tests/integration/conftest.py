"""Real parts for the integration tests: API server and controllers, an MLflow server, the operator's own process.

Two things stand in at the wire: pods have no node here, so a thread plays the kubelet (it writes pod status, as a kubelet does), and
Prometheus is a small HTTP server that answers its query API.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.binaries import tail
from tests.cluster.control_plane import ControlPlane
from tests.integration.team import MlflowClient, Team

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS
from serinus_contract.verification import Check, VerifyReport

CRD = Path(__file__).parents[2] / "crds" / "modelreleases.yaml"


def eventually(what: str, check: Callable[[], Any], deadline_seconds: float = 60) -> Any:
    """Waits until `check` returns something true. Fails with what it last returned."""
    ends_at = time.monotonic() + deadline_seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < ends_at, f"{what}: not within {deadline_seconds:.0f} s, last seen: {found!r}"
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as plane:
        applied = plane.kubectl("apply", "-f", str(CRD))
        assert applied.returncode == 0, applied.stderr
        established = plane.kubectl(
            "wait", "--for=condition=Established", "crd/modelreleases.serinus.dev", "--timeout=30s"
        )
        assert established.returncode == 0, established.stderr
        yield plane


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with process(command, folder / "mlflow.log"):
        eventually("MLflow answers", lambda: _answers(f"{url}/health"), 240)  # a cold start on two busy cores took 95 s
        yield url


class process:  # noqa: N801 - reads as a verb
    """A program that runs for as long as the block, with its output in a log."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.command, self.log, self.environment = command, log, environment or {}

    def __enter__(self) -> process:
        self.stream = self.log.open("ab")
        self.popen = subprocess.Popen(
            self.command,
            stdout=self.stream,
            stderr=self.stream,
            env={**os.environ, **self.environment},
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self.popen.pid, 15)
        try:
            self.popen.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, 9)
            self.popen.wait(20)
        self.stream.close()

    def kill(self) -> None:
        os.killpg(self.popen.pid, 9)
        self.popen.wait(20)


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
        environment = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
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


def pods_of(plane: ControlPlane, selector: str) -> list[dict[str, Any]]:
    code, answer = plane.call("GET", f"/api/v1/pods?labelSelector={urllib.parse.quote(selector)}")
    pods: list[dict[str, Any]] = answer["items"] if code == 200 else []
    return pods


@pytest.fixture
def kubelet(control_plane: ControlPlane) -> Iterator[Kubelet]:
    playing = Kubelet(control_plane)
    thread = threading.Thread(target=playing.run, daemon=True)
    thread.start()
    yield playing
    playing.stop.set()
    thread.join(20)
    assert playing.errors == []


@dataclass
class Metrics:
    """What Prometheus would say: per pod and second so many requests with this latency; pods are read from the API server."""

    plane: ControlPlane
    url: str = ""
    latency_seconds: dict[str, float] = field(default_factory=dict)  # by revision; 0.02 where not named
    down: bool = False
    requests_per_second: float = 50.0
    told: list[dict[str, Any]] = field(
        default_factory=list
    )  # what was posted to /notify, of which the first answer is 503

    def answer(self, query: str, at: float) -> list[dict[str, Any]]:
        pods = pods_of(self.plane, "serinus.dev/release,!serinus.dev/verify")
        if "_bucket" in query:
            return [bucket for pod in pods for bucket in self._buckets(pod, query, at)]
        return [self._series(pod, query, at) for pod in pods]

    def _buckets(self, pod: dict[str, Any], query: str, at: float) -> list[dict[str, Any]]:
        """Latencies spread evenly from 0.5 to 1.5 times their mean."""
        mean = self.latency_seconds.get(pod["metadata"]["labels"]["serinus.dev/revision"], 0.02)
        buckets = []
        for bound in (bound for pair in COMPARED_LATENCIES_SECONDS for bound in pair):
            series = self._series(pod, query, at)
            share = min(1.0, max(0.0, bound / mean - 0.5))
            series["metric"]["le"] = str(bound)
            series["value"][1] = str(float(series["value"][1]) * share)
            buckets.append(series)
        return buckets

    def _series(self, pod: dict[str, Any], query: str, at: float) -> dict[str, Any]:
        labels, revision = pod["metadata"]["labels"], pod["metadata"]["labels"]["serinus.dev/revision"]
        requests = self.requests_per_second * (at - 1.7e9)
        value = requests
        if 'code=~"5.."' in query or "ready_at" in query:
            value = 0.0
        elif "low_confidence" in query:
            value = requests * 0.1
        elif "duration_seconds_sum" in query:
            value = requests * self.latency_seconds.get(revision, 0.02)
        elif "confidence_sum" in query:
            value = requests * 0.9
        metric = {
            "namespace": pod["metadata"]["namespace"],
            "pod": pod["metadata"]["name"],
            "serinus_dev_release": labels["serinus.dev/release"],
            "serinus_dev_revision": revision,
        }
        return {"metric": metric, "value": [at, str(value)]}


@pytest.fixture
def metrics(control_plane: ControlPlane) -> Iterator[Metrics]:
    source = Metrics(control_plane)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            if source.down:
                self.send_error(503)
                return
            result = source.answer(asked["query"][0], float(asked["time"][0]))
            body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            source.told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(503 if len(source.told) == 1 else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source.url = f"http://127.0.0.1:{server.server_port}"
    yield source
    server.shutdown()
    server.server_close()


@dataclass
class Operator:
    """The operator's own process, as in a pod."""

    environment: dict[str, str]
    log: Path
    running: process | None = None

    def start(self) -> None:
        self.running = process([sys.executable, "-m", "serinus_operator"], self.log, self.environment)
        self.running.__enter__()

    def stop(self) -> None:
        if self.running is not None:
            self.running.__exit__()
            self.running = None

    def kill(self) -> None:
        assert self.running is not None
        self.running.kill()
        self.running.stream.close()
        self.running = None


@pytest.fixture
def operator(control_plane: ControlPlane, mlflow_server: str, metrics: Metrics, tmp_path: Path) -> Iterator[Operator]:
    environment = {
        "KUBECONFIG": str(control_plane.kubeconfig),
        "SERINUS_SERVER_IMAGE": "example.org/server:1",
        "SERINUS_REGISTRIES": json.dumps({"default": mlflow_server}),
        "SERINUS_PROMETHEUS_URL": metrics.url,
        "SERINUS_SCRAPE_LAG_SECONDS": "1",
        "SERINUS_REGISTRY_POLL_SECONDS": "1",
        "SERINUS_METRICS_PORT": str(free_port()),
        "SERINUS_NOTIFY_URL": f"{metrics.url}/notify",
        "POD_NAME": "operator-under-test",
        "POD_NAMESPACE": "default",
    }
    started = Operator(environment, tmp_path / "operator.log")
    started.start()
    yield started
    started.stop()
    assert "Traceback" not in started.log.read_text(), tail(started.log, 60)


@pytest.fixture
def team(control_plane: ControlPlane, mlflow_server: str, request: pytest.FixtureRequest) -> Iterator[Team]:
    registry = MlflowClient(tracking_uri=mlflow_server, registry_uri=mlflow_server)
    name = request.node.name.removeprefix("test_")[:38].strip("_").replace("_", "-")
    yield Team(control_plane, registry, name)
    control_plane.kubectl("delete", "modelrelease", name, "--ignore-not-found")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
