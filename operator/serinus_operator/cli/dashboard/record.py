"""What the statuses said while the page was served: evidence and weights over time, for when no Prometheus remembers them. Pure."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

JSON: TypeAlias = dict[str, Any]
Points: TypeAlias = Sequence[tuple[datetime, float]]

_KEPT: Final = 3000  # of a release: five hours of a rollout whose evidence changes with every look
_AT_LEAST: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Seen:
    """A status at an instant. Weights in percent, evidence by gate, of the canary's revision; empty without one."""

    at: datetime
    canary: str
    desired: float
    achieved: float
    evidence: Mapping[str, float]


class Record:
    """Every release's statuses since the page server started, those that say something new."""

    def __init__(self) -> None:
        self._seen: defaultdict[tuple[str, str], deque[Seen]] = defaultdict(lambda: deque(maxlen=_KEPT))

    def see(self, releases: Sequence[JSON], at: datetime) -> None:
        """Remembers what changed, and every half minute what did not; a release that is gone is forgotten."""
        keys = set()
        for release in releases:
            metadata, status = release["metadata"], release.get("status") or {}
            keys.add(key := (metadata["namespace"], metadata["name"]))
            weight = status.get("weight") or {}
            now = Seen(
                at,
                (status.get("canary") or {}).get("revision", ""),
                float(weight.get("desired", 0)),
                float(weight.get("achieved", 0)),
                {gate["name"]: float(gate.get("evidence", 0)) for gate in status.get("gates") or []},
            )
            before = self._seen[key]
            if not before or at - before[-1].at >= _AT_LEAST or _said(before[-1]) != _said(now):
                before.append(now)
        for gone in self._seen.keys() - keys:
            del self._seen[gone]

    def weights(self, key: tuple[str, str]) -> tuple[Points, Points]:
        """Desired and achieved weight of the canary, in percent."""
        seen = self._seen[key]
        return [(each.at, each.desired) for each in seen], [(each.at, each.achieved) for each in seen]

    def evidence(self, key: tuple[str, str], gate: str, canary: str) -> Points:
        """A gate's evidence against that canary."""
        return [
            (each.at, each.evidence[gate])
            for each in self._seen[key]
            if each.canary == canary and gate in each.evidence
        ]


def _said(seen: Seen) -> tuple[object, ...]:
    return seen.canary, seen.desired, seen.achieved, seen.evidence
