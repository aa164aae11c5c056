"""Vector spaces of a release: which ones are served, and what becomes of a target whose vectors mean nothing to stable's. Pure.

Two models of equal dimension give vectors of the same shape; mixed in one index they find nothing, and no metric shows it.
"""

from __future__ import annotations

from serinus_operator.rollout.draft import Draft
from serinus_operator.rollout.model import Canary, Revision, Target
from serinus_operator.spec import OnSpaceChange


def live_spaces(draft: Draft) -> tuple[str, ...]:
    """The spaces that pods are kept for, sorted: stable's, the canary's, and the former's while it is warm."""
    status = draft.status
    warm = status.former if status.former is not None and draft.now < status.former.warm_until else None
    return tuple(sorted({live.space for live in (status.stable, status.canary, warm) if live is not None}))


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
        return "EmbeddingSpaceChanged", True, "Refused" if refused(draft) else "Split", explain(draft, found, stable)
    if former is not None and former.space != stable.space:
        text = f"since the last promotion vectors are of space {stable.space}; model version {former.version} gave {former.space}"
        return "EmbeddingSpaceChanged", True, "Promoted", text
    return "EmbeddingSpaceChanged", False, "SameSpace", f"space {stable.space}"


def explain(draft: Draft, found: Canary | Target, stable: Revision) -> str:
    """What the change of space means, and what to do."""
    text = f"model version {found.version} is of vector space {found.space}, stable version {stable.version} of {stable.space}"
    if draft.spec.strategy.on_space_change is OnSpaceChange.REFUSE:
        return f"{text}; strategy.onSpaceChange is Refuse: set it to Split to roll this version out"
    return f"{text}: never compare their vectors; clients that send x-embedding-space get theirs"
