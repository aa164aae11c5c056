"""How long a changed status may wait until it is stored: decisions not at all, figures a little. Pure.

Ready pods change many times in a rollout, evidence with every window; one write each was most of what a canary cost. An operator that
ends before it has stored them counts again from what is stored.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from serinus_operator.rollout.cost import Cost
from serinus_operator.rollout.model import Status

_FIGURES: Final = timedelta(seconds=15)
_TOLD_LATER: Final = (
    "RegistrySynced",
    "AnalysisPassing",
)  # a verdict that ends or promotes something is stored with what it decides
_EVIDENCE: Final = timedelta(seconds=30)
_HELD: Final = timedelta(
    seconds=60
)  # when pods came or went; what else a cost consists of rides along with other writes

_PINNED: Final = timedelta(
    minutes=15
)  # while requests pin a retained space; whoever reads an older status counts from there


def patience(saved: Status, status: Status) -> timedelta | None:
    """How long after the last write `status` may be stored; None when it is stored already, or has nothing worth a write of its own."""
    if replace(saved, cost=status.cost, retained=status.retained) == status and _who(saved) == _who(status):
        if [each.quiet_since for each in saved.retained] != [each.quiet_since for each in status.retained]:
            return _PINNED
        return None if saved.cost.held == status.cost.held else _HELD
    if not status.registry:
        saved = replace(saved, registry=status.registry)  # an intent seen done is done again without effect
    if saved.evidence is None:  # its first window is a figure; that it is gone, or another revision's, is none
        saved = replace(saved, evidence=status.evidence)
    if _decisions(saved) != _decisions(status):
        return timedelta()
    return _EVIDENCE if _counts(saved) == _counts(status) else _FIGURES


def _decisions(status: Status) -> Any:
    """The status without what is merely counted or worded; what evidence there is counts, how much does not."""
    stable, canary, step = status.stable, status.canary, status.step
    return replace(
        status,
        message="",
        verdict="",
        replicas=0,
        stable=stable and replace(stable, ready=0),
        canary=canary and replace(canary, ready=0),
        step=step and replace(step, ready=0, progressed_at=step.started_at, deadline=None),
        weight=replace(status.weight, achieved=0),
        capacity=replace(status.capacity, free=None),
        gates=(),
        evidence=None,
        behaviour=None,
        cost=Cost(),
        retained=_who(status),
        conditions=tuple(replace(each, message="") for each in status.conditions if each.type not in _TOLD_LATER),
    ), status.evidence and status.evidence.canary_revision


def _who(status: Status) -> Any:
    """Of the retained spaces, which and for how long; not what was counted of them."""
    return tuple(replace(each, quiet_since=each.since, seen_until=each.since) for each in status.retained)


def _counts(status: Status) -> Any:
    ready = [side and side.ready for side in (status.stable, status.canary)]
    told = [(each.status, each.reason) for each in status.conditions if each.type in _TOLD_LATER]
    gates = [(gate.name, gate.verdict, bool(gate.alert)) for gate in status.gates]
    return ready, told, gates, status.verdict, status.replicas, status.weight, status.step, status.capacity
