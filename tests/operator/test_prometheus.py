"""What Prometheus may do to us: every answer is a named verdict, never a traceback, never a promotion. Prometheus stands in at the wire."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from tests.operator.stand_in import AT, RELEASE, StandIn, counted, error, of, one, read, vector

from serinus_operator.errors import Unavailable
from serinus_operator.gates.judge import Evidence, Verdict, judge, overall, verdicts
from serinus_operator.gates.queries import Measurement, Said, fill_in
from serinus_operator.gates.windows import Window, subtract
from serinus_operator.prometheus import Prometheus
from serinus_operator.promql import Queries
from serinus_operator.spec import AnalysisSpec, Gate, InconclusiveAction, LatencyGate, PromQLGate

ANSWERS: dict[str, tuple[int, str, Said, str]] = {
    "a number": (200, vector(one("0.5")), Said.NUMBER, ""),
    "a scalar": (200, of("scalar", [AT.timestamp(), "0.5"]), Said.NUMBER, ""),
    "nothing": (200, vector(), Said.NOTHING, "no series"),
    "NaN": (200, vector(one("NaN")), Said.NOTHING, "0/0"),
    "infinity": (200, vector(one("+Inf")), Said.INFINITE, "division by zero"),
    "several series": (200, vector(one("1", pod="a"), one("2", pod="b")), Said.UNREADABLE, "several series"),
    "several of more": (200, vector(one("1"), one("2"), warnings=["cut"]), Said.UNREADABLE, "several series"),
    "a string": (200, of("string", [AT.timestamp(), "x"]), Said.UNREADABLE, "gives a string"),
    "a range": (200, of("matrix", []), Said.UNREADABLE, "gives a matrix"),
    "a histogram": (200, vector({"metric": {}, "histogram": [0, {}]}), Said.UNREADABLE, "gives a histogram"),
    "a parse error": (400, error("bad_data", "1:5: parse error: unclosed"), Said.UNREADABLE, "parse error: unclosed"),
    "too many samples": (422, error("execution", "query processing would load too many"), Said.UNREADABLE, "too many"),
    "a warning": (200, vector(one("1"), warnings=["a store is down"]), Said.UNREADABLE, "not whole: a store is down"),
    "503": (503, "Service Unavailable", Said.UNREADABLE, "answers 503"),
    "a page": (200, "<html>", Said.UNREADABLE, "no JSON"),
    "a list": (200, "[]", Said.UNREADABLE, "no answer of Prometheus"),
    "no data": (200, '{"status": "success"}', Said.UNREADABLE, "no answer of Prometheus"),
    "too much": (200, " " * 1_100_000, Said.UNREADABLE, "bytes"),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_every_answer_to_a_users_query_has_a_name(stand_in: StandIn, case: str) -> None:
    status, body, said, problem = ANSWERS[case]
    stand_in.answer = lambda _: (status, body)
    measured = await Queries(stand_in.url).measure("up", "default", AT)
    assert measured.said is said
    assert problem in measured.problem
    assert measured.value == (0.5 if said is Said.NUMBER else 0.0)


async def test_a_users_query_is_bounded_and_names_its_namespace(stand_in: StandIn) -> None:
    await Queries(stand_in.url).measure("up", "team-a", AT)
    asked = stand_in.asked[0]
    assert (asked["namespace"], asked["timeout"], asked["limit"]) == ("team-a", "10s", "2")
    assert float(asked["time"]) == AT.timestamp()


async def test_a_slow_answer_ends_at_its_deadline_and_a_refused_connection_has_a_name(stand_in: StandIn) -> None:
    stand_in.seconds = 1.0
    began = time.monotonic()
    slow = await Queries(stand_in.url, seconds=0.2).measure("up", "default", AT)
    assert time.monotonic() - began < 0.8
    assert (slow.said, slow.problem) == (Said.UNREADABLE, "no answer within 0.2 s")
    stand_in.seconds, stand_in.trickles, began = 0.0, "body", time.monotonic()
    trickling = await Queries(stand_in.url, seconds=0.2).measure("up", "default", AT)
    assert time.monotonic() - began < 0.8
    assert (trickling.said, trickling.problem) == (Said.UNREADABLE, "no answer within 0.2 s")
    refused = await Queries("http://127.0.0.1:9").measure("up", "default", AT)
    assert refused.said is Said.UNREADABLE
    off = await Queries("off").measure("up", "default", AT)
    assert "switched promQL off" in off.problem


async def test_releases_that_are_behind_fall_into_step(
    stand_in: StandIn,
) -> None:
    """After a restart each of eight is elsewhere in its backlog of up to twelve windows: together they read each instant about once."""
    stand_in.answer = lambda _: (200, vector())
    reader = Prometheus(stand_in.url, 5)

    async def catch_up(first: int) -> None:
        for number in range(first, 12):
            await reader.snapshot(AT + number * timedelta(seconds=10))

    await asyncio.gather(*(catch_up(first) for first in reversed(range(8))))
    queries = len({asked["query"] for asked in stand_in.asked})
    assert len(stand_in.asked) <= 13 * queries


def promql(**changes: Any) -> AnalysisSpec:
    rule = PromQLGate(**{"query": "q", "least": None, "most": 0.02, **changes})
    gates = (Gate("mine", rule, dry_run=False),)
    return AnalysisSpec(timedelta(seconds=10), 0.05, 200, timedelta(minutes=30), InconclusiveAction.PAUSE, gates)


def looked(spec: AnalysisSpec, *said: Measurement) -> Evidence:
    evidence = Evidence("c", AT)
    for index, each in enumerate(said, start=1):
        end = AT + index * spec.interval
        evidence = judge(spec, evidence, Window(end - spec.interval, end, {}), "s", {"mine": each})
    return evidence


GOOD, BAD = Measurement(Said.NUMBER, 0.01), Measurement(Said.NUMBER, 0.5)
SILENT, BROKEN = Measurement(Said.NOTHING, problem="no series"), Measurement(Said.UNREADABLE, problem="parse error")


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ((), Verdict.ERROR),
        ((GOOD,), Verdict.PASS),
        ((BAD,), Verdict.INCONCLUSIVE),
        ((BAD, BAD, GOOD), Verdict.PASS),
        ((BAD, GOOD, BAD, GOOD, BAD), Verdict.FAIL),
        ((BAD, BAD, BAD, BROKEN), Verdict.FAIL),
        ((GOOD, SILENT), Verdict.NO_DATA),
        ((GOOD, BROKEN), Verdict.ERROR),
        ((BROKEN,) * 50, Verdict.ERROR),
        ((SILENT,) * 50, Verdict.NO_DATA),
        ((Measurement(Said.INFINITE, problem="inf"),) * 50, Verdict.INCONCLUSIVE),
    ],
)
def test_a_users_query_fails_by_its_numbers_alone_and_passes_by_its_last_one(
    said: tuple[Measurement, ...], verdict: Verdict
) -> None:
    found = verdicts(promql(), looked(promql(), *said))[0]
    assert found.verdict is verdict
    assert "carries no error probability" in found.message
    assert overall([found]) is verdict


def test_a_look_counts_once_and_survives_a_restart() -> None:
    from serinus_operator.rollout.model import Status
    from serinus_operator.status_codec import decode, encode

    evidence = looked(promql(), BAD, GOOD, BROKEN)
    assert decode(encode(Status(evidence=evidence))).evidence == evidence
    again = judge(promql(), evidence, Window(AT, evidence.window_end, {}), "s", {"mine": BAD})
    assert again is evidence


def test_both_bounds_hold_and_a_bound_itself_is_good() -> None:
    between = promql(least=0.5, most=1.0)
    for value, verdict in (
        (0.5, Verdict.PASS),
        (1.0, Verdict.PASS),
        (0.49, Verdict.INCONCLUSIVE),
        (1.01, Verdict.INCONCLUSIVE),
    ):
        evidence = looked(between, Measurement(Said.NUMBER, value))
        assert verdicts(between, evidence)[0].verdict is verdict


def test_names_are_filled_in() -> None:
    query = 'sum(x{namespace="{{ namespace }}", revision=~"{{ canary }}|{{ stable }}", app="{{ release }}"})'
    filled = fill_in(query, namespace="n", release="r", canary="c1", stable="s1")
    assert filled == 'sum(x{namespace="n", revision=~"c1|s1", app="r"})'


# --- the gates' own counters ------------------------------------------------------------------------------------------------------


BAD_ANSWERS = {
    "503": (503, "unavailable"),
    "an error": (422, error("timeout", "query timed out in expression evaluation")),
    "a warning": (200, vector(one("1"), warnings=["a store did not answer"])),
    "a page": (200, "<html>"),
    "a scalar": (200, of("scalar", [1.0, "1"])),
    "a list": (200, "[]"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
async def test_counters_that_are_not_whole_are_unavailable(stand_in: StandIn, case: str) -> None:
    stand_in.answer = lambda _: BAD_ANSWERS[case]
    with pytest.raises(Unavailable, match="Prometheus"):
        await Prometheus(stand_in.url, 5).snapshot(AT)


@pytest.mark.parametrize("slow", ["30 s", "each query", "head", "body"])
async def test_the_whole_snapshot_has_one_deadline_however_slowly_it_is_answered(stand_in: StandIn, slow: str) -> None:
    """Each byte, and each query, comes well within the time that all of them have together."""
    whole = counted("serinus_requests_total", c={"requests": 5.0})
    stand_in.answer = lambda _: (200, whole)
    stand_in.seconds = {"30 s": 30.0, "each query": 0.2}.get(slow, 0.0)
    stand_in.trickles = slow if slow in ("head", "body") else ""
    prometheus, began = Prometheus(stand_in.url, 0.5), time.monotonic()
    with pytest.raises(Unavailable, match=r"no whole answer within 0\.5 s"):
        await prometheus.snapshot(AT)
    assert time.monotonic() - began < 1.0
    stand_in.answer = lambda asked: (200, counted(asked["query"], c={"requests": 5.0}))
    stand_in.seconds, stand_in.trickles = 0.0, ""
    again = await prometheus.snapshot(AT)
    assert again[RELEASE]["c", "pod-c"].counters.requests == 5


async def test_absent_counters_are_unavailable() -> None:
    with pytest.raises(Unavailable):
        await Prometheus("http://127.0.0.1:9", 1).snapshot(AT)


async def test_one_query_a_counter_serves_all_releases_and_is_not_repeated(stand_in: StandIn) -> None:
    stand_in.answer = lambda asked: (200, counted(asked["query"], c={"requests": 5}))
    prometheus = Prometheus(stand_in.url, 5)
    first = await prometheus.snapshot(AT)
    asked = len(stand_in.asked)
    assert await prometheus.snapshot(AT) is first
    assert len(stand_in.asked) == asked == len({each["query"] for each in stand_in.asked})


async def test_what_is_no_count_is_left_out_whatever_a_pod_claims(stand_in: StandIn) -> None:
    claims = {"requests": float("nan"), "errors": -1.0, "seconds": float("inf"), "texts": 1e300, "ready": 1e20}
    reading = await read(stand_in, AT, c={**claims, "answered": 7.0})
    sample = reading["c", "pod-c"]
    assert (sample.counters.requests, sample.counters.errors, sample.counters.latency_count) == (0, 0, 7)
    assert sample.ready_at is None


async def test_counters_that_were_reset_start_at_zero(stand_in: StandIn) -> None:
    before = await read(stand_in, AT, c={"requests": 900.0, "errors": 40.0})
    after = await read(stand_in, AT, c={"requests": 30.0, "errors": 1.0})
    counts = subtract(AT, before, AT, after).of("c")
    assert (counts.requests, counts.errors) == (30, 1)


async def test_a_version_with_other_buckets_is_not_taken_for_a_slow_one(stand_in: StandIn) -> None:
    spec = promql()
    gates = (Gate("latency", LatencyGate(warm_up=timedelta()), dry_run=False),)
    spec = AnalysisSpec(spec.interval, 0.05, 20, spec.inconclusive_after, spec.inconclusive_action, gates)
    evidence, before = Evidence("c", AT), await read(stand_in, AT, c={}, s={})
    for index in range(1, 30):
        served = {"answered": 50.0 * index, "seconds": 0.5 * index, "requests": 50.0 * index}
        theirs = {name: 9 * value for name, value in served.items()}
        now = await read(stand_in, AT, c={**served, "own_buckets": 1.0}, s=theirs)
        end = AT + index * spec.interval
        evidence = judge(spec, evidence, subtract(end - spec.interval, before, end, now), "s")
        before = now
    verdict = verdicts(spec, evidence)[0]
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert "count by other bounds" in verdict.message


async def test_texts_count_for_drift_only_where_the_server_knows_a_band(stand_in: StandIn) -> None:
    old, new = {"texts": 100.0}, {"texts": 100.0, "inputs": 20.0, "embeddings": 0.0}
    reading = await read(stand_in, AT, c=old, s=new)
    assert reading["c", "pod-c"].counters.banded == 0
    assert reading["s", "pod-s"].counters.banded == 100
    assert reading["s", "pod-s"].counters.input_out_of_band == 20
