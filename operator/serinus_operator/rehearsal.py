"""One simulated rollout through the real gates, for `forecast`. Pure but for its own seeded random numbers.

Requests arrive as a Poisson stream and are divided by ready pods; a request is bad with a fixed probability. Where a log told of them,
latencies are drawn by its distribution and confidences by its mean, for both versions alike; else errors alone are simulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS
from serinus_operator.gates.judge import Evidence, GateVerdict, Verdict, judge, overall, verdicts
from serinus_operator.gates.windows import Counters, Window
from serinus_operator.rollout.capacity import split
from serinus_operator.rollout.draft import effective_steps
from serinus_operator.spec import (
    Analysis,
    AnalysisSpec,
    ConfidenceGate,
    ErrorRateGate,
    Gate,
    LatencyGate,
    Pause,
    SetWeight,
    Spec,
)

_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
MOST_WINDOWS: Final = 1000
_PAIRS: Final = tuple(bound for pair in COMPARED_LATENCIES_SECONDS for bound in pair)
BOUNDS: Final = tuple(sorted(_PAIRS))
_PLACES: Final = tuple(BOUNDS.index(bound) for bound in _PAIRS)
# A model that is at home in its traffic has so many texts below its reference's lowest decile; the log does not hold that decile.
_LOW_CONFIDENCE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long good answers take: the share within each of BOUNDS, mean and standard deviation in seconds."""

    within: tuple[float, ...]
    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests a second; latencies, texts a request, and their mean confidence, where they are known."""

    rate: float
    latencies: Latencies | None = None
    texts: float = 1.0
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class StepEnd:
    """How a trial stood when a step had ended: windows that it took, the verdict, and the errors' evidence as a share of what is needed."""

    windows: int
    verdict: Verdict
    evidence: float

    @property
    def failed(self) -> bool:
        """Has a gate failed the canary, in this step or before?"""
        return self.verdict is Verdict.FAIL


def simulated(analysis: AnalysisSpec, traffic: Traffic) -> tuple[Gate, ...]:
    """The gates that are simulated: those of errors, and of what the traffic is known by."""
    known: tuple[type, ...] = (ErrorRateGate,)
    known += (LatencyGate,) if traffic.latencies is not None else ()
    known += (ConfidenceGate,) if traffic.confidence is not None else ()
    return tuple(gate for gate in analysis.gates if isinstance(gate.rule, known))


class Trial:
    """A rollout of a canary with this share of bad requests, beside a stable version with that one.

    With `patient` an analysis goes on until it passes, for up to 1 000 windows: how long it would need. Else it ends as the spec says.
    """

    def __init__(
        self, spec: Spec, traffic: Traffic, *, stable: float, canary: float, seed: int, patient: bool = False
    ) -> None:
        self._spec, self._traffic, self._bad = spec, traffic, {"canary": canary, "stable": stable}
        self._patient, self._rng = patient, np.random.default_rng(seed)
        self._judged = {gate.name for gate in simulated(spec.analysis, traffic)}
        self._errors = next(gate.name for gate in spec.analysis.gates if isinstance(gate.rule, ErrorRateGate))
        self._evidence, self._share = Evidence("canary", _START), 0.0
        self._found: tuple[GateVerdict, ...] = ()

    def run(self) -> list[StepEnd]:
        """How it stood at the end of each step; steps after a failure are not taken."""
        ends = []
        interval = self._spec.analysis.interval
        for step in effective_steps(self._spec.strategy.steps, first=False):
            windows = 0
            match step:
                case SetWeight(percent):
                    self._share = achieved(self._spec, percent)
                case Pause(duration) if duration is not None:
                    windows = self._look(int(duration / interval), until_passed=False)
                case Analysis(duration):
                    windows = self._look(int(duration / interval), until_passed=True)
                case _:
                    pass
            ends.append(self._end(windows))
            if ends[-1].failed:
                break
        return ends

    def _look(self, windows: int, *, until_passed: bool) -> int:
        """Looks at so many windows, and on until the gates pass. Returns how many it were."""
        patience = (
            MOST_WINDOWS
            if self._patient
            else windows + int(self._spec.analysis.inconclusive_after / self._spec.analysis.interval)
        )
        seen = 0
        while self._verdict() is not Verdict.FAIL and seen < min(patience, MOST_WINDOWS):
            if seen >= windows and (not until_passed or self._verdict() is Verdict.PASS):
                break
            self._window()
            seen += 1
        return seen

    def _window(self) -> None:
        analysis = self._spec.analysis
        expected = self._traffic.rate * analysis.interval.total_seconds()
        sides = {
            "canary": self._counted(expected * self._share, "canary"),
            "stable": self._counted(expected * (1 - self._share), "stable"),
        }
        start = self._evidence.window_end
        window = Window(start, start + analysis.interval, sides, sides)
        self._evidence = judge(analysis, self._evidence, window, "stable")
        self._found = tuple(gate for gate in verdicts(analysis, self._evidence) if gate.name in self._judged)

    def _verdict(self) -> Verdict:
        return overall(self._found) if self._found else Verdict.NO_DATA

    def _end(self, windows: int) -> StepEnd:
        errors = next((gate for gate in self._found if gate.name == self._errors), None)
        return StepEnd(windows, self._verdict(), 0.0 if errors is None else min(1.0, errors.evidence / errors.needed))

    def _counted(self, expected: float, side: str) -> Counters:
        rng, traffic = self._rng, self._traffic
        requests = int(rng.poisson(expected))
        errors = int(rng.binomial(requests, self._bad[side]))
        counters = Counters(requests=requests, errors=errors)
        answered = requests - errors
        if traffic.latencies is not None:
            counters = _timed(counters, answered, traffic.latencies, rng)
        if traffic.confidence is not None:
            texts = round(answered * traffic.texts)
            counters += Counters(
                confidence=texts * traffic.confidence,
                confidence_count=texts,
                low_confidence=int(rng.binomial(texts, _LOW_CONFIDENCE)),
            )
        return counters


def achieved(spec: Spec, percent: int) -> float:
    """The canary's share of the requests at this weight: a Gateway gives it, replicas as nearly as they can."""
    if spec.strategy.gateway is not None:
        return percent / 100
    sides = split(spec.replicas, percent)
    total = sides.canary + sides.stable
    return sides.canary / total if total else 0.0


def _timed(counters: Counters, answered: int, latencies: Latencies, rng: np.random.Generator) -> Counters:
    shares = np.diff(np.concatenate(([0.0], np.maximum.accumulate(latencies.within), [1.0])))
    buckets = np.cumsum(rng.multinomial(answered, shares))
    seconds = max(0.0, float(rng.normal(answered * latencies.mean, latencies.deviation * answered**0.5)))
    within = tuple(float(buckets[place]) for place in _PLACES)
    return counters + Counters(latency_seconds=seconds, latency_count=answered, within=within)
