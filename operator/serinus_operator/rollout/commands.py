"""People's commands: each is obeyed once, or refused with the reason; either way the answer is in `status.command`."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from serinus_operator.rollout import registry_moves
from serinus_operator.rollout.draft import Draft, describe, effective_steps
from serinus_operator.rollout.model import Canary, CommandAnswer, Result, StepState, Undone
from serinus_operator.rollout.observed import Command, Resolved
from serinus_operator.rollout.revision import target_of
from serinus_operator.rollout.steps import end, fresh_step
from serinus_operator.spec import Verify

VERBS: Final = ("promote", "promote-full", "pause", "resume", "abort", "retry", "undo")
_NO_ROLLOUT: Final = "refused: no rollout is in progress"


def answer(draft: Draft, command: Command) -> None:
    """Does what a person asked for, or says why not; exactly once per command id."""
    outcome = _obey(draft, command)
    draft.update(command=CommandAnswer(command.id, command.verb, outcome, draft.now))
    draft.say("Command", f"{command.verb}: {outcome}", warning=outcome.startswith("refused"))


def _obey(draft: Draft, command: Command) -> str:
    status = draft.status
    if command.verb not in VERBS:
        return f"refused: the verbs are {', '.join(VERBS)}"
    if command.verb == "retry":
        return _retry(draft)
    if command.verb == "undo":
        return _undo(draft, command.to)
    canary, step = status.canary, status.step
    if canary is None or step is None or canary.ending is not None:
        return _NO_ROLLOUT
    if command.revision not in (None, canary.revision):
        return f"refused: revision {command.revision} is not on trial, {canary.revision} is"
    if command.step not in (None, step.index + 1):
        return f"refused: step {command.step} has passed, the rollout is at step {step.index + 1}"
    return _change(draft, command.verb, canary, step)


def _change(draft: Draft, verb: str, canary: Canary, step: StepState) -> str:
    steps = effective_steps(draft.spec.strategy.steps, first=draft.status.stable is None)
    match verb:
        case "promote":
            draft.update(step=replace(step, released=True))
            return f"step {step.index + 1} ({describe(steps[step.index])}) released"
        case "promote-full" if isinstance(steps[step.index], Verify):
            return "refused: verify has not passed yet; nothing skips it"
        case "promote-full":
            registry_moves.behaved(draft)
            draft.update(step=fresh_step(draft, step.hash, len(steps) - 1), canary=replace(canary, paused=False))
            return f"revision {canary.revision} goes to 100 % without the remaining steps"
        case "pause" if canary.paused:
            return "refused: it is paused already"
        case "pause":
            draft.update(canary=replace(canary, paused=True))
            return f"paused at step {step.index + 1}; `resume` goes on"
        case "resume" if not canary.paused:
            held = "; spec.paused holds it" if draft.spec.paused else ""
            return f"refused: no command has paused it{held}"
        case "resume":
            draft.update(canary=replace(canary, paused=False))
            return f"goes on at step {step.index + 1}"
        case _:
            end(draft, Result.ABORTED, "aborted by a person")
            return f"revision {canary.revision} is withdrawn"


def _retry(draft: Draft) -> str:
    target = draft.status.target
    if target is None or not target.rejected:
        return "refused: the target has not been rejected"
    draft.update(target=replace(target, rejected=False, reason=""))
    return f"revision {target.revision} is tried again"


def _undo(draft: Draft, to: str | None) -> str:
    """Back to what was promoted before, or to the revision `to`, through the same steps as any other target."""
    status, resolution = draft.status, draft.observed.resolution
    if status.canary is not None:
        return "refused: a rollout is in progress; `abort` ends it"
    if status.stable is None or not isinstance(resolution, Resolved):
        return "refused: nothing is stable yet, or the registry names no version"
    former = [
        entry for entry in status.history
        if entry.result is Result.PROMOTED and entry.revision != status.stable.revision and to in (None, entry.revision)
    ]  # fmt: skip
    if not former or not former[0].digest:
        return f"refused: {f'no promoted revision {to}' if to else 'no earlier revision'} is among the rollouts that are remembered"
    entry, instead_of = former[0], target_of(draft.spec.serving, resolution).revision
    draft.update(undone=Undone(instead_of, entry.version, entry.digest, entry.space))
    return f"back to model version {entry.version}, until spec or registry name another target"
