"""Killed at the n-th write, late, blind, or begun again with an old list, on a real API server: it ends as the uninterrupted run.

`SERINUS_CRASH_PLANS` says how many plans; each is one release's, and many releases run under one operator at once.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.binaries import tail
from tests.cluster.control_plane import ControlPlane
from tests.faults.proxy import Kind, Plan, Proxy
from tests.integration.conftest import Kubelet, Metrics
from tests.integration.surroundings import eventually, operator_environment
from tests.integration.team import MlflowClient

from serinus_contract.names import DIGEST_ENV, DIGEST_TAG, SPACE_TAG

pytestmark = [
    pytest.mark.integration,
    pytest.mark.alone,  # fifty releases under one operator: beside other tests it takes five minutes
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

PLANS = int(os.environ.get("SERINUS_CRASH_PLANS", "44"))
REPLICAS = 3
_TOGETHER = 50  # releases at once
_STORIES = ("good", "damaged", "slow")  # what the second version is
_RELEASES = "/apis/serinus.dev/v1alpha1/namespaces/default/modelreleases"
_OBJECTS = ("apis/apps/v1/namespaces/default/deployments", "apis/batch/v1/namespaces/default/jobs",
            "api/v1/namespaces/default/services", "apis/policy/v1/namespaces/default/poddisruptionbudgets")  # fmt: skip
_LASTING = ("serinus.release", "serinus.result", "serinus.reason", "serinus.by", "rolled-back")


class Lives:
    """The operator's lives, one after the other, forked by a nursery."""

    def __init__(self, log: Path) -> None:
        self.log, self.pid, self.environment = log, 0, dict[str, str]()
        self._changing = threading.Lock()
        self._nursery = subprocess.Popen([sys.executable, "-m", "tests.faults.nursery"], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True)  # fmt: skip

    def begin(self) -> None:
        assert self._nursery.stdin
        assert self._nursery.stdout
        self._nursery.stdin.write(json.dumps({"environment": self.environment, "log": str(self.log)}) + "\n")
        self._nursery.stdin.flush()
        self.pid = int(self._nursery.stdout.readline())

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        ends_at = time.monotonic() + 10
        while self.alive():
            assert time.monotonic() < ends_at
            time.sleep(0.005)

    def again(self) -> None:
        with self._changing:
            self.end()
            self.begin()

    def watch(self) -> None:
        """Begins again when the operator has lost its Lease, as its Deployment would; fails when it has ended otherwise."""
        with self._changing:
            if not self.alive():
                last = tail(self.log, 60)
                assert "the Lease is lost" in last, last
                self.begin()

    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        if self.pid and self.alive():
            self.end()
        assert self._nursery.stdin
        assert self._nursery.stdout
        self._nursery.stdin.close()
        self._nursery.wait(10)
        self._nursery.stdout.close()


@dataclass
class Node(Kubelet):
    """A kubelet whose verify pods refuse damaged versions, whose slow versions are slow, and that counts who is Ready."""

    metrics: Metrics | None = None
    served: set[str] = field(default_factory=set)
    fewest: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        while not self.stop.wait(0.2):
            served = set(self.served)
            code, answer = self.plane.call(
                "GET", "/api/v1/namespaces/default/pods?labelSelector=app.kubernetes.io/managed-by=serinus"
            )
            pods = answer["items"] if code == 200 else []
            ready = [each["metadata"]["labels"]["serinus.dev/release"] for each in pods if _ready(each)]
            for release in served:
                self.fewest[release] = min(self.fewest.get(release, REPLICAS), ready.count(release))
            for pod in pods:
                self._advance(pod)

    def _advance(self, pod: dict[str, Any]) -> None:
        digest = next(each["value"] for each in pod["spec"]["containers"][0]["env"] if each["name"] == DIGEST_ENV)
        self.verify_passes = not digest.startswith("damaged")
        if digest.startswith("slow") and self.metrics is not None:
            self.metrics.latency_seconds[pod["metadata"]["labels"]["serinus.dev/revision"]] = 0.9
        super()._advance(pod)


@dataclass
class Fleet:
    """Releases by name, each with a model of its own whose second version is as its story says."""

    plane: ControlPlane
    registry: MlflowClient
    node: Node
    lives: Lives
    run: Any
    stories: dict[str, str] = field(default_factory=dict)

    def make(self, name: str, story: str) -> None:
        """Registers both versions and makes the release, which follows the first."""
        model = f"model-{name}"
        self.registry.create_registered_model(model)
        for version, kind in (("1", "good"), ("2", story)):
            tags = {DIGEST_TAG: f"{kind}-{version}", SPACE_TAG: f"space{version}"}
            self.registry.create_model_version(
                model, f"{self.run.artifact_uri}/model", run_id=self.run.run_id, tags=tags
            )
        self.registry.set_registered_model_alias(model, "challenger", "1")
        self.stories[name] = story
        release = {
            "apiVersion": "serinus.dev/v1alpha1",
            "kind": "ModelRelease",
            "metadata": {"name": name},
            "spec": _spec(model),
        }
        code, answer = self.plane.call("POST", _RELEASES, release)
        assert code == 201, answer

    def play(self, deadline_seconds: float) -> None:
        """Until every release has come to the end of its story."""
        following: set[str] = set()
        ends_at = time.monotonic() + deadline_seconds
        while True:
            found = self.releases()
            for name, release in found.items():
                status = release.get("status", {})
                if name not in following and _rests(status, "1"):
                    following.add(name)
                    self.node.served.add(name)
                    self.registry.set_registered_model_alias(f"model-{name}", "challenger", "2")
            open_ = [
                name for name, release in found.items() if not _ended(release.get("status", {}), self.stories[name])
            ]
            if not open_:
                return
            self.lives.watch()
            shown = {name: found[name].get("status", {}).get("message") for name in open_}
            assert time.monotonic() < ends_at, f"not at their end: {shown}"
            time.sleep(0.4)

    def releases(self) -> dict[str, Any]:
        code, answer = self.plane.call("GET", _RELEASES)
        assert code == 200
        return {each["metadata"]["name"]: each for each in answer["items"] if each["metadata"]["name"] in self.stories}

    def ends(self) -> dict[str, dict[str, Any]]:
        """Objects, registry and history of each release, by name, without instants and without what differs by its name."""
        things = {path.rpartition("/")[2]: self.plane.call("GET", f"/{path}?labelSelector=app.kubernetes.io/managed-by=serinus")[1]
                  for path in _OBJECTS}  # fmt: skip
        return {name: self._end(name, release, things) for name, release in self.releases().items()}

    def _end(self, name: str, release: dict[str, Any], things: dict[str, Any]) -> dict[str, Any]:
        status, model = release["status"], f"model-{name}"
        objects = {
            f"{kind}/{each['metadata']['name']}": {
                key: value for key, value in each["spec"].items() if not key.startswith("clusterIP")
            }
            for kind, answer in things.items()
            for each in answer["items"]
            if any(owner["name"] == name for owner in each["metadata"].get("ownerReferences", ()))
        }
        versions = self.registry.search_model_versions(f"name='{model}'")
        told = {
            str(each.version): {key: _gate(value) for key, value in each.tags.items() if key.startswith(_LASTING)}
            for each in versions
        }
        aliases = self.registry.get_registered_model(model).aliases
        end = {
            "objects": objects, "stages": {str(each.version): each.current_stage for each in versions}, "tags": told,
            "aliases": {alias: str(version) for alias, version in aliases.items()}, "stable": status["stable"]["version"],
            "rejected": status["target"].get("rejected", False), "phase": status["phase"],
            "history": [[each["version"], each["result"], _gate(each.get("reason", ""))] for each in status["history"]],
        }  # fmt: skip
        known = {each["revision"]: each["version"] for each in (*status["history"], status["stable"])}
        text = re.sub(rf"\b{name}\b", "release", json.dumps(end, sort_keys=True))
        for revision, version in known.items():
            text = text.replace(revision, f"revision{version}")
        return json.loads(text)  # type: ignore[no-any-return]

    def clear(self) -> None:
        """All releases go, and what they own with them."""
        for name in self.stories:
            self.plane.call("DELETE", f"{_RELEASES}/{name}")
        self.node.served.clear()
        self.stories.clear()


def _spec(model: str) -> dict[str, Any]:
    return {
        "model": {"name": model, "alias": "challenger"},
        "replicas": REPLICAS,
        "strategy": {
            "progressDeadline": "2m", "scaleDownDelay": "0s", "bake": "0s",
            "steps": [{"verify": {}}, {"setWeight": 30}, {"analysis": {"duration": "2s"}}, {"setWeight": 60},
                      {"pause": {"duration": "1s"}}],
        },
        "analysis": {
            "interval": "5s", "minRequests": 50,
            "gates": [{"name": "errors", "errorRate": {"max": "0.05", "compare": False}},
                      {"name": "latency", "latency": {"maxMean": "200ms", "compare": False}}],
        },
        "registry": {
            "onCanary": {"alias": "canary", "stage": "Staging"},
            "onPromote": {"alias": "champion", "stage": "Production", "archivePrevious": True},
            "onRollback": {"tag": {"rolled-back": "{{ reason }}"}},
        },
    }  # fmt: skip


def _ready(pod: dict[str, Any]) -> bool:
    labels, conditions = pod["metadata"]["labels"], pod["status"].get("conditions", ())
    is_ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return is_ready and "serinus.dev/release" in labels and not pod["metadata"].get("deletionTimestamp")


def _rests(status: dict[str, Any], version: str) -> bool:
    stable = status.get("stable") or {}
    return (
        status.get("phase") == "Healthy"
        and stable.get("version") == version
        and not (status.get("canary") or status.get("registry"))
    )


def _ended(status: dict[str, Any], story: str) -> bool:
    if story == "good":
        return _rests(status, "2")
    target, stable = status.get("target") or {}, status.get("stable") or {}
    over = target.get("rejected") and target.get("version") == "2" and stable.get("ready") == REPLICAS
    return bool(over) and not (status.get("canary") or status.get("registry"))


def _gate(reason: str) -> str:
    """What a reason begins with: the gate, whose figures depend on the moment."""
    return reason.partition(":")[0]


def _plans(writes: dict[str, int]) -> Iterator[tuple[str, Kind, int]]:
    """Story, kind and write, spread so that the first few hold something of everything."""
    points = [(story, kind, write) for story in _STORIES for write in range(1, writes[story]) for kind in Kind]
    order = sorted(range(len(points)), key=lambda at: (at * 0.6180339887) % 1)
    return (points[at] for at in order)


@pytest.fixture
def node(control_plane: ControlPlane, metrics: Metrics) -> Iterator[Node]:
    playing = Node(control_plane, metrics=metrics)
    thread = threading.Thread(target=playing.run, daemon=True)
    thread.start()
    yield playing
    playing.stop.set()
    thread.join(20)
    assert playing.errors == []


def test_every_plan_ends_as_the_uninterrupted_run(
    control_plane: ControlPlane, mlflow_server: str, metrics: Metrics, node: Node, tmp_path: Path
) -> None:
    registry = MlflowClient(tracking_uri=mlflow_server, registry_uri=mlflow_server)
    metrics.requests_per_second = 500.0
    lives = Lives(tmp_path / "operator.log")
    fleet = Fleet(control_plane, registry, node, lives, registry.create_run("0").info)
    proxy = Proxy(control_plane.url, control_plane._context, lives.again)
    with proxy.serve():
        kubeconfig = proxy.kubeconfig(tmp_path / "kubeconfig")
        quick = {"SERINUS_SCRAPE_LAG_SECONDS": "1", "SERINUS_REGISTRY_POLL_SECONDS": "1"}
        lives.environment = operator_environment(kubeconfig, mlflow_server, metrics.url) | quick
        lives.begin()
        try:
            _all(fleet, proxy, lives)
        finally:
            lives.close()
    assert "Traceback" not in lives.log.read_text(), tail(lives.log, 60)


def _all(fleet: Fleet, proxy: Proxy, lives: Lives) -> None:
    for number, story in enumerate(_STORIES):
        fleet.make(f"plan-9{number:04d}", story)
    fleet.play(120)
    undisturbed = {fleet.stories[name]: end for name, end in fleet.ends().items()}
    plans = _plans({story: proxy.writes[name] for name, story in fleet.stories.items()})
    print(f"writes of the uninterrupted runs: {dict(proxy.writes)}")
    fleet.clear()
    made = 0
    while made < PLANS:
        wave = list(islice(plans, min(_TOGETHER, PLANS - made)))
        assert wave, f"there are no more than {made} plans"
        named = [(f"plan-{made + at:05d}", *each) for at, each in enumerate(wave)]
        made += len(wave)
        proxy.arm([Plan(name, kind, write) for name, _, kind, write in named])
        for name, story, _, _ in named:
            fleet.make(name, story)
        fleet.play(240)

        def different(named: list[Any] = named) -> list[Any]:
            ends = fleet.ends()
            return [
                (each, ends[each[0]], undisturbed[each[1]]) for each in named if ends[each[0]] != undisturbed[each[1]]
            ]

        eventually("as the uninterrupted run", lambda different=different: not different(), 60, different)
        low = {
            each: fleet.node.fewest[each[0]] for each in named if fleet.node.fewest.get(each[0], REPLICAS) < REPLICAS
        }
        assert low == {}, "fewer pods Ready than replicas"
        lives.watch()
        fleet.clear()
    print(f"{len(proxy.befallen)} of {made} plans befell, {proxy.deaths} deaths")
    assert len(proxy.befallen) >= made * 0.9
