"""Specs with something changed at random, from the CRD's own schema: fields of the right form, at its bounds, and of the wrong form.

As Acto does it (Gu and others, SOSP 2023), drawn by Hypothesis so that what fails is shrunk to the fields that matter.
"""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

from hypothesis import strategies as st
from tests.operator.world import _schema

JSON: TypeAlias = dict[str, Any]

MOST_REPLICAS = 12  # more are the same to the operator, and slow
_WORDS = [
    "",
    "x",
    "challenger",
    "canary",
    "0",
    "-1",
    "1e999",
    "NaN",
    "0s",
    "100h",
    "{{ reason }}",
    "é" * 70,
    "a b",
    "\u0000",
    "$(X)",
]
_ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(_WORDS), st.just([]), st.just({}), st.just([{}]), st.just({"x": 1}),
)  # fmt: skip
_KNOWN: dict[int, st.SearchStrategy[Any]] = {}  # by identity: the schema is read once
_LABEL = st.sampled_from(["a", "team", "example.org/pool", "serinus.dev/release", "not a label", ""])


def good(model: str) -> JSON:
    """The spec that all mutants are made from: three replicas, a rollout of a few seconds."""
    return {
        "model": {"name": model, "alias": "challenger"},
        "replicas": 3,
        "serving": {"resources": {"limits": {"cpu": "1"}}},
        "strategy": {
            "progressDeadline": "1m", "scaleDownDelay": "0s", "bake": "0s",
            "steps": [{"verify": {}}, {"setWeight": 30}, {"pause": {"duration": "1s"}}],
        },
        "analysis": {"interval": "1s", "minRequests": 50},
        "registry": {"onPromote": {"alias": "champion"}},
    }  # fmt: skip


@st.composite
def mutants(draw: st.DrawFn, model: str) -> JSON:
    """A good spec with one to four changes. The model's name stays: the API server refuses to change it."""
    spec = good(model)
    for _ in range(draw(st.integers(1, 4))):
        _change(draw, _schema(), spec)
    replicas = spec.get("replicas")
    if isinstance(replicas, int) and MOST_REPLICAS < replicas <= 10000:
        spec["replicas"] = MOST_REPLICAS
    spec["model"] = spec["model"] | {"name": model} if isinstance(spec.get("model"), dict) else spec.get("model")
    return copy.deepcopy(spec)


def _change(draw: st.DrawFn, schema: JSON, holder: JSON) -> None:
    """Walks down to some field of the schema and changes it there."""
    name = draw(st.sampled_from(sorted(schema["properties"])))
    inner = schema["properties"][name]
    held = holder.get(name)
    if inner.get("properties") and draw(st.integers(0, 9)):
        if not isinstance(held, dict):
            held = holder[name] = {}
        _change(draw, inner, held)
    elif inner.get("items", {}).get("properties") and isinstance(held, list) and held and draw(st.booleans()):
        place = draw(st.integers(0, len(held) - 1))
        if isinstance(held[place], dict):
            _change(draw, inner["items"], held[place])
    else:
        match draw(st.sampled_from(["right", "right", "right", "gone", "wrong", "more"])):
            case "right":
                holder[name] = draw(right(inner))
            case "gone":
                holder.pop(name, None)
            case "wrong":
                holder[name] = draw(_ANYTHING)
            case _:
                holder[name + draw(st.sampled_from(["s", "X", "_"]))] = draw(_ANYTHING)


def right(schema: JSON) -> st.SearchStrategy[Any]:
    """Values of the right form. CEL rules may refuse them all the same."""
    if id(schema) not in _KNOWN:
        _KNOWN[id(schema)] = _right(schema)
    return _KNOWN[id(schema)]


def _right(schema: JSON) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "string":
            longest = schema.get("maxLength", 40)
            if "pattern" in schema:
                return st.from_regex(schema["pattern"], fullmatch=True).filter(lambda text: len(text) <= longest)
            return st.one_of(st.sampled_from(_WORDS), st.text(max_size=min(longest, 300)))
        case "integer":
            least, most = schema.get("minimum", -(2**31)), schema.get("maximum", 2**31 - 1)
            return st.one_of(st.sampled_from([least, most]), st.integers(least, min(most, least + 100)))
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(right(schema["items"]), max_size=min(4, schema.get("maxItems", 4)))
        case "object" if "properties" in schema:
            fields = {name: right(inner) for name, inner in schema["properties"].items()}
            needed = {name: fields[name] for name in schema.get("required", ())}
            optional = {name: each for name, each in fields.items() if name not in needed}
            if schema.get("maxProperties") == 1:
                return st.sampled_from(sorted(fields)).flatmap(
                    lambda name: fields[name].map(lambda value: {name: value})
                )
            return st.fixed_dictionaries(needed, optional=optional)
        case "object" if "additionalProperties" in schema:
            return st.dictionaries(_LABEL, right(schema["additionalProperties"]), max_size=3)
        case "object":
            return st.dictionaries(_LABEL, _ANYTHING, max_size=2)
        case _:  # int or string
            return st.one_of(st.integers(-5, 2**40), st.from_regex(schema.get("pattern", ".*"), fullmatch=True))
