"""The CRD and the code say the same: a status field that the schema does not know would be pruned without a word."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

import yaml

from serinus_operator.rollout.model import Status

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


def test_printer_columns_show_fields_that_exist() -> None:
    for column in CRD["spec"]["versions"][0]["additionalPrinterColumns"]:
        schema: dict[str, Any] = {"properties": SCHEMA}
        if column["jsonPath"].startswith(".metadata."):
            continue
        for part in column["jsonPath"].strip(".").split("."):
            schema = schema["properties"][part]
