"""A user's own query: what an answer of Prometheus amounts to, and the count of looks that a `promQL` gate is judged on.

Such a gate carries no error probability: nobody knows how the query's value scatters. It fails a canary after more than `failureLimit`
looks outside its bounds, counted over the whole rollout, and an answer that is no number is never a failure and never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from serinus_operator.spec import PromQLGate


class Said(StrEnum):
    """What an answer amounts to."""

    NUMBER = "Number"
    NOTHING = "Nothing"  # no series, or NaN: 0/0
    INFINITE = "Infinite"  # a division by zero says nothing of the canary
    UNREADABLE = "Unreadable"  # refused, late, not whole, or not one number


@dataclass(frozen=True, slots=True)
class Measurement:
    """One answer: a number, or in words why there is none."""

    said: Said
    value: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """All looks of one gate so far: those with a number, those of them outside the bounds, and the last answer."""

    looks: int = 0
    outside: int = 0
    last: Measurement = Measurement(Said.UNREADABLE, problem="was not asked yet")

    def add(self, rule: PromQLGate, measurement: Measurement) -> Record:
        """The record with one more look."""
        number = measurement.said is Said.NUMBER
        missed = number and not within_bounds(rule, measurement.value)
        return Record(self.looks + number, self.outside + missed, measurement)


def within_bounds(rule: PromQLGate, value: float) -> bool:
    """Is it what the user calls good? A bound itself is."""
    return (rule.least is None or value >= rule.least) and (rule.most is None or value <= rule.most)


def fill_in(query: str, *, namespace: str, release: str, canary: str, stable: str) -> str:
    """The query with its `{{ … }}` replaced. What is put in are names of Kubernetes objects, which need no quoting in PromQL."""
    values = {"namespace": namespace, "release": release, "canary": canary, "stable": stable}
    for name, value in values.items():
        query = query.replace("{{ " + name + " }}", value)
    return query


def measurement_of(answer: Mapping[str, Any]) -> Measurement:
    """Reads the JSON with which Prometheus answers an instant query. Anything unexpected is UNREADABLE, never an exception."""
    try:
        if answer["status"] != "success":
            return _unreadable(f"Prometheus refuses the query: {str(answer.get('error'))[:300]}")
        kind, result = answer["data"]["resultType"], answer["data"]["result"]
        if kind == "vector" and len(result) > 1:
            return _unreadable("the query gives several series, one is needed; sum() or max() makes one of them")
        if answer.get("warnings"):
            return _unreadable("the answer is not whole: " + "; ".join(map(str, answer["warnings"]))[:300])
        if kind == "vector" and not result:
            return Measurement(Said.NOTHING, problem="the query gives no series")
        if kind == "vector" and "value" in result[0]:
            return _number(float(result[0]["value"][1]))
        if kind == "scalar":
            return _number(float(result[1]))
        return _unreadable(f"the query gives a {'histogram' if kind == 'vector' else kind}, a number is needed")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return _unreadable(f"this is no answer of Prometheus ({type(error).__name__})")


def _number(value: float) -> Measurement:
    if math.isnan(value):
        return Measurement(Said.NOTHING, problem="the query gives NaN, as 0/0 does")
    if math.isinf(value):
        return Measurement(Said.INFINITE, problem="the query gives an infinite number, as a division by zero does")
    return Measurement(Said.NUMBER, value)


def _unreadable(problem: str) -> Measurement:
    return Measurement(Said.UNREADABLE, problem=problem)
