"""What stands around the operator in tests and benchmarks: an MLflow server, its own process, and Prometheus' query API at the wire."""

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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import ControlPlane

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS


def eventually(
    what: str, check: Callable[[], Any], deadline_seconds: float = 60, shown: Callable[[], Any] | None = None
) -> Any:
    """Waits until `check` returns something true. Fails with what it last returned, or with what is to be `shown` then."""
    ends_at = time.monotonic() + deadline_seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > ends_at:
            seen = found if shown is None else shown()
            raise AssertionError(f"{what}: not within {deadline_seconds:.0f} s, last seen: {seen!r}")
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_established(plane: ControlPlane, *crds: str) -> None:
    """Waits until the API serves the kinds. (`kubectl wait` fails on a CRD that has no conditions yet.)"""

    def established() -> bool:
        return all('"Established"' in plane.kubectl("get", "crd", crd, "-o", "json").stdout for crd in crds)

    eventually(f"{', '.join(crds)} established", established, 30)
    waited = plane.kubectl("wait", "--for=condition=Established", *(f"crd/{crd}" for crd in crds), "--timeout=30s")
    assert waited.returncode == 0, waited.stderr


def account_kubeconfig(plane: ControlPlane, account: str, path: Path) -> Path:
    """Writes a kubeconfig with which a program is that service account of the namespace `default`, as in a pod of its own."""
    token = plane.kubectl("create", "token", account, "--namespace=default", "--duration=8h")
    assert token.returncode == 0, token.stderr
    cluster = {"server": plane.url, "certificate-authority": str(plane.pki.ca)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token.stdout.strip()}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return path


@contextmanager
def serve_mlflow(folder: Path) -> Iterator[str]:
    """An MLflow server, for as long as the block. Yields its address.

    On SQLite and a folder, unless SERINUS_MLFLOW_STORE and SERINUS_MLFLOW_ARTIFACTS name a database and a place for artifacts.
    """
    port = free_port()
    store = os.environ.get("SERINUS_MLFLOW_STORE") or f"sqlite:///{folder}/mlflow.db"
    artifacts = os.environ.get("SERINUS_MLFLOW_ARTIFACTS") or str(folder / "artifacts")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", store, "--artifacts-destination", artifacts]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with process(
        command, folder / "mlflow.log", {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    ):  # else seven more processes
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


def pods_of(plane: ControlPlane, selector: str) -> list[dict[str, Any]]:
    code, answer = plane.call("GET", f"/api/v1/pods?labelSelector={urllib.parse.quote(selector)}")
    pods: list[dict[str, Any]] = answer["items"] if code == 200 else []
    return pods


@dataclass
class Metrics:
    """What Prometheus would say: per pod and second so many requests with this latency; pods are read from the API server."""

    plane: ControlPlane
    url: str = ""
    latency_seconds: dict[str, float] = field(default_factory=dict)  # by revision; 0.02 where not named
    down: bool = False
    requests_per_second: float = 50.0
    busy: dict[str, float] = field(default_factory=dict)  # by revision, where its pods get another number of them
    claim: Callable[[str, float], str] | None = (
        None  # what is said instead of a value, of its true text and the instant
    )
    told: list[dict[str, Any]] = field(
        default_factory=list
    )  # what was posted to /notify, of which the first answer is 503
    _scraped: tuple[float, list[dict[str, Any]]] = (0.0, [])  # the pods that all queries of one instant are about

    def answer(self, query: str, at: float) -> list[dict[str, Any]]:
        if self._scraped[0] != at:
            self._scraped = at, pods_of(self.plane, "serinus.dev/release,!serinus.dev/verify")
        pods = self._scraped[1]
        if "_bucket" in query:
            answer = [bucket for pod in pods for bucket in self._buckets(pod, query, at)]
        else:
            answer = [self._series(pod, query, at) for pod in pods]
        if self.claim is not None:
            for series in answer:
                series["value"][1] = self.claim(series["value"][1], at)
        return answer

    def _buckets(self, pod: dict[str, Any], query: str, at: float) -> list[dict[str, Any]]:
        """Latencies spread evenly from 0.5 to 1.5 times their mean."""
        mean = self.latency_seconds.get(pod["metadata"]["labels"]["serinus.dev/revision"], 0.02)
        buckets = []
        asked = query.partition('le=~"')[2].partition('"')[0].split("|")
        for bound in (bound for pair in COMPARED_LATENCIES_SECONDS for bound in pair if str(bound) in asked):
            series = self._series(pod, query, at)
            share = min(1.0, max(0.0, bound / mean - 0.5))
            series["metric"]["le"] = str(bound)
            series["value"][1] = str(float(series["value"][1]) * share)
            buckets.append(series)
        return buckets

    def _series(self, pod: dict[str, Any], query: str, at: float) -> dict[str, Any]:
        labels, revision = pod["metadata"]["labels"], pod["metadata"]["labels"]["serinus.dev/revision"]
        began = datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
        requests = self.busy.get(revision, self.requests_per_second) * max(0.0, at - began)
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

    @contextmanager
    def serve(self) -> Iterator[Metrics]:
        """Answers at `url` for as long as the block."""
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                if source.down:
                    self.send_error(503)
                    return
                result = source.answer(asked["query"][0], float(asked["time"][0]))
                answer = {"status": "success", "data": {"resultType": "vector", "result": result}}
                body = json.dumps(answer, separators=(",", ":")).encode()  # as Prometheus writes it
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                with suppress(BrokenPipeError):  # who asked was killed
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
        try:
            yield source
        finally:
            server.shutdown()
            server.server_close()


def operator_environment(kubeconfig: Path, mlflow: str, prometheus: str) -> dict[str, str]:
    """Settings of an operator outside a cluster."""
    return {
        "KUBECONFIG": str(kubeconfig),
        "SERINUS_SERVER_IMAGE": "example.org/server:1",
        "SERINUS_REGISTRIES": json.dumps({"default": mlflow}),
        "SERINUS_PROMETHEUS_URL": prometheus,
        "SERINUS_METRICS_PORT": str(free_port()),
        "SERINUS_ADMISSION_POLICY": "serinus-pods.serinus.dev",
        "POD_NAME": "operator-under-test",
        "POD_NAMESPACE": "default",
    }


@dataclass
class Operator:
    """The operator's own process, as in a pod."""

    environment: dict[str, str]
    log: Path
    python: str = sys.executable
    running: process | None = None

    def start(self) -> None:
        self.running = process([self.python, "-m", "serinus_operator"], self.log, self.environment)
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


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
