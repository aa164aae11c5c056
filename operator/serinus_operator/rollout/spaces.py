"""Vector spaces of a release: which ones are served, and what becomes of a target whose vectors mean nothing to stable's. Pure.

Two models of equal dimension give vectors of the same shape; mixed in one index they find nothing, and no metric shows it.
"""

from __future__ import annotations

from typing import Final

from serinus_operator.rollout.draft import Draft
from serinus_operator.rollout.model import Canary, Revision, Target
from serinus_operator.spec import OnSpaceChange

_REASONS: Final = {OnSpaceChange.SPLIT: "Split", OnSpaceChange.PINNED: "Pinned", OnSpaceChange.REFUSE: "Refused"}


def live_spaces(draft: Draft) -> tuple[str, ...]:
    """The spaces that pods are kept for, sorted: stable's, the canary's, the former's while it is warm, and those that clients pin."""
    status = draft.status
    warm = status.former if status.former is not None and draft.now < status.former.warm_until else None
    kept = (status.stable, status.canary, warm, *status.retained)
    return tuple(sorted({live.space for live in kept if live is not None}))


def apart(draft: Draft) -> bool:
    """Are there two spaces on either side of a rollout that the spec keeps apart?"""
    stable, canary = draft.status.stable, draft.status.canary
    pinned = draft.spec.strategy.on_space_change is OnSpaceChange.PINNED
    return pinned and stable is not None and canary is not None and canary.space != stable.space


def mirrored(draft: Draft) -> tuple[str, str] | None:
    """Who sends copies of its requests to whom, so that the gates of a canary that is kept apart have data."""
    stable, canary = draft.status.stable, draft.status.canary
    if not apart(draft) or stable is None or canary is None or canary.ending is not None:
        return None
    return (stable.revision, canary.revision) if draft.status.weight.desired else None


def newcomer(draft: Draft) -> Canary | Target | None:
    """The revision of another space than stable's that is on trial, or would be next; None when there is none."""
    status = draft.status
    candidate = status.canary or (status.target if draft.rollout_is_due else None)
    stable = status.stable
    return candidate if candidate is not None and stable is not None and candidate.space != stable.space else None


def refused(draft: Draft) -> bool:
    """Does the spec keep the target from starting, because of its space?"""
    strategy = draft.spec.strategy
    return draft.status.canary is None and strategy.on_space_change is OnSpaceChange.REFUSE and bool(newcomer(draft))


def condition(draft: Draft) -> tuple[str, bool, str, str] | None:
    """`EmbeddingSpaceChanged`: True while vectors of two spaces are served, or would be. None before the first release."""
    stable, former = draft.status.stable, draft.status.former
    if stable is None:
        return None
    found = newcomer(draft)
    if found is not None:
        return (
            "EmbeddingSpaceChanged",
            True,
            _REASONS[draft.spec.strategy.on_space_change],
            explain(draft, found, stable),
        )
    if former is not None and former.space != stable.space:
        text = f"since the last promotion vectors are of space {stable.space}; model version {former.version} gave {former.space}"
        return "EmbeddingSpaceChanged", True, "Promoted", text
    return "EmbeddingSpaceChanged", False, "SameSpace", f"space {stable.space}"


def explain(draft: Draft, found: Canary | Target, stable: Revision) -> str:
    """What the change of space means, and what to do."""
    text = f"model version {found.version} is of vector space {found.space}, stable version {stable.version} of {stable.space}"
    if draft.spec.strategy.on_space_change is OnSpaceChange.REFUSE:
        return f"{text}; strategy.onSpaceChange is Refuse: set it to Split or Pinned to roll this version out"
    if draft.spec.strategy.on_space_change is OnSpaceChange.PINNED:
        return f"{text}: until it is promoted only clients that send x-embedding-space get its vectors"
    return f"{text}: never compare their vectors; clients that send x-embedding-space get theirs"
