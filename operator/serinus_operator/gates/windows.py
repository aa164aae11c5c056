"""What a window of time says: raw counters read at two instants and subtracted per pod.

Reset-aware, and not `increase()`, which extrapolates. A pod that appears inside the window starts at zero, unless it was ready before the
window began: then scrapes of it failed, what it counted before is no part of the window, and it is left out until two readings have it.
A counter that fell was reset and starts at zero too; a pod that has gone since the window's start contributes nothing more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS, SUMMARISED_LATENCIES_SECONDS

Revision: TypeAlias = str
Pod: TypeAlias = str
Combine: TypeAlias = Callable[[float, float], float]

NO_BUCKETS: Final = (0.0,) * (2 * len(COMPARED_LATENCIES_SECONDS))
NO_SUMMARISED: Final = (0.0,) * len(SUMMARISED_LATENCIES_SECONDS)
_NO_WARM_UP: Final = timedelta()


@dataclass(frozen=True, slots=True)
class Counters:
    """Cumulative counters of one pod, or their differences over a window. Seconds for sums of time.

    `within` counts the requests that took at most b, then at most 1.1·b, for each of COMPARED_LATENCIES_SECONDS; NaN for a bound that a
    pod does not count by; `summarised` likewise for SUMMARISED_LATENCIES_SECONDS, by which nothing is judged. `banded` are the texts whose
    model has a reference band to be outside of.
    """

    requests: float = 0.0
    errors: float = 0.0
    latency_seconds: float = 0.0
    latency_count: float = 0.0
    confidence: float = 0.0
    confidence_count: float = 0.0
    low_confidence: float = 0.0
    banded: float = 0.0
    input_out_of_band: float = 0.0
    embedding_out_of_band: float = 0.0
    within: Sequence[float] = NO_BUCKETS
    summarised: Sequence[float] = NO_SUMMARISED
    tokens: float = 0.0

    def __add__(self, other: Counters) -> Counters:
        return self._each(other, lambda one, another: one + another)

    def since(self, earlier: Counters) -> Counters:
        """What was counted since `earlier`, each counter on its own: one that fell has been reset and starts at zero."""
        return self._each(earlier, lambda now, before: now - before if now >= before else now)

    def _each(self, other: Counters, combine: Combine) -> Counters:
        return Counters(
            combine(self.requests, other.requests),
            combine(self.errors, other.errors),
            combine(self.latency_seconds, other.latency_seconds),
            combine(self.latency_count, other.latency_count),
            combine(self.confidence, other.confidence),
            combine(self.confidence_count, other.confidence_count),
            combine(self.low_confidence, other.low_confidence),
            combine(self.banded, other.banded),
            combine(self.input_out_of_band, other.input_out_of_band),
            combine(self.embedding_out_of_band, other.embedding_out_of_band),
            tuple(combine(one, another) for one, another in zip(self.within, other.within, strict=True)),
            tuple(combine(one, another) for one, another in zip(self.summarised, other.summarised, strict=True)),
            combine(self.tokens, other.tokens),
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """What one pod's counters were at an instant, and since when it has been ready; None when it does not say."""

    counters: Counters
    ready_at: datetime | None = None


Reading: TypeAlias = Mapping[tuple[Revision, Pod], Sample]


@dataclass(frozen=True, slots=True)
class Window:
    """The counts of one release between two instants, by revision.

    `warm` leaves out pods that were not yet warm at the start; `pods` are the cumulative counters of each warm pod at the start, known
    before the window begins: how far pods of one revision are lastingly apart.
    """

    start: datetime
    end: datetime
    by_revision: Mapping[Revision, Counters]
    warm: Mapping[Revision, Counters] = field(default_factory=dict)
    pods: Mapping[Revision, tuple[Counters, ...]] = field(default_factory=dict)

    def of(self, revision: Revision) -> Counters:
        """Counters of one revision; zeros when it was not seen."""
        return self.by_revision.get(revision, Counters())


def subtract(
    start: datetime, at_start: Reading, end: datetime, at_end: Reading, warm_up: timedelta = _NO_WARM_UP
) -> Window:
    """The window between two readings of one release's pods."""
    everything: defaultdict[Revision, Counters] = defaultdict(Counters)
    warm: defaultdict[Revision, Counters] = defaultdict(Counters)
    pods: defaultdict[Revision, tuple[Counters, ...]] = defaultdict(tuple)
    for (revision, pod), sample in at_end.items():
        if (revision, pod) not in at_start and sample.ready_at is not None and sample.ready_at <= start:
            continue
        before = at_start.get((revision, pod), Sample(Counters())).counters
        counted = sample.counters.since(before)
        everything[revision] += counted
        if sample.ready_at is None or sample.ready_at + warm_up <= start:
            warm[revision] += counted
            pods[revision] += (before,)
    return Window(start, end, dict(everything), dict(warm), dict(pods))
