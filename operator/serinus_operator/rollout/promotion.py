"""Promotion, the bake after it, and the way back: who is stable changes, and no pod is touched by that."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from serinus_operator.gates.judge import Verdict
from serinus_operator.rollout import registry_moves, retention
from serinus_operator.rollout.draft import Draft
from serinus_operator.rollout.model import Canary, Capacity, Former, HistoryEntry, Result, Revision, Weight

_MOST_EVIDENCE: Final = 500  # characters in an entry of history, of which there may be a hundred


def promote(draft: Draft) -> None:
    """Promotion retargets: the canary's Deployment becomes the stable one, and no pod of it is touched. The former is kept for a while."""
    canary, previous = draft.status.canary, draft.status.stable
    assert canary is not None
    registry_moves.behaved(draft)
    gates = "; ".join(gate.message for gate in draft.status.gates)
    reason = gates or ("first release" if previous is None else "all steps finished")
    registry_moves.promoted(draft, canary, previous, reason)
    remember(draft, canary, Result.PROMOTED, reason)
    retention.keep(draft, previous, canary)
    former = _kept(draft, previous)
    draft.update(
        stable=Revision(
            canary.revision, canary.version, canary.digest, canary.space, backend=canary.backend, dtype=canary.dtype
        ),
        canary=None,
        former=former,
        capacity=Capacity(),
        step=None,
        weight=Weight(),
        evidence=draft.status.evidence if former is not None else None,
    )
    draft.say("Promoted", f"revision {canary.revision} (model version {canary.version}) is stable: {reason}")


def _kept(draft: Draft, previous: Revision | None) -> Former | None:
    strategy = draft.spec.strategy
    if previous is None or not (strategy.scale_down_delay or strategy.bake):
        return None
    warm_until, bake_until = draft.now + strategy.scale_down_delay, draft.now + strategy.bake
    return Former(
        previous.revision, previous.version, previous.digest, previous.space, warm_until, bake_until,
        previous.backend, previous.dtype,
    )  # fmt: skip


def watch_bake(draft: Draft, former: Former) -> None:
    """While the former stable is kept: a broken limit, or a target that is the former again, goes back to it without further steps."""
    target, undone = draft.status.target, draft.status.undone
    if not draft.bakes:
        registry_moves.behaved(draft)
    if draft.bakes and draft.analysis.verdict is Verdict.FAIL:
        failed = [gate.message for gate in draft.analysis.gates if gate.verdict is Verdict.FAIL and not gate.dry_run]
        demote(draft, former, Result.ROLLED_BACK, "while baking: " + "; ".join(failed))
    elif target is not None and target.revision == former.revision and undone is not None:
        demote(draft, former, Result.ABORTED, "undone by a person")
    elif target is not None and target.revision == former.revision:
        demote(draft, former, Result.SUPERSEDED, "the spec or the registry names the former version again")
    elif draft.now >= max(former.warm_until, former.bake_until):
        draft.update(former=None, evidence=None)
    else:
        draft.update(gates=draft.analysis.gates or draft.status.gates, evidence=draft.analysis.evidence)
        draft.look_again(min(at for at in (former.warm_until, former.bake_until) if at > draft.now))


def demote(draft: Draft, former: Former, result: Result, reason: str) -> None:
    """The former stable is stable again, and what was promoted is withdrawn like a canary that has all the traffic."""
    current, target = draft.status.stable, draft.status.target
    assert current is not None
    registry_moves.behaved(draft)
    canary = Canary(
        current.revision, current.version, current.digest, current.space,
        started_at=draft.now, ready=current.ready, verified=True, backend=current.backend, dtype=current.dtype,
        ending=result, reason=reason,
    )  # fmt: skip
    draft.update(
        stable=Revision(
            former.revision, former.version, former.digest, former.space, backend=former.backend, dtype=former.dtype
        ),
        canary=canary,
        former=None,
        evidence=None,
    )
    if result is Result.ROLLED_BACK and target is not None and target.revision == current.revision:
        draft.update(target=replace(target, rejected=True, reason=reason))
    registry_moves.demoted(draft, canary, former, result, reason)
    draft.say(
        str(result),
        f"revision {canary.revision} (model version {canary.version}): {reason}; back to model version {former.version}",
        warning=result is Result.ROLLED_BACK,
    )


def remember(draft: Draft, canary: Canary, result: Result, reason: str) -> None:
    """The rollout is history."""
    evidence = "; ".join(
        f"{gate.name} {gate.verdict}: {gate.evidence:.3g} of {gate.needed:.3g}, {gate.requests} requests"
        for gate in draft.status.gates
    )[:_MOST_EVIDENCE]
    entry = HistoryEntry(
        canary.version, canary.revision, result, reason, canary.started_at, draft.now, canary.digest, canary.space, evidence
    )  # fmt: skip
    draft.update(history=(entry, *draft.status.history)[: draft.spec.history])
