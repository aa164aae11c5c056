"""Nodes and pods that are there for the API alone (KWOK): scheduling and thousands of pods are real, what runs in them is not.

Pods of Deployments become Ready, pods of verify Jobs end well with a report as their termination message, deleted pods are gone at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.cluster.binaries import ClusterError, kwok
from tests.cluster.control_plane import POD_RANGE, ControlPlane

from serinus_contract.names import DIGEST_ENV
from serinus_contract.verification import Check, VerifyReport

GPU = "nvidia.com/gpu"
_READY = '.status.conditions.[] | select( .type == "Ready" ) | .status'
_ANNOTATIONS = {"kwok.x-k8s.io/node": "fake"}
_NODE_READY = """
{{ $now := Now }}
phase: Running
conditions:
{{ range NodeConditions }}
- {type: {{ .type | Quote }}, status: {{ .status | Quote }}, reason: {{ .reason | Quote }}, lastHeartbeatTime: {{ $now | Quote }}}
{{ end }}
"""
_RUNNING = """
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
conditions:
- {type: Ready, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- {name: {{ .name | Quote }}, image: {{ .image | Quote }}, ready: true, restartCount: 0, state: {running: {startedAt: {{ $now | Quote }}}}}
{{ end }}
"""
_VERIFIED = """
{{ $now := Now }}
{{ $digest := "" }}
{{ range (index .spec.containers 0).env }}{{ if eq .name "DIGEST_ENV" }}{{ $digest = .value }}{{ end }}{{ end }}
phase: Succeeded
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: false
  restartCount: 0
  state:
    terminated:
      exitCode: 0
      reason: Completed
      finishedAt: {{ $now | Quote }}
      message: {{ printf "REPORT" $digest | Quote }}
{{ end }}
"""


@dataclass(frozen=True)
class Node:
    """A node to be, with the label `pool` for node selectors; `taints` as in the API."""

    name: str
    gpus: int
    pool: str = "any"
    taints: Sequence[Mapping[str, str]] = ()


def start_kwok(plane: ControlPlane) -> None:
    """Runs KWOK beside the control plane; it ends with it."""
    stages = plane.folder / "kwok-stages.yaml"
    stages.write_text("\n---\n".join(json.dumps(stage) for stage in _stages()))
    plane.processes.start("kwok", [
        kwok(), f"--kubeconfig={plane.kubeconfig}", "--manage-all-nodes", f"--cidr={POD_RANGE}", f"--config={stages}",
    ])  # fmt: skip


def add_nodes(plane: ControlPlane, nodes: Sequence[Node], deadline_seconds: float = 30) -> None:
    """Makes the nodes and waits until they are Ready. Raises ClusterError."""
    for node in nodes:
        code, answer = plane.call("POST", "/api/v1/nodes", _manifest(node))
        if code != 201:
            raise ClusterError(f"node {node.name}: {answer}")

    def ready() -> bool:
        return all(_is_ready(plane.call("GET", f"/api/v1/nodes/{node.name}")[1]) for node in nodes)

    plane.processes.wait("kwok", ready, deadline_seconds)


def _manifest(node: Node) -> dict[str, Any]:
    room = {"cpu": "1k", "memory": "10Ti", "pods": "100k", **({GPU: str(node.gpus)} if node.gpus else {})}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "annotations": _ANNOTATIONS, "labels": {"pool": node.pool}},
        "spec": {"taints": [dict(taint) for taint in node.taints]},
        "status": {"capacity": room, "allocatable": room},
    }


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _stages() -> list[dict[str, Any]]:
    report = asdict(VerifyReport((Check("neighbours", True, "top-10 neighbour overlap 0.97"),), {}, "1", "%s", "space"))
    text = json.dumps({"schema": 1, "passed": True, **report}).replace('"', '\\"')
    verified = _VERIFIED.replace("DIGEST_ENV", DIGEST_ENV).replace("REPORT", text)
    here, pending = _expression(".metadata.deletionTimestamp", "DoesNotExist"), _in(".status.phase", "Pending")
    owner = ".metadata.ownerReferences.[].kind"
    return [
        _stage("serve", [here, pending, _in(owner, "ReplicaSet")], {"statusTemplate": _RUNNING}),
        _stage("verify", [here, pending, _in(owner, "Job")], {"statusTemplate": verified}),
        _stage("node-ready", [_expression(_READY, "DoesNotExist")], {"statusTemplate": _NODE_READY}, "Node"),
        _stage("gone", [_expression(".metadata.deletionTimestamp", "Exists")], {"delete": True}),
    ]


def _stage(name: str, when: list[dict[str, Any]], then: dict[str, Any], kind: str = "Pod") -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": when},
            "next": then,
        },
    }


def _expression(key: str, operator: str) -> dict[str, Any]:
    return {"key": key, "operator": operator}


def _in(key: str, *values: str) -> dict[str, Any]:
    return {**_expression(key, "In"), "values": list(values)}
