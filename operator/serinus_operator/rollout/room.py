"""Room for a canary's pods under `surge: Auto`: beyond `replicas` while the scheduler finds some, else in the place of a stable pod."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final

from serinus_operator.rollout.draft import Draft
from serinus_operator.rollout.model import Capacity, Policy, Result
from serinus_operator.rollout.movement import can_swap, floor_hint, policy, problem_of
from serinus_operator.rollout.steps import end
from serinus_operator.spec import Surge

# An autoscaler or a pod that is just ending may make room by itself; what lasts longer is a lack.
_PATIENCE: Final = timedelta(seconds=30)


def find_room(draft: Draft) -> None:
    """Swaps from now on when a shortage has lasted; ends the rollout where the floor leaves no pod that could be swapped.

    What counts is who has to grow: the canary, and while it is withdrawn stable.
    """
    canary, stable, capacity = draft.status.canary, draft.status.stable, draft.status.capacity
    if canary is None:
        return
    shortage = problem_of(draft, canary if canary.ending is None else stable)
    lacks = shortage is not None and shortage.shortage
    draft.update(capacity=replace(capacity, free=0 if lacks else None))
    if draft.spec.strategy.surge is not Surge.AUTO or policy(draft) is Policy.SWAP or stable is None:
        return
    if shortage is None or not lacks or shortage.since is None:
        return
    if draft.now < shortage.since + _PATIENCE:
        draft.look_again(shortage.since + _PATIENCE)
    elif can_swap(draft):
        draft.update(capacity=Capacity(Policy.SWAP, 0))
        draft.say("Swapping", f"{shortage}; from now on a pod goes before its replacement comes")
    elif canary.ending is None:
        end(draft, Result.ROLLED_BACK, f"{shortage}{floor_hint(draft)}")
