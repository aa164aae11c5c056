"""Where a release can stand, and every way from one stage to another. `Draft.update` refuses a change that is not in the table.

The README's state diagram is `diagram()` of this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from serinus_operator.rollout.model import Status


class Stage(StrEnum):
    """Read off the status: nothing else remembers it."""

    REST = "Rest"
    ROLL = "Roll"
    WITHDRAW = "Withdraw"
    BAKE = "Bake"


@dataclass(frozen=True, slots=True)
class Transition:
    """From one stage to another, and what it takes."""

    source: Stage
    target: Stage
    cause: str


TRANSITIONS: Final = (
    Transition(Stage.REST, Stage.ROLL, "another target, not rejected"),
    Transition(Stage.ROLL, Stage.BAKE, "all steps finished: promoted"),
    Transition(Stage.ROLL, Stage.REST, "promoted, with nothing to go back to"),
    Transition(Stage.ROLL, Stage.WITHDRAW, "a gate or verify failed, a deadline passed, abort, another target"),
    Transition(Stage.WITHDRAW, Stage.REST, "nothing of the canary is left"),
    Transition(Stage.BAKE, Stage.REST, "bake and scaleDownDelay are over"),
    Transition(Stage.BAKE, Stage.ROLL, "another target, not rejected"),
    Transition(Stage.BAKE, Stage.WITHDRAW, "a limit is broken, undo, the former version is named again"),
)
_LEGAL: Final = {(each.source, each.target) for each in TRANSITIONS}
_MEANING: Final = {
    Stage.REST: "stable alone serves",
    Stage.ROLL: "verify, weights, pauses, analyses",
    Stage.WITHDRAW: "weight 0; the canary goes, stable is refilled",
    Stage.BAKE: "promoted; the former stable is kept",
}


class IllegalTransition(AssertionError):
    """The plan made a change that the table does not know: a fault of the code, never of a user."""


def stage_of(status: Status) -> Stage:
    """The stage of a release."""
    if status.canary is None:
        return Stage.REST if status.former is None else Stage.BAKE
    return Stage.ROLL if status.canary.ending is None else Stage.WITHDRAW


def require_legal(before: Status, after: Status) -> None:
    """Raises IllegalTransition for a change of stage that is not in the table."""
    source, target = stage_of(before), stage_of(after)
    if source is not target and (source, target) not in _LEGAL:
        raise IllegalTransition(f"{source} → {target}")


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {Stage.REST}"]
    lines += [f"    {stage}: {stage}<br/>{meaning}" for stage, meaning in _MEANING.items()]
    lines += [f"    {each.source} --> {each.target}: {each.cause}" for each in TRANSITIONS]
    return "\n".join(lines)
