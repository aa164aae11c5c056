"""Room for a canary, by the real scheduler: nodes with 0, 1 and 2 GPUs to spare, taints, quotas. Pods are KWOK's.

All releases roll out at once, so that the patience of 30 s is waited for once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kwok import GPU, Node, add_nodes, start_kwok
from tests.integration.conftest import Operator, eventually
from tests.integration.surroundings import pods_of
from tests.integration.team import Team

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]

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
    quota: bool = False  # the namespace, not the node, is what is full
    moves_to: str | None = None  # the second version asks for this pool


_FULL = ("InsufficientGPU", "capacityFloor")
CASES = (
    *(Case(f"surge-{n}-{spare}", n, spare) for n in (1, 2, 3, 10) for spare in (1, 2)),
    *(Case(f"full-{n}", n, 0, "RolledBack", _FULL) for n in (1, 2, 3, 10)),
    *(Case(f"swap-{n}", n, 0, floor="50%") for n in (2, 3, 10)),
    Case("swap-1", 1, 0, "RolledBack", _FULL, floor="50%"),
    Case("quota-2", 2, 0, "RolledBack", ("QuotaExceeded", "capacityFloor"), quota=True),
    Case("taint-2", 2, 2, "RolledBack", ("Unschedulable", "untolerated taint"), moves_to="tainted"),
)


@pytest.fixture(scope="module", autouse=True)
def nodes(control_plane: ControlPlane) -> Iterator[None]:
    start_kwok(control_plane)
    pools = [
        Node(f"node-{case.name}", case.replicas + case.spare + (9 if case.quota else 0), case.name) for case in CASES
    ]
    add_nodes(control_plane, [*pools, Node("node-tainted", 9, "tainted", (_TAINT,))], 60)
    yield
    for node in ("tainted", *(case.name for case in CASES)):
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
            "progressDeadline": "60s" if case.moves_to else "3m",
            "scaleDownDelay": "0s",
            "bake": "0s",
            "steps": [{"verify": {}}, {"setWeight": 50}, {"pause": {"duration": "0s"}}],
        },
    }
    body = {"apiVersion": "serinus.dev/v1alpha1", "kind": "ModelRelease", "metadata": {"name": "r"}, "spec": spec}
    code, answer = plane.call("POST", path(case), body)
    assert code == 201, answer


def status(plane: ControlPlane, case: Case) -> dict[str, Any]:
    found: dict[str, Any] = plane.call("GET", path(case, "r"))[1].get("status", {})
    return found


def ready_pods(plane: ControlPlane) -> Counter[str]:
    """Pods that serve, by namespace: Ready and not on their way out."""
    return Counter(
        pod["metadata"]["namespace"]
        for pod in pods_of(plane, "serinus.dev/release=r")
        if not pod["metadata"].get("deletionTimestamp")
        and any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))
    )


def ended(plane: ControlPlane, case: Case, version: str) -> bool:
    found = status(plane, case)
    return bool(found.get("history")) and found["history"][0]["version"] == version and not found.get("canary")


def test_each_rollout_ends_as_the_room_allows_and_says_why(
    control_plane: ControlPlane, team: Team, operator: Operator
) -> None:
    plane = control_plane
    team.register()
    for case in CASES:
        create(plane, case, team.model)
    eventually("all first versions serve", lambda: all(ended(plane, case, "1") for case in CASES), 120)
    eventually("all pods are ready", lambda: all(ready_pods(plane)[case.name] == case.replicas for case in CASES))
    for case in CASES:
        if case.moves_to is not None:
            move = {"spec": {"serving": {"template": {"spec": {"nodeSelector": {"pool": case.moves_to}}}}}}
            plane.call("PATCH", path(case, "r"), move, "application/merge-patch+json")
    team.register()

    fewest = dict.fromkeys(CASES, 10**9)

    def all_ended() -> bool:
        ready = ready_pods(plane)
        for case in CASES:
            fewest[case] = min(fewest[case], ready[case.name])
        return all(ended(plane, case, "2") for case in CASES)

    eventually("all rollouts have ended", all_ended, 180)
    outcomes = {case: status(plane, case)["history"][0] for case in CASES}
    for case, outcome in outcomes.items():
        assert outcome["result"] == case.ends, (case, outcome)
        for word in case.says:
            assert word in outcome["reason"], (case, outcome)
        floor = -(-case.replicas * int(case.floor.rstrip("%")) // 100)
        assert fewest[case] >= floor, (case, fewest[case])
    eventually(
        "everyone has all replicas",
        lambda: all(status(plane, case)["stable"].get("ready") == case.replicas for case in CASES),
    )
    for case in CASES:
        plane.call("DELETE", path(case, "r"))
