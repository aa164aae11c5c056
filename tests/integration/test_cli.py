"""`kubectl modelrelease` against a real API server and the operator's own process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.integration.conftest import Kubelet, Operator, eventually
from tests.integration.team import Team

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]


def plugin(plane: ControlPlane, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "COLUMNS": "200"}
    command = [sys.executable, "-m", "serinus_operator.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_a_person_sees_and_steers_a_rollout(
    control_plane: ControlPlane, team: Team, operator: Operator, kubelet: Kubelet
) -> None:
    team.register()
    steps = [{"verify": {}}, {"setWeight": 30}, {"pause": {}}]
    team.apply(strategy={"progressDeadline": "30s", "scaleDownDelay": "0s", "bake": "0s", "steps": steps})
    eventually("version 1 is stable", lambda: team.stable_version() == "1")
    nothing = plugin(control_plane, "promote", team.name)
    assert nothing.returncode == 1
    assert "no rollout is in progress" in nothing.stderr

    team.register()
    eventually("it waits for a person", lambda: team.status().get("phase") == "Paused")
    shown = plugin(control_plane, "get", team.name).stdout
    assert "stable: model version 1" in shown
    assert "canary: model version 2" in shown
    assert "step 3/4 pause until promoted" in shown
    assert shown.count("  ready") == 3
    waiting = plugin(control_plane, "status", team.name)
    assert (waiting.returncode, waiting.stdout[:7]) == (2, "Paused:")
    assert "is paused already" not in plugin(control_plane, "pause", team.name).stderr
    assert "is paused already" in plugin(control_plane, "pause", team.name).stderr
    assert plugin(control_plane, "resume", team.name).returncode == 0
    assert "step 3 (pause until promoted) released" in plugin(control_plane, "promote", team.name).stdout
    assert plugin(control_plane, "status", team.name, "--wait", "--timeout", "60").returncode == 0
    assert plugin(control_plane, "history", team.name).stdout.count("Promoted") == 2
    assert team.name in plugin(control_plane, "get").stdout
    assert "back to model version 1" in plugin(control_plane, "undo", team.name).stdout
    eventually("it goes back through the steps", lambda: team.status().get("canary", {}).get("version") == "1")


def test_what_is_not_there_is_one_sentence(control_plane: ControlPlane) -> None:
    missing = plugin(control_plane, "get", "nobody")
    assert missing.returncode == 1
    assert missing.stderr.startswith("Error: modelrelease 'nobody' in namespace 'default' not found")
    unreachable = plugin(control_plane, "--context", "elsewhere", "get")
    assert unreachable.returncode == 1
    assert unreachable.stderr.startswith("Error: no cluster to talk to")
