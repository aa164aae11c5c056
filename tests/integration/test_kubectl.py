"""What scripts, autoscalers and GitOps tools expect of any workload works with a ModelRelease: wait, apply, scale."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration.conftest import Kubelet, Operator, eventually
from tests.integration.team import Team

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]


def apply(team: Team, manager: str, **spec: Any) -> str:
    """`kubectl apply --server-side` by this manager. Returns what kubectl complained of."""
    release = {
        "apiVersion": "serinus.dev/v1alpha1",
        "kind": "ModelRelease",
        "metadata": {"name": team.name},
        "spec": {"model": {"name": team.model, "alias": "challenger"}, **spec},
    }
    manifest = json.dumps(release)
    return team.plane.kubectl("apply", "--server-side", f"--field-manager={manager}", "-f", "-", stdin=manifest).stderr


def ready_pods(team: Team) -> int:
    return int(team.status().get("stable", {}).get("ready", 0))


def test_wait_apply_scale_and_autoscaling_work_as_for_any_workload(
    team: Team, operator: Operator, kubelet: Kubelet
) -> None:
    team.register()
    assert apply(team, "ci", replicas=2) == ""
    assert apply(team, "gitops", replicas=2) == ""
    waited = team.plane.kubectl(
        "wait", "--for=condition=Ready", f"modelrelease/{team.name}", "--timeout=110s", deadline_seconds=120
    )
    assert waited.returncode == 0, waited.stderr
    assert apply(team, "ci", replicas=2) == ""  # the operator has taken no field of the spec

    assert apply(team, "ci") == ""
    assert apply(team, "gitops") == ""  # from now on replicas are somebody else's
    scaled = team.plane.kubectl("scale", "modelrelease", team.name, "--replicas=3")
    assert scaled.returncode == 0, scaled.stderr
    eventually("three pods are ready", lambda: ready_pods(team) == 3)

    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": team.name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "serinus.dev/v1alpha1", "kind": "ModelRelease", "name": team.name},
            "minReplicas": 4,
            "maxReplicas": 6,
        },
    }
    made = team.plane.kubectl("create", "-f", "-", stdin=json.dumps(autoscaler))
    assert made.returncode == 0, made.stderr
    eventually("the autoscaler's four pods are ready", lambda: ready_pods(team) == 4, 120)
    assert apply(team, "ci") == ""
    assert team.status()["replicas"] == 4
    team.plane.kubectl("delete", "horizontalpodautoscaler", team.name)
