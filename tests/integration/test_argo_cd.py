"""What Argo CD makes of a release: the how-to's script in Argo CD's own Lua, on statuses that the operator's decisions made."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster import binaries
from tests.operator.world import START, World, challenged, released, spec

from serinus_operator import reconcile, status_codec
from serinus_operator.gates.judge import Verdict
from serinus_operator.rollout.model import Status
from serinus_operator.rollout.observed import Unresolved

pytestmark = pytest.mark.integration

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "argo-cd.md"
KEY = "resource.customizations.health.serinus.dev_ModelRelease"


def asked(releases: Sequence[dict[str, Any]], tmp_path: Path) -> list[tuple[str, str]]:
    """Health and message of each, as the how-to's script says."""
    (block,) = re.findall(r"```yaml\n(data:.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    script = yaml.safe_load(block)["data"][KEY]
    program = f"local function health(obj)\n{script}\nend\n"
    for each in releases:
        program += f'local it = health({_lua(each)})\nprint(it.status .. "\\t" .. it.message)\n'
    path = tmp_path / "health.lua"
    path.write_text(program)
    done = subprocess.run([binaries.glua(), path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [(line.partition("\t")[0], line.partition("\t")[2]) for line in done.stdout.splitlines()]


def release(status: Status | None, generation: int = 1) -> dict[str, Any]:
    written = {} if status is None else {"status": status_codec.encode(status)}
    return {"metadata": {"name": "release", "generation": generation}, **written}


def refused_by_verify() -> World:
    world = challenged()
    world.verify_passes = False
    return world.run(20)


def waiting_for_a_person() -> World:
    world = challenged()
    world.spec = spec(strategy={"steps": [{"setWeight": 50}, {"pause": {}}]})
    return world.run(20)


def judged_without_an_end() -> World:
    world = challenged()
    world.verdict = Verdict.INCONCLUSIVE
    return world.run(20)


def without_its_registry() -> World:
    return World(resolution=Unresolved("RegistryUnavailable", "no answer")).run(2)


WORLDS: dict[str, tuple[Callable[[], World], str]] = {
    "at rest": (released, "Healthy"),
    "rolling": (judged_without_an_end, "Progressing"),
    "waiting for a person": (waiting_for_a_person, "Suspended"),
    "refused by verify": (refused_by_verify, "Degraded"),
    "without its registry": (without_its_registry, "Degraded"),
}


def test_argo_cd_shows_each_phase_as_what_it_is(tmp_path: Path) -> None:
    worlds = {name: made() for name, (made, _) in WORLDS.items()}
    found = asked([release(world.status) for world in worlds.values()], tmp_path)
    assert dict(zip(WORLDS, (health for health, _ in found), strict=True)) == {
        name: health for name, (_, health) in WORLDS.items()
    }
    assert [message for _, message in found] == [world.status.message for world in worlds.values()]


def test_argo_cd_waits_for_an_operator_that_has_not_looked_yet(tmp_path: Path) -> None:
    """A spec just written; one that was edited a moment ago; and one that the operator has looked at and cannot act on."""
    of = {"metadata": {"generation": 2}}
    invalid = reconcile._stalled(released().status, "InvalidSpec", "spec.strategy: no", of, START)
    edited = release(released().status, generation=2)
    found = asked([release(None), edited, release(invalid, generation=2)], tmp_path)
    assert found == [("Progressing", "waiting for the operator")] * 2 + [("Degraded", "spec.strategy: no")]


def _lua(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"[{_lua(name)}] = {_lua(each)}" for name, each in value.items()) + "}"
        case list():
            return "{" + ", ".join(_lua(each) for each in value) + "}"
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\{byte:03d}" for byte in value.encode()) + '"'
        case _:
            return repr(value)
