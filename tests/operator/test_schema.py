"""The CRD and the code say the same: a status field that the schema does not know would be pruned without a word."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from tests.operator.specs import with_spec
from tests.operator.world import defaulted

from serinus_contract import names
from serinus_operator.cli.schema import refusals
from serinus_operator.rollout.model import Status
from serinus_operator.spec_parser import parse_spec
from serinus_server.encoders.choice import AnyDtype, Backend, runtime_of
from serinus_server.errors import ModelUnavailable

CRD = yaml.safe_load((Path(__file__).parents[2] / "crds" / "modelreleases.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]


def camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def unknown_fields(kind: Any, schema: dict[str, Any], path: str) -> list[str]:
    """Paths of fields of `kind` that the schema has no property for."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return [found for each in arguments if each is not type(None) for found in unknown_fields(each, schema, path)]
    if origin is tuple:
        return unknown_fields(arguments[0], schema.get("items", {}), path + "[]")
    if not dataclasses.is_dataclass(kind):
        return []
    hints = typing.get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        name = camel(field.name)
        inner = schema.get("properties", {}).get(name)
        if inner is None:
            found.append(f"{path}.{name}")
        else:
            found += unknown_fields(hints[field.name], inner, f"{path}.{name}")
    return found


def test_the_schema_knows_every_field_of_the_status() -> None:
    assert unknown_fields(Status, SCHEMA["status"], "status") == []


class Reading(Mapping[str, Any]):
    """A part of a spec that remembers which of its fields were asked for, there or not."""

    def __init__(self, data: Mapping[str, Any], path: str, asked: set[str]) -> None:
        self._data, self._path, self._asked = data, path, asked

    def __getitem__(self, name: str) -> Any:
        path = f"{self._path}.{name}"
        self._asked.add(path)
        return self._open(self._data[name], path)

    def _open(self, value: Any, path: str) -> Any:
        if isinstance(value, list):
            return [self._open(each, f"{path}[]") for each in value]
        return Reading(value, path, self._asked) if isinstance(value, dict) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


def fields(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Paths of all fields of a schema, those of lists' entries with [] before."""
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from fields(inner, f"{path}.{name}")


# What goes to the pods or the HTTPRoute as it stands: the API server knows these fields, the parser hands them on.
HANDED_ON = (
    "spec.serving.resources",
    "spec.serving.template",
    "spec.strategy.routing.parentRefs[]",
    "spec.strategy.routing.hostnames",
)
GATES = [{"name": kind.lower(), kind: {}} for kind in ("latency", "confidence", "errorRate", "drift", "restarts")]
EVERYTHING = {
    "model": {"name": "m", "alias": "a"},
    "serving": {"engine": {"backend": "onnx"}},
    "strategy": {
        "routing": {"type": "GatewayAPI", "parentRefs": [{"name": "g"}]},
        "steps": [{"verify": {}}, {"setWeight": 10}, {"pause": {"duration": "1m"}}, {"setWeight": 20}, {"analysis": {"duration": "1m"}}],
    },
    "analysis": {"gates": [*GATES, {"name": "own", "promQL": {"query": "up", "max": "1"}}]},
    "registry": {"onCanary": {"alias": "b"}, "onPromote": {"alias": "c"}, "onRollback": {"tag": {"x": "y"}}},
}  # fmt: skip


def test_the_parser_reads_every_field_of_the_schema_and_no_other() -> None:
    asked: set[str] = set()
    parse_spec(Reading(defaulted(EVERYTHING), "spec", asked))
    known = {
        each for each in fields(SCHEMA["spec"], "spec") if not each.startswith(tuple(f"{on}." for on in HANDED_ON))
    }
    read = {each for each in asked if not each.startswith(tuple(f"{on}." for on in HANDED_ON))}
    moves = {f"spec.registry.{moment}.{field}" for moment in ("onCanary", "onPromote", "onRollback")
             for field in ("alias", "stage", "archivePrevious", "tag")}  # fmt: skip
    assert known - read == set(), "fields that a user can set and nobody reads"
    assert read - known - moves == set(), "fields that are read and no user can set"


def keywords(schema: dict[str, Any]) -> set[str]:
    """All keywords of a schema and of those in it."""
    inner = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    return set(schema).union(*(keywords(each) for each in inner if isinstance(each, dict)))


def test_no_keyword_of_the_schema_is_a_slip_of_the_pen() -> None:
    """A description with a comma and without quotes is cut in two in YAML's short form; `kubectl apply --server-side` refuses that."""
    found = keywords({"properties": SCHEMA})
    assert {each for each in found if not re.fullmatch(r"[a-zA-Z]+|x-kubernetes-[a-z-]+", each)} == set()


def test_a_user_cannot_set_what_the_operator_tells_its_servers() -> None:
    environment = {value for name, value in vars(names).items() if name.endswith("_ENV")} - {names.PREDICTION_LOG_ENV}
    pod = SCHEMA["spec"]["properties"]["serving"]["properties"]["template"]["properties"]["spec"]
    (rule,) = (each for each in pod["x-kubernetes-validations"] if "c.env.all" in each["rule"])
    assert set(re.findall(r"'([A-Z_]+)'", rule["rule"])) == environment


@pytest.mark.parametrize(("backend", "dtype"), [*product(get_args(Backend), get_args(AnyDtype))])
def test_the_schema_knows_which_runtime_multiplies_what(backend: Backend, dtype: AnyDtype) -> None:
    refused = refusals(with_spec(serving={"engine": {"backend": backend, "dtype": dtype}}))
    if backend == "auto":
        assert refused == []
        return
    try:
        runtime_of(backend, dtype)
        assert refused == []
    except ModelUnavailable:
        assert refused, f"the server has no {dtype} for {backend}"


def test_printer_columns_show_fields_that_exist() -> None:
    for column in CRD["spec"]["versions"][0]["additionalPrinterColumns"]:
        schema: dict[str, Any] = {"properties": SCHEMA}
        if column["jsonPath"].startswith(".metadata."):
            continue
        for part in column["jsonPath"].strip(".").split("."):
            schema = schema["properties"][part]
