"""From a desired weight to Deployment actions. Decides how many replicas to ask for; never whether the weight is right."""

from __future__ import annotations

from dataclasses import replace

from serinus_operator.rollout.capacity import Side, Split, advance, reached, split
from serinus_operator.rollout.draft import Draft
from serinus_operator.rollout.model import Canary, CreateDeployment, Revision, Scale, Target


def move(draft: Draft) -> None:
    """One batch of replicas towards the desired weight, within surge and floor."""
    spec, status = draft.spec, draft.status
    stable, canary = _sides(draft)
    asked = advance(
        _goal(draft),
        stable,
        canary,
        replicas=spec.replicas,
        floor_percent=spec.strategy.capacity_floor_percent if status.stable else 0,
        max_surge=spec.strategy.max_surge,
    )
    if status.stable is not None:
        _ask(draft, status.stable, asked.stable)
    if status.canary is not None:
        _ask(draft, status.canary, asked.canary)
    ready = stable.ready + canary.ready
    draft.update(weight=replace(status.weight, achieved=round(100 * canary.ready / ready) if ready else 0))


def goal_reached(draft: Draft) -> bool:
    """Are both sides exactly where the desired weight wants them, ready, with nothing left terminating?"""
    return reached(_goal(draft), *_sides(draft))


def ready_pods(draft: Draft) -> int:
    """Ready pods of both sides."""
    return sum(side.ready for side in _sides(draft))


def _sides(draft: Draft) -> tuple[Side, Side]:
    stable, canary = draft.status.stable, draft.status.canary
    nothing = Side(0, 0, 0)
    return (
        draft.observed.workload(stable.revision).side if stable else nothing,
        draft.observed.workload(canary.revision).side if canary else nothing,
    )


def _goal(draft: Draft) -> Split:
    """Without a stable revision all of a weight above 0 is the canary's."""
    goal = split(draft.spec.replicas, draft.status.weight.desired)
    return goal if draft.status.stable is not None else Split(0, goal.canary)


def _ask(draft: Draft, revision: Revision | Canary, replicas: int) -> None:
    workload = draft.observed.workloads.get(revision.revision)
    if workload is not None:
        if workload.side.replicas != replicas:
            draft.do(Scale(revision.revision, replicas))
    elif replicas > 0:
        draft.do(
            CreateDeployment(Target(revision.revision, revision.version, revision.digest, revision.space), replicas)
        )
