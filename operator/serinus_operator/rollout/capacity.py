"""How replicas move from one weight to the next without ready pods falling below the floor. Pure arithmetic.

Surge raises one side in batches of `max_surge`, waits until the pods are Ready, then lowers the other; Swap lowers first, as far as the
floor allows. Pods that are still terminating hold their GPU, so they count against the budget until they are gone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Side:
    """One revision's pods. `replicas` asked for, `ready` of them, `pods` that exist (terminating ones included).

    `settled` is False while the Deployment controller has not yet acted on what was asked last: its numbers are then old.
    """

    replicas: int
    ready: int
    pods: int
    settled: bool = True

    def has(self, replicas: int) -> bool:
        """Are exactly so many asked for, there, and ready, with nothing left terminating?"""
        return self.settled and self.replicas == self.ready == self.pods == replicas


@dataclass(frozen=True, slots=True)
class Split:
    """Replicas of the two sides."""

    stable: int
    canary: int


def split(replicas: int, weight: int) -> Split:
    """Divides `replicas` for a canary weight in percent (0..100).

    Between 1 and 99 the canary gets ⌊N·w/100 + ½⌋, at least 1 and at most N − 1; with N = 1 both sides get one, by surge.
    """
    if weight <= 0 or replicas == 0:
        return Split(stable=replicas, canary=0)
    if weight >= 100:
        return Split(stable=0, canary=replicas)
    if replicas == 1:
        return Split(stable=1, canary=1)
    canary = min(max((replicas * weight + 50) // 100, 1), replicas - 1)
    return Split(stable=replicas - canary, canary=canary)


def floor(replicas: int, percent: int) -> int:
    """Ready pods that must remain: ⌈N·percent/100⌉."""
    return -(-replicas * percent // 100)


def advance(
    goal: Split, stable: Side, canary: Side, *, replicas: int, floor_percent: int, max_surge: int, guests: int = 0
) -> Split:
    """Returns the replicas to ask for next on the way to `goal`; equal to what is asked for now when it is time to wait.

    Grows a side only within `replicas + max_surge` existing pods, and lowers one only by what is ready beyond the floor. `max_surge` 0
    swaps. `guests` are pods beside the two sides that hold a place in the budget: a verify Job's.
    """
    budget = max(replicas + max_surge, goal.stable + goal.canary)
    room = budget - guests - max(stable.pods, stable.replicas) - max(canary.pods, canary.replicas)
    spare = stable.ready + canary.ready - floor(replicas, floor_percent)
    canary_after = _move(canary, goal.canary, room, spare)
    spare -= max(0, canary.ready - canary_after)
    stable_after = _move(stable, goal.stable, room - max(0, canary_after - canary.replicas), spare)
    return Split(stable=stable_after, canary=canary_after)


def _move(side: Side, goal: int, room: int, spare: int) -> int:
    """Lowering an unsettled side waits. Pods that are not ready cost nothing to lose; ready ones go only from what is spare."""
    if goal >= side.replicas:
        return side.replicas + max(0, min(goal - side.replicas, room))
    if not side.settled:
        return side.replicas
    unready = max(0, side.replicas - side.ready)
    return max(goal, side.replicas - unready - max(0, spare))
