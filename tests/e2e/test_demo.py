"""The demo's own promises, on a real kubelet with the images and the chart that users get."""

from __future__ import annotations

import pytest
from tests.e2e.demo import Demo, Outcome, summary
from tests.e2e.stage import Stage

pytestmark = pytest.mark.e2e  # a node needs root: without it the cluster says so, and this fails


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    with Stage() as stage:
        played = Demo(stage).play()
        print(summary(played, stage))
        return played


def test_every_promise_of_the_demo_is_kept(outcome: Outcome) -> None:
    assert outcome.broken == []


def test_no_request_fails_while_versions_change(outcome: Outcome) -> None:
    assert outcome.traffic.failures == []
    assert outcome.traffic.answered == outcome.traffic.sent > 1000


def test_damaged_version_never_answers_and_the_starved_revision_is_rolled_back(outcome: Outcome) -> None:
    assert set(outcome.traffic.by_version) == {"1", "2"}
    results = [(entry["version"], entry["result"]) for entry in outcome.history]
    assert results == [("2", "RolledBack"), ("3", "RolledBack"), ("2", "Promoted"), ("1", "Promoted")]  # newest first


def test_mlflow_says_what_serves(outcome: Outcome) -> None:
    assert outcome.standing["aliases"]["champion"] == "2"
    assert "canary" not in outcome.standing["aliases"]
    assert outcome.standing["stages"]["2"] == "Production"
