"""What the operator leans on is away or wrong for five minutes, at several moments of six stories: it ends as if nothing had been.

In memory, on the operator's own loop: time is the play's, so that five minutes take none. `docs/reliability.md` names the tests of the same
outages with real parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from tests.faults.cluster import pods
from tests.faults.stories import REPLICAS, STORIES, Story, begun, end, rests, status
from tests.faults.views import Fault, Operator, Play

from serinus_operator.errors import Forbidden, Unauthorized, Unavailable

pytestmark = pytest.mark.long

_STEPS = 90  # beside those of the outage
_ALIAS_MOVES_AGAIN = ("another target in the middle", "a return to stable")
_LASTS = 60  # steps of five seconds
_MOMENTS = (
    3,
    9,
    16,
    24,
)  # steps of the play: before it serves, as the canary starts, while it is judged, while it is promoted


def api_server_goes(play: Play) -> None:
    play.cluster.away = play.blind = True


def api_server_comes(play: Play) -> None:
    play.cluster.away = play.blind = False


def mlflow_is_down(play: Play) -> None:
    play.mlflow.refusal = Unavailable("MLflow did not answer within 15 s")


def mlflow_knows_us_no_more(play: Play) -> None:
    play.mlflow.refusal = Unauthorized("MLflow does not accept the operator's credentials (401)")


def mlflow_fails_at_writes(play: Play) -> None:
    play.mlflow.read_only = Unavailable("MLflow failed (500 database is locked)")


def mlflow_allows_no_writes(play: Play) -> None:
    play.mlflow.read_only = Forbidden("MLflow does not allow it to the operator's user (403); give that user EDIT")


def mlflow_is_back(play: Play) -> None:
    play.mlflow.refusal = play.mlflow.read_only = None


def prometheus_is_down(play: Play) -> None:
    play.measured.down = True


def prometheus_is_back(play: Play) -> None:
    play.measured.down = False


def prometheus_says_nan(play: Play) -> None:
    play.measured.claim = lambda series, at: "NaN"


def prometheus_counts_from_zero(play: Play) -> None:
    """Every server has started its counters anew."""
    began = play.cluster.now.timestamp()
    play.measured.claim = lambda series, at: str(
        max(0.0, at - began) * play.measured.requests_per_second if float(series) else 0.0
    )


def prometheus_says_the_truth(play: Play) -> None:
    play.measured.claim = None


def clock_goes(minutes: int) -> Callable[[Play], None]:
    def go(play: Play) -> None:
        play.skew = timedelta(minutes=minutes)

    return go


def clock_is_right(play: Play) -> None:
    play.skew = timedelta()


def node_is_lost(play: Play) -> None:
    """Every second pod is gone at once."""
    for name in [each for each in play.cluster.objects if each[0] == "pods"][::2]:
        play.cluster.drop(name)


def nothing(play: Play) -> None:
    pass


@dataclass(frozen=True)
class Outage:
    """What begins and what ends it; `second` lets another operator lead beside the first meanwhile, `steps` long."""

    begin: Callable[[Play], None] = nothing
    over: Callable[[Play], None] = nothing
    steps: int = _LASTS
    second: bool = False
    takes_pods: bool = False
    deaf: bool = False  # to where the alias goes meanwhile: what it named in between may be promoted or pass by unseen


OUTAGES = {
    "the API server is away": Outage(api_server_goes, api_server_comes),
    "MLflow is down": Outage(mlflow_is_down, mlflow_is_back, deaf=True),
    "MLflow answers 401": Outage(mlflow_knows_us_no_more, mlflow_is_back, deaf=True),
    "MLflow fails at writes": Outage(mlflow_fails_at_writes, mlflow_is_back),
    "MLflow allows no writes": Outage(mlflow_allows_no_writes, mlflow_is_back),
    "Prometheus is down": Outage(prometheus_is_down, prometheus_is_back),
    "Prometheus says NaN": Outage(prometheus_says_nan, prometheus_says_the_truth),
    "the clock is five minutes ahead": Outage(clock_goes(5), clock_is_right),
    "the clock is five minutes behind": Outage(clock_goes(-5), clock_is_right),
    "a node is lost": Outage(node_is_lost, steps=1, takes_pods=True),
    "two lead for half a minute": Outage(second=True, steps=6),
}


async def played(story: Story, outage: Outage | None, moment: int) -> Play:
    play, waiting = await begun(story, Fault())
    served, second = False, None
    for step in range(_STEPS + (outage.steps if outage else 0)):
        if outage is not None and step == moment:
            outage.begin(play)
            if outage.second:
                second = Operator(play, None)
                await second.start()
        if outage is not None and step == moment + outage.steps:
            outage.over(play)
            second = None
        if waiting and not play.cluster.away and waiting[0][0](play):
            waiting.pop(0)[1](play)
        if second is not None:
            second.hear(len(play.cluster.log))
            await second.look()
        await play.step()
        served = served or rests(play)
        if served and not (outage and outage.takes_pods):
            assert len(pods(play.cluster, ready=True)) >= REPLICAS, "lost capacity"
    assert not waiting
    return play


def ended(story: Story, outage: Outage | None, moment: int = 0) -> dict[str, Any]:
    return end(asyncio.run(played(story, outage, moment)))


@cache
def undisturbed(story: str) -> dict[str, Any]:
    return ended(STORIES[story], None)


@pytest.mark.parametrize("name", OUTAGES)
@pytest.mark.parametrize("story", STORIES)
def test_it_ends_as_if_nothing_had_been(story: str, name: str) -> None:
    outage, wanted = OUTAGES[name], undisturbed(story)
    told = ("history", "tags") if outage.deaf and story in _ALIAS_MOVES_AGAIN else ()
    for moment in _MOMENTS:
        found = ended(STORIES[story], outage, moment)
        for each in wanted.keys() - told:
            assert found[each] == wanted[each], f"{name} from step {moment}: {each}"


@pytest.mark.parametrize(
    ("outage", "reason", "told"),
    [
        (mlflow_fails_at_writes, "RegistryUnavailable", "database is locked"),
        (mlflow_allows_no_writes, "RegistryForbidden", "give that user EDIT"),
    ],
)
def test_a_registry_that_takes_no_writes_holds_no_rollout_up_and_is_a_condition_that_says_what_to_do(
    outage: Callable[[Play], None], reason: str, told: str
) -> None:
    play = asyncio.run(played(STORIES["a promotion"], Outage(outage, steps=100), 9))
    shown = status(play)
    assert shown["stable"]["version"] == "2"
    assert play.mlflow.tags["2"]["serinus.result"] == "Canary"  # as far as it was told before
    condition = next(each for each in shown["conditions"] if each["type"] == "RegistrySynced")
    assert (condition["status"], condition["reason"]) == ("False", reason)
    assert told in condition["message"]
    assert condition["message"].endswith("what serves goes on serving")


@pytest.mark.parametrize("lie", [prometheus_says_nan, prometheus_counts_from_zero])
def test_a_prometheus_that_lies_to_the_end_promotes_nothing_that_is_slow(lie: Callable[[Play], None]) -> None:
    play = asyncio.run(played(STORIES["a slow canary"], Outage(lie, steps=100), 16))
    assert play.cluster.of("modelreleases")[0]["status"]["stable"]["version"] == "1"
