"""`kubectl modelrelease plan`: what it reads, and what it warns of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tests.operator.world import spec

from serinus_operator.cli.__main__ import cli
from serinus_operator.cli.files import read_spec
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
