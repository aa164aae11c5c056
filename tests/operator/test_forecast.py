"""`kubectl modelrelease plan`: what it reads, and what it warns of."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tests.operator.world import spec

from serinus_operator.cli.__main__ import cli
from serinus_operator.cli.files import read_spec
from serinus_operator.cli.traffic_log import read_log, read_traffic
from serinus_operator.durations import parse_duration
from serinus_operator.forecast import forecast
from serinus_operator.rehearsal import BOUNDS, Latencies, Traffic
from serinus_operator.spec import (
    ConfidenceGate,
    ErrorRateGate,
    Gate,
    Gateway,
    LatencyGate,
    OnSpaceChange,
    SetWeight,
    Spec,
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "modelrelease.yaml"


def example(*, interval: timedelta = timedelta(seconds=10)) -> Spec:
    """The example. Each window is judged as it would be: longer ones are fewer, where their length is not what is tested."""
    chosen = read_spec(EXAMPLE)
    return replace(chosen, analysis=replace(chosen.analysis, interval=interval))


@pytest.fixture
def coarse(tmp_path: Path) -> str:
    """The example's file with windows of a minute."""
    path = tmp_path / "coarse.yaml"
    path.write_text(EXAMPLE.read_text().replace("interval: 10s", "interval: 1m"))
    return str(path)


def test_enough_traffic_gives_no_problem_and_few_wrong_decisions() -> None:
    found = forecast(example(), Traffic(200), errors=0.01, trials=12)
    assert found.problems == ()
    assert found.false_rollback <= 1 / 12
    assert found.missed <= 0.5
    assert [step.label for step in found.steps][:3] == ["verify", "setWeight 25", "analysis 1m"]
    assert found.steps[1].achieved_percent == 25.0


def test_a_weight_that_few_replicas_cannot_give_is_a_problem() -> None:
    chosen = example()
    steps = (SetWeight(5), *chosen.strategy.steps[2:])
    found = forecast(
        replace(chosen, strategy=replace(chosen.strategy, steps=steps)), Traffic(200), errors=0.01, trials=10
    )
    assert found.problems == ("setWeight 5: 5 % of 4 replicas is 1 replica: 25 %",)


def test_a_gateway_gives_every_weight() -> None:
    chosen = example()
    strategy = replace(
        chosen.strategy, steps=(SetWeight(5), *chosen.strategy.steps[2:]), gateway=Gateway(({"name": "g"},))
    )
    found = forecast(replace(chosen, strategy=strategy), Traffic(200), errors=0.01, trials=10)
    assert found.problems == ()
    assert found.steps[0].achieved_percent == 5.0


def test_too_little_traffic_is_a_problem_and_the_time_it_would_need_is_said() -> None:
    found = forecast(example(interval=timedelta(minutes=1)), Traffic(2), errors=0.01, trials=10)
    problem = next(each for each in found.problems if each.startswith("analysis 1m: needs"))
    told = re.fullmatch(r"analysis 1m: needs (\S+) at 2 requests/s, and is given 31m; more weight, .*", problem)
    assert told is not None
    assert timedelta(minutes=31) < parse_duration(told[1], "") < timedelta(hours=2)
    hopeless = forecast(example(interval=timedelta(minutes=1)), Traffic(0.02), errors=0.01, trials=3)
    assert "needs more than 16h40m at 0.02 requests/s" in hopeless.problems[0]


def test_each_step_tells_the_evidence_that_twice_the_errors_would_have_gathered() -> None:
    found = forecast(example(interval=timedelta(minutes=1)), Traffic(30), errors=0.05, trials=10)
    judged = [step for step in found.steps if step.evidence is not None]
    assert [step.label for step in judged] == ["analysis 1m", "analysis 1m"]
    shares = [step.found or 0.0 for step in judged]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1 - found.missed)
    assert all(0 < (step.evidence or 0) <= 1 for step in judged)


LATENCIES = Latencies(tuple(min(1.0, bound / 0.03) for bound in BOUNDS), 0.015, 0.009)  # evenly from 0 to 30 ms


def test_latencies_and_confidence_are_simulated_where_they_are_known() -> None:
    found = forecast(example(), Traffic(100, LATENCIES, 2.0, 0.9), errors=0.01, trials=10)
    assert (found.gates, found.problems) == (("errors", "latency", "confidence"), ())
    assert found.false_rollback == 0
    assert forecast(example(), Traffic(100), errors=0.01, trials=10).gates == ("errors",)


def test_a_limit_that_the_log_itself_breaks_is_a_problem() -> None:
    gates = (
        Gate("errors", ErrorRateGate(), dry_run=False),
        Gate("latency", LatencyGate(timedelta(milliseconds=10)), dry_run=False),
        Gate("confidence", ConfidenceGate(0.95), dry_run=False),
    )
    chosen = example()
    chosen = replace(chosen, analysis=replace(chosen.analysis, gates=gates, inconclusive_after=timedelta(0)))
    found = forecast(chosen, Traffic(100, LATENCIES, 1.0, 0.9), errors=0.01, trials=10)
    assert found.problems[:2] == (
        "gate latency: the log's mean latency is 15 ms, maxMean is 10ms",
        "gate confidence: the log's mean confidence is 0.90, minMean is 0.95",
    )


@pytest.mark.parametrize(
    ("retention", "until"),
    [
        (timedelta(hours=24), "until no request has pinned the former space for 24h"),
        (timedelta(0), "until it is promoted"),
    ],
)
def test_spaces_kept_apart_need_twice_the_replicas(retention: timedelta, until: str) -> None:
    chosen = example()
    assert forecast(chosen, Traffic(200), errors=0.01, trials=1).notes == ()
    strategy = replace(chosen.strategy, on_space_change=OnSpaceChange.PINNED, space_retention=retention)
    (note,) = forecast(replace(chosen, strategy=strategy), Traffic(200), errors=0.01, trials=1).notes
    assert (
        note == f"onSpaceChange is Pinned: a version of another space needs twice the replicas, 8 pods for 4, {until}"
    )


def test_gates_that_cannot_be_simulated_are_said() -> None:
    with pytest.raises(ValueError, match="no errorRate gate"):
        forecast(replace(spec(), analysis=replace(spec().analysis, gates=())), Traffic(50), 0.01, 10)


def test_the_command_prints_the_steps_and_exits_1_on_a_problem(coarse: str) -> None:
    run = CliRunner().invoke(cli, ["plan", coarse, "--trials", "10", "--rate", "0.5"])
    assert run.exit_code == 1
    assert "setWeight 25" in run.output
    assert "problem" in run.output


def test_the_command_says_what_room_spaces_kept_apart_need(tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(EXAMPLE.read_text().replace("  strategy:\n", "  strategy:\n    onSpaceChange: Pinned\n"))
    run = CliRunner().invoke(cli, ["plan", str(path), "--trials", "10", "--rate", "200"])
    assert (
        "note  onSpaceChange is Pinned: a version of another space needs twice the replicas, 8 pods for 4" in run.output
    )


def rows(count: int, *, release: str = "a", every: float = 0.05) -> str:
    """Requests of two texts each, 20 a second, of 10 to 29 ms."""
    start = datetime(2026, 1, 1)  # the log's times are UTC without saying so
    lines = []
    for index in range(count):
        ts = (start + timedelta(seconds=index * every)).isoformat(sep=" ", timespec="milliseconds")
        row = {"ts": ts, "release": release, "request": index, "latency_us": 10_000 + 1000 * (index % 20)}
        lines += [json.dumps({**row, "item": item, "confidence": 52_428 + 13_107 * item}) for item in (0, 1)]
    return "\n".join(lines) + "\n"


def test_rate_latencies_and_confidence_come_from_a_prediction_log(tmp_path: Path, coarse: str) -> None:
    log = tmp_path / "predictions.jsonl"
    log.write_text(rows(401) + rows(50, release="b"))
    command = ["plan", coarse, "--trials", "10", "--release", "a", "--from-log"]
    for run in (
        CliRunner().invoke(cli, [*command, str(log)]),
        CliRunner().invoke(cli, [*command, f"jsonl:{log}"]),
        CliRunner().invoke(cli, [*command, "-"], input=rows(401)),
    ):
        assert run.exit_code in (0, 1), run.output
        first, *rest = run.output.splitlines()
        assert first == "20.1 requests/s: 401 in 20 s of the log, 19.5 ms on the mean, confidence 0.900"
        assert any("simulated: gates errors, latency, confidence" in line for line in rest)


def test_what_chdb_sums_up_is_what_the_lines_say(tmp_path: Path) -> None:
    from serinus_server.prediction_log.sinks import open_sink, parse_target

    folder = tmp_path / "log"
    sink = open_sink(parse_target(f"chdb:{folder}"), 3_650)
    sink.insert((rows(200) + rows(100, release="b")).encode(), "token")
    sink.close()
    lines = read_traffic(rows(200).splitlines(), None)
    for source in (str(folder), f"chdb:{folder}"):
        found = read_log(source, "a")
        assert (found.requests, found.texts, found.within) == (lines.requests, lines.texts, lines.within)
        assert found.seconds == pytest.approx(lines.seconds)
        assert found.traffic.latencies is not None
        assert lines.traffic.latencies is not None
        assert found.traffic.latencies.mean == pytest.approx(lines.traffic.latencies.mean)
        assert found.traffic.latencies.deviation == pytest.approx(lines.traffic.latencies.deviation, rel=1e-6)
        assert found.traffic.confidence == pytest.approx(0.9, abs=1e-4)
    assert lines.traffic.latencies is not None
    shares = dict(zip(BOUNDS, lines.traffic.latencies.within, strict=True))
    assert (shares[0.010], shares[0.020], shares[0.050], shares[1.1]) == (0.05, 0.55, 1.0, 1.0)
    with pytest.raises(click.ClickException, match=r"several releases \(a, b\)"):
        read_log(str(folder), None)


def test_a_clickhouse_that_does_not_answer_is_one_sentence_without_its_password() -> None:
    log = "clickhouse://reader:secret@127.0.0.1:9/logs"
    run = CliRunner().invoke(cli, ["plan", str(EXAMPLE), "--from-log", log])
    assert run.exit_code == 1
    assert "ClickHouse" in run.output
    assert "secret" not in run.output


@pytest.mark.parametrize(
    ("log", "named"),
    [
        ("{", "line 1 of the log is no JSON"),
        ("[]", "line 1 of the log is no row, but a list"),
        ('{"ts": 1767225600, "latency_us": "fast"}', "line 1 of the log has a field that is no number"),
        ('{"ts": "soon"}', "line 1 of the log has no time in ts: 'soon'"),
        ("", "0 requests; two at different times are needed"),
        (rows(1), "1 requests; two"),
        (rows(5) + rows(5, release="b"), "several releases (a, b); name one with --release"),
    ],
)
def test_a_log_that_tells_no_rate_is_refused_in_one_sentence(log: str, named: str) -> None:
    run = CliRunner().invoke(cli, ["plan", str(EXAMPLE), "--from-log", "-"], input=log)
    assert run.exit_code == 1
    assert named in run.output
    both = CliRunner().invoke(cli, ["plan", str(EXAMPLE), "--from-log", "-", "--rate", "5"], input=log)
    assert (both.exit_code, "exclude each other" in both.output) == (2, True)


@pytest.mark.parametrize(
    "ts",
    [
        1767225600.5,
        1767225600500,
        "2026-01-01T00:00:00.500Z",
        "2026-01-01 00:00:00.500",
        "2026-01-01T01:00:00.500+01:00",
    ],
)
def test_times_of_the_log_are_read_in_every_form_in_use(ts: object) -> None:
    line = json.dumps({"ts": ts})
    assert read_traffic([json.dumps({"ts": "2026-01-01T00:00:00Z"}), line], None).seconds == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kind: Pod", "a ModelRelease of serinus.dev is needed, Pod is there"),
        ("a: [", "is no YAML"),
        (EXAMPLE.read_text().replace("maxSurge", "maxSurges"), "spec.strategy.maxSurges: no such field"),
        (EXAMPLE.read_text().replace("drain: 10s", "drain: soon"), "spec.serving.drain: 'soon' does not match"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence_that_names_the_field(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(text)
    with pytest.raises(click.ClickException) as raised:
        read_spec(path)
    assert named in raised.value.message
