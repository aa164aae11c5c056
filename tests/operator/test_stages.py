"""The table of stages: the README shows it, every way in it is gone, and no other way can be."""

from __future__ import annotations

import pytest
from tests.operator import test_crashes
from tests.operator.world import START, World

from serinus_operator.rollout.model import Canary, Result, Status
from serinus_operator.rollout.stages import TRANSITIONS, IllegalTransition, Stage, require_legal, stage_of


def test_a_way_that_is_not_in_the_table_is_refused() -> None:
    canary = Canary("revision", "1", "digest", "space", started_at=START, ending=Result.ABORTED)
    with pytest.raises(IllegalTransition, match="Rest → Withdraw"):
        require_legal(Status(), Status(canary=canary))


def test_every_way_in_the_table_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    gone: set[tuple[Stage, Stage]] = set()

    class Watched(World):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "status" and hasattr(self, "status") and isinstance(value, Status):
                gone.add((stage_of(self.status), stage_of(value)))
            super().__setattr__(name, value)

    monkeypatch.setattr(test_crashes, "World", Watched)
    bakes, another = test_crashes.WORKLOADS["an undo while baking"], test_crashes.alias("3")
    superseded = test_crashes.Workload(
        [test_crashes.TO_2, test_crashes.Happening(test_crashes.bakes, another)], bakes.strategy
    )
    for workload in (
        test_crashes.WORKLOADS["a promotion that bakes"], bakes, superseded, test_crashes.WORKLOADS["a gate that fails"],
    ):  # fmt: skip
        test_crashes.play(workload)
    assert {(each.source, each.target) for each in TRANSITIONS} <= gone
