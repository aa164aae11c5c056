"""From a desired weight to Deployment actions. Decides how many replicas to ask for; never whether the weight is right."""

from __future__ import annotations

from dataclasses import replace

from serinus_operator.rollout import capacity
from serinus_operator.rollout.actions import CreateDeployment, Route, Scale
from serinus_operator.rollout.capacity import Side, Split, advance, split
from serinus_operator.rollout.draft import Draft
from serinus_operator.rollout.model import Canary, Policy, Revision, Target
from serinus_operator.rollout.observed import Problem
from serinus_operator.rollout.retention import is_kept
from serinus_operator.rollout.routing import keep_served, routed, wanted_route
from serinus_operator.rollout.spaces import apart
from serinus_operator.spec import Surge

_NOTHING = Side(0, 0, 0)


def move(draft: Draft) -> None:
    """One batch of replicas towards the desired weight, within surge and floor."""
    spec, status = draft.spec, draft.status
    stable, canary = _sides(draft)
    asked = advance(
        _goal(draft),
        stable,
        canary,
        replicas=spec.replicas,
        floor_percent=_floor_percent(draft),
        max_surge=0 if policy(draft) is Policy.SWAP else spec.strategy.max_surge,
        guests=_guests(draft),
    )
    asked = keep_served(draft, asked)
    if status.stable is not None:
        _ask(draft, status.stable, asked.stable)
    if status.canary is not None:
        _ask(draft, status.canary, asked.canary)
    draft.update(weight=replace(status.weight, achieved=_achieved(draft, stable, canary)))


def evacuate(draft: Draft) -> None:
    """All of the canary goes at once, whatever the floor: it has left the Service, so its pods are no capacity.

    What stays of it stays for those who pin its space.
    """
    assert draft.status.canary is not None
    assert draft.status.stable is not None
    _ask(draft, draft.status.canary, keep_served(draft, Split(0, _kept(draft))).canary)
    _ask(draft, draft.status.stable, draft.spec.replicas)
    draft.update(weight=replace(draft.status.weight, achieved=0))


def goal_reached(draft: Draft) -> bool:
    """Are both sides exactly where the desired weight wants them? At 100 only the canary counts: stable's last pods leave the Service."""
    goal, (stable, canary) = _goal(draft), _sides(draft)
    pods = canary.has(goal.canary) and (draft.status.weight.desired == 100 or stable.has(goal.stable))
    return pods and routed(draft)


def route(draft: Draft) -> Route | None:
    """The HTTPRoute that goes with the pods as they are; None with replica routing."""
    return wanted_route(draft, *_sides(draft), _goal(draft))


def ready_pods(draft: Draft) -> int:
    """Ready pods of both sides."""
    return sum(side.ready for side in _sides(draft))


def stable_serves(draft: Draft) -> bool:
    """Has stable a ready pod?"""
    return _sides(draft)[0].ready > 0


def short_of(draft: Draft) -> bool:
    """Has stable too few ready pods to take over what the canary serves?"""
    stable, canary = _sides(draft)
    percent = draft.spec.strategy.capacity_floor_percent
    return stable.ready < max(1, min(canary.ready, capacity.floor(draft.spec.replicas, percent)))


def policy(draft: Draft) -> Policy:
    """How this rollout makes room: as the spec says, and under Auto as was found out. Where nothing may go first it can only surge."""
    surge = draft.spec.strategy.surge
    swaps = surge is Surge.SWAP or (surge is Surge.AUTO and draft.status.capacity.policy is Policy.SWAP)
    return Policy.SWAP if swaps and can_swap(draft) else Policy.SURGE


def problem_of(draft: Draft, revision: Revision | Canary | None) -> Problem | None:
    """What keeps a revision's pods, or that of its verify Job, from becoming ready."""
    if revision is None:
        return None
    job = draft.observed.verify_jobs.get(revision.revision)
    return draft.observed.workload(revision.revision).problem or (job.problem if job else None)


def can_swap(draft: Draft) -> bool:
    """Does the floor leave a pod that may go before its replacement is there? Not where stable alone has the shared requests."""
    replicas = draft.spec.replicas
    return (
        draft.status.stable is not None
        and not apart(draft)
        and replicas > capacity.floor(replicas, draft.spec.strategy.capacity_floor_percent)
    )


def floor_hint(draft: Draft) -> str:
    """Why swapping does not help against a shortage, and what would; empty where it could help."""
    if draft.status.stable is None or can_swap(draft):
        return ""
    if apart(draft):
        return "; onSpaceChange Pinned keeps stable whole beside the canary: make room for as many pods more, or set it to Split"
    percent, replicas = draft.spec.strategy.capacity_floor_percent, draft.spec.replicas
    return (
        f"; capacityFloor {percent}% of {replicas} replicas lets no pod go first: "
        "lower spec.strategy.capacityFloor or make room for one pod more"
    )


def _sides(draft: Draft) -> tuple[Side, Side]:
    stable, canary = draft.status.stable, draft.status.canary
    return (
        draft.observed.workload(stable.revision).side if stable else _NOTHING,
        draft.observed.workload(canary.revision).side if canary else _NOTHING,
    )


def _goal(draft: Draft) -> Split:
    """Without a stable revision all of a weight above 0 is the canary's."""
    spec, weight, guests = draft.spec, draft.status.weight.desired, _guests(draft)
    goal = split(spec.replicas, weight)
    if draft.status.stable is None:
        return Split(0, goal.canary)
    if apart(draft):  # stable alone has the shared requests, and what clients pin is not taken from them
        return Split(spec.replicas, max(goal.canary, _kept(draft)))
    if weight == 100 and spec.strategy.scale_down_delay and policy(draft) is Policy.SURGE:
        return Split(min(_sides(draft)[0].replicas, spec.strategy.max_surge), goal.canary)  # warm, for a way back
    if guests and policy(draft) is Policy.SWAP:
        return Split(max(0, goal.stable - guests), goal.canary)
    return goal


def _kept(draft: Draft) -> int:
    """Pods of a canary that stay for their space: one that came back while clients still pinned it."""
    canary = draft.status.canary
    kept = canary is not None and is_kept(draft, canary.revision)
    return draft.observed.workload(canary.revision).side.replicas if kept and canary is not None else 0


def _floor_percent(draft: Draft) -> int:
    """Nothing is lost while there is room to surge; what has failed may go as soon as the spec's floor allows."""
    if draft.status.stable is None:
        return 0
    ending = draft.status.canary is not None and draft.status.canary.ending is not None
    surges = policy(draft) is Policy.SURGE and not ending
    return 100 if surges else draft.spec.strategy.capacity_floor_percent


def _guests(draft: Draft) -> int:
    """A verify Job's pod holds a canary's place, and its GPU."""
    canary = draft.status.canary
    return 1 if canary is not None and canary.revision in draft.observed.verify_jobs else 0


def _achieved(draft: Draft, stable: Side, canary: Side) -> int:
    """The share of the last window's requests; before there is one, that of ready replicas."""
    if draft.status.canary is None:
        return 0
    if draft.analysis.achieved is not None:
        return draft.analysis.achieved
    ready = stable.ready + canary.ready
    return round(100 * canary.ready / ready) if ready else 0


def _ask(draft: Draft, revision: Revision | Canary, replicas: int) -> None:
    workload = draft.observed.workloads.get(revision.revision)
    if workload is not None:
        if workload.side.replicas != replicas:
            draft.do(Scale(revision.revision, replicas))
    elif replicas > 0:
        target = Target(revision.revision, revision.version, revision.digest, revision.space)
        draft.do(CreateDeployment(target, replicas, revision.backend, revision.dtype))
