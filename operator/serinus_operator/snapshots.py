"""What all servers had counted at an instant, by column: as an object for each pod it was 40 MB of memory for a thousand releases.

Also how an answer of Prometheus is read: a part at a time, for the same reason.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import orjson

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS, SUMMARISED_LATENCIES_SECONDS
from serinus_operator.gates.windows import Counters, Reading, Sample

ReleaseKey: TypeAlias = tuple[str, str]  # namespace, release name
Pod: TypeAlias = tuple[str, str]  # revision, pod name
Column: TypeAlias = str | float  # a counter's name, or the bound of a latency bucket

READY_AT: Final = "ready_at"
BOUNDS: Final = tuple(bound for pair in COMPARED_LATENCIES_SECONDS for bound in pair)
_PART_BYTES: Final = 2**17
_BEGIN: Final = b'"result":['
_NEXT: Final = b',{"metric":'  # a quote inside of a JSON string is escaped: this stands between two series alone


class Snapshot(Mapping[ReleaseKey, Reading]):
    """Readings by release, made when they are asked for. `counters` name the columns of one."""

    def __init__(self, counters: Sequence[str]) -> None:
        self._counters = counters
        self._rows: dict[ReleaseKey, dict[Pod, int]] = {}
        self._pods = 0
        self._columns: dict[Column, array[float]] = {}

    def add(self, column: Column, release: ReleaseKey, pod: Pod, value: float) -> None:
        """One value of one pod. What is no counter is taken of pods alone that have one."""
        rows = self._rows.setdefault(release, {}) if column in self._counters else self._rows.get(release, {})
        if pod not in rows:
            if column not in self._counters:
                return
            rows[pod] = self._pods
            self._pods += 1
        values = self._columns.setdefault(column, array("d"))
        values.extend((math.nan,) * (rows[pod] + 1 - len(values)))
        values[rows[pod]] = value

    def __getitem__(self, release: ReleaseKey) -> Reading:
        return {pod: self._sample(row) for pod, row in self._rows[release].items()}

    def __iter__(self) -> Iterator[ReleaseKey]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def _sample(self, row: int) -> Sample:
        counters = {name: self._value(name, row, 0.0) for name in self._counters}
        has_a_band = not math.isnan(self._value("embedding_out_of_band", row, math.nan))
        # A pod that has answered and does not count by a bound: another version's buckets, not a slow pod.
        absent = math.nan if counters["latency_count"] else 0.0
        within, summarised = (
            array("d", (self._value(bound, row, absent) for bound in bounds))
            for bounds in (BOUNDS, SUMMARISED_LATENCIES_SECONDS)
        )
        banded = counters["confidence_count"] if has_a_band else 0.0
        return Sample(
            Counters(**counters, banded=banded, within=within, summarised=summarised),
            _instant(self._value(READY_AT, row, 0.0)),
        )

    def _value(self, column: Column, row: int, absent: float) -> float:
        values = self._columns.get(column, ())
        value = values[row] if row < len(values) else math.nan
        return absent if math.isnan(value) else value


def series_of(body: bytes) -> Iterator[Any]:
    """The series of an answer of Prometheus. Raises ValueError, LookupError or TypeError where it is none."""
    begin = body.find(_BEGIN) + len(_BEGIN)
    head, start = body[:begin], begin
    while begin >= len(_BEGIN) and (end := body.find(_NEXT, start + _PART_BYTES)) >= 0:
        yield from orjson.loads(b"[" + body[start:end] + b"]")
        start = end + 1
    yield from orjson.loads(head + body[start:])["data"]["result"]


def named(labels: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """These labels' values. Every series and every snapshot repeats them: each is held once."""
    return tuple(sys.intern(str(labels.get(name, ""))) for name in names)


def _instant(seconds: float) -> datetime | None:
    """None for 0 (not ready yet) and for what is no time: then the pod counts as warm."""
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (ValueError, OverflowError, OSError):
        return None
