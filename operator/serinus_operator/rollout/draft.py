"""A plan in the making: the inputs of one decision, and what has been decided so far. Lives for one call of `plan`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, assert_never

from serinus_operator.durations import format_duration
from serinus_operator.rollout.actions import Action, Event, Plan
from serinus_operator.rollout.model import RegistryIntent, Status
from serinus_operator.rollout.observed import AnalysisResult, Observed
from serinus_operator.rollout.stages import require_legal
from serinus_operator.spec import Analysis, Pause, SetWeight, Spec, Step, Verify


@dataclass(slots=True)
class Draft:
    """`before` is the status as stored; `status` the one being made."""

    spec: Spec
    before: Status
    observed: Observed
    analysis: AnalysisResult
    now: datetime
    release: str  # namespace/name, for tags
    status: Status
    actions: list[Action] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    check_at: datetime | None = None

    def update(self, **changes: Any) -> None:
        """Changes fields of the status in the making. Raises IllegalTransition for a way between stages that is not in their table."""
        after = replace(self.status, **changes)
        require_legal(self.status, after)
        self.status = after

    def do(self, action: Action) -> None:
        """One more action."""
        self.actions.append(action)

    def say(self, reason: str, message: str, *, warning: bool = False) -> None:
        """One more event: a transition that a person wants to know."""
        self.events.append(Event("Warning" if warning else "Normal", reason, message))

    def look_again(self, at: datetime) -> None:
        """Asks for another look at `at` or earlier."""
        self.check_at = at if self.check_at is None else min(self.check_at, at)

    def want_registry(self, intent: RegistryIntent) -> None:
        """The registry should say this too."""
        self.update(registry=self.status.registry.then(intent))

    @property
    def rollout_is_due(self) -> bool:
        """Is there a target to roll out that is neither stable nor rejected?"""
        target, stable = self.status.target, self.status.stable
        return target is not None and not target.rejected and (stable is None or stable.revision != target.revision)

    @property
    def bakes(self) -> bool:
        """Are gates still asked about what was promoted?"""
        return self.status.former is not None and self.now < self.status.former.bake_until

    def plan(self) -> Plan:
        """The finished plan."""
        return Plan(tuple(self.actions), self.status, self.check_at, tuple(self.events))


def effective_steps(steps: tuple[Step, ...], *, first: bool) -> tuple[Step, ...]:
    """The spec's steps, ending at weight 100. A first release has nothing to compare with: verify (where asked for), then all of it."""
    if first:
        return (*(step for step in steps if isinstance(step, Verify)), SetWeight(100))
    return steps if steps and steps[-1] == SetWeight(100) else (*steps, SetWeight(100))


def describe(step: Step) -> str:
    """A step in the spec's words, for `kubectl get`."""
    match step:
        case Verify():
            return "verify"
        case SetWeight(percent):
            return f"setWeight {percent}"
        case Pause(duration):
            return "pause until promoted" if duration is None else f"pause {format_duration(duration)}"
        case Analysis(duration):
            return f"analysis {format_duration(duration)}"
        case _:
            assert_never(step)
