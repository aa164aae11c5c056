"""The decision: `plan(spec, status, observed, analysis, now) → Plan`. Pure; it does no I/O and reads no clock.

The stages that a release goes through, and every way between them, are the table in `stages`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from serinus_operator.gates.judge import Verdict
from serinus_operator.rollout import registry_moves, retention
from serinus_operator.rollout.actions import ApplyServing, DeleteDeployment, DeleteVerifyJob, Plan, Scale, SyncRegistry
from serinus_operator.rollout.commands import answer
from serinus_operator.rollout.draft import Draft, effective_steps
from serinus_operator.rollout.model import Canary, Capacity, Result, Revision, Status, StepState, Weight
from serinus_operator.rollout.movement import evacuate, move, route, short_of, stable_serves
from serinus_operator.rollout.observed import AnalysisResult, Observed, Resolved
from serinus_operator.rollout.promotion import promote, remember, watch_bake
from serinus_operator.rollout.revision import steps_hash, target_of
from serinus_operator.rollout.room import find_room
from serinus_operator.rollout.spaces import apart, explain, live_spaces, mirrored, newcomer, refused
from serinus_operator.rollout.steps import end, fresh_step, step_finished
from serinus_operator.rollout.summary import summarise
from serinus_operator.spec import OnFailure, Spec


def plan(spec: Spec, status: Status, observed: Observed, analysis: AnalysisResult, now: datetime, release: str) -> Plan:
    """Decides what to do now. `release` is namespace/name. Safe to call at any time, with anything lost, repeated or stale."""
    draft = Draft(spec, status, observed, analysis, now, release, status)
    draft.update(behaviour=analysis.behaviour or status.behaviour)
    add_up(draft)
    adopt_target(draft)
    if observed.command is not None and (status.command is None or status.command.id != observed.command.id):
        answer(draft, observed.command)
        adopt_target(draft)  # `undo` names another one
    if draft.status.former is not None:
        watch_bake(draft, draft.status.former)
    if end_is_due(draft):
        withdraw(draft)
    elif draft.status.canary is not None or (draft.rollout_is_due and not observed.queue and not refused(draft)):
        roll(draft)
    else:
        rest(draft)
    retention.watch(draft)
    remove_leftovers(draft)
    serve(draft)
    sync_registry(draft)
    summarise(draft)
    return draft.plan()


def add_up(draft: Draft) -> None:
    """What pods held until now, and what was counted."""
    observed, cost = draft.observed, draft.status.cost.accrued(draft.observed.pods, draft.now)
    if observed.counted is not None:
        cost = cost.counted(observed.counted.by_version, observed.counted.until)
    draft.update(cost=replace(cost, price=observed.price))


def adopt_target(draft: Draft) -> None:
    """A target other than the last one replaces it, and forgets its rejection. Without an answer the last target stands."""
    if not isinstance(draft.observed.resolution, Resolved):
        return
    target = target_of(draft.spec.serving, draft.observed.resolution)
    undone = draft.status.undone
    if undone is not None and undone.instead_of == target.revision:
        target = target_of(draft.spec.serving, Resolved(undone.version, undone.digest, undone.space))
    elif undone is not None:
        draft.update(undone=None)
    known = draft.status.target
    if known is None or known.revision != target.revision:
        draft.update(target=target)
        if refused(draft):
            _say_of_another_space(draft)


def end_is_due(draft: Draft) -> bool:
    """Is the canary being withdrawn, or must it be from now on? A failed gate decides before anything else."""
    canary, target, stable = draft.status.canary, draft.status.target, draft.status.stable
    if canary is None:
        return False
    if canary.ending is None and draft.analysis.verdict is Verdict.FAIL:
        failed = [gate.message for gate in draft.analysis.gates if gate.verdict is Verdict.FAIL and not gate.dry_run]
        end(draft, Result.ROLLED_BACK, "; ".join(failed))
    elif canary.ending is None and target is not None and target.revision != canary.revision:
        back = stable is not None and stable.revision == target.revision
        end(
            draft,
            Result.SUPERSEDED,
            "the spec or the registry names the stable version again" if back else "another target",
        )
    return draft.status.canary is not None and draft.status.canary.ending is not None


def roll(draft: Draft) -> None:
    """Starts or continues the rollout: walks the steps as far as they have finished, then moves replicas towards the weight."""
    if draft.status.canary is None:
        _start(draft)
    steps = effective_steps(draft.spec.strategy.steps, first=draft.status.stable is None)
    _restart_if_edited(draft, steps_hash(steps))
    draft.update(gates=draft.analysis.gates, evidence=draft.analysis.evidence)
    while not _held(draft) and step_finished(draft, steps[_step(draft).index]):
        if _step(draft).index + 1 == len(steps):
            promote(draft)
            return
        registry_moves.behaved(draft)
        draft.update(step=fresh_step(draft, _step(draft).hash, _step(draft).index + 1))
    find_room(draft)
    if draft.status.canary is not None and draft.status.canary.ending is not None:
        withdraw(draft)
        return
    move(draft)


def _start(draft: Draft) -> None:
    target = draft.status.target
    assert target is not None
    registry_moves.behaved(draft)
    draft.analysis = AnalysisResult()  # what was judged until now was another revision: one that bakes
    canary = Canary(target.revision, target.version, target.digest, target.space, started_at=draft.now)
    draft.update(canary=canary, former=None, capacity=Capacity(), step=None, weight=Weight(), gates=(), evidence=None)
    if not apart(draft):  # its pods are the canary's from now on, and follow its weight
        draft.update(retained=tuple(each for each in draft.status.retained if each.revision != canary.revision))
    draft.say("RolloutStarted", f"model version {target.version} as revision {target.revision}")
    _say_of_another_space(draft)


def _say_of_another_space(draft: Draft) -> None:
    found, stable = newcomer(draft), draft.status.stable
    if found is not None and stable is not None:
        draft.say("EmbeddingSpaceChanged", explain(draft, found, stable), warning=True)


def _restart_if_edited(draft: Draft, steps: str) -> None:
    if draft.status.step is None or draft.status.step.hash != steps:
        draft.update(step=fresh_step(draft, steps), weight=Weight())


def _step(draft: Draft) -> StepState:
    assert draft.status.step is not None
    return draft.status.step


def _held(draft: Draft) -> bool:
    """Steps wait while the spec or a person says `paused`, while the registry names no version, and with no replicas to divide."""
    resolution = draft.observed.resolution
    unresolved = not isinstance(resolution, Resolved) and not resolution.passing
    canary = draft.status.canary
    ending = canary is not None and canary.ending is not None
    paused = draft.spec.paused or (canary is not None and canary.paused)
    return paused or unresolved or ending or draft.spec.replicas == 0


def withdraw(draft: Draft) -> None:
    """Stable is refilled, the canary lowered as the floor allows; when nothing of it is left the rollout is history."""
    canary = draft.status.canary
    assert canary is not None
    assert canary.ending is not None
    if draft.analysis.gates:
        draft.update(gates=draft.analysis.gates)
    kept = retention.is_kept(draft, canary.revision)  # it stays for those who pin its space
    workload = None if kept else draft.observed.workloads.get(canary.revision)
    if workload is not None or canary.revision in draft.observed.verify_jobs:
        find_room(draft)
        if _leaves_at_once(draft):
            evacuate(draft)
        else:
            move(draft)
        if workload is not None and workload.side.replicas == workload.side.pods == 0:
            draft.do(DeleteDeployment(canary.revision))
        if canary.revision in draft.observed.verify_jobs:
            draft.do(DeleteVerifyJob(canary.revision))
        return
    remember(draft, canary, canary.ending, canary.reason)
    draft.update(canary=None, capacity=Capacity(), step=None, weight=Weight(), evidence=None)
    if draft.rollout_is_due:
        draft.look_again(draft.now)
    else:
        move(draft)


def _leaves_at_once(draft: Draft) -> bool:
    """Does the failed canary leave the Service now? Never before stable can answer in its place."""
    canary = draft.status.canary
    failed = canary is not None and canary.ending in (Result.ROLLED_BACK, Result.ABORTED)
    return failed and draft.spec.strategy.on_failure is OnFailure.IMMEDIATE and stable_serves(draft)


def rest(draft: Draft) -> None:
    """No rollout: stable has its replicas."""
    draft.update(weight=Weight())
    move(draft)


def remove_leftovers(draft: Draft) -> None:
    """Deployments and verify Jobs of no live revision: scaled to nothing, then deleted once their pods are gone."""
    status, observed = draft.status, draft.observed
    warm = status.former if status.former is not None and draft.now < status.former.warm_until else None
    kept = (status.stable, status.canary, warm, *status.retained)
    live = {revision.revision for revision in kept if revision is not None}
    for revision, workload in observed.workloads.items():
        if revision in live:
            continue
        if workload.side.replicas > 0:
            draft.do(Scale(revision, 0))
        elif workload.side.pods == 0:
            draft.do(DeleteDeployment(revision))
    for revision in observed.verify_jobs:
        if status.canary is None or status.canary.revision != revision:
            draft.do(DeleteVerifyJob(revision))


def serve(draft: Draft) -> None:
    """Services follow the live revisions; the canary's is stable's too while there is no canary.

    Stable has the shared one alone but for a rollout's time: a former stable is kept out of it.
    """
    stable, canary = draft.status.stable, draft.status.canary
    alone, on_trial = _alone(draft), canary or stable
    wanted = ApplyServing(
        stable=stable.revision if stable else None,
        canary=on_trial.revision if on_trial else None,
        alone=alone.revision if alone else None,
        route=route(draft),
        spaces=live_spaces(draft),
        mirror=mirrored(draft),
    )
    if draft.observed.serving != wanted:
        draft.do(wanted)


def _alone(draft: Draft) -> Revision | Canary | None:
    """Who has the shared Service alone; None where stable and canary share it. Two spaces that the spec keeps apart never do."""
    stable, canary, serving = draft.status.stable, draft.status.canary, draft.observed.serving
    if canary is None or _leaves_at_once(draft):
        return stable
    if not apart(draft):
        return None
    has_it = serving is not None and serving.alone == canary.revision  # it was promoted, and is taken back
    return canary if canary.ending is not None and has_it and short_of(draft) else stable


def sync_registry(draft: Draft) -> None:
    """A registry call is planned only when the stored status already holds its intent, and forgotten only once seen done."""
    stored = draft.before.registry
    if not stored:
        return
    if draft.observed.registry_synced:
        if draft.status.registry == stored:
            draft.update(registry=type(stored)())
    elif draft.observed.registry_synced is False:
        draft.do(SyncRegistry(stored))
