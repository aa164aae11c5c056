"""The API server itself refuses a bad ModelRelease, with a message that names the field; `lint` says the same without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.operator.specs import BAD, GOOD, gate, with_spec

from serinus_operator import manifests
from serinus_operator.cli.files import read_spec
from serinus_operator.rollout.model import Target
from serinus_operator.spec_parser import parse_spec

pytestmark = pytest.mark.integration

_RELEASES = "/apis/serinus.dev/v1alpha1/namespaces/default/modelreleases"


def apply(plane: ControlPlane, release: dict[str, Any]) -> str:
    """What the API server says against a release; nothing of it is stored."""
    status, answer = plane.call("POST", f"{_RELEASES}?dryRun=All&fieldValidation=Strict", release)
    return "" if status == 201 else str(answer["message"])


def test_a_minimal_release_is_accepted(control_plane: ControlPlane) -> None:
    assert apply(control_plane, GOOD) == ""


def test_gates_of_every_kind_are_accepted(control_plane: ControlPlane) -> None:
    query = 'sum(rate(x{namespace="{{ namespace }}", serinus_dev_revision="{{ canary }}"}[1m])) / sum(rate(x{job="{{ release }}"}[1m]))'
    assert apply(control_plane, gate(promQL={"query": query, "min": "-1.5", "max": "2e3", "failureLimit": 0})) == ""
    assert apply(control_plane, gate(drift={})) == ""


@pytest.mark.parametrize("case", BAD)
def test_bad_spec_is_refused_with_the_fields_name(control_plane: ControlPlane, case: str) -> None:
    release, expected = BAD[case]
    refusal = apply(control_plane, release)
    assert refusal, "the API server accepted it"
    assert expected in refusal


def test_the_model_cannot_be_swapped_for_another(control_plane: ControlPlane) -> None:
    release = with_spec()
    release["metadata"]["name"] = "immutable"
    created = control_plane.kubectl("create", "-f", "-", stdin=json.dumps(release))
    assert created.returncode == 0, created.stderr
    release["spec"]["model"]["name"] = "other"
    changed = control_plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(release))
    control_plane.kubectl("delete", "modelrelease", "immutable")
    assert "spec.model.name is immutable" in changed.stderr


@pytest.mark.parametrize("name", ["mig", "shared", "dra"])
def test_an_example_for_gpus_and_the_pods_that_come_of_it_are_accepted(control_plane: ControlPlane, name: str) -> None:
    example = Path(__file__).parents[2] / "examples" / "gpu" / f"{name}.yaml"
    strictly = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-o", "json", "-f")
    done = control_plane.kubectl(*strictly, str(example))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    (release,) = (each for each in answer.get("items", [answer]) if each["kind"] == "ModelRelease")
    owner = manifests.Release("default", release["metadata"]["name"], release["metadata"]["uid"])
    defaults = manifests.Defaults("example.org/server:1", "IfNotPresent", "http://mlflow")
    revision = Target("abc", "1", "digest", "space")
    spec = parse_spec(release["spec"])
    for made in (
        manifests.deployment(owner, spec, revision, 1, defaults),
        manifests.verify_job(owner, spec, revision, None, defaults),
    ):
        tried = control_plane.kubectl(*strictly, "-", stdin=json.dumps(made))
        assert tried.returncode == 0, tried.stderr


def test_the_example_is_accepted(control_plane: ControlPlane) -> None:
    example = Path(__file__).parents[2] / "examples" / "modelrelease.yaml"
    done = control_plane.kubectl("apply", "--dry-run=server", "-f", str(example))
    assert done.returncode == 0, done.stderr


def test_the_plugin_fills_in_the_same_defaults_as_the_api_server(control_plane: ControlPlane) -> None:
    example = Path(__file__).parents[2] / "examples" / "modelrelease.yaml"
    stored = control_plane.kubectl("create", "--dry-run=server", "-f", str(example), "-o", "json")
    assert read_spec(example) == parse_spec(json.loads(stored.stdout)["spec"])
