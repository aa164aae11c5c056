"""What the operator sees may be late, may have passed by, may be old after a restart: it ends as one that saw everything at once.

The faults of a watch that Sieve injects (Sun and others, OSDI 2022), on the operator's own loop in memory.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.faults.cluster import pods
from tests.faults.stories import REPLICAS, STORIES, Story, begun, end, rests
from tests.faults.views import Fault, Kind, Play

pytestmark = pytest.mark.long

STEPS = 110
PLANS = {Kind.LATE: 17, Kind.UNOBSERVED: 17, Kind.OLD_LIST: 7}  # for each story


async def played(story: Story, fault: Fault) -> Play:
    play, waiting = await begun(story, fault)
    served = False
    for _ in range(STEPS):
        if waiting and waiting[0][0](play):
            waiting.pop(0)[1](play)
        await play.step()
        served = served or rests(play)
        if served:
            assert len(pods(play.cluster, ready=True)) >= REPLICAS, "the floor"
    assert not waiting
    return play


def changes(story: Story) -> tuple[dict[str, Any], int]:
    """The end of the undisturbed run, and how many changes the cluster saw until it rested."""
    play = asyncio.run(played(story, Fault()))
    last = max(change.version for change in play.cluster.log if change.kind != "ModelRelease")
    return end(play), last


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("name", STORIES)
def test_what_is_seen_late_or_never_changes_nothing_in_the_end(name: str, kind: Kind) -> None:
    undisturbed, last = changes(STORIES[name])
    for number in range(PLANS[kind]):
        fault = Fault(kind, 1 + number * last // PLANS[kind])
        assert end(asyncio.run(played(STORIES[name], fault))) == undisturbed, fault


def test_there_are_more_than_100_late_and_100_unobserved_plans() -> None:
    assert all(len(STORIES) * PLANS[kind] > 100 for kind in (Kind.LATE, Kind.UNOBSERVED))
