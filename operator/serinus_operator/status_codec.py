"""The status as JSON and back: camelCase, instants as RFC 3339, fields at their defaults left out. Unknown fields are ignored.

A status that this operator cannot read (written by a newer one, say) is an error, never an empty status: forgetting what is stable
would roll it out again. Only the evidence of a gate begins anew where it cannot be read, and the gate says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from cattrs import Converter
from cattrs.errors import BaseValidationError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from serinus_operator.errors import InvalidSpec
from serinus_operator.gates import packing
from serinus_operator.gates.judge import UNREADABLE, GateEvidence
from serinus_operator.gates.limits import Tally
from serinus_operator.gates.versus import TableEvidence
from serinus_operator.rollout.cost import Cost
from serinus_operator.rollout.model import Status

_ALWAYS = ("phase", "ready")  # printer columns show them: a default says as much as any other value


def encode(status: Status) -> dict[str, Any]:
    """The status as the CRD stores it."""
    encoded: dict[str, Any] = _CONVERTER.unstructure(status)
    return encoded


def decode(data: Mapping[str, Any] | None) -> Status:
    """Reads a stored status; None or empty is that of a new release. Raises InvalidSpec when it cannot be read."""
    try:
        return _CONVERTER.structure(data or {}, Status)
    except (BaseValidationError, ValueError, TypeError, KeyError) as error:
        raise InvalidSpec("status", f"was written in a form that this operator does not read: {error!r}") from error


def decode_cost(status: Mapping[str, Any]) -> Cost:
    """Reads what the versions of a stored status have used; nothing where this program cannot read it."""
    try:
        return _CONVERTER.structure(status.get("cost") or {}, Cost)
    except (BaseValidationError, ValueError, TypeError, KeyError):
        return Cost()


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def _converter() -> Converter:
    converter = Converter()
    converter.register_unstructure_hook(datetime, _instant)
    converter.register_structure_hook(datetime, lambda text, _: datetime.fromisoformat(text))
    converter.register_structure_hook(float, lambda text, _: float(text))
    converter.register_unstructure_hook(float, repr)  # decimal strings: the API has no floats

    def overrides(cls: type[Any]) -> dict[str, Any]:
        return {
            field.name: override(rename=_camel(field.name), omit_if_default=field.name not in _ALWAYS)
            for field in dataclasses.fields(cls)
        }

    def unstructure(cls: type[Any]) -> Callable[[Any], Any]:
        return make_dict_unstructure_fn(cls, converter, **overrides(cls))

    def structure(cls: type[Any]) -> Callable[[Any, Any], Any]:
        return make_dict_structure_fn(cls, converter, **overrides(cls))

    def gate(data: Mapping[str, Any], cls: type[GateEvidence]) -> GateEvidence:
        try:
            found: GateEvidence = as_written(data, cls)
        except (BaseValidationError, ValueError, TypeError, KeyError, AttributeError):
            return GateEvidence(str(data["name"]), UNREADABLE)
        return found

    converter.register_unstructure_hook_factory(dataclasses.is_dataclass, unstructure)
    converter.register_structure_hook_factory(dataclasses.is_dataclass, structure)
    converter.register_unstructure_hook(TableEvidence, packing.pack_table)
    converter.register_structure_hook(TableEvidence, lambda stored, _: packing.unpack_table(stored))
    converter.register_unstructure_hook(Tally, packing.pack_tally)
    converter.register_structure_hook(Tally, lambda stored, _: packing.unpack_tally(stored))
    as_written = structure(GateEvidence)
    converter.register_structure_hook(GateEvidence, gate)
    return converter


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds" if at.microsecond else "seconds").replace("+00:00", "Z")


_CONVERTER = _converter()
