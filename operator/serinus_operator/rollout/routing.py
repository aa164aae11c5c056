"""The weights of an HTTPRoute, where the spec asks for one: pods before weight on the way up, weight before pods on the way down.

With replica routing there is nothing to decide here: the ratio of ready pods is the share of requests.
"""

from __future__ import annotations

from serinus_operator.rollout.actions import Route
from serinus_operator.rollout.capacity import Side, Split
from serinus_operator.rollout.draft import Draft
from serinus_operator.rollout.model import Canary, Revision
from serinus_operator.rollout.spaces import apart
from serinus_operator.spec import OnFailure


def wanted_route(draft: Draft, stable: Side, canary: Side, goal: Split) -> Route | None:
    """The route as it should be now, from what is ready of each side and where the desired weight wants them."""
    gateway, status = draft.spec.strategy.gateway, draft.status
    if gateway is None:
        return None
    weight = 0 if apart(draft) else _weight(draft, stable, canary, goal)
    reached = (
        canary.ready > 0 if apart(draft) else weight > 0
    )  # one that is kept apart gets what names it, and nothing else
    named = reached and status.canary is not None and status.stable is not None and status.canary.ending is None
    return Route(gateway, weight, _names(status.stable) if named else None, _names(status.canary) if named else None)


def routed(draft: Draft) -> bool:
    """Does the route, as observed, carry the desired weight?"""
    wanted = 0 if apart(draft) else draft.status.weight.desired
    return draft.spec.strategy.gateway is None or _current(draft) == wanted


def keep_served(draft: Draft, asked: Split) -> Split:
    """A side that the route still sends requests to keeps a pod."""
    if draft.spec.strategy.gateway is None or draft.status.canary is None:
        return asked
    current = _current(draft)
    return Split(stable=asked.stable or int(current < 100), canary=asked.canary or int(current > 0))


def _weight(draft: Draft, stable: Side, canary: Side, goal: Split) -> int:
    on_trial, desired = draft.status.canary, draft.status.weight.desired
    if on_trial is None or canary.ready == 0:
        return 0
    share = 100 * canary.ready // (stable.ready + canary.ready)
    if on_trial.ending is None:
        return desired if canary.ready >= goal.canary else min(desired, share)
    if draft.spec.strategy.on_failure is OnFailure.IMMEDIATE or stable.ready >= goal.stable:
        return 0
    return min(_current(draft), share)  # what is left of stable could not take all


def _current(draft: Draft) -> int:
    serving = draft.observed.serving
    return serving.route.weight if serving is not None and serving.route is not None else 0


def _names(revision: Revision | Canary | None) -> tuple[str, str] | None:
    return None if revision is None else (revision.version, revision.space)
