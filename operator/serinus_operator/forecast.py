"""What a spec would do, before it does it: many rehearsals of a good version and of one with twice the errors, and what they come to."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from serinus_operator.durations import format_duration
from serinus_operator.rehearsal import MOST_WINDOWS, StepEnd, Traffic, Trial, achieved, simulated
from serinus_operator.rollout.capacity import split
from serinus_operator.rollout.draft import describe, effective_steps
from serinus_operator.spec import (
    Analysis,
    ConfidenceGate,
    ErrorRateGate,
    LatencyGate,
    OnSpaceChange,
    Pause,
    SetWeight,
    Spec,
    Step,
)

_FAR_FROM_WANTED: Final = 1.5
_PATIENT_TRIALS: Final = 3  # that go on until an analysis passes, however long it takes
_MOST_BAD: Final = 0.95


@dataclass(frozen=True, slots=True)
class StepForecast:
    """One step: the canary's share of the requests, how long it takes (median of good versions), what is wrong with it.

    `evidence` is what a version with twice the errors has gathered at its end, as a share of what is needed (median), `found` the share of
    such versions that have been rolled back by then; None where no window is judged.
    """

    label: str
    achieved_percent: float | None
    takes: timedelta | None  # None: until a person acts, or as long as pods and the verify Job need
    canary_requests: int
    problem: str = ""
    evidence: float | None = None
    found: float | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """`false_rollback` of good versions are rolled back, `missed` of those with twice the errors are promoted: shares of the trials.

    `gates` are those that were simulated, `limits` the absolute limits that the traffic itself breaks, `notes` what else has to be there.
    """

    steps: tuple[StepForecast, ...]
    false_rollback: float
    missed: float
    gates: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps steps from doing their work."""
        return (*self.limits, *(f"{step.label}: {step.problem}" for step in self.steps if step.problem))


def forecast(
    spec: Spec, traffic: Traffic, errors: float, trials: int, progress: Callable[[float], None] = lambda _: None
) -> Forecast:
    """Simulates `trials` good and as many bad versions in this traffic, `errors` of the requests bad.

    Raises ValueError for a rate that is not positive, errors outside (0, 0.5], or a spec without an errorRate gate.
    """
    if not (traffic.rate > 0 and 0 < errors <= 0.5):
        raise ValueError("the rate is positive, and errors are a share above 0 and up to 0.5")
    if not any(isinstance(gate.rule, ErrorRateGate) for gate in spec.analysis.gates):
        raise ValueError("the spec has no errorRate gate, and without one nothing is simulated")
    good, bad, patient, limits = [], [], [], _broken_limits(spec, traffic)
    for trial in range(trials):
        if trial < _PATIENT_TRIALS and not limits:  # with a broken limit none would pass
            patient.append(Trial(spec, traffic, stable=errors, canary=errors, seed=trial, patient=True).run())
        good.append(Trial(spec, traffic, stable=errors, canary=errors, seed=trial).run())
        twice = min(_MOST_BAD, 2 * errors)
        bad.append(Trial(spec, traffic, stable=errors, canary=twice, seed=trials + trial).run())
        progress((trial + 1) / trials)
    steps = effective_steps(spec.strategy.steps, first=False)
    share, found = 0.0, []
    for index, step in enumerate(steps):
        if isinstance(step, SetWeight):
            share = achieved(spec, step.percent)
        told = _told(spec, step, traffic.rate, share, _windows(good, index), _windows(patient, index))
        found.append(_with_evidence(told, bad, index) if isinstance(step, Analysis | Pause) and told.takes else told)
    return Forecast(
        tuple(found),
        false_rollback=sum(ends[-1].failed for ends in good) / trials,
        missed=sum(not ends[-1].failed for ends in bad) / trials,
        gates=tuple(gate.name for gate in simulated(spec.analysis, traffic)),
        limits=limits,
        notes=_notes(spec),
    )


def _windows(trials: Sequence[Sequence[StepEnd]], index: int) -> float:
    """How many windows the step took: the median of those that came to it."""
    came = [ends[index].windows for ends in trials if len(ends) > index]
    return statistics.median(came) if came else 0.0


def _told(spec: Spec, step: Step, rate: float, share: float, took: float, needs: float) -> StepForecast:
    """`took` windows by the spec's own patience; `needs` of them until it would pass."""
    interval, label, percent = spec.analysis.interval, describe(step), 100 * share
    match step:
        case SetWeight(wanted):
            return StepForecast(label, percent, None, 0, _rounded(spec, wanted))
        case Pause(duration):
            takes, problem = duration or timedelta(), ""
        case Analysis(duration):
            takes, given, problem = took * interval, duration + spec.analysis.inconclusive_after, ""
            if takes >= given:
                more = "more than " if needs >= MOST_WINDOWS else ""
                needed, within = format_duration(max(needs, took) * interval), format_duration(given)
                problem = f"needs {more}{needed} at {rate:g} requests/s, and is given {within}; more weight, time or traffic is needed"
        case _:
            return StepForecast(label, None, None, 0)
    return StepForecast(label, percent, takes or None, round(rate * share * takes.total_seconds()), problem)


def _with_evidence(step: StepForecast, bad: Sequence[Sequence[StepEnd]], index: int) -> StepForecast:
    """A version that was rolled back before has gathered what it needed."""
    ends = [each[min(index, len(each) - 1)] for each in bad]
    return replace(
        step,
        evidence=statistics.median(1.0 if end.failed else end.evidence for end in ends),
        found=sum(end.failed for end in ends) / len(ends),
    )


def _broken_limits(spec: Spec, traffic: Traffic) -> tuple[str, ...]:
    """Limits that what serves now does not keep: no canary could be judged by them."""
    found = []
    for gate in spec.analysis.gates:
        match gate.rule:
            case LatencyGate(max_mean) if max_mean is not None and traffic.latencies is not None:
                mean = traffic.latencies.mean
                if mean > max_mean.total_seconds():
                    found.append(
                        f"gate {gate.name}: the log's mean latency is {1000 * mean:.0f} ms, maxMean is {format_duration(max_mean)}"
                    )
            case ConfidenceGate(min_mean) if min_mean is not None and traffic.confidence is not None:
                if traffic.confidence < min_mean:
                    found.append(
                        f"gate {gate.name}: the log's mean confidence is {traffic.confidence:.2f}, minMean is {min_mean:g}"
                    )
            case _:
                pass
    return tuple(found)


def _notes(spec: Spec) -> tuple[str, ...]:
    """Room that two spaces kept apart need: stable answers all shared requests, so none of its pods goes before the switch."""
    strategy, replicas = spec.strategy, spec.replicas
    if strategy.on_space_change is not OnSpaceChange.PINNED or not replicas:
        return ()
    text = f"onSpaceChange is Pinned: a version of another space needs twice the replicas, {2 * replicas} pods for {replicas}"
    if not strategy.space_retention:
        return (f"{text}, until it is promoted",)
    return (f"{text}, until no request has pinned the former space for {format_duration(strategy.space_retention)}",)


def _rounded(spec: Spec, percent: int) -> str:
    share = 100 * achieved(spec, percent)
    if percent < 100 and (share > _FAR_FROM_WANTED * percent or share * _FAR_FROM_WANTED < percent):
        pods = split(spec.replicas, percent).canary
        return f"{percent} % of {spec.replicas} replicas is {pods} replica{'s' * (pods > 1)}: {share:.0f} %"
    return ""
