"""The memory of operator and servers, as the kubelet accounts for it, and the rule by which it is flat.

What is read is each container's anonymous memory (`rssBytes`), every ten seconds. A container's first minute is its start. The rest is
judged as `make bench-soak` does: after another third, the median of the last half exceeds that of the first by 5 MB or 2 % at most. Of the
servers, each container that lived long enough is judged by itself, and the worst is told; the operator, which is ended every
minute, is judged over all of its lives, the first 20 seconds of each left out.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.bench.server_soak import growth_mb
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node import NODE
from tests.e2e.demo import NAME
from tests.e2e.stage import OPERATOR_NAMESPACE

_SUMMARY = f"/api/v1/nodes/{NODE}/proxy/stats/summary"
_EVERY_SECONDS = 10.0
_SERVER_STARTS_SECONDS = 60.0
_OPERATOR_STARTS_SECONDS = 20.0
_FEWEST_SAMPLES = 15


@dataclass(frozen=True)
class Growth:
    """By how many MB a median grew, and by how many it may have; `megabytes` is the last median. `of` says what was judged."""

    of: str
    megabytes: float
    grown: float
    allowed: float

    @property
    def flat(self) -> bool:
        """Is it within what an allocator's noise explains?"""
        return self.grown <= self.allowed

    def __str__(self) -> str:
        return f"{self.of}: {self.megabytes:.0f} MB, grown by {self.grown:+.1f} (at most {self.allowed:.1f})"


class Memory:
    """Reads from `start` to `stop`, in a thread of its own."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._servers: defaultdict[tuple[str, str], list[float]] = defaultdict(list)  # by pod and its container's start
        self._operator: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def stop(self) -> None:
        """Reads no more."""
        self._stop.set()
        self._thread.join(60)

    def operator(self) -> Growth | None:
        """Over all of its lives; None after too short a time."""
        return _growth(f"operator, {len(self._operator)} samples of all its lives", self._operator)

    def servers(self) -> Growth | None:
        """The container that grew most beyond what it may; None where none lived long enough."""
        long = {pod: samples for (pod, _), samples in self._servers.items() if len(samples) >= _FEWEST_SAMPLES}
        found = [
            _growth(f"the worst of {len(long)} servers that lived {_FEWEST_SAMPLES * 10 + 60} s and longer", samples)
            for samples in long.values()
        ]
        judged = [each for each in found if each is not None]
        return max(judged, key=lambda each: each.grown - each.allowed) if judged else None

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_SECONDS):
            try:
                code, answer = self._plane.call("GET", _SUMMARY)
            except OSError:
                continue
            for pod in answer["pods"] if code == 200 else ():
                for container in pod.get("containers", ()):
                    self._read(pod["podRef"], container)

    def _read(self, pod: dict[str, str], container: dict[str, Any]) -> None:
        started, megabytes = container["startTime"], container.get("memory", {}).get("rssBytes", 0) / 1e6
        age = time.time() - datetime.fromisoformat(started).timestamp()
        if not megabytes:
            return
        if (
            pod["namespace"] == OPERATOR_NAMESPACE
            and container["name"] == "operator"
            and age > _OPERATOR_STARTS_SECONDS
        ):
            self._operator.append(megabytes)
        elif pod["name"].startswith(f"{NAME}-") and "-verify-" not in pod["name"] and age > _SERVER_STARTS_SECONDS:
            self._servers[pod["name"], started].append(megabytes)


def _growth(of: str, samples: list[float]) -> Growth | None:
    if len(samples) < _FEWEST_SAMPLES:
        return None
    grown, allowed = growth_mb(samples)
    return Growth(of, statistics.median(samples[-len(samples) // 3 :]), grown, allowed)
