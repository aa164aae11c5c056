"""No more rollouts at one time than the operator's limit, whoever comes first, and across a restart; on the operator's own loop."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.faults.stories import STRATEGY, register
from tests.faults.views import Operator, Play
from tests.operator.world import defaulted

NAMES = ("a", "b", "c", "d")
_STEPS = 400


async def served(play: Play, *, restarts: bool) -> tuple[list[int], set[str]]:
    """Rolls version 2 out to all releases. Returns how many were on trial after each step, and what those that waited said."""
    rolling, said = [], set()
    await play.operator.start()
    for step in range(_STEPS):
        if step and step % 7 == 0 and restarts:
            play.operator = Operator(play, None)
            await play.operator.start()
        play.operator.hear(len(play.cluster.log))
        for name in NAMES:
            await play.operator.reconciler.reconcile(("default", name))
            play.operator.hear(len(play.cluster.log))
        play.cluster.settle()
        play.cluster.now += timedelta(seconds=5)
        now = [release.get("status") or {} for release in play.cluster.of("modelreleases")]
        rolling.append(sum("canary" in each for each in now))
        said |= {each["message"] for each in now if "waits for" in each.get("message", "")}
        versions = [each.get("stable", {}).get("version") for each in now]
        if versions == ["1"] * len(NAMES) and not rolling[-1] and len(play.mlflow.tags) == 1:
            register(play)
        if versions == ["2"] * len(NAMES) and not rolling[-1]:
            return rolling, said
    raise AssertionError(f"not within {_STEPS} steps: {versions}")


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("limit", [1, 3])
def test_so_many_rollouts_as_the_limit_says_and_all_have_their_turn(limit: int, restarts: bool) -> None:
    play = Play(limit=limit)
    register(play)
    spec: dict[str, Any] = {"model": {"name": "m", "alias": "challenger"}, "replicas": 2, "strategy": STRATEGY}
    for name in NAMES:
        release = {
            "apiVersion": "serinus.dev/v1alpha1",
            "kind": "ModelRelease",
            "metadata": {},
            "spec": defaulted(spec),
        }
        play.cluster.put(("modelreleases", "default", name), release)
    rolling, said = asyncio.run(served(play, restarts=restarts))
    assert max(rolling) == limit
    wanted = f"waits for one of {limit} rollouts that are in progress to end (the operator's limit is {limit})"
    assert any(wanted in each for each in said)
