"""The operator's own process, killed after every call that changes something in a real MLflow: it ends as the uninterrupted run.

Each call of a promotion and of a rollback is a release's of its own; all of them roll under one operator at once.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cluster.binaries import tail
from tests.cluster.control_plane import ControlPlane
from tests.faults.proxy import Kind, Plan, Proxy
from tests.integration.conftest import Metrics
from tests.integration.surroundings import eventually, operator_environment
from tests.integration.team import MlflowClient
from tests.integration.test_crash_points import Fleet, Lives, Node, node

pytestmark = [
    pytest.mark.integration,
    pytest.mark.alone,  # fifty releases under one operator
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
__all__ = ["node"]

_STORIES = {"good": "promotion", "slow": "rollback"}


def test_killed_after_every_call_to_the_registry_it_says_what_the_uninterrupted_run_says(
    control_plane: ControlPlane, operators_kubeconfig: Path, mlflow_server: str, metrics: Metrics, node: Node, tmp_path: Path
) -> None:  # fmt: skip
    registry = MlflowClient(tracking_uri=mlflow_server, registry_uri=mlflow_server)
    metrics.requests_per_second = 500.0
    lives = Lives(tmp_path / "operator.log")
    fleet = Fleet(control_plane, registry, node, lives, registry.create_run("0").info)
    line = Proxy(mlflow_server, True, lives.again)
    with line.serve():
        quick = {"SERINUS_SCRAPE_LAG_SECONDS": "1", "SERINUS_REGISTRY_POLL_SECONDS": "1"}
        lives.environment = operator_environment(operators_kubeconfig, line.url, metrics.url) | quick
        lives.begin()
        try:
            _all(fleet, line)
        finally:
            lives.close()
    assert "Traceback" not in lives.log.read_text(), tail(lives.log, 60)


def _all(fleet: Fleet, line: Proxy) -> None:
    for number, story in enumerate(_STORIES):
        fleet.make(f"plan-8{number:04d}", story)
    fleet.play(120)
    undisturbed = {fleet.stories[name]: end for name, end in fleet.ends().items()}
    calls = {fleet.stories[name]: line.writes[name] for name in fleet.stories}
    fleet.clear()
    points = [(story, call) for story, count in calls.items() for call in range(1, count + 1)]
    named = {f"plan-7{at:04d}": point for at, point in enumerate(points)}
    line.arm([Plan(name, Kind.AFTER, call) for name, (_, call) in named.items()])
    for name, (story, _) in named.items():
        fleet.make(name, story)
    fleet.play(400)

    def different() -> list[object]:
        ends = fleet.ends()
        found = [(named[name], ends[name], undisturbed[story]) for name, (story, _) in named.items()]
        return [each for each in found if each[1] != each[2]]

    eventually("as the uninterrupted run", lambda: not different(), 60, different)
    fleet.clear()
    told = ", ".join(f"{count} calls of a {_STORIES[story]}" for story, count in calls.items())
    print(f"{told}; killed after {len(line.befallen)} of {len(points)}, {line.deaths} deaths")
    assert len(line.befallen) == len(points)
