"""What the registry should say after each transition. Aliases first; stages only when the spec names them.

A new revision of the version that is stable already (an edit of `serving`, say) moves nothing: the version's standing has not changed.
"""

from __future__ import annotations

from serinus_operator.rollout.draft import Draft
from serinus_operator.rollout.model import Canary, Former, RegistryIntent, Result, Revision

ARCHIVED = "Archived"
_MAX_TAG_CHARACTERS = 4000


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
            tags={canary.version: _tags(draft, Result.PROMOTED, reason)},
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


def _canary_alias(draft: Draft, canary: Canary) -> dict[str, str]:
    alias = draft.spec.on_canary.alias
    return {alias: canary.version} if alias and alias != draft.spec.on_promote.alias else {}


def _tags(draft: Draft, result: str, reason: str) -> dict[str, str]:
    return {
        "serinus.release": draft.release,
        "serinus.result": str(result),
        "serinus.reason": reason[:_MAX_TAG_CHARACTERS],
        "serinus.at": draft.now.isoformat(timespec="seconds"),
    }
