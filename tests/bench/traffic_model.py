"""Simulated releases for the gates: counters of ten pods, window by window, under the noise that real fleets have. Seeded."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS
from serinus_operator.gates.windows import Counters, Reading, Sample, Window, subtract

START = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = timedelta(seconds=10)
STABLE_PODS = 9  # and one canary pod: a weight of 10 percent
MEDIAN_SECONDS, SPREAD = 0.012, 0.5  # of lognormal latencies
_BOUNDS = np.array(sorted({bound for pair in COMPARED_LATENCIES_SECONDS for bound in pair}))
_MEAN_FACTOR = math.exp(SPREAD**2 / 2)


class Noise(StrEnum):
    """What disturbs both versions alike."""

    CONSTANT = "constant load"
    WAVE = "shared daily wave"
    BURSTS = "private bursts"
    PODS = "lasting pod differences"


@dataclass(frozen=True)
class Canary:
    """How the canary differs from stable: its rate of errors, of texts below the lowest decile, its latency as a multiple."""

    errors: float
    slower: float = 1.0
    low_confidence: float = 0.1


class Release:
    """One simulated canary rollout; yields a window at a time."""

    def __init__(self, rng: np.random.Generator, canary: Canary, *, errors: float, rate: float, noise: Noise) -> None:
        self._rng, self._noise, self._rate = rng, noise, rate
        pods = STABLE_PODS + 1
        odds = np.full(pods, errors / (1 - errors))
        odds[0] = canary.errors / (1 - canary.errors)
        slower = np.ones(pods)
        slower[0] = canary.slower
        if noise is Noise.PODS:
            odds *= rng.lognormal(0, 0.4, pods)
            slower *= rng.lognormal(0, 0.05, pods)
        self._errors, self._slower = odds / (1 + odds), slower
        self._low = np.full(pods, 0.1)
        self._low[0] = canary.low_confidence
        self._phase = float(rng.uniform(0, 2 * math.pi))
        self._totals = [Counters() for _ in range(pods)]
        self._index = 0

    def window(self) -> Window:
        """The next ten seconds."""
        self._index += 1
        start, before = START + self._index * WINDOW, self._reading()
        swing = 1 + 0.5 * math.sin(self._phase + self._index / 40) if self._noise is Noise.WAVE else 1.0
        errors, slower = self._errors * swing, self._slower * swing**0.25
        if self._noise is Noise.BURSTS:
            burst = self._rng.random(len(errors)) < 0.02
            errors, slower = (
                np.where(burst, np.minimum(0.95, errors + 0.3), errors),
                np.where(burst, slower * 1.5, slower),
            )
        requests = self._rng.poisson(self._rate * swing * WINDOW.total_seconds() / len(errors), len(errors))
        self._count(requests, errors, slower)
        return subtract(start, before, start + WINDOW, self._reading())

    def _count(self, requests: NDArray[np.int64], errors: NDArray[np.float64], slower: NDArray[np.float64]) -> None:
        bad = self._rng.binomial(requests, errors)
        good = requests - bad
        cumulative = _normal_cdf((np.log(_BOUNDS)[None, :] - np.log(MEDIAN_SECONDS * slower)[:, None]) / SPREAD)
        shares = np.diff(np.concatenate((np.zeros((len(good), 1)), cumulative, np.ones((len(good), 1))), axis=1))
        buckets = np.cumsum(self._rng.multinomial(good, shares), axis=1)
        low = self._rng.binomial(good, self._low)
        place = {bound: index for index, bound in enumerate(_BOUNDS)}
        for pod, total in enumerate(self._totals):
            within = tuple(float(buckets[pod, place[bound]]) for pair in COMPARED_LATENCIES_SECONDS for bound in pair)
            seconds = float(good[pod]) * MEDIAN_SECONDS * _MEAN_FACTOR * float(slower[pod])
            answered = float(good[pod])
            counted = Counters(
                float(requests[pod]),
                float(bad[pod]),
                seconds,
                answered,
                0.9 * answered,
                answered,
                float(low[pod]),
                within,
            )
            self._totals[pod] = total + counted

    def _reading(self) -> Reading:
        return {("c" if pod == 0 else "s", f"pod-{pod}"): Sample(total) for pod, total in enumerate(self._totals)}


def identical(errors: float) -> Canary:
    """A canary that is no worse than stable."""
    return Canary(errors)


def faster(errors: float) -> Canary:
    """A canary that answers sooner."""
    return replace(identical(errors), slower=0.7)


def _normal_cdf(values: NDArray[np.float64]) -> NDArray[np.float64]:
    cdf: NDArray[np.float64] = 0.5 * (1 + np.vectorize(math.erf)(values / math.sqrt(2)))
    return cdf
