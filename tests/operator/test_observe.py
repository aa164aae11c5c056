"""What Kubernetes' objects say, as the plan reads it."""

from __future__ import annotations

from typing import Any

import pytest

from serinus_operator import observe
from serinus_operator.observe import Children
from serinus_operator.pods import Pod, read_pod
from serinus_operator.rollout.observed import JobState, Problem

LABELS = {"serinus.dev/release": "release", "serinus.dev/revision": "r"}


def pod(*, verifies: bool = False, **status: Any) -> Pod:
    labels = LABELS | ({"serinus.dev/verify": "release"} if verifies else {})
    return read_pod({"metadata": {"name": "pod", "labels": labels}, "status": status})


def problem(*pods: Pod, **deployment_status: Any) -> Problem | None:
    deployment = {"metadata": {"labels": LABELS, "generation": 1}, "spec": {"replicas": 1}, "status": deployment_status}
    return observe.workloads(Children(deployments=(deployment,), pods=pods))["r"].problem


@pytest.mark.parametrize(
    ("message", "reason", "shortage"),
    [
        ("0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: …", "InsufficientGPU", True),
        (
            "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient nvidia.com/mig-1g.10gb.",
            "InsufficientGPU",
            True,
        ),
        ("0/1 nodes are available: 1 cannot allocate all claims.", "InsufficientGPU", True),
        ("0/3 nodes are available: 3 Insufficient memory.", "InsufficientResources", True),
        ("0/3 nodes are available: 3 node(s) had untolerated taint {gpu: only}.", "Unschedulable", False),
    ],
)
def test_the_schedulers_reasons_are_told_apart(message: str, reason: str, shortage: bool) -> None:
    condition = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    found = problem(pod(conditions=[condition]))
    assert found is not None
    assert (found.reason, found.shortage, found.message) == (reason, shortage, message)
    assert found.since is not None


def test_a_full_quota_is_a_shortage_that_the_deployment_tells() -> None:
    condition = {
        "type": "ReplicaFailure", "status": "True", "message": "pods \"x\" is forbidden: exceeded quota: gpus",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    found = problem(conditions=[condition])
    assert found is not None
    assert (found.reason, found.shortage) == ("QuotaExceeded", True)


def test_an_image_that_cannot_be_pulled_is_no_shortage() -> None:
    waiting = {"state": {"waiting": {"reason": "ErrImageNeverPull", "message": "not present"}}}
    assert problem(pod(containerStatuses=[waiting])) == Problem("ImagePull", "not present")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("loading …\nserinus-server: config.json has SHA-256 a, the manifest says b\n", "the manifest says b"),
        ("", "not a verify report"),
        ('{"schema": "another"}', "has schema 'another'"),
    ],
)
def test_a_verify_run_without_a_report_says_why(said: str, expected: str) -> None:
    job = {"metadata": {"labels": LABELS}, "status": {"conditions": [{"type": "Failed", "status": "True"}]}}
    ended = {"reason": "Error", "exitCode": 2, "message": said}
    its_pod = pod(verifies=True, containerStatuses=[{"state": {"terminated": ended}}])
    found = observe.verify_jobs(Children(jobs=(job,), pods=(its_pod,)))["r"]
    assert found.report is None
    assert found.message.startswith("Error, exit code 2: ")
    assert expected in found.message


@pytest.mark.parametrize("its_pod", [None, {"phase": "Running"}])
@pytest.mark.parametrize(
    "status",
    [{"conditions": [{"type": "Complete", "status": "True"}]}, {"startTime": "2026-01-01T00:00:00Z", "active": 1}],
)
def test_a_job_that_is_ahead_of_what_the_pods_watch_has_shown_is_waited_for(status: Any, its_pod: Any) -> None:
    job = {"metadata": {"labels": LABELS}, "status": status}
    pods = () if its_pod is None else (pod(verifies=True, **its_pod),)
    found = observe.verify_jobs(Children(jobs=(job,), pods=pods))["r"]
    assert found.state is JobState.RUNNING
    assert found.problem is None or not found.problem.shortage


def test_a_job_that_ran_out_of_time_leaves_no_pod_to_wait_for() -> None:
    condition = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "it took too long"}
    job = {"metadata": {"labels": LABELS}, "status": {"conditions": [condition]}}
    found = observe.verify_jobs(Children(jobs=(job,)))["r"]
    assert found.state is JobState.FINISHED
    assert "it took too long" in found.message


def test_a_pod_that_was_asked_to_go_is_no_capacity_though_it_is_still_ready() -> None:
    labels = {"serinus.dev/revision": "r"}
    pods = (pod(conditions=[{"type": "Ready", "status": "True"}]),) * 10
    lowered = {
        "metadata": {"name": "d", "labels": labels, "generation": 2},
        "spec": {"replicas": 9},
        "status": {"observedGeneration": 2},
    }
    side = observe.workloads(observe.Children(deployments=(lowered,), pods=pods))["r"].side
    assert (side.ready, side.pods, side.settled) == (9, 10, True)
