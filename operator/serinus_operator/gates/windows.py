"""What a window of time says: raw counters read at two instants and subtracted per pod.

Reset-aware, and not `increase()`, which extrapolates. A pod that appears inside the window starts at zero; a counter that fell was reset
and starts at zero too; a pod that has gone since the window's start contributes nothing more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TypeAlias

Revision: TypeAlias = str
Pod: TypeAlias = str


@dataclass(frozen=True, slots=True)
class Counters:
    """Cumulative counters of one pod, or their differences over a window. Seconds for sums of time."""

    requests: float = 0.0
    errors: float = 0.0
    latency_seconds: float = 0.0
    latency_count: float = 0.0
    confidence: float = 0.0
    confidence_count: float = 0.0

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def since(self, earlier: Counters) -> Counters:
        """What was counted since `earlier`, each counter on its own: one that fell has been reset and starts at zero."""
        return Counters(
            *(_difference(getattr(self, field.name), getattr(earlier, field.name)) for field in fields(self))
        )


Reading: TypeAlias = Mapping[tuple[Revision, Pod], Counters]


@dataclass(frozen=True, slots=True)
class Window:
    """The counts of one release between two instants, by revision."""

    start: datetime
    end: datetime
    by_revision: Mapping[Revision, Counters]

    def of(self, revision: Revision) -> Counters:
        """Counts of one revision; zeros when it was not seen."""
        return self.by_revision.get(revision, Counters())


def subtract(start: datetime, at_start: Reading, end: datetime, at_end: Reading) -> Window:
    """The window between two readings of one release's pods."""
    totals: defaultdict[Revision, Counters] = defaultdict(Counters)
    for (revision, pod), counters in at_end.items():
        totals[revision] += counters.since(at_start.get((revision, pod), Counters()))
    return Window(start, end, dict(totals))


def _difference(now: float, before: float) -> float:
    return now - before if now >= before else now
