"""Of a pod, what is read here: a fleet's pods as JSON, even with all else left out, were most of what the operator's memory was spent on.

Pure: a pod as the API has it goes in, and what the scheduler, the kubelet and its containers say of it comes out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

from serinus_contract.names import MODEL_VERSION_ANNOTATION, REVISION_LABEL
from serinus_operator.manifests import VERIFY_LABEL
from serinus_operator.rollout.observed import Problem

JSON: TypeAlias = Mapping[str, Any]

_WAITING_PROBLEMS: Final = {
    "ImagePullBackOff": "ImagePull",
    "ErrImagePull": "ImagePull",
    "ErrImageNeverPull": "ImagePull",
    "InvalidImageName": "ImagePull",
    "CrashLoopBackOff": "CrashLoop",
    "CreateContainerConfigError": "ContainerConfig",
    "CreateContainerError": "ContainerConfig",
    "RunContainerError": "ContainerConfig",
}
_INSUFFICIENT: Final = re.compile(r"Insufficient (\S+?)[,.]?(?:\s|$)")
_ACCELERATOR: Final = re.compile(r"gpu|nvidia\.com|amd\.com", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod. `leaving` was asked to go; `scheduled_at` is since when it holds its node's resources, None before and once it has ended."""

    revision: str = ""
    version: str | None = None  # the model version in it
    verifies: bool = False  # a verify Job's
    created_at: str = ""
    leaving: bool = False
    ready: bool = False
    over: bool = False
    scheduled_at: datetime | None = None
    accelerators: int = 0  # whole devices and slices of them alike, and claims of Dynamic Resource Allocation
    restarts: int = 0
    problem: Problem | None = None  # why it does not become ready
    ended: JSON | None = None  # how the container of a verify Job's pod ended


def read_pod(thing: JSON) -> Pod:
    """Reads a pod as the API has it."""
    metadata, status = thing["metadata"], thing.get("status") or {}
    labels = metadata.get("labels") or {}
    version = (metadata.get("annotations") or {}).get(MODEL_VERSION_ANNOTATION)
    verifies, over = VERIFY_LABEL in labels, status.get("phase") in ("Succeeded", "Failed")
    conditions, containers = status.get("conditions") or [], status.get("containerStatuses") or []
    return Pod(
        revision=sys.intern(labels.get(REVISION_LABEL, "")),  # thousands of pods share these texts: each is held once
        version=None if version is None else sys.intern(version),
        verifies=verifies,
        created_at=str(metadata.get("creationTimestamp")) if verifies else "",
        leaving=bool(metadata.get("deletionTimestamp")),
        ready=any(each["type"] == "Ready" and each["status"] == "True" for each in conditions),
        over=over,
        scheduled_at=None if over else _scheduled_at(status, conditions),
        accelerators=_accelerators(thing.get("spec") or {}),
        restarts=sum(int(each.get("restartCount", 0)) for each in containers),
        problem=_problem(conditions, containers),
        ended=_ended(containers) if verifies else None,
    )


def instant(text: str | None) -> datetime | None:
    """Reads an instant of the API; None where there is none."""
    return datetime.fromisoformat(text) if text else None


def _scheduled_at(status: JSON, conditions: list[JSON]) -> datetime | None:
    for condition in conditions:
        if condition["type"] == "PodScheduled":
            return instant(condition.get("lastTransitionTime")) if condition["status"] == "True" else None
    return instant(status.get("startTime"))


def _accelerators(spec: JSON) -> int:
    limits = [(each.get("resources") or {}).get("limits") or {} for each in spec.get("containers") or []]
    asked = (int(count) for each in limits for name, count in each.items() if _ACCELERATOR.search(name))
    return sum(asked) + len(spec.get("resourceClaims") or [])


def _problem(conditions: list[JSON], containers: list[JSON]) -> Problem | None:
    """Why the pod is not ready, in the scheduler's or kubelet's words."""
    for condition in conditions:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return _unschedulable(str(condition.get("message", "")), instant(condition.get("lastTransitionTime")))
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _WAITING_PROBLEMS:
            return Problem(_WAITING_PROBLEMS[waiting["reason"]], str(waiting.get("message") or waiting["reason"]))
    return None


def _unschedulable(message: str, since: datetime | None) -> Problem:
    """The scheduler's sentence names what every node lacks; a device claim (DRA) that cannot be allocated is a lack of GPUs too."""
    lacking = _INSUFFICIENT.findall(message)
    if any(_ACCELERATOR.search(resource) for resource in lacking) or "cannot allocate all claims" in message:
        return Problem("InsufficientGPU", message, shortage=True, since=since)
    if lacking:
        return Problem("InsufficientResources", message, shortage=True, since=since)
    return Problem("Unschedulable", message, since=since)


def _ended(containers: list[JSON]) -> JSON | None:
    for container in containers:
        ended: JSON | None = (container.get("state") or {}).get("terminated")
        if ended is not None:
            return ended
    return None
