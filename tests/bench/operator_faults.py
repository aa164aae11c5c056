"""Two more phases of `make bench-operator`: the operator is killed and begun again, and every canary is taken back at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.progress import Progress
from tests.cluster.binaries import ClusterError

if TYPE_CHECKING:
    from tests.bench.operator_load import Cost, Fleet
    from tests.integration.surroundings import Operator

_MERGE = "application/merge-patch+json"
_HALF_WAY: list[dict[str, Any]] = [{"verify": {}}, {"setWeight": 50}, {"pause": {}}]


def restart(
    fleet: Fleet,
    operator: Operator,
    again: Callable[[], Callable[[], Cost]],
    progress: Progress,
    deadline_seconds: float,
) -> Cost:
    """While the operator is dead, every release gets a replica less; then it is begun, by `again`, which says how its cost is read.

    The phase lasts until every release has so many ready pods, and the operator says so in its status.
    """
    operator.kill()
    fleet.replicas -= 1
    fleet.patch("scaling while the operator is dead", "/scale", {"spec": {"replicas": fleet.replicas}}, progress)
    stop = again()
    _wait(fleet, "after the restart", lambda status: fleet.serves(status, fleet.version), progress, deadline_seconds)
    return stop()


def storm(
    fleet: Fleet, start: Callable[[], None], stop: Callable[[], Cost], progress: Progress, deadline_seconds: float
) -> Cost:
    """All releases have a canary of half the pods, and wait for a person. Then every alias is put back to the version that is stable.

    Its cost, from `start` to `stop`, is that of taking all of the canaries back, until stable has all of its pods again.
    """
    before = fleet.version
    fleet.patch("steps that wait half-way", "", {"spec": {"strategy": {"steps": _HALF_WAY}}}, progress)
    fleet.register(progress)
    _wait(fleet, "canaries of half the pods", _half_way, progress, deadline_seconds)
    start()
    fleet.point(before, progress)
    _wait(fleet, "taken back", lambda status: fleet.serves(status, before), progress, deadline_seconds)
    return stop()


def _half_way(status: dict[str, Any]) -> bool:
    weight = status.get("weight") or {}
    return bool(status.get("canary")) and status.get("phase") == "Paused" and weight.get("desired") == 50


def _wait(
    fleet: Fleet, what: str, done: Callable[[dict[str, Any]], bool], progress: Progress, deadline_seconds: float
) -> None:
    task = progress.add_task(what, total=len(fleet.releases))
    ends_at = time.monotonic() + deadline_seconds
    while (count := sum(map(done, fleet.statuses()))) < len(fleet.releases):
        progress.update(task, completed=count)
        if time.monotonic() > ends_at:
            odd = next((status for status in fleet.statuses() if not done(status)), {})
            raise ClusterError(
                f"{what}: {count} of {len(fleet.releases)} after {deadline_seconds:.0f} s, one is {json.dumps(odd)[:600]}"
            )
        time.sleep(1)
    progress.update(task, completed=count)
