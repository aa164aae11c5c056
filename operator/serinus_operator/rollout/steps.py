"""The steps of a rollout: when each has finished, and when it has failed. Raises the weight; replicas follow in `movement`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import assert_never

from serinus_contract.verification import CONFIDENCE_ODDS_RATIO
from serinus_operator.durations import format_duration
from serinus_operator.gates.judge import Verdict
from serinus_operator.rollout import registry_moves
from serinus_operator.rollout.actions import CreateVerifyJob, DeleteVerifyJob
from serinus_operator.rollout.draft import Draft
from serinus_operator.rollout.model import Canary, Result, StepState, Target
from serinus_operator.rollout.movement import floor_hint, goal_reached, problem_of, ready_pods
from serinus_operator.rollout.observed import JobState, Problem
from serinus_operator.spec import Analysis, InconclusiveAction, Pause, SetWeight, Step, Verify


def fresh_step(draft: Draft, steps: str, index: int = 0) -> StepState:
    """The state of a step that begins now; `steps` is the hash of the steps that it is one of."""
    return StepState(index=index, hash=steps, started_at=draft.now, progressed_at=draft.now)


def step_finished(draft: Draft, step: Step) -> bool:
    """Has the current step finished? May raise the weight, ask for a verify Job, or end the rollout."""
    match step:
        case Verify():
            return _verified(draft)
        case SetWeight(percent):
            return _weight_reached(draft, percent)
        case Pause(duration):
            due = None if duration is None else _state(draft).started_at + duration
            if due is not None and draft.now < due:
                draft.look_again(due)
            return _state(draft).released or (due is not None and draft.now >= due)
        case Analysis():
            return _analysed(draft, step)
        case _:
            assert_never(step)


def waits_for_person(draft: Draft, step: Step) -> bool:
    """Does only a person's `promote` (or new evidence) move this step on?"""
    match step:
        case Pause(None):
            return True
        case Analysis():
            return draft.now >= _patience_ends(draft, step)
        case _:
            return False


def deadline(draft: Draft, step: Step) -> datetime | None:
    """Until when the machine waits in this step; None where a person is waited for."""
    if waits_for_person(draft, step):
        return None
    match step:
        case Verify() | SetWeight():
            return _state(draft).progressed_at + draft.spec.strategy.progress_deadline
        case Pause(duration):
            return None if duration is None else _state(draft).started_at + duration
        case Analysis():
            return _patience_ends(draft, step)
        case _:
            assert_never(step)


def _verified(draft: Draft) -> bool:
    """The Job's verdict is stored first, then the Job deleted; the canary starts when it is gone, for it holds a canary's GPU."""
    canary = _canary(draft)
    job = draft.observed.verify_jobs.get(canary.revision)
    if canary.verified:
        if job is not None and _verified_before(draft):
            draft.do(DeleteVerifyJob(canary.revision))
        if job is not None:
            _watch_deadline(draft, "the verify Job does not go away")
        return job is None
    if job is None:
        stable = draft.status.stable
        target = Target(canary.revision, canary.version, canary.digest, canary.space)
        draft.do(CreateVerifyJob(target, stable.version if stable else None))
    elif job.state is JobState.FINISHED and job.report is None:
        end(draft, Result.ROLLED_BACK, f"verify could not judge: {job.message}")
    elif job.state is JobState.FINISHED and job.report is not None:
        if job.report.digest != canary.digest:
            end(draft, Result.ROLLED_BACK, f"verify saw digest {job.report.digest}, the registry names {canary.digest}")
        elif not job.report.passed:
            end(draft, Result.ROLLED_BACK, f"verify: {job.report.reason}")
        else:
            report, odds_ratio = job.report, job.report.measured.get(CONFIDENCE_ODDS_RATIO)
            chosen = replace(canary, backend=report.backend, dtype=report.dtype)
            draft.update(canary=replace(chosen, verified=True, confidence_odds_ratio=odds_ratio))
            draft.say("Verified", f"revision {canary.revision}: {report.reason}")
            draft.look_again(draft.now)
        return False
    _watch_deadline(draft, "the verify Job has not finished")
    return False


def _verified_before(draft: Draft) -> bool:
    return draft.before.canary is not None and draft.before.canary.verified


def _weight_reached(draft: Draft, percent: int) -> bool:
    weight = draft.status.weight
    if weight.desired != percent:
        if weight.desired == 0:
            registry_moves.started(draft, _canary(draft))
        draft.update(weight=replace(weight, desired=percent))
        if percent < 100:  # of the last one `Promoted` tells
            draft.say("WeightSet", f"revision {_canary(draft).revision}: {percent} %")
    if goal_reached(draft):
        return True
    _watch_deadline(draft, "pods do not become ready")
    return False


def _analysed(draft: Draft, step: Analysis) -> bool:
    state, analysis = _state(draft), draft.spec.analysis
    due = state.started_at + step.duration
    if state.released or (draft.now >= due and draft.analysis.verdict is Verdict.PASS):
        return True
    if draft.now >= _patience_ends(draft, step) and analysis.inconclusive_action is InconclusiveAction.ROLLBACK:
        waited = draft.now - state.started_at
        end(draft, Result.ROLLED_BACK, f"no verdict after {format_duration(waited)}: {_open_gates(draft)}")
    elif draft.now < _patience_ends(draft, step):
        draft.look_again(due if draft.now < due else _patience_ends(draft, step))
    return False


def _patience_ends(draft: Draft, step: Analysis) -> datetime:
    return _state(draft).started_at + step.duration + draft.spec.analysis.inconclusive_after


def _open_gates(draft: Draft) -> str:
    still_open = [
        gate.message for gate in draft.analysis.gates if gate.verdict is not Verdict.PASS and not gate.dry_run
    ]
    return "; ".join(still_open) or "no gate has been judged yet"


def _watch_deadline(draft: Draft, waiting_for: str) -> None:
    """Ends the rollout when nothing became ready for `progressDeadline`, with the pods' own problem as the reason."""
    state, ready = _state(draft), ready_pods(draft)
    if ready != state.ready:
        state = replace(state, ready=ready, progressed_at=draft.now)
        draft.update(step=state)
    due = state.progressed_at + draft.spec.strategy.progress_deadline
    if draft.now < due:
        draft.look_again(due)
        return
    stuck = problem_of(draft, draft.status.canary) or problem_of(draft, draft.status.stable)
    problem = stuck or Problem("ProgressDeadlineExceeded", waiting_for)
    within = format_duration(draft.spec.strategy.progress_deadline)
    hint = floor_hint(draft) if problem.shortage else ""
    end(draft, Result.ROLLED_BACK, f"{problem}: not ready within progressDeadline {within}{hint}")


def _state(draft: Draft) -> StepState:
    assert draft.status.step is not None
    return draft.status.step


def _canary(draft: Draft) -> Canary:
    assert draft.status.canary is not None
    return draft.status.canary


def end(draft: Draft, result: Result, reason: str) -> None:
    """The canary is withdrawn from now on: the desired weight is 0 in this very plan, and a bad target is rejected."""
    canary, target = draft.status.canary, draft.status.target
    assert canary is not None
    registry_moves.behaved(draft)
    draft.update(canary=replace(canary, ending=result, reason=reason), weight=replace(draft.status.weight, desired=0))
    if result is not Result.SUPERSEDED and target is not None and target.revision == canary.revision:
        draft.update(target=replace(target, rejected=True, reason=reason))
    registry_moves.ended(draft, canary, result, reason)
    draft.say(
        str(result),
        f"revision {canary.revision} (model version {canary.version}): {reason}",
        warning=result is Result.ROLLED_BACK,
    )
