"""Spaces that are kept after a promotion under `onSpaceChange: Pinned`, until no request has pinned them for `spaceRetention`. Pure.

A space that nobody is seen to pin is let go only when counters covered all of that time: what nobody has counted may have been pinned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from serinus_operator.durations import format_duration
from serinus_operator.rollout.actions import CreateDeployment
from serinus_operator.rollout.draft import Draft
from serinus_operator.rollout.model import Canary, Retained, Revision, Target
from serinus_operator.rollout.observed import Pinning
from serinus_operator.spec import OnSpaceChange

Pinned: TypeAlias = Mapping[
    tuple[str, str], float
]  # requests that pinned the space of a pod, by revision and pod, since it began

_MOST_BETWEEN_LOOKS: Final = timedelta(minutes=5)
_LEAST_BETWEEN_LOOKS: Final = timedelta(seconds=1)
_LOOKS: Final = 4  # in a time of retention that is shorter than that
_PATIENCE: Final = 2  # times of retention, after which a person is told


def between_looks(retention: timedelta) -> timedelta:
    """How often it is asked who pins."""
    return max(_LEAST_BETWEEN_LOOKS, min(_MOST_BETWEEN_LOOKS, retention / _LOOKS))


def pinning(revision: str, ready: int, at_start: Pinned, at_end: Pinned) -> Pinning:
    """Has a request pinned the revision's space between two readings of its pods' counters? `ready` pods must have been read at the end.

    What a pod had counted after the first reading and before its end is unknown: it may have been a pin.
    """
    before = {pod: count for (of, pod), count in at_start.items() if of == revision}
    after = {pod: count for (of, pod), count in at_end.items() if of == revision}
    if any(count > before.get(pod, 0.0) or count < before.get(pod, 0.0) for pod, count in after.items()):
        return Pinning.SEEN  # one that fell has begun anew, with what it had counted before that lost
    if not after or len(after) < ready:
        return Pinning.UNKNOWN
    return Pinning.SEEN if set(before) - set(after) else Pinning.NONE


def keep(draft: Draft, previous: Revision | None, promoted: Canary) -> None:
    """At a promotion: what was stable stays for those who pin its space, where the spec keeps spaces apart."""
    strategy = draft.spec.strategy
    kept = tuple(each for each in draft.status.retained if each.revision != promoted.revision)
    apart = (
        strategy.on_space_change is OnSpaceChange.PINNED and previous is not None and previous.space != promoted.space
    )
    if apart and previous is not None and strategy.space_retention:
        now = draft.now
        kept = (
            *kept,
            Retained(
                previous.revision,
                previous.version,
                previous.digest,
                previous.space,
                now,
                now,
                now,
                backend=previous.backend,
                dtype=previous.dtype,
            ),
        )
    draft.update(retained=kept)


def is_kept(draft: Draft, revision: str) -> bool:
    """Is the revision kept for its space, whatever else becomes of it?"""
    return any(each.revision == revision for each in draft.status.retained)


def watch(draft: Draft) -> None:
    """Lets go what nobody pins any more, or what stable serves again. A Deployment that somebody has deleted is made again."""
    retention = draft.spec.strategy.space_retention
    kept = []
    for each in draft.status.retained:
        stable, workload = draft.status.stable, draft.observed.workloads.get(each.revision)
        if stable is not None and stable.space == each.space:
            continue
        found = _seen(each, draft)
        if found.seen_until - found.quiet_since >= retention or (workload is not None and not workload.side.replicas):
            draft.say("SpaceReleased", f"space {each.space} (model version {each.version}): {_why(found, retention)}")
            continue
        if not found.told and draft.now >= each.since + _PATIENCE * retention:
            found = replace(found, told=True)
            draft.say("SpaceStillRetained", _sentence(found, retention, draft.now), warning=True)
        if workload is None and (draft.status.canary is None or draft.status.canary.revision != each.revision):
            again = Target(each.revision, each.version, each.digest, each.space)
            draft.do(CreateDeployment(again, draft.spec.replicas, each.backend, each.dtype))
        draft.look_again(draft.now + between_looks(retention))
        kept.append(found)
    draft.update(retained=tuple(kept))


def condition(draft: Draft) -> tuple[str, bool, str, str] | None:
    """`SpaceRetained`: True while pods are kept for clients that pin a former space; None when there are none."""
    retained, retention = draft.status.retained, draft.spec.strategy.space_retention
    if not retained:
        return None
    reason = "NoMetrics" if any(_unseen(each, retention, draft.now) for each in retained) else "Retained"
    reason = "StillPinned" if reason == "Retained" and any(each.told for each in retained) else reason
    return "SpaceRetained", True, reason, "; ".join(_sentence(each, retention, draft.now) for each in retained)


def _seen(each: Retained, draft: Draft) -> Retained:
    counted = draft.observed.pins.get(each.revision)
    if counted is None or counted.pinning is Pinning.UNKNOWN or counted.until <= each.seen_until:
        return each
    quiet_since = counted.until if counted.pinning is Pinning.SEEN else each.quiet_since
    return replace(each, seen_until=counted.until, quiet_since=quiet_since)


def _unseen(each: Retained, retention: timedelta, now: datetime) -> bool:
    """Have counters been missing for longer than a few looks?"""
    return now - each.seen_until > max(_LOOKS * between_looks(retention), retention)


def _why(each: Retained, retention: timedelta) -> str:
    quiet = each.seen_until - each.quiet_since >= retention
    return f"no request has pinned it for {format_duration(retention)}" if quiet else "its Deployment has no replicas"


def _sentence(each: Retained, retention: timedelta, now: datetime) -> str:
    text = f"model version {each.version} is kept until no request has pinned its space {each.space} for {format_duration(retention)}"
    if _unseen(each, retention, now):
        return f"{text}; its pods' metrics are missing, so nobody knows: see to Prometheus, or set strategy.spaceRetention to 0s"
    return f"{text}; clients still pin it" if each.told else text
