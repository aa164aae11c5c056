"""Changed specs on a real API server: refused with a message, or converged; then the good spec ends where it began.

`SERINUS_MUTANTS_APPLIED` says how many (`make test-mutants` applies 500). tests/faults/test_mutants does the same in memory, with more.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from tests.cluster.control_plane import ControlPlane
from tests.faults.mutants import good, mutants
from tests.integration.conftest import Kubelet, Operator, eventually
from tests.integration.team import MlflowClient, Team

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]

MUTANTS = int(os.environ.get("SERINUS_MUTANTS_APPLIED", "50"))
_TOGETHER = 8 if MUTANTS < 100 else 25  # releases
_RELEASES = "/apis/serinus.dev/v1alpha1/namespaces/default/modelreleases"
_OBJECTS = ("apis/apps/v1/namespaces/default/deployments", "api/v1/namespaces/default/services",
            "apis/policy/v1/namespaces/default/poddisruptionbudgets")  # fmt: skip


class Mutated(Team):
    """A team whose release is edited."""

    def put(self, spec: dict[str, Any]) -> tuple[int, Any]:
        """Replaces the spec as kubectl does, unknown fields refused. Returns the status code and the answer."""
        named = spec | {"model": spec["model"] | {"name": self.model}} if isinstance(spec.get("model"), dict) else spec
        while True:
            _, release = self.plane.call("GET", f"{_RELEASES}/{self.name}")
            code, answer = self.plane.call(
                "PUT", f"{_RELEASES}/{self.name}?fieldValidation=Strict", release | {"spec": named}
            )
            if code != 409:
                return code, answer

    def state(self) -> dict[str, Any] | None:
        """What is there, once the release is Healthy by its newest spec."""
        _, release = self.plane.call("GET", f"{_RELEASES}/{self.name}")
        status = release.get("status", {})
        if not _told(release) or status.get("phase") != "Healthy" or status.get("canary"):
            return None
        objects = {
            f"{path}/{each['metadata']['name']}": each["spec"]
            for path in _OBJECTS
            for each in self.plane.call("GET", f"/{path}?labelSelector=app.kubernetes.io/managed-by=serinus")[1][
                "items"
            ]
            if any(owner["name"] == self.name for owner in each["metadata"].get("ownerReferences", ()))
        }
        return {"objects": objects, "stable": status["stable"]["version"], "ready": status["stable"].get("ready")}

    def said(self) -> str:
        """How the newest spec goes, once the operator has seen it."""
        _, release = self.plane.call("GET", f"{_RELEASES}/{self.name}")
        status = release.get("status", {})
        if not _told(release):
            return ""
        return (
            "converged"
            if status.get("phase") == "Healthy"
            else f"said why not ({status['phase']})"
            if status.get("message")
            else ""
        )


def _told(release: dict[str, Any]) -> bool:
    return bool(release.get("status", {}).get("observedGeneration") == release["metadata"]["generation"])


def drawn(count: int) -> list[dict[str, Any]]:
    """The same mutants each time."""
    found: list[dict[str, Any]] = []

    @settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(mutants("m"))
    def draw(spec: dict[str, Any]) -> None:
        found.append(spec)

    draw()
    return found


def test_mutants_are_refused_or_converge_and_the_good_spec_ends_where_it_began(
    control_plane: ControlPlane, mlflow_server: str, operator: Operator, kubelet: Kubelet
) -> None:
    registry = MlflowClient(tracking_uri=mlflow_server, registry_uri=mlflow_server)
    teams = [Mutated(control_plane, registry, f"mutant-{number}") for number in range(_TOGETHER)]
    for team in teams:
        team.register()
        spec = good(team.model)
        team.apply(**spec)
    fresh = {team.name: eventually(f"{team.name} serves", team.state, 90) for team in teams}
    left, outcomes = drawn(MUTANTS), Counter[str]()
    count = len(left)
    while left:
        waiting = [team for team in teams if _accepted(team, left, outcomes)]
        for team in waiting:
            outcomes[eventually(f"{team.name} converges or says why not", team.said, 60)] += 1
        for team in waiting:
            code, answer = team.put(good(team.model))
            assert code == 200, answer
        for team in waiting:
            eventually(f"{team.name} is as it was", lambda team=team: team.state() == fresh[team.name], 90,
                       lambda team=team: (team.state(), fresh[team.name], team.status().get("message")))  # fmt: skip
    for team in teams:
        control_plane.call("DELETE", f"{_RELEASES}/{team.name}")
    print(dict(outcomes))
    assert outcomes.total() == count >= MUTANTS


def _accepted(team: Mutated, left: list[dict[str, Any]], outcomes: Counter[str]) -> bool:
    """Gives the release one mutant after the other until one is accepted. Each refusal has a sentence."""
    while left:
        code, answer = team.put(left.pop())
        if code == 200:
            return True
        assert code in (400, 422), answer
        assert answer["message"].strip(), answer
        outcomes["refused"] += 1
    return False
