"""What a soak found: which promises were kept, and the section of docs/reliability.md."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.soak.faults import BETWEEN_SECONDS
from tests.soak.load import RETRY_AFTER_SECONDS, Load
from tests.soak.losses import Fault, Losses, explained
from tests.soak.memory import Growth
from tests.soak.rollouts import Rollout, Versions

REPORT = Path(__file__).parents[2] / "docs" / "reliability.md"
_MEASURABLE_SECONDS = 900.0
_BEGINS, _ENDS = "<!-- soak: written by `make soak` -->", "<!-- end of soak -->"


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
            "faults were made all the time": len(self.faults) >= 0.6 * self.seconds / BETWEEN_SECONDS,
            **{f"memory flat: {growth.of}": growth.flat for growth in self.growths},
            **({"memory was measured": len(self.growths) == 2} if self.seconds > _MEASURABLE_SECONDS else {}),
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
