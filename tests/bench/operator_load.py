"""What the operator costs: API requests, CPU and memory for many releases at once, on a real control plane.

Pods are KWOK's, the registry is a real MLflow server, Prometheus is answered at the wire. The operator runs with the chart's own rights;
its requests are counted in the API server's audit log.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import platform
import sys
import tempfile
import time
import venv
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tests.bench.operator_faults import restart, storm
from tests.bench.report import write_section
from tests.cluster import chart
from tests.cluster.binaries import ClusterError, cache_folder, run
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kwok import Node, add_nodes, start_kwok
from tests.integration.surroundings import Metrics, Operator, operator_environment, serve_mlflow, wait_established
from tests.integration.team import Team

ROOT = Path(__file__).parents[2]
ACCOUNT = (
    "system:serviceaccount:default:serinus-operator"  # the chart's, so that its rules are what the operator may do
)
_INSTALLED = ("CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Lease")
_PACKAGES = os.pathsep.join(str(ROOT / part) for part in ("operator", "contract"))
REPLICAS = 10
_MODELS = 100  # MLflow takes a second for each
_T = TypeVar("_T")
REST_SECONDS = 30.0
_WRITES = ("create", "update", "patch", "delete")
_TICKS = os.sysconf("SC_CLK_TCK")
_QUIET_SECONDS = 35.0  # the last figures are stored 30 s after the last decision


@dataclass(frozen=True)
class Cost:
    """What the operator did in one phase. `requests` by verb and resource; Lease and watches are in it."""

    seconds: float
    cpu_seconds: float
    peak_megabytes: float
    requests: Counter[str]

    @property
    def writes(self) -> int:
        """Requests that change something, the Lease excepted."""
        return sum(
            count
            for request, count in self.requests.items()
            if request.split()[0] in _WRITES and not request.endswith(" leases")
        )


class Meter:
    """Reads the operator's cost between two moments."""

    def __init__(self, pid: int, audit_log: Path) -> None:
        self._pid, self._audit_log = pid, audit_log
        self._offset, self._cpu, self._began = 0, 0.0, 0.0
        self.start()

    def start(self) -> None:
        """Forgets what was before."""
        self._read()
        self._cpu, self._began = self._cpu_seconds(), time.monotonic()

    def stop(self) -> Cost:
        """The cost since `start`."""
        seconds, cpu = time.monotonic() - self._began, self._cpu_seconds() - self._cpu
        return Cost(seconds, cpu, self._peak_megabytes(), self._read())

    def _read(self) -> Counter[str]:
        with self._audit_log.open("rb") as stream:
            stream.seek(self._offset)
            raw = stream.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(whole)
        requests: dict[str, str] = {}  # a watch is logged twice, with one id
        for line in whole.splitlines():
            entry = json.loads(line)
            thing = entry.get("objectRef", {})
            resource = "/".join(filter(None, (thing.get("resource"), thing.get("subresource")))) or "discovery"
            requests[entry["auditID"]] = f"{entry['verb']} {resource}"
        return Counter(requests.values())

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _peak_megabytes(self) -> float:
        status = Path(f"/proc/{self._pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


class Fleet:
    """The releases, and the registered models that they follow: one each for up to a hundred, which share them beyond."""

    def __init__(self, plane: ControlPlane, mlflow: str, count: int, max_surge: int) -> None:
        from mlflow import MlflowClient  # seconds: not for --help

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # a line for each version else
        client = MlflowClient(tracking_uri=mlflow, registry_uri=mlflow)
        self.plane, self.max_surge, self._registry = plane, max_surge, client
        self.replicas, self.version = REPLICAS, "0"
        with ThreadPoolExecutor(4) as pool:
            names = [f"r{number:04d}" for number in range(count)]
            self.teams = list(pool.map(lambda name: Team(plane, client, name), names[:_MODELS]))
        self.releases = {name: self.teams[number % _MODELS].model for number, name in enumerate(names)}

    def register(self, progress: Progress) -> None:
        """One more version of every model, and the alias moves to it."""
        _each("registering model versions", lambda team: team.register(), self.teams, progress)
        self.version = str(int(self.version) + 1)

    def point(self, version: str, progress: Progress) -> None:
        """Every alias moves to that version."""

        def move(team: Team) -> None:
            self._registry.set_registered_model_alias(team.model, "challenger", version)

        _each(f"moving aliases to version {version}", move, self.teams, progress)
        self.version = version

    def patch(self, what: str, subresource: str, change: dict[str, Any], progress: Progress) -> None:
        """A merge patch of every release. Raises ClusterError."""

        def change_one(name: str) -> None:
            code, answer = self.plane.call(
                "PATCH", f"{_RELEASES}/{name}{subresource}", change, "application/merge-patch+json"
            )
            if code != 200:
                raise ClusterError(f"{what}: release {name}: {answer}")

        _each(what, change_one, list(self.releases), progress)

    def apply(self, progress: Progress) -> None:
        """Makes all releases."""
        _each("applying releases", self._create, list(self.releases), progress)

    def _create(self, name: str) -> None:
        weights = [step for percent in (10, 50, 80) for step in ({"setWeight": percent}, {"pause": {"duration": "0s"}})]
        spec = {
            "model": {"name": self.releases[name], "alias": "challenger"},
            "replicas": REPLICAS,
            "serving": {"resources": {"limits": {"nvidia.com/gpu": "1"}}},
            "strategy": {
                "maxSurge": self.max_surge,
                "progressDeadline": "1h",  # the control plane needs minutes for ten thousand pods
                "bake": "0s",
                "scaleDownDelay": "0s",
                "steps": [{"verify": {}}, *weights],
            },
        }
        release = {
            "apiVersion": "serinus.dev/v1alpha1",
            "kind": "ModelRelease",
            "metadata": {"name": name},
            "spec": spec,
        }
        code, answer = self.plane.call("POST", f"{_RELEASES}", release)
        if code != 201:
            raise ClusterError(f"release {name}: {answer}")

    def statuses(self) -> list[dict[str, Any]]:
        """Of all releases; none while the API server does not answer."""
        code, answer = self.plane.call("GET", f"{_RELEASES}?resourceVersion=0")
        return [each.get("status", {}) for each in answer["items"]] if code == 200 else []

    def serves(self, status: dict[str, Any], version: str) -> bool:
        """Is it Healthy, with all replicas on this model version and nothing else?"""
        stable = status.get("stable") or {}
        whole = stable.get("version") == version and stable.get("ready") == self.replicas
        return status.get("phase") == "Healthy" and whole and not status.get("canary")

    def wait(self, what: str, meter: Meter, progress: Progress, deadline_seconds: float) -> Cost:
        """Waits until all serve the last version and the operator has come to rest. Raises ClusterError."""
        task = progress.add_task(what, total=len(self.releases))
        ends_at = time.monotonic() + deadline_seconds
        while (done := sum(self.serves(each, self.version) for each in self.statuses())) < len(self.releases):
            progress.update(task, completed=done)
            if time.monotonic() > ends_at:
                raise ClusterError(f"{what}: {done} of {len(self.releases)} after {deadline_seconds:.0f} s")
            time.sleep(2)
        progress.update(task, completed=done)
        time.sleep(_QUIET_SECONDS)
        return meter.stop()


def _each(what: str, do: Callable[[_T], Any], things: list[_T], progress: Progress) -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in progress.track(pool.map(do, things), total=len(things), description=what):
            pass


_RELEASES = "/apis/serinus.dev/v1alpha1/namespaces/default/modelreleases"


@contextmanager
def running(folder: Path, releases: int) -> Iterator[tuple[ControlPlane, str, Operator]]:
    """Control plane with nodes enough for all pods, MLflow, Prometheus' stand-in, and the operator to be started."""
    folder.mkdir(parents=True, exist_ok=True)
    with ControlPlane(folder / "plane", audited_user=ACCOUNT) as plane, serve_mlflow(folder) as mlflow:
        start_kwok(plane)
        nodes = max(2, releases // 50)
        gpus = releases * (REPLICAS * 3 // 2 + 2) // nodes + 1
        add_nodes(plane, [Node(f"node-{number}", gpus) for number in range(nodes)])
        chart.install(plane, _INSTALLED)
        wait_established(plane, "modelreleases.serinus.dev")
        plane.pki.issue("operator", f"/CN={ACCOUNT}")
        kubeconfig = plane.pki.kubeconfig(folder / "operator.kubeconfig", plane.url, "operator")
        with Metrics(plane).serve() as metrics:
            environment = (
                operator_environment(kubeconfig, mlflow, metrics.url) | {"PYTHONPATH": _PACKAGES} | _image_settings()
            )
            operator = Operator(environment, folder / "operator.log", python=str(_image_python()))
            try:
                yield plane, mlflow, operator
            finally:
                operator.stop()


def _image_python() -> Path:
    """The interpreter of an environment with the packages of the operator's image, and no others: they are most of its memory."""
    requirements = ROOT / "requirements" / "operator.txt"
    folder = cache_folder() / f"operator-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, clear=True)
        uv, install = Path(sys.executable).with_name("uv"), ["pip", "install", "--quiet", "--require-hashes", "-r"]
        run("the packages of the operator's image", [uv, *install, requirements], folder / "install.log",
            environment={"VIRTUAL_ENV": str(folder)}, deadline_seconds=300)  # fmt: skip
        (folder / "complete").touch()
    return python


def _image_settings() -> dict[str, str]:
    """How the image sets its allocator."""
    settings = (ROOT / "Dockerfile.operator").read_text().split()
    return dict(each.split("=", 1) for each in settings if each.startswith("MALLOC_"))


def measure(arguments: argparse.Namespace, folder: Path, progress: Progress) -> dict[str, Cost]:
    """Runs the phases, in order: create, canary (unless left out), rest, restart and storm (where asked for)."""
    costs = {}
    deadline_seconds = 120 + 6.0 * arguments.releases
    with running(folder, arguments.releases) as (plane, mlflow, operator):
        fleet = Fleet(plane, mlflow, arguments.releases, arguments.max_surge)
        fleet.register(progress)
        operator.start()
        assert operator.running is not None
        plane.processes.wait("kube-apiserver", plane.audit_log.exists, 30)
        meter = Meter(operator.running.popen.pid, plane.audit_log)
        fleet.apply(progress)
        costs["create"] = fleet.wait("first versions", meter, progress, deadline_seconds)
        if not arguments.no_canary:
            meter.start()
            fleet.register(progress)
            costs["canary"] = fleet.wait("canaries", meter, progress, deadline_seconds)
        meter.start()
        for _ in progress.track(range(int(REST_SECONDS)), description="at rest"):
            time.sleep(1)
        costs["rest"] = meter.stop()
        if arguments.restart:

            def again() -> Callable[[], Cost]:
                operator.start()
                assert operator.running is not None
                return Meter(operator.running.popen.pid, plane.audit_log).stop

            costs["restart"] = restart(fleet, operator, again, progress, deadline_seconds)
            assert operator.running is not None
            meter = Meter(operator.running.popen.pid, plane.audit_log)
        if arguments.storm:
            costs["storm"] = storm(fleet, meter.start, meter.stop, progress, deadline_seconds)
    return costs


def main() -> int:
    """Returns 1 when a target is missed and ENFORCE is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=100, help="how many at once (default %(default)s)")
    parser.add_argument(
        "--max-surge", type=int, default=3, help="of each release; 3 of 10 is Argo Rollouts' default of 25 %%"
    )
    parser.add_argument("--no-canary", action="store_true", help="first versions and rest alone")
    parser.add_argument(
        "--restart", action="store_true", help="then kill the operator, and see how soon all is right again"
    )
    parser.add_argument("--storm", action="store_true", help="then take a canary of every release back at once")
    parser.add_argument("--keep", type=Path, help="keep logs in this folder")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="serinus-bench-") as temporary, Progress(console=console) as progress:
        try:
            costs = measure(arguments, arguments.keep or Path(temporary), progress)
        except ClusterError as error:
            console.print(f"[red]{error}")
            return 2
    targets = _targets(costs, arguments.releases)
    name = "operator" if arguments.releases == 100 else f"operator RELEASES={arguments.releases}"
    write_section(name, _markdown(costs, arguments))
    table = Table("target", "met")
    for target, met in targets.items():
        table.add_row(target, "yes" if met else "NO")
    console.print(table)
    line = {
        "benchmark": "operator", "releases": arguments.releases, "replicas": REPLICAS, "max_surge": arguments.max_surge,
        "phases": {phase: _figures(cost) for phase, cost in costs.items()}, "targets": targets,
        "machine": {"python": platform.python_version(), "cores": os.cpu_count()},
    }  # fmt: skip
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    return 0 if all(targets.values()) or os.environ.get("ENFORCE") == "0" else 1


def _figures(cost: Cost) -> dict[str, Any]:
    return {
        "seconds": round(cost.seconds, 1),
        "cpu_seconds": round(cost.cpu_seconds, 2),
        "peak_megabytes": round(cost.peak_megabytes, 1),
        "writes": cost.writes,
        "requests": dict(cost.requests.most_common()),
    }


def _targets(costs: dict[str, Cost], releases: int) -> dict[str, bool]:
    rest = costs["rest"]
    memory = 110 if releases <= 100 else 150
    targets = {
        "no write at rest": rest.writes == 0,
        f"peak memory ≤ {memory} MB": rest.peak_megabytes <= memory,
    }
    if "canary" in costs:
        canary = costs["canary"]
        targets["API requests per canary ≤ 38"] = canary.requests.total() <= 38 * releases
        targets["CPU per canary ≤ 0.24 s"] = canary.cpu_seconds <= 0.24 * releases
    return targets


def _markdown(costs: dict[str, Cost], arguments: argparse.Namespace) -> str:
    releases = arguments.releases
    lines = [
        f"{releases} releases × {REPLICAS} replicas at once, weights 10, 50, 80, maxSurge {arguments.max_surge}; real control plane "
        f"and MLflow, KWOK pods, Prometheus at the wire; {os.cpu_count()} shared cores. Requests are all of the operator's, watches "
        "and the Lease among them.",
        "",
        "| phase | API requests per release | writes per release | CPU-seconds in all | peak memory | duration |",
        "|---|---|---|---|---|---|",
    ]
    for phase, cost in costs.items():
        lines.append(
            f"| {phase} | {cost.requests.total() / releases:.1f} | {cost.writes / releases:.1f} | {cost.cpu_seconds:.1f} "
            f"| {cost.peak_megabytes:.1f} MB | {cost.seconds:.0f} s |"
        )
    if "restart" in costs:
        lines += [
            "",
            "`restart`: the operator was killed, every release lost a replica while it was dead; until every status says so.",
        ]
    if "storm" in costs:
        lines += [
            "",
            "`storm`: every release had a canary of half its pods, and every alias moved back at once; until stable was whole.",
        ]
    if "canary" in costs:
        by_request = ", ".join(
            f"{name} {count / releases:.1f}" for name, count in costs["canary"].requests.most_common(12)
        )
        lines += ["", f"Of a canary: {by_request}."]
        lines += [
            "",
            "Argo Rollouts 1.10.2 on the same kind of machine: 77 writes per canary, 23.6 CPU-seconds and 107 MB for 100 canaries.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)  # MLflow's, about stages
    sys.exit(main())
