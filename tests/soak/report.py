"""What a soak found: which losses are explained by what was done, which promises were kept, the section of docs/reliability.md."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.soak.faults import Fault
from tests.soak.load import RETRY_AFTER_SECONDS, Load, Lost
from tests.soak.memory import Growth
from tests.soak.rollouts import Rollout, Versions

REPORT = Path(__file__).parents[2] / "docs" / "reliability.md"
_BEGINS, _ENDS = "<!-- soak: written by `make soak` -->", "<!-- end of soak -->"


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


@dataclass(frozen=True)
class Found:
    """Everything that a soak saw."""

    seconds: float
    load: Load
    rollouts: Sequence[Rollout]
    faults: Sequence[Fault]
    growths: Sequence[Growth]
    versions: Versions
    stopped_by: str = ""

    @property
    def losses(self) -> Losses:
        """What was lost, by cause."""
        return explained(self.load.lost, self.faults, self.versions.erring)

    def promises(self) -> dict[str, bool]:
        """Each promise, and whether it was kept."""
        good = [each for each in self.rollouts if each.kind == "good"]
        bad = [each for each in self.rollouts if each.kind != "good"]
        losses = self.losses
        return {
            f"every good release promoted ({len(good)})": bool(good) and all(each.kept for each in good),
            f"every bad release refused or rolled back ({len(bad)})": bool(bad) and all(each.kept for each in bad),
            "no request failed but by kill -9 and the erring release": not losses.unexplained,
            f"none of them with one retry after {RETRY_AFTER_SECONDS:.0f} s": not losses.unsaved,
            "every request was answered or refused": self.load.sent == self.load.answered + len(self.load.failures) > 0,
            **{f"memory flat: {growth.of}": growth.flat for growth in self.growths},
            "came to its end": not self.stopped_by,
        }

    def markdown(self) -> str:
        """The section's text."""
        load, losses = self.load, self.losses
        percentiles = statistics.quantiles(load.seconds, n=100) if len(load.seconds) > 1 else [0.0] * 99
        kinds = Counter(each.kind for each in self.rollouts)
        done = Counter(each.kind for each in self.faults)
        rows = [
            ("requests", f"{load.sent} at {load.requests_per_second:.0f} a second, open loop"),
            ("latency", f"p50 {percentiles[49] * 1000:.0f} ms, p99 {percentiles[98] * 1000:.0f} ms"),
            ("rollouts", ", ".join(f"{count} {kind}" for kind, count in kinds.items())),
            ("faults", ", ".join(f"{count} × {kind}" for kind, count in done.items())),
            ("failed without explanation", f"{len(losses.unexplained)}"),
            ("failed by kill -9", f"{len(losses.in_flight)} in flight, {len(losses.refused)} sent before the endpoint was gone"),
            (f"of those, failed again {RETRY_AFTER_SECONDS:.0f} s later", f"{len(losses.unsaved)}"),
            ("answered 500 by the erring release", f"{len(losses.erring)}"),
            *(("memory", str(growth)) for growth in self.growths),
            *(("kept" if kept else "**not kept**", promise) for promise, kept in self.promises().items()),
        ]  # fmt: skip
        failures = [
            f"- {each.kind} release of version {each.version}: {each.reason}" for each in self.rollouts if not each.kept
        ]
        head = f"{self.seconds / 60:.0f} minutes on the one-node cluster: real kubelet, the images and the chart that users get.\n"
        table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
        return "\n".join([head, table, *failures, *([f"It was ended: {self.stopped_by}"] if self.stopped_by else [])])


def write_section(markdown: str) -> None:
    """Replaces what an earlier soak wrote. Raises ValueError where the markers are gone."""
    text = REPORT.read_text(encoding="utf-8")
    if _BEGINS not in text or _ENDS not in text:
        raise ValueError(f"{REPORT.name} has no place for the soak")
    pattern = re.compile(re.escape(_BEGINS) + ".*?" + re.escape(_ENDS), re.DOTALL)
    REPORT.write_text(pattern.sub(lambda _: f"{_BEGINS}\n{markdown}\n{_ENDS}", text), encoding="utf-8")
