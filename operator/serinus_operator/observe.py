"""From Kubernetes objects, as JSON, to what the plan reads. Pure: the caller passes what its caches hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

from serinus_contract.names import COMMAND_ANNOTATION, MODEL_VERSION_ANNOTATION, REVISION_LABEL
from serinus_contract.verification import MalformedReport, VerifyReport
from serinus_operator.manifests import VERIFY_LABEL
from serinus_operator.rollout.capacity import Side
from serinus_operator.rollout.cost import PodUse
from serinus_operator.rollout.observed import Command, JobState, Problem, VerifyJob, Workload

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
_LOGGED_CHARACTERS: Final = 500
_INSUFFICIENT: Final = re.compile(r"Insufficient (\S+?)[,.]?(?:\s|$)")
ACCELERATOR: Final = re.compile(r"gpu|nvidia\.com|amd\.com", re.IGNORECASE)
_UNSEEN: Final = Problem("PodNotSeen", "the verify Job has a pod, which the watch of pods has not shown as it is now")


@dataclass(frozen=True, slots=True)
class Children:
    """Everything cached that belongs to one release. Services by name."""

    deployments: tuple[JSON, ...] = ()
    jobs: tuple[JSON, ...] = ()
    pods: tuple[JSON, ...] = ()
    services: Mapping[str, JSON] = field(default_factory=dict)
    route: JSON | None = None
    budgeted: bool = False  # has it a disruption budget?


def workloads(children: Children) -> dict[str, Workload]:
    """Each revision's Deployment and pods."""
    by_revision: dict[str, list[JSON]] = {}
    for pod in children.pods:
        if VERIFY_LABEL not in _labels(pod):
            by_revision.setdefault(_labels(pod).get(REVISION_LABEL, ""), []).append(pod)
    found = {}
    for deployment in children.deployments:
        revision = _labels(deployment).get(REVISION_LABEL, "")
        pods = by_revision.get(revision, [])
        found[revision] = Workload(
            _side(deployment, pods), _quota_problem(deployment) or _problem(pods), sum(_restarts(pod) for pod in pods)
        )
    return found


def verify_jobs(children: Children) -> dict[str, VerifyJob]:
    """Each revision's verify Job, with the report from its pod's termination message."""
    pods = {
        _labels(pod).get(REVISION_LABEL, ""): pod
        for pod in sorted(children.pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        if VERIFY_LABEL in _labels(pod)
    }
    return {
        revision: _verify_job(revision, job, pods.get(revision))
        for job in children.jobs
        for revision in [_labels(job).get(REVISION_LABEL, "")]
    }


def pods_in_use(children: Children) -> dict[str, tuple[PodUse, ...]]:
    """The pods of each model version that have been scheduled and have not ended: a verify Job's count, and terminating ones."""
    found: dict[str, tuple[PodUse, ...]] = {}
    for pod in children.pods:
        version, since = _version(pod), _scheduled_at(pod)
        if version is not None and since is not None:
            found[version] = (*found.get(version, ()), PodUse(since, _accelerators(pod)))
    return found


def versions(children: Children) -> dict[str, str]:
    """The model version of each revision that has a pod."""
    named = ((_labels(pod).get(REVISION_LABEL, ""), _version(pod)) for pod in children.pods)
    return {revision: version for revision, version in named if version is not None}


def _version(pod: JSON) -> str | None:
    return (pod["metadata"].get("annotations") or {}).get(MODEL_VERSION_ANNOTATION)


def _scheduled_at(pod: JSON) -> datetime | None:
    """Since when it holds its node's resources; None before that, and once all its containers have ended."""
    status = pod.get("status") or {}
    if status.get("phase") in ("Succeeded", "Failed"):
        return None
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled":
            return _instant(condition.get("lastTransitionTime")) if condition["status"] == "True" else None
    return _instant(status.get("startTime"))


def _accelerators(pod: JSON) -> int:
    """Whole devices and slices of them alike, and claims of Dynamic Resource Allocation."""
    spec = pod.get("spec") or {}
    limits = [(each.get("resources") or {}).get("limits") or {} for each in spec.get("containers") or []]
    asked = (int(count) for each in limits for name, count in each.items() if ACCELERATOR.search(name))
    return sum(asked) + len(spec.get("resourceClaims") or [])


def command(release: JSON) -> Command | None:
    """The `serinus.dev/command` annotation: {"id": …, "verb": …, "revision"?: …, "step"?: …}. Anything else is an unknown verb."""
    text = (release["metadata"].get("annotations") or {}).get(COMMAND_ANNOTATION)
    if text is None:
        return None
    try:
        data = json.loads(text)
        step = data.get("step")
        revision, to = (None if data.get(name) is None else str(data[name]) for name in ("revision", "to"))
        return Command(str(data["id"]), str(data["verb"]), revision, None if step is None else int(step), to)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Command(text[:64], "unreadable")


def _side(deployment: JSON, pods: Iterable[JSON]) -> Side:
    status, metadata = deployment.get("status") or {}, deployment["metadata"]
    existing, replicas = list(pods), int(deployment["spec"].get("replicas", 1))
    return Side(
        replicas=replicas,
        # The Deployment is told of first, its pods go later: one that was asked to go is no capacity, though it is still Ready.
        ready=min(replicas, sum(_ready(pod) for pod in existing)),
        pods=len(existing),
        settled=int(status.get("observedGeneration", 0)) >= int(metadata.get("generation", 0)),
    )


def _ready(pod: JSON) -> bool:
    """Ready and not on its way out: a terminating pod no longer counts as capacity."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _restarts(pod: JSON) -> int:
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return sum(int(container.get("restartCount", 0)) for container in containers)


def _quota_problem(deployment: JSON) -> Problem | None:
    """Pods that the API server refuses to create: what the Deployment's condition says of it."""
    for condition in (deployment.get("status") or {}).get("conditions") or []:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            message, since = str(condition.get("message", "")), _instant(condition.get("lastTransitionTime"))
            exceeded = "exceeded quota" in message
            return Problem("QuotaExceeded" if exceeded else "PodRefused", message, shortage=exceeded, since=since)
    return None


def _problem(pods: Iterable[JSON]) -> Problem | None:
    """Why a pod that should be ready is not, in the scheduler's or kubelet's words."""
    for pod in pods:
        status = pod.get("status") or {}
        for condition in status.get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
                return _unschedulable(str(condition.get("message", "")), _instant(condition.get("lastTransitionTime")))
        for container in status.get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in _WAITING_PROBLEMS:
                return Problem(_WAITING_PROBLEMS[waiting["reason"]], str(waiting.get("message") or waiting["reason"]))
    return None


def _unschedulable(message: str, since: datetime | None) -> Problem:
    """The scheduler's sentence names what every node lacks; a device claim (DRA) that cannot be allocated is a lack of GPUs too."""
    lacking = _INSUFFICIENT.findall(message)
    if any(ACCELERATOR.search(resource) for resource in lacking) or "cannot allocate all claims" in message:
        return Problem("InsufficientGPU", message, shortage=True, since=since)
    if lacking:
        return Problem("InsufficientResources", message, shortage=True, since=since)
    return Problem("Unschedulable", message, since=since)


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _verify_job(revision: str, job: JSON, pod: JSON | None) -> VerifyJob:
    finished = [
        condition
        for condition in (job.get("status") or {}).get("conditions") or []
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True"
    ]
    if not finished:
        return VerifyJob(revision, JobState.RUNNING, problem=_problem([pod]) if pod else _no_pod(job))
    why = str(finished[0].get("message") or finished[0].get("reason") or "")
    ended = _terminated(pod)
    if ended is None and finished[0].get("reason") != "DeadlineExceeded" and not _over(pod):
        return VerifyJob(revision, JobState.RUNNING, problem=_UNSEEN)  # two watches: this one is ahead of the pods'
    if ended is None:
        return VerifyJob(revision, JobState.FINISHED, message=f"its pod left no termination message ({why})")
    said = str(ended.get("message", "")).strip()
    try:
        return VerifyJob(revision, JobState.FINISHED, VerifyReport.from_json(said))
    except MalformedReport as error:
        logged = said.rpartition("\n")[2][-_LOGGED_CHARACTERS:] if said and not said.startswith("{") else str(error)
        outcome = f"{ended.get('reason')}, exit code {ended.get('exitCode')}"
        return VerifyJob(revision, JobState.FINISHED, message=f"{outcome}: {logged}")


def _no_pod(job: JSON) -> Problem:
    """A Job says nowhere that its pod was refused (a full quota tells its events only); one that was not begun tells nothing yet."""
    status = job.get("status") or {}
    if status.get("active"):
        return _UNSEEN
    since = _instant(status.get("startTime"))
    if since is None:
        return Problem("JobNotStarted", "Kubernetes' Job controller has not begun the verify Job")
    message = "the verify Job has no pod; is a quota of the namespace full?"
    return Problem("QuotaExceeded", message, shortage=True, since=since)


def _over(pod: JSON | None) -> bool:
    return ((pod or {}).get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _terminated(pod: JSON | None) -> JSON | None:
    for container in ((pod or {}).get("status") or {}).get("containerStatuses") or []:
        ended: JSON | None = (container.get("state") or {}).get("terminated")
        if ended is not None:
            return ended
    return None


def _labels(thing: JSON) -> Mapping[str, str]:
    return thing["metadata"].get("labels") or {}
