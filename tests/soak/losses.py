"""Which lost requests are explained by what was done to the cluster. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.soak.load import Lost


@dataclass(frozen=True)
class Fault:
    """What was done, from `began` (time.monotonic()) until nothing of it is felt. `loses` requests: those of a killed server."""

    kind: str
    thing: str
    began: float
    ended: float
    loses: bool = False


@dataclass(frozen=True)
class Losses:
    """Requests whose first try failed, by what explains it."""

    erring: list[Lost]  # answered 500 by the release that errs on purpose
    in_flight: list[Lost]  # with a server when it was killed
    refused: list[Lost]  # begun between the kill and the end of its Service's endpoint
    unexplained: list[Lost]

    @property
    def unsaved(self) -> list[Lost]:
        """Those that one retry did not save, the erring release's excepted."""
        return [lost for lost in (*self.in_flight, *self.refused, *self.unexplained) if not lost.saved]


def explained(lost: Sequence[Lost], faults: Sequence[Fault], erring: str) -> Losses:
    """Sorts the losses; `erring` is the model version that errs on purpose."""
    losses = Losses([], [], [], [])
    kills = [fault for fault in faults if fault.loses]
    for each in lost:
        if erring and each.version == erring:
            losses.erring.append(each)
        elif any(each.began <= kill.began <= each.ended for kill in kills):
            losses.in_flight.append(each)
        elif any(kill.began <= each.began <= kill.ended for kill in kills):
            losses.refused.append(each)
        else:
            losses.unexplained.append(each)
    return losses
