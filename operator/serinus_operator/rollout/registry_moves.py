"""What the registry should say after each transition. Aliases first; stages only when the spec names them.

A new revision of the version that is stable already (an edit of `serving`, say) moves nothing: the version's standing has not changed.
"""

from __future__ import annotations

from typing import Final

from serinus_operator.rollout.draft import Draft, describe, effective_steps
from serinus_operator.rollout.model import Canary, Former, RegistryIntent, Result, Revision, StepSummary
from serinus_operator.spec import Verify

ARCHIVED: Final = "Archived"
REPLACED: Final = "Replaced"
STEP_TAG: Final = "serinus.step."
BAKE: Final = "bake"
_MAX_TAG_CHARACTERS: Final = 4000


def started(draft: Draft, canary: Canary) -> None:
    """The canary is about to meet its first users."""
    stable, moves = draft.status.stable, draft.spec.on_canary
    if stable is None or stable.version == canary.version:
        return
    draft.want_registry(
        RegistryIntent(
            aliases={moves.alias: canary.version} if moves.alias else {},
            stages={canary.version: moves.stage} if moves.stage else {},
            tags={canary.version: _tags(draft, "Canary", "")},
        )
    )


def promoted(draft: Draft, canary: Canary, previous: Revision | None, reason: str) -> None:
    """The canary is stable now; the version before it is archived where the spec says so."""
    if previous is not None and previous.version == canary.version:
        return
    moves, stages = draft.spec.on_promote, {}
    if moves.stage:
        stages[canary.version] = moves.stage
        if moves.archive_previous and previous is not None:
            stages[previous.version] = ARCHIVED
    draft.want_registry(
        RegistryIntent(
            aliases={moves.alias: canary.version} if moves.alias else {},
            withdrawn=_canary_alias(draft, canary),
            stages=stages,
            tags={canary.version: _tags(draft, Result.PROMOTED, reason), **_replaced(draft, canary, previous)},
        )
    )


def demoted(draft: Draft, canary: Canary, former: Former, result: Result, reason: str) -> None:
    """What was promoted is taken back: alias and stage return to the version before it."""
    if former.version == canary.version:
        return
    ended(draft, canary, result, reason)
    moves = draft.spec.on_promote
    draft.want_registry(
        RegistryIntent(
            aliases={moves.alias: former.version} if moves.alias else {},
            stages={canary.version: draft.spec.on_rollback.stage or ARCHIVED, former.version: moves.stage}
            if moves.stage
            else {},
            tags={
                former.version: _tags(draft, Result.PROMOTED, f"stable again: model version {canary.version} {reason}")
            },
        )
    )


def ended(draft: Draft, canary: Canary, result: Result, reason: str) -> None:
    """The canary is withdrawn: its alias goes, and its version carries the reason."""
    stable, moves = draft.status.stable, draft.spec.on_rollback
    if stable is not None and stable.version == canary.version:
        return
    tags = _tags(draft, result, reason)
    stages = {}
    if result is not Result.SUPERSEDED:
        tags |= {
            name: text.replace("{{ reason }}", reason)[:_MAX_TAG_CHARACTERS]
            for name, text in (moves.tags or {}).items()
        }
        stages = {canary.version: moves.stage} if moves.stage else {}
    draft.want_registry(
        RegistryIntent(withdrawn=_canary_alias(draft, canary), stages=stages, tags={canary.version: tags})
    )


def behaved(draft: Draft) -> None:
    """A step has ended, or the bake: how the version behaved in it goes with it to the registry. Nothing where no request was counted."""
    status = draft.status
    steps, state = effective_steps(draft.spec.strategy.steps, first=False), status.step
    step = steps[state.index] if state is not None and state.index < len(steps) else None
    if isinstance(step, Verify):
        return  # no user has met it; what was counted, where an operator died right after, is the next step's
    draft.update(behaviour=None)
    behaviour, canary = status.behaviour, status.canary
    judged, beside = (canary, status.stable) if canary is not None else (status.stable, status.former)
    if behaviour is None or judged is None or beside is None or behaviour.revision != judged.revision:
        return
    if judged.version == beside.version or not behaviour.judged.counts.requests:
        return
    number = len(steps) + 1 if state is None else state.index + 1
    label = BAKE if state is None else describe(step) if step is not None else "edited since"
    summary = StepSummary(
        draft.release, judged.revision, number, label, behaviour.since, behaviour.until,
        behaviour.judged.figures(), beside.version, behaviour.beside.figures(),
    )  # fmt: skip
    tag = STEP_TAG + (BAKE if state is None else str(number))
    draft.want_registry(RegistryIntent(summaries={judged.version: {tag: summary}}))


def _replaced(draft: Draft, canary: Canary, previous: Revision | None) -> dict[str, dict[str, str]]:
    if previous is None:
        return {}
    return {previous.version: _tags(draft, REPLACED, f"model version {canary.version} was promoted")}


def _canary_alias(draft: Draft, canary: Canary) -> dict[str, str]:
    alias = draft.spec.on_canary.alias
    return {alias: canary.version} if alias and alias != draft.spec.on_promote.alias else {}


def _tags(draft: Draft, result: str, reason: str) -> dict[str, str]:
    """What a version carries of its last transition: in which release, how it ended, why, on what evidence, by whom, and when."""
    evidence = "; ".join(gate.message for gate in draft.status.gates)
    return {
        "serinus.release": draft.release,
        "serinus.result": str(result),
        "serinus.reason": reason[:_MAX_TAG_CHARACTERS],
        "serinus.evidence": evidence[:_MAX_TAG_CHARACTERS],
        "serinus.by": _who(draft),
        "serinus.at": draft.now.isoformat(timespec="seconds"),
    }


def _who(draft: Draft) -> str:
    """The person's command that is obeyed in this very plan, else the operator."""
    command, answered = draft.observed.command, draft.before.command
    if command is None or (answered is not None and answered.id == command.id):
        return "serinus-operator"
    return f"command {command.verb} {command.id}"
