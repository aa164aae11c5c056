"""Two operators: one leads, the other takes over when it dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.integration.conftest import Kubelet, Operator, eventually
from tests.integration.surroundings import free_port
from tests.integration.team import Team

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]

_LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/serinus-operator"


@pytest.fixture
def standby(operator: Operator, control_plane: ControlPlane) -> Iterator[Operator]:
    """A second operator, started once the first one leads."""
    eventually("the first one leads", lambda: holder(control_plane) == operator.environment["POD_NAME"])
    own = {"POD_NAME": "standby", "SERINUS_METRICS_PORT": str(free_port())}
    second = replace(
        operator, environment=operator.environment | own, log=operator.log.with_name("standby.log"), running=None
    )
    second.start()
    yield second
    second.stop()
    assert "Traceback" not in second.log.read_text()


def holder(plane: ControlPlane) -> str:
    code, lease = plane.call("GET", _LEASE)
    return str(lease["spec"]["holderIdentity"]) if code == 200 else ""


def test_a_killed_leader_is_replaced_within_twenty_seconds(
    team: Team, operator: Operator, standby: Operator, kubelet: Kubelet, control_plane: ControlPlane
) -> None:
    team.register()
    team.apply()
    eventually("version 1 is stable", lambda: team.stable_version() == "1")
    team.register()
    eventually("a canary has traffic", lambda: team.status().get("weight", {}).get("desired"))
    assert holder(control_plane) != "standby"
    operator.kill()
    killed_at = time.monotonic()
    eventually("the other one leads", lambda: holder(control_plane) == "standby", 30)
    assert time.monotonic() - killed_at < 20
    eventually("version 2 is stable", lambda: team.stable_version() == "2", 120)
    assert [entry["result"] for entry in team.status()["history"]] == ["Promoted", "Promoted"]
