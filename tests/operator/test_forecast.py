"""`kubectl modelrelease plan`: what it reads, and what it warns of."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tests.operator.world import spec

from serinus_operator.cli.__main__ import cli
from serinus_operator.cli.files import read_spec
from serinus_operator.cli.traffic_log import read_traffic
from serinus_operator.forecast import forecast
from serinus_operator.spec import SetWeight, Spec

EXAMPLE = Path(__file__).parents[2] / "examples" / "modelrelease.yaml"


def example(replicas: int = 4) -> Spec:
    return replace(read_spec(EXAMPLE), replicas=replicas)


def test_enough_traffic_gives_no_problem_and_few_wrong_decisions() -> None:
    found = forecast(example(), rate=200, errors=0.01, trials=12)
    assert found.problems == ()
    assert found.false_rollback <= 1 / 12
    assert found.missed <= 0.5
    assert [step.label for step in found.steps][:3] == ["verify", "setWeight 25", "analysis 1m"]
    assert found.steps[1].achieved_percent == 25.0


def test_a_weight_that_few_replicas_cannot_give_is_a_problem() -> None:
    chosen = example()
    steps = (SetWeight(5), *chosen.strategy.steps[2:])
    found = forecast(replace(chosen, strategy=replace(chosen.strategy, steps=steps)), rate=200, errors=0.01, trials=10)
    assert found.problems == ("setWeight 5: 5 % of 4 replicas is 1 replica: 25 %",)


def test_too_little_traffic_is_a_problem() -> None:
    found = forecast(example(), rate=0.5, errors=0.01, trials=10)
    assert "at 0.5 requests/s; more weight, time or traffic is needed" in found.problems[0]


def test_gates_that_cannot_be_simulated_are_said() -> None:
    with pytest.raises(ValueError, match="no errorRate gate"):
        forecast(replace(spec(), analysis=replace(spec().analysis, gates=())), 50, 0.01, 10)


def test_the_command_prints_the_steps_and_exits_1_on_a_problem() -> None:
    run = CliRunner().invoke(cli, ["plan", str(EXAMPLE), "--trials", "10", "--rate", "0.5"])
    assert run.exit_code == 1
    assert "setWeight 25" in run.output
    assert "problem" in run.output


def rows(count: int, *, release: str = "a", every: float = 0.05) -> str:
    """Requests of two texts each, 20 a second."""
    start = datetime(2026, 1, 1)  # the log's times are UTC without saying so
    lines = []
    for index in range(count):
        ts = (start + timedelta(seconds=index * every)).isoformat(sep=" ", timespec="milliseconds")
        lines += [json.dumps({"ts": ts, "release": release, "request": index, "item": item}) for item in (0, 1)]
    return "\n".join(lines) + "\n"


def test_the_rate_comes_from_a_prediction_log(tmp_path: Path) -> None:
    log = tmp_path / "predictions.jsonl"
    log.write_text(rows(401) + rows(50, release="b"))
    command = ["plan", str(EXAMPLE), "--trials", "10", "--release", "a", "--from-log"]
    for run in (
        CliRunner().invoke(cli, [*command, str(log)]),
        CliRunner().invoke(cli, [*command, "-"], input=rows(401)),
    ):
        assert run.exit_code in (0, 1), run.output
        assert run.output.startswith("20.1 requests/s: 401 in 20 s of the log\n")


@pytest.mark.parametrize(
    ("log", "named"),
    [
        ("{", "line 1 of the log is no JSON"),
        ("[]", "line 1 of the log is no row, but a list"),
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
