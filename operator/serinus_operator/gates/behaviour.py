"""How a revision behaves over a step, beside the one it is compared with: windows added up, and what they come to. Pure.

Judges nothing; the registry is told of it at the step's end (`rollout.registry_moves.behaved`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS, SUMMARISED_LATENCIES_SECONDS
from serinus_operator.gates.windows import NO_BUCKETS, NO_SUMMARISED, Counters, Window

_BOUNDS: Final = (*(bound for pair in COMPARED_LATENCIES_SECONDS for bound in pair), *SUMMARISED_LATENCIES_SECONDS)
_QUANTILES: Final = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one revision, without buckets; `within` are the answers that took at most so many seconds, by each known bound."""

    counts: Counters = field(default_factory=Counters)
    within: Mapping[str, float] = field(default_factory=dict)

    def add(self, counted: Counters) -> Tally:
        """The tally with a window more. A bound that a pod did not count by is known no more."""
        counts = self.counts + replace(counted, within=NO_BUCKETS, summarised=NO_SUMMARISED)
        if not counted.latency_count:
            return Tally(counts, self.within)
        fresh = not self.counts.latency_count
        counted_by = zip(_BOUNDS, (*counted.within, *counted.summarised), strict=True)
        known = {str(bound): value for bound, value in counted_by if value == value}
        within = {
            bound: value + self.within.get(bound, 0.0)
            for bound, value in known.items()
            if fresh or bound in self.within
        }
        return Tally(counts, within)

    def figures(self) -> dict[str, float]:
        """What the counts come to, rounded; what nothing was counted for is left out. Latencies in milliseconds, shares in [0, 1]."""
        counts = self.counts
        found = {"requests": counts.requests, "errors": counts.errors, "tokens": counts.tokens}
        if counts.latency_count:
            found["latency_mean_ms"] = 1000 * counts.latency_seconds / counts.latency_count
        for share in _QUANTILES if counts.latency_count and self.within else ():
            found[f"latency_p{share * 100:.0f}_ms"] = 1000 * self.quantile(share)
        if counts.confidence_count:
            found["confidence_mean"] = counts.confidence / counts.confidence_count
        if counts.banded:
            found["drift_inputs"] = counts.input_out_of_band / counts.banded
            found["drift_embeddings"] = counts.embedding_out_of_band / counts.banded
        return {name: round(value, 4) for name, value in found.items()}

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the answers was given, by Prometheus' rule: linear in a bucket, at most the highest bound."""
        rank, below, before = share * self.counts.latency_count, 0.0, 0.0
        for bound, value in sorted((float(bound), value) for bound, value in self.within.items()):
            if value >= rank:
                return below + (bound - below) * (rank - before) / (value - before) if value > before else bound
            below, before = bound, value
        return below


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Of the judged `revision` and of the one beside it, in the windows from `since` to `until`."""

    revision: str
    since: datetime
    until: datetime
    judged: Tally = Tally()
    beside: Tally = Tally()

    def add(self, window: Window, beside: str) -> Behaviour:
        """With one window more."""
        judged, other = self.judged.add(window.of(self.revision)), self.beside.add(window.of(beside))
        return replace(self, until=window.end, judged=judged, beside=other)
