"""`lint` and the API server refuse the same things, by the same rules."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from tests.operator.specs import BAD, GOOD

from serinus_operator.cli.__main__ import cli
from serinus_operator.cli.files import problems

EXAMPLE = Path(__file__).parents[2] / "examples" / "modelrelease.yaml"
# What the API server says in its own words: of unknown fields, of forms, and of which field a list's entry repeats.
OUR_WORDS = {"typo": "spec.replica: no such field"}


@pytest.mark.parametrize("case", BAD)
def test_what_the_api_server_refuses_lint_refuses_too(case: str) -> None:
    release, expected = BAD[case]
    found = "\n".join(problems(release))
    assert OUR_WORDS.get(case, expected) in found


def test_every_problem_is_told_at_once_and_the_exit_status_says_so(tmp_path: Path) -> None:
    release = yaml.safe_load(EXAMPLE.read_text())
    release["spec"]["replica"] = 3
    release["spec"]["history"] = 0
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump_all([release, GOOD]))
    done = CliRunner().invoke(cli, ["lint", str(EXAMPLE), str(bad)])
    assert done.exit_code == 1
    assert f"{EXAMPLE}: defect-embedder: ok" in done.output
    assert "defect-embedder: spec.replica: no such field" in done.output
    assert "defect-embedder: spec.history: 0 is less than" in done.output
    assert f"{bad}: good: ok" in done.output


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", "is no YAML"), ("kind: Pod", "Pod is there"), ("", "nothing is there")]
)
def test_a_file_without_a_release_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    done = CliRunner().invoke(cli, ["lint", str(file)])
    assert (done.exit_code, said in done.output) == (1, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_completion_script_of_the_plugins_own_name(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0
    assert "kubectl-modelrelease" in done.output
