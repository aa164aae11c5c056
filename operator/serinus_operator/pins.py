"""Asks the shared metrics who pins the spaces that a release retains. Decides nothing: `rollout.retention` does."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from serinus_operator.errors import Unavailable
from serinus_operator.judging import aligned
from serinus_operator.prometheus import Prometheus
from serinus_operator.rollout.model import Status
from serinus_operator.rollout.observed import Pinning, Pins, Workload
from serinus_operator.rollout.retention import between_looks, pinning
from serinus_operator.snapshots import ReleaseKey


async def look(
    prometheus: Prometheus, status: Status, workloads: Mapping[str, Workload], key: ReleaseKey, retention: timedelta,
    latest: datetime,
) -> dict[str, Pins]:  # fmt: skip
    """What counters say of each retained revision until the last common instant before `latest`; nothing of those read until then."""
    found: dict[str, Pins] = {}
    until = aligned(latest, between_looks(retention))
    for each in status.retained:
        if until <= each.seen_until:
            continue
        try:
            before = (await prometheus.pinned(each.seen_until)).get(key, {})
            after = (await prometheus.pinned(until)).get(key, {})
        except Unavailable:
            found[each.revision] = Pins(until, Pinning.UNKNOWN)
            continue
        workload = workloads.get(each.revision)
        ready = 0 if workload is None else workload.side.ready
        found[each.revision] = Pins(until, pinning(each.revision, ready, before, after))
    return found
