"""Room for a canary, by the real scheduler: nodes with 0, 1 and 2 GPUs to spare, taints, quotas. Pods are KWOK's.

All releases roll out at once, so that the patience of 30 s is waited for once. Ready pods are counted at every event of a watch.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kwok import GPU, Node, add_nodes, start_kwok
from tests.integration.conftest import Operator, eventually
from tests.integration.team import Team

pytestmark = [pytest.mark.alone, pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]

_TAINT = {"key": "maintenance", "value": "yes", "effect": "NoSchedule"}


@dataclass(frozen=True)
class Case:
    """A release on a node of its own with `spare` GPUs, and how its second version is to end."""

    name: str
    replicas: int
    spare: int
    ends: str = "Promoted"
    says: tuple[str, ...] = ()
    floor: str = "100%"
    max_surge: int = 1
    quota: bool = False  # the namespace, not the node, is what is full
    moves_to: str | None = None  # the second version asks for this pool
    weight: int = 50
    held: bool = False  # a person is waited for at that weight: the rest of the way would take a hundred moves more
    scaled_to: int | None = None  # before the second version


_FULL = ("InsufficientGPU", "capacityFloor")
CASES = (
    *(Case(f"surge-{n}-{spare}", n, spare) for n in (1, 2, 3, 10) for spare in (1, 2)),
    Case("surge-100-20", 100, 20, max_surge=20),
    *(Case(f"surge-100-{spare}", 100, spare, weight=3, held=True) for spare in (1, 2)),
    *(Case(f"full-{n}", n, 0, "RolledBack", _FULL) for n in (1, 2, 3, 10, 100)),
    *(Case(f"swap-{n}", n, 0, floor="50%") for n in (2, 3, 10, 100)),
    Case("swap-1", 1, 0, "RolledBack", _FULL, floor="50%"),
    Case("quota-2", 2, 0, "RolledBack", ("QuotaExceeded", "capacityFloor"), quota=True),
    Case("quota-swap-2", 2, 0, floor="50%", quota=True),
    Case("taint-2", 2, 2, "RolledBack", ("Unschedulable", "untolerated taint"), moves_to="tainted"),
)
# No replicas: rollouts wait until there are some, whatever room there is.
EMPTY = (*(Case(f"none-{spare}", 0, spare) for spare in (0, 1, 2)), Case("emptied", 2, 1, scaled_to=0))
SERVING = tuple(case for case in CASES if not case.held)


@pytest.fixture(scope="module", autouse=True)
def nodes(control_plane: ControlPlane) -> Iterator[None]:
    start_kwok(control_plane)
    pools = [
        Node(f"node-{case.name}", case.replicas + case.spare + (9 if case.quota else 0), case.name)
        for case in (*CASES, *EMPTY)
    ]
    add_nodes(control_plane, [*pools, Node("node-tainted", 9, "tainted", (_TAINT,))], 60)
    yield
    for node in ("tainted", *(case.name for case in (*CASES, *EMPTY))):
        control_plane.call("DELETE", f"/api/v1/nodes/node-{node}")
    control_plane.processes.stop("kwok")


def path(case: Case, name: str = "") -> str:
    return f"/apis/serinus.dev/v1alpha1/namespaces/{case.name}/modelreleases/{name}".rstrip("/")


def create(plane: ControlPlane, case: Case, model: str) -> None:
    plane.call("POST", "/api/v1/namespaces", {"metadata": {"name": case.name}})
    if case.quota:
        limit = {"spec": {"hard": {f"requests.{GPU}": str(case.replicas)}}, "metadata": {"name": "gpus"}}
        plane.call("POST", f"/api/v1/namespaces/{case.name}/resourcequotas", limit)
    spec = {
        "model": {"name": model, "alias": "challenger"},
        "replicas": case.replicas,
        "serving": {"resources": {"limits": {GPU: "1"}}, "template": {"spec": {"nodeSelector": {"pool": case.name}}}},
        "strategy": {
            "capacityFloor": case.floor,
            "maxSurge": case.max_surge,
            "progressDeadline": "60s" if case.moves_to else "3m",
            "scaleDownDelay": "0s",
            "bake": "0s",
            "steps": [{"verify": {}}, {"setWeight": case.weight}, {"pause": {} if case.held else {"duration": "0s"}}],
        },
    }
    body = {"apiVersion": "serinus.dev/v1alpha1", "kind": "ModelRelease", "metadata": {"name": "r"}, "spec": spec}
    code, answer = plane.call("POST", path(case), body)
    assert code == 201, answer


def status(plane: ControlPlane, case: Case) -> dict[str, Any]:
    found: dict[str, Any] = plane.call("GET", path(case, "r"))[1].get("status", {})
    return found


class Serving:
    """The pods that serve, by namespace: Ready and not on their way out. `fewest` since `count_anew`."""

    def __init__(self) -> None:
        self.pods: defaultdict[str, set[str]] = defaultdict(set)
        self.fewest: dict[str, int] = {}

    def counts(self) -> dict[str, int]:
        return {namespace: len(pods) for namespace, pods in list(self.pods.items()) if pods}

    def count_anew(self) -> None:
        self.fewest = self.counts()

    def see(self, type_: str, pod: dict[str, Any]) -> None:
        metadata, conditions = pod["metadata"], pod["status"].get("conditions", [])
        namespace, name = metadata["namespace"], metadata["name"]
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        if ready and type_ != "DELETED" and not metadata.get("deletionTimestamp"):
            self.pods[namespace].add(name)
        else:
            self.pods[namespace].discard(name)
        self.fewest[namespace] = min(self.fewest.get(namespace, 0), len(self.pods[namespace]))


@contextmanager
def watched(plane: ControlPlane, seconds: int) -> Iterator[Serving]:
    serving, over = Serving(), threading.Event()

    def follow() -> None:
        try:
            for type_, pod in plane.watch("/api/v1/pods?labelSelector=serinus.dev/release%3Dr", seconds):
                serving.see(type_, pod)
        except OSError:
            if not over.is_set():  # afterwards the API server goes away
                raise

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    yield serving
    assert thread.is_alive()
    over.set()


def missing(serving: Serving) -> dict[str, int]:
    """How many pods each case lacks (below 0: has too many), by the watch."""
    counts = serving.counts()
    wanted = {case.name: case.replicas for case in (*CASES, *EMPTY)}
    lacking = {name: wanted.get(name, 0) - counts.get(name, 0) for name in wanted | counts}
    return {name: number for name, number in lacking.items() if number}


def ended(plane: ControlPlane, case: Case, version: str) -> bool:
    found = status(plane, case)
    return bool(found.get("history")) and found["history"][0]["version"] == version and not found.get("canary")


def patch(plane: ControlPlane, case: Case, **spec: Any) -> None:
    code, answer = plane.call("PATCH", path(case, "r"), {"spec": spec}, "application/merge-patch+json")
    assert code == 200, answer


def test_each_rollout_ends_as_the_room_allows_and_says_why(
    control_plane: ControlPlane, team: Team, operator: Operator
) -> None:
    plane = control_plane
    team.register()
    with watched(plane, seconds=400) as serving:
        for case in (*CASES, *EMPTY):
            create(plane, case, team.model)
        served = (*CASES, *(case for case in EMPTY if case.replicas))
        eventually("all first versions serve", lambda: all(ended(plane, case, "1") for case in served), 150)
        eventually("no pod is missing", lambda: not missing(serving), shown=lambda: missing(serving))
        for case in CASES:
            if case.moves_to is not None:
                patch(plane, case, serving={"template": {"spec": {"nodeSelector": {"pool": case.moves_to}}}})
        for case in EMPTY:
            if case.scaled_to is not None:
                patch(plane, case, replicas=case.scaled_to)
        serving.count_anew()
        team.register()
        eventually(
            "all rollouts have ended", lambda: not [case.name for case in SERVING if not ended(plane, case, "2")], 200
        )
        eventually(
            "the others wait for a person",
            lambda: all(status(plane, case)["phase"] == "Paused" for case in CASES if case.held),
        )
        fewest = dict(serving.fewest)
    for case in SERVING:
        outcome = status(plane, case)["history"][0]
        assert outcome["result"] == case.ends, (case, outcome)
        for word in case.says:
            assert word in outcome["reason"], (case, outcome)
    for case in CASES:
        floor = -(-case.replicas * int(case.floor.rstrip("%")) // 100)
        assert fewest[case.name] >= floor, (case, fewest[case.name])
    eventually(
        "everyone has all replicas",
        lambda: all(status(plane, case)["stable"].get("ready") == case.replicas for case in SERVING),
    )
    for case in CASES:
        if case.held:
            waits = status(plane, case)
            canary = case.replicas * case.weight // 100
            eventually(
                "both sides have their pods",
                lambda case=case, canary=canary: (
                    [status(plane, case)[side].get("ready") for side in ("stable", "canary")]
                    == [case.replicas - canary, canary]
                ),
            )
            assert waits.get("capacity", {}).get("policy") != "Swap"
    for case in EMPTY:
        waits = status(plane, case)
        stable = (waits.get("stable") or {}).get("version")
        assert (waits["canary"]["version"], stable) == ("2", "1" if case.replicas else None), case
        assert serving.pods[case.name] == set(), case
    for case in EMPTY:
        patch(plane, case, replicas=1)
    eventually(
        "with a replica and room for it they go on",
        lambda: all(ended(plane, case, "2") for case in EMPTY if case.replicas + case.spare),
    )
    assert status(plane, EMPTY[0])["canary"]["version"] == "2"
    for case in (*CASES, *EMPTY):
        plane.call("DELETE", path(case, "r"))
