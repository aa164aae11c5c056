"""The part of the status that is for people and tools: conditions, phase, message, printer columns. Decides nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from serinus_contract.names import RELEASE_LABEL
from serinus_operator.gates.judge import Verdict, overall
from serinus_operator.rollout import retention
from serinus_operator.rollout.capacity import floor
from serinus_operator.rollout.draft import Draft, describe, effective_steps
from serinus_operator.rollout.model import Canary, Condition, Phase
from serinus_operator.rollout.movement import problem_of
from serinus_operator.rollout.observed import Unresolved
from serinus_operator.rollout.spaces import condition, explain, refused
from serinus_operator.rollout.steps import deadline, waits_for_person


def summarise(draft: Draft) -> None:
    """Fills in what follows from the rest of the status."""
    status, observed, spec = draft.status, draft.observed, draft.spec
    name = draft.release.partition("/")[2]
    stable = status.stable and replace(status.stable, ready=observed.workload(status.stable.revision).side.ready)
    canary = status.canary and replace(status.canary, ready=observed.workload(status.canary.revision).side.ready)
    draft.update(
        observed_generation=observed.generation,
        stable=stable,
        canary=canary,
        replicas=sum(workload.side.pods for workload in observed.workloads.values()),
        selector=f"{RELEASE_LABEL}={name}",
        verdict=str(overall(status.gates)) if status.gates else "",
        step_label=_step_label(draft),
    )
    ready = _ready(draft)
    paused = _paused(draft)
    if draft.status.step is not None:
        draft.update(step=replace(draft.status.step, deadline=_deadline(draft, paused=paused)))
    draft.update(message=_message(draft, ready=ready), phase=_phase(draft, ready=ready, paused=paused))
    draft.update(conditions=_conditions(draft, ready=ready, paused=paused))
    draft.update(
        replicas=min(draft.status.replicas, spec.replicas)
    )  # surge pods are not counted: an HPA may own spec.replicas


def _ready(draft: Draft) -> bool:
    status, spec = draft.status, draft.spec
    return (
        status.stable is not None
        and status.target is not None
        and status.canary is None
        and status.stable.revision == status.target.revision
        and status.stable.ready >= floor(spec.replicas, spec.strategy.capacity_floor_percent)
    )


def _paused(draft: Draft) -> bool:
    canary, step = draft.status.canary, draft.status.step
    if canary is None or canary.ending is not None or step is None:
        return False
    steps = effective_steps(draft.spec.strategy.steps, first=draft.status.stable is None)
    return draft.spec.paused or canary.paused or waits_for_person(draft, steps[step.index])


def _deadline(draft: Draft, *, paused: bool) -> datetime | None:
    """Of the step that the rollout is in, while nothing holds it there."""
    canary, step = draft.status.canary, draft.status.step
    if canary is None or canary.ending is not None or step is None or paused or draft.spec.replicas == 0:
        return None
    steps = effective_steps(draft.spec.strategy.steps, first=draft.status.stable is None)
    return deadline(draft, steps[step.index])


def _phase(draft: Draft, *, ready: bool, paused: bool) -> Phase:
    status = draft.status
    if paused:
        return Phase.PAUSED
    if status.canary is not None:
        return Phase.PROGRESSING
    if ready:
        return Phase.HEALTHY
    if (
        (status.target is not None and status.target.rejected)
        or refused(draft)
        or isinstance(draft.observed.resolution, Unresolved)
    ):
        return Phase.DEGRADED
    return Phase.PROGRESSING


def _step_label(draft: Draft) -> str:
    status = draft.status
    if status.canary is None or status.step is None:
        return ""
    if status.canary.ending is not None:
        return "withdraw"
    steps = effective_steps(draft.spec.strategy.steps, first=status.stable is None)
    return f"{status.step.index + 1}/{len(steps)} {describe(steps[status.step.index])}"


def _message(draft: Draft, *, ready: bool) -> str:
    status, resolution = draft.status, draft.observed.resolution
    if status.canary is not None:
        return f"model version {status.canary.version}: {status.step_label}" + _why(draft, status.canary)
    if isinstance(resolution, Unresolved):
        return resolution.message
    if status.target is not None and status.target.rejected:
        return f"model version {status.target.version} was rejected: {status.target.reason}"
    if refused(draft) and status.target is not None and status.stable is not None:
        return explain(draft, status.target, status.stable)
    if draft.observed.queue and draft.rollout_is_due and status.target is not None:
        return f"model version {status.target.version}: {draft.observed.queue}"
    if ready and status.stable is not None:
        serves = f"model version {status.stable.version} serves with {status.stable.ready} ready replicas"
        return serves + (
            f", baking until {status.former.bake_until:%H:%M:%S} UTC" if draft.bakes and status.former else ""
        )
    return "waiting for ready replicas of the stable revision" if status.stable else "waiting for a model version"


def _why(draft: Draft, canary: Canary) -> str:
    """Why it ends, and what holds it up: a canary that goes waits for stable's pods, where the floor says so."""
    held_up = problem_of(draft, canary if canary.ending is None else draft.status.stable)
    reasons = [str(each) for each in (canary.reason, held_up) if each]
    return f" ({'; '.join(reasons)})" if reasons else ""


def _conditions(draft: Draft, *, ready: bool, paused: bool) -> tuple[Condition, ...]:
    status, observed, resolution = draft.status, draft.observed, draft.observed.resolution
    rejected = status.target is not None and status.target.rejected
    rolling = status.canary is not None
    unresolved = isinstance(resolution, Unresolved)
    refused_space = refused(draft)
    settled = ready or ((rejected or refused_space) and not rolling)
    wanted = [
        ("Ready", ready, "Serving" if ready else "NotServingTarget", status.message),
        ("Reconciling", not settled, "RollingOut" if rolling else "AtRest", status.step_label),
        (
            "Stalled",
            (rejected or refused_space) and not rolling,
            "TargetRejected" if rejected else ("EmbeddingSpaceChanged" if refused_space else "NotStalled"),
            status.message if refused_space else (status.target.reason if status.target else ""),
        ),
        (
            "Progressing",
            rolling and not paused,
            "Paused" if paused else ("RollingOut" if rolling else "AtRest"),
            status.step_label,
        ),
        (
            "ModelResolved",
            not unresolved,
            resolution.reason if isinstance(resolution, Unresolved) else "Resolved",
            resolution.message if isinstance(resolution, Unresolved) else f"model version {resolution.version}",
        ),
    ]
    if (space := condition(draft)) is not None:
        wanted.append(space)
    if (retained := retention.condition(draft)) is not None:
        wanted.append(retained)
    if status.gates:
        verdict = overall(status.gates)
        wanted.append(
            ("AnalysisPassing", verdict is Verdict.PASS, str(verdict), "; ".join(gate.message for gate in status.gates))
        )
    synced = observed.registry_synced is not None and not status.registry and not observed.registry_message
    lost = "VersionDeleted" if observed.registry_message else "Pending"
    reason = "Synced" if synced else observed.registry_reason or lost
    wanted.append(("RegistrySynced", synced, reason, observed.registry_message))
    before = {condition.type: condition for condition in draft.before.conditions}
    return tuple(
        _condition(draft, before.get(kind), kind, value, reason, message) for kind, value, reason, message in wanted
    )


def _condition(draft: Draft, before: Condition | None, kind: str, value: bool, reason: str, message: str) -> Condition:
    status = "True" if value else "False"
    since = before.last_transition_time if before is not None and before.status == status else draft.now
    return Condition(kind, status, reason, message, since, draft.observed.generation)
