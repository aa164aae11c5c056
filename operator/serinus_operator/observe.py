"""From Kubernetes objects, as JSON, to what the plan reads. Pure: the caller passes what its caches hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from serinus_contract.names import COMMAND_ANNOTATION, REVISION_LABEL
from serinus_contract.verification import MalformedReport, VerifyReport
from serinus_operator.pods import Pod, instant
from serinus_operator.rollout.capacity import Side
from serinus_operator.rollout.cost import PodUse
from serinus_operator.rollout.observed import Command, JobState, Problem, VerifyJob, Workload

JSON: TypeAlias = Mapping[str, Any]

_LOGGED_CHARACTERS: Final = 500
_UNSEEN: Final = Problem("PodNotSeen", "the verify Job has a pod, which the watch of pods has not shown as it is now")


@dataclass(frozen=True, slots=True)
class Children:
    """Everything cached that belongs to one release. Services by name."""

    deployments: tuple[JSON, ...] = ()
    jobs: tuple[JSON, ...] = ()
    pods: tuple[Pod, ...] = ()
    services: Mapping[str, JSON] = field(default_factory=dict)
    route: JSON | None = None
    budgeted: bool = False  # has it a disruption budget?


def workloads(children: Children) -> dict[str, Workload]:
    """Each revision's Deployment and pods."""
    by_revision: dict[str, list[Pod]] = {}
    for pod in children.pods:
        if not pod.verifies:
            by_revision.setdefault(pod.revision, []).append(pod)
    found = {}
    for deployment in children.deployments:
        revision = _revision(deployment)
        pods = by_revision.get(revision, [])
        found[revision] = Workload(
            _side(deployment, pods), _quota_problem(deployment) or _problem(pods), sum(pod.restarts for pod in pods)
        )
    return found


def verify_jobs(children: Children) -> dict[str, VerifyJob]:
    """Each revision's verify Job, with the report from its pod's termination message."""
    pods = {pod.revision: pod for pod in sorted(children.pods, key=lambda pod: pod.created_at) if pod.verifies}
    return {
        revision: _verify_job(revision, job, pods.get(revision))
        for job in children.jobs
        for revision in [_revision(job)]
    }


def pods_in_use(children: Children) -> dict[str, tuple[PodUse, ...]]:
    """The pods of each model version that have been scheduled and have not ended: a verify Job's count, and terminating ones."""
    found: dict[str, tuple[PodUse, ...]] = {}
    for pod in children.pods:
        if pod.version is not None and pod.scheduled_at is not None:
            found[pod.version] = (*found.get(pod.version, ()), PodUse(pod.scheduled_at, pod.accelerators))
    return found


def versions(children: Children) -> dict[str, str]:
    """The model version of each revision that has a pod."""
    return {pod.revision: pod.version for pod in children.pods if pod.version is not None}


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


def _side(deployment: JSON, pods: list[Pod]) -> Side:
    status, metadata = deployment.get("status") or {}, deployment["metadata"]
    replicas = int(deployment["spec"].get("replicas", 1))
    return Side(
        replicas=replicas,
        # The Deployment is told of first, its pods go later: one that was asked to go is no capacity, though it is still Ready.
        ready=min(replicas, sum(pod.ready and not pod.leaving for pod in pods)),
        pods=len(pods),
        settled=int(status.get("observedGeneration", 0)) >= int(metadata.get("generation", 0)),
    )


def _quota_problem(deployment: JSON) -> Problem | None:
    """Pods that the API server refuses to create: what the Deployment's condition says of it."""
    for condition in (deployment.get("status") or {}).get("conditions") or []:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            message, since = str(condition.get("message", "")), instant(condition.get("lastTransitionTime"))
            exceeded = "exceeded quota" in message
            return Problem("QuotaExceeded" if exceeded else "PodRefused", message, shortage=exceeded, since=since)
    return None


def _problem(pods: Iterable[Pod]) -> Problem | None:
    return next((pod.problem for pod in pods if pod.problem is not None), None)


def _verify_job(revision: str, job: JSON, pod: Pod | None) -> VerifyJob:
    finished = [
        condition
        for condition in (job.get("status") or {}).get("conditions") or []
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True"
    ]
    if not finished:
        return VerifyJob(revision, JobState.RUNNING, problem=pod.problem if pod else _no_pod(job))
    why = str(finished[0].get("message") or finished[0].get("reason") or "")
    ended = None if pod is None else pod.ended
    if ended is None and finished[0].get("reason") != "DeadlineExceeded" and not (pod and pod.over):
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
    since = instant(status.get("startTime"))
    if since is None:
        return Problem("JobNotStarted", "Kubernetes' Job controller has not begun the verify Job")
    message = "the verify Job has no pod; is a quota of the namespace full?"
    return Problem("QuotaExceeded", message, shortage=True, since=since)


def _revision(thing: JSON) -> str:
    revision: str = (thing["metadata"].get("labels") or {}).get(REVISION_LABEL, "")
    return revision
