"""ModelReleases in files, read as the API server would store them: checked against the CRD's own schema, with its defaults.

CEL rules are the API server's to judge; `kubectl apply --dry-run=server` asks it.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import click
import yaml

from serinus_contract.names import GROUP, KIND
from serinus_operator.errors import InvalidSpec
from serinus_operator.spec import Spec, parse_spec

JSON: TypeAlias = dict[str, Any]


def read_spec(path: Path) -> Spec:
    """The spec of the one ModelRelease in a YAML file. Raises click.ClickException naming the field."""
    try:
        found = [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]
    except yaml.YAMLError as error:
        raise click.ClickException(f"{path} is no YAML: {error}") from error
    releases = [
        each for each in found if each.get("kind") == KIND and str(each.get("apiVersion", "")).startswith(f"{GROUP}/")
    ]
    if len(releases) != 1:
        raise click.ClickException(f"{path}: one {KIND} of {GROUP} is needed, {len(releases)} are there")
    spec = releases[0].get("spec") or {}
    try:
        _refuse_unknown(spec, _schema(), "spec")
        return parse_spec(_with_defaults(spec, _schema()))
    except InvalidSpec as error:
        raise click.ClickException(str(error)) from error


def _schema() -> JSON:
    crd = yaml.safe_load(resources.files("serinus_operator").joinpath("crd.yaml").read_text(encoding="utf-8"))
    schema: JSON = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def _with_defaults(value: Any, schema: JSON) -> Any:
    """Structural defaulting, as the API server does it: a missing property takes its default, which is defaulted in turn."""
    if isinstance(value, dict):
        known: JSON = schema.get("properties", {})
        filled = {**{name: inner["default"] for name, inner in known.items() if "default" in inner}, **value}
        return {name: _with_defaults(each, known.get(name, {})) for name, each in filled.items()}
    if isinstance(value, list):
        return [_with_defaults(each, schema.get("items", {})) for each in value]
    return value


def _refuse_unknown(value: Any, schema: JSON, path: str) -> None:
    if isinstance(value, dict) and "properties" in schema:
        for name, each in value.items():
            if name not in schema["properties"]:
                raise InvalidSpec(f"{path}.{name}", f"no such field; here are {', '.join(schema['properties'])}")
            _refuse_unknown(each, schema["properties"][name], f"{path}.{name}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _refuse_unknown(each, schema.get("items", {}), f"{path}[{index}]")
