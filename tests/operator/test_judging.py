"""Every window that has ended is judged, once and on its own, whatever the operator missed. Prometheus stands in at the wire."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.operator.stand_in import AT, RELEASE, StandIn, counted, one, vector

from serinus_operator.gates.judge import Evidence, Verdict, overall
from serinus_operator.judging import Judging, next_end
from serinus_operator.manifests import Release
from serinus_operator.prometheus import Prometheus
from serinus_operator.promql import Queries
from serinus_operator.rollout.capacity import Side
from serinus_operator.rollout.model import Canary, Revision, Status
from serinus_operator.rollout.observed import AnalysisResult, Observed, Resolved, Workload
from serinus_operator.spec import AnalysisSpec, ErrorRateGate, Gate, InconclusiveAction, LatencyGate, PromQLGate
from serinus_operator.status_codec import decode, encode

INTERVAL, LAG = timedelta(seconds=10), timedelta(seconds=10)
GATES = (
    Gate("errors", ErrorRateGate(), dry_run=False),
    Gate("latency", LatencyGate(warm_up=timedelta()), dry_run=False),
    Gate("mine", PromQLGate("mine", None, 0.5, failure_limit=1000), dry_run=False),
)
ANALYSIS = AnalysisSpec(INTERVAL, 0.05, 50, timedelta(minutes=30), InconclusiveAction.PAUSE, GATES)
OBSERVED = Observed(1, Resolved("2", "d", "s"), {"c": Workload(Side(1, 1, 1)), "s": Workload(Side(3, 3, 3))})
WINDOWS = 12


def begun() -> Status:
    stable = Revision("s", "1", "d", "space", 3)
    canary = Canary("c", "2", "d", "space", AT, verified=True)
    return Status(stable=stable, canary=canary, evidence=Evidence("c", AT))


def counters(at: datetime) -> tuple[dict[str, float], dict[str, float]]:
    """Of canary and stable: bursts of errors in some windows, so that each window says something else."""
    windows = (at - AT) / INTERVAL
    bursts = sum(9 for index in range(int(windows)) if index % 4 == 1)
    ours = {"requests": 50 * windows, "errors": bursts, "answered": 50 * windows - bursts, "seconds": windows}
    theirs = {"requests": 450 * windows, "errors": 3 * windows, "answered": 447 * windows, "seconds": 9 * windows}
    return ours, theirs


def answer(asked: dict[str, str]) -> tuple[int, str]:
    at = datetime.fromtimestamp(float(asked["time"]), UTC)
    if asked["query"] == "mine":
        return 200, vector(one("0.9" if int((at - AT) / INTERVAL) % 3 == 0 else "0.1"))
    ours, theirs = counters(at)
    return 200, counted(asked["query"], c=ours, s=theirs)


class Operator:
    """Judges one release; `status` is what it has stored, `now` what it says the time is."""

    def __init__(
        self, stand_in: StandIn, status: Status, seconds: float = 5.0, analysis: AnalysisSpec = ANALYSIS
    ) -> None:
        prometheus, queries = Prometheus(stand_in.url, seconds), Queries(stand_in.url, seconds)
        self.judging, self.status, self.analysis = Judging(prometheus, queries, LAG), status, analysis

    async def look(self, now: datetime) -> AnalysisResult:
        result, _ = await self.judging.look(self.analysis, self.status, OBSERVED, Release(*RELEASE, "uid"), now)
        self.status = replace(self.status, evidence=result.evidence, behaviour=result.behaviour, gates=result.gates)
        return result

    async def catch_up(self, now: datetime) -> AnalysisResult:
        """Looks for as long as another window can be read now."""
        for _ in range(1000):
            before, result = self.status.evidence, await self.look(now)
            if result.evidence == before:
                break
        return result


def after(windows: float) -> datetime:
    """When so many windows have ended and can be read."""
    return AT + windows * INTERVAL + LAG


async def never_away(stand_in: StandIn) -> Operator:
    stand_in.answer = answer
    operator = Operator(stand_in, begun())
    for index in range(1, WINDOWS + 1):
        await operator.look(after(index))
    return operator


async def test_an_operator_that_was_away_ends_with_the_evidence_of_one_that_was_not(stand_in: StandIn) -> None:
    present = await never_away(stand_in)
    absent = Operator(stand_in, begun())
    result = await absent.catch_up(after(WINDOWS))
    assert absent.status.evidence == present.status.evidence
    assert absent.status.behaviour == present.status.behaviour
    assert result.verdict is overall(present.status.gates)
    record = next(gate.record for gate in result.evidence.gates if gate.name == "mine") if result.evidence else None
    assert record is not None
    assert (record.looks, record.outside) == (WINDOWS, 4)


async def test_the_achieved_share_is_that_of_the_requests_that_the_servers_counted(stand_in: StandIn) -> None:
    """One ready pod of four, and a tenth of the requests."""
    stand_in.answer = answer
    operator = Operator(stand_in, begun())
    assert (await operator.look(AT)).achieved is None  # no window has ended: nothing is measured yet
    assert (await operator.look(after(1))).achieved == 10


@pytest.mark.parametrize("killed_at", [1, 4, 6, 11])
async def test_a_window_counts_once_wherever_the_operator_ends_and_whatever_it_had_stored(
    stand_in: StandIn, killed_at: int
) -> None:
    """What was stored last is up to three windows old when it ends; it is away for two more."""
    present = await never_away(stand_in)
    first = Operator(stand_in, begun())
    stored = first.status
    for index in range(1, killed_at + 1):
        await first.look(after(index))
        if index % 3 == 0:
            stored = first.status
    second = Operator(stand_in, decode(json.loads(json.dumps(encode(stored)))))
    await second.catch_up(after(min(WINDOWS, killed_at + 2)))
    await second.catch_up(after(WINDOWS))
    assert second.status.evidence == present.status.evidence


async def test_nothing_passes_while_later_windows_are_to_be_read(stand_in: StandIn) -> None:
    """A canary that would have passed when the operator went away, and then failed all requests."""
    good, bad = 20, 10

    def then_down(asked: dict[str, str]) -> tuple[int, str]:
        at = datetime.fromtimestamp(float(asked["time"]), UTC)
        ours, theirs = counters(at)
        down = max(0.0, (at - AT) / INTERVAL - good)
        return 200, counted(asked["query"], c={**ours, "errors": 50 * down}, s=theirs)

    stand_in.answer = then_down
    analysis = replace(ANALYSIS, gates=GATES[:1])
    present, absent = Operator(stand_in, begun(), analysis=analysis), Operator(stand_in, begun(), analysis=analysis)
    for index in range(1, good + 1):
        passing = await present.look(after(index))
    seen = [(await absent.look(after(good + bad))).verdict for _ in range(good + bad)]
    assert passing.verdict is Verdict.PASS
    assert Verdict.PASS not in seen
    assert seen[-1] is Verdict.FAIL


async def test_a_long_absence_is_one_longer_window_and_the_last_hour_window_by_window() -> None:
    hour, day = timedelta(hours=1), timedelta(days=1)
    assert next_end(AT, AT + hour, INTERVAL) == AT + INTERVAL
    assert next_end(AT, AT + day, INTERVAL) == AT + day - hour + INTERVAL
    assert next_end(AT + timedelta(seconds=3), AT + hour, INTERVAL) == AT + INTERVAL  # another interval than before


def _slowly(stand_in: StandIn) -> None:
    stand_in.seconds = 30.0


def _byte_by_byte(stand_in: StandIn) -> None:
    stand_in.trickles = "body"


def _unavailable(stand_in: StandIn) -> None:
    stand_in.answer = lambda _: (503, "unavailable")


def _in_part(stand_in: StandIn) -> None:
    stand_in.answer = lambda _: (200, vector(one("1"), warnings=["a store did not answer"]))


@pytest.mark.parametrize("broken", [_slowly, _byte_by_byte, _unavailable, _in_part])
async def test_a_prometheus_that_fails_gives_the_verdict_error_in_time_and_loses_no_window(
    stand_in: StandIn, broken: Callable[[StandIn], None]
) -> None:
    present = await never_away(stand_in)
    operator = Operator(stand_in, begun(), seconds=0.5)
    await operator.catch_up(after(5))
    broken(stand_in)
    began = time.monotonic()
    result = await operator.look(after(7))
    assert time.monotonic() - began < 1.0
    assert (result.verdict, {gate.verdict for gate in result.gates}) == (Verdict.ERROR, {Verdict.ERROR})
    assert all("Prometheus" in gate.message for gate in result.gates)
    stand_in.seconds, stand_in.trickles, stand_in.answer = 0.0, "", answer
    again = Operator(stand_in, operator.status)
    await again.catch_up(after(WINDOWS))
    assert again.status.evidence == present.status.evidence
