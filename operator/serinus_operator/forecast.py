"""What a spec would do, before it does it: simulated rollouts through the real gates. Pure but for its own seeded random numbers.

Requests arrive as a Poisson stream and are divided by ready pods; a request is bad with a fixed probability, the canary's as stable's
(a good version) or twice it (a bad one). Only errors are simulated; the other gates take their share of α all the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

from serinus_operator.gates.judge import Evidence, Verdict, judge, verdicts
from serinus_operator.gates.windows import Counters, Window
from serinus_operator.rollout.capacity import split
from serinus_operator.rollout.draft import describe, effective_steps
from serinus_operator.spec import Analysis, AnalysisSpec, ErrorRateGate, Pause, SetWeight, Spec, Verify, format_duration

_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_MOST_WINDOWS: Final = 2000
_FAR_FROM_WANTED: Final = 1.5


@dataclass(frozen=True, slots=True)
class StepForecast:
    """One step: the share of requests that the canary really gets, how long it takes (median), and what is wrong with it."""

    label: str
    achieved_percent: float | None
    takes: timedelta | None  # None: until a person acts, or as long as pods and the verify Job need
    canary_requests: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Forecast:
    """`false_rollback` of good versions are rolled back, `missed` of those with twice the errors are promoted: shares of the trials."""

    steps: tuple[StepForecast, ...]
    false_rollback: float
    missed: float

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps steps from doing their work."""
        return tuple(f"{step.label}: {step.problem}" for step in self.steps if step.problem)


def forecast(
    spec: Spec, rate: float, errors: float, trials: int, progress: Callable[[float], None] = lambda _: None
) -> Forecast:
    """Simulates `trials` good and as many bad versions at `rate` requests per second, `errors` of them bad.

    Raises ValueError for a rate that is not positive, errors outside (0, 0.5], or a spec without an errorRate gate.
    """
    if not (rate > 0 and 0 < errors <= 0.5):
        raise ValueError("the rate is positive, and errors are a share above 0 and up to 0.5")
    gates = [gate.name for gate in spec.analysis.gates if isinstance(gate.rule, ErrorRateGate)]
    if not gates:
        raise ValueError("the spec has no errorRate gate, and other gates are not simulated")
    good, bad = [], []
    for trial in range(trials):
        good.append(_Trial(spec, rate, errors, errors, gates[0], seed=trial).run())
        bad.append(_Trial(spec, rate, errors, min(0.95, 2 * errors), gates[0], seed=trials + trial).run())
        progress((trial + 1) / trials)
    waits = [statistics.median(each) for each in zip(*(trial.waits for trial in good), strict=True)]
    return Forecast(
        _steps(spec, rate, waits),
        false_rollback=sum(trial.failed for trial in good) / trials,
        missed=sum(not trial.failed for trial in bad) / trials,
    )


class _Trial:
    """One simulated rollout. `waits` are the windows that each analysis took; `failed` says whether a gate ended it."""

    def __init__(self, spec: Spec, rate: float, stable: float, canary: float, gate: str, seed: int) -> None:
        self._spec, self._rate, self._stable, self._canary, self._gate = spec, rate, stable, canary, gate
        self._rng = np.random.default_rng(seed)
        self._evidence = Evidence("canary", _START)
        self._share = 0.0
        self._verdict = Verdict.NO_DATA
        self.waits: list[float] = []
        self.failed = False

    def run(self) -> _Trial:
        analysis = self._spec.analysis
        for step in effective_steps(self._spec.strategy.steps, first=False):
            match step:
                case SetWeight(percent):
                    self._share = _achieved(self._spec.replicas, percent)
                case Pause(duration) if duration is not None:
                    self._look(int(duration / analysis.interval), until_passed=False)
                case Analysis(duration):
                    self.waits.append(self._look(int(duration / analysis.interval), until_passed=True))
                case _:
                    pass
        return self

    def _look(self, windows: int, *, until_passed: bool) -> int:
        """Looks at so many windows, and on until the gate passes. Returns how many it were."""
        patience = windows + int(self._spec.analysis.inconclusive_after / self._spec.analysis.interval)
        seen = 0
        while not self.failed and seen < min(patience, _MOST_WINDOWS):
            if seen >= windows and (not until_passed or self._verdict is Verdict.PASS):
                break
            self._window(self._spec.analysis)
            seen += 1
        return seen

    def _window(self, analysis: AnalysisSpec) -> None:
        expected = self._rate * analysis.interval.total_seconds()
        sides = {
            "canary": self._counted(expected * self._share, self._canary),
            "stable": self._counted(expected * (1 - self._share), self._stable),
        }
        start = self._evidence.window_end
        self._evidence = judge(analysis, self._evidence, Window(start, start + analysis.interval, sides), "stable")
        found = {gate.name: gate.verdict for gate in verdicts(analysis, self._evidence)}
        self._verdict = found[self._gate]
        self.failed = self._verdict is Verdict.FAIL

    def _counted(self, expected: float, bad: float) -> Counters:
        requests = int(self._rng.poisson(expected))
        return Counters(requests=requests, errors=int(self._rng.binomial(requests, bad)))


def _steps(spec: Spec, rate: float, waits: list[float]) -> tuple[StepForecast, ...]:
    interval, share, analyses = spec.analysis.interval, 0.0, iter(waits)
    found = []
    for step in effective_steps(spec.strategy.steps, first=False):
        takes, problem = timedelta(), ""
        match step:
            case Verify():
                found.append(StepForecast("verify", None, None, 0))
                continue
            case SetWeight(percent):
                share, problem = _achieved(spec.replicas, percent), _rounded(spec.replicas, percent)
                found.append(StepForecast(describe(step), 100 * share, None, 0, problem))
                continue
            case Pause(duration):
                takes = duration or timedelta()
            case Analysis(duration):
                takes = next(analyses) * interval
                if takes >= duration + spec.analysis.inconclusive_after:
                    problem = f"no verdict within {format_duration(takes)} at {rate:g} requests/s; more weight, time or traffic is needed"
        found.append(
            StepForecast(
                describe(step), 100 * share, takes or None, round(rate * share * takes.total_seconds()), problem
            )
        )
    return tuple(found)


def _achieved(replicas: int, percent: int) -> float:
    sides = split(replicas, percent)
    total = sides.canary + sides.stable
    return sides.canary / total if total else 0.0


def _rounded(replicas: int, percent: int) -> str:
    achieved = 100 * _achieved(replicas, percent)
    if percent < 100 and (achieved > _FAR_FROM_WANTED * percent or achieved * _FAR_FROM_WANTED < percent):
        pods = split(replicas, percent).canary
        return f"{percent} % of {replicas} replicas is {pods} replica{'s' * (pods > 1)}: {achieved:.0f} %"
    return ""
