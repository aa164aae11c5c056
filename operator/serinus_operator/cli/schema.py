"""The CRD's own rules without an API server: its JSON schema, its defaults, and its CEL rules by Google's CEL.

The rules stand in crds/modelreleases.yaml alone; nothing of them is written again here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Any, Final, TypeAlias

import yaml
from cel_expr_python import cel
from jsonschema import Draft202012Validator

JSON: TypeAlias = dict[str, Any]

_EXTENSIONS: Final = "extensions: [{name: two-var-comprehensions}, {name: lists}, {name: strings}]"


@cache
def schema() -> JSON:
    """The schema of a ModelRelease. Not to be changed by who reads it."""
    crd = yaml.safe_load(resources.files("serinus_operator").joinpath("crd.yaml").read_text(encoding="utf-8"))
    found: JSON = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def with_defaults(value: Any, schema: JSON) -> Any:
    """Structural defaulting, as the API server does it: a missing property takes its default, which is defaulted in turn."""
    if isinstance(value, dict):
        known: JSON = schema.get("properties", {})
        filled = {**{name: inner["default"] for name, inner in known.items() if "default" in inner}, **value}
        return {name: with_defaults(each, known.get(name, {})) for name, each in filled.items()}
    if isinstance(value, list):
        return [with_defaults(each, schema.get("items", {})) for each in value]
    return value


def refusals(release: JSON) -> list[str]:
    """Why the API server would refuse the release, as far as it alone can tell: one sentence each, beginning with the field.

    CEL rules are asked only of what has the right form, as the API server does it. Rules about an update (`oldSelf`) need a cluster.
    """
    rules = schema()
    filled = with_defaults(release, rules)
    wrong_form = [
        *_unknown(release, rules, ""),
        *map(_said, Draft202012Validator(rules).iter_errors(filled)),
        *_repeated(filled, rules, ""),
    ]
    return wrong_form or list(_broken_rules(filled, rules, ""))


def _unknown(value: Any, schema: JSON, path: str) -> Iterator[str]:
    if isinstance(value, dict) and "properties" in schema:
        open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or path == "metadata"
        for name, each in value.items():
            if name in schema["properties"]:
                yield from _unknown(each, schema["properties"][name], _join(path, name))
            elif not open_ended:
                yield f"{_join(path, name)}: no such field; here are {', '.join(schema['properties'])}"
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _unknown(each, schema.get("items", {}), f"{path}[{index}]")


def _repeated(value: Any, schema: JSON, path: str) -> Iterator[str]:
    """Entries of a list that is a map by some of its fields, which stand there twice."""
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            yield from _repeated(value.get(name), inner, _join(path, name))
    elif isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys", ())
        seen = [tuple(each.get(key) for key in keys) for each in value if isinstance(each, dict)] if keys else []
        yield from (f"{path}[{at}]: Duplicate value {key[0]!r}" for at, key in enumerate(seen) if key in seen[:at])


def _broken_rules(value: Any, schema: JSON, path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and not _program(rule["rule"]).eval(data={"self": value}).value():
            yield f"{path or 'metadata.name'}: {rule['message']}"
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from _broken_rules(value[name], inner, _join(path, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _broken_rules(each, schema.get("items", {}), f"{path}[{index}]")


@cache
def _program(rule: str) -> Any:
    return _environment().compile(rule)


@cache
def _environment() -> Any:
    """CEL as Kubernetes has it, with the one function of Kubernetes' own that the CRD's rules use."""

    def is_sorted(values: list[Any]) -> bool:
        return all(one <= another for one, another in pairwise(values))

    overload = cel.Overload(
        "is_sorted", return_type=cel.Type.BOOL, parameters=[cel.Type.List(cel.Type.DYN)], is_member=True, impl=is_sorted
    )
    return cel.NewEnv(
        config=cel.NewEnvConfigFromYaml(_EXTENSIONS),
        variables={"self": cel.Type.DYN},
        functions=[cel.FunctionDecl("isSorted", [overload])],
    )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _said(error: Any) -> str:
    path = ""
    for part in error.absolute_path:
        path = f"{path}[{part}]" if isinstance(part, int) else _join(path, str(part))
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"{_join(path, missing)}: is required"
    return f"{path}: {error.message}"
