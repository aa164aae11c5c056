"""Simulated fleets for the gates: what ten pods of each of many releases count, window by window, under real fleets' noise. Seeded."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS
from serinus_operator.gates.tables import Floats
from serinus_operator.gates.windows import Counters, Reading, Sample

START = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = timedelta(seconds=10)
PODS = 10  # the first is the canary: a weight of 10 percent
MEDIAN_SECONDS, SPREAD = 0.012, 0.5  # of lognormal latencies
_BOUNDS = np.array(sorted({bound for pair in COMPARED_LATENCIES_SECONDS for bound in pair}))
_OF_PAIRS = np.array([int(np.searchsorted(_BOUNDS, bound)) for pair in COMPARED_LATENCIES_SECONDS for bound in pair])


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


@dataclass(frozen=True)
class Counts:
    """What was counted: requests and errors, slow or low ones of the answered; (releases, pods), `within` (…, 2 × compared bounds)."""

    requests: Floats
    errors: Floats
    low: Floats
    within: Floats

    @property
    def answered(self) -> Floats:
        """Requests answered 2xx."""
        return self.requests - self.errors

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.requests + other.requests, self.errors + other.errors, self.low + other.low, self.within + other.within
        )

    def reading(self, release: int) -> Reading:
        """One release's pods as the operator would read them, were these counts cumulative."""
        return {
            ("s" if pod else "c", f"pod-{pod}"): Sample(
                Counters(
                    requests=float(self.requests[release, pod]),
                    errors=float(self.errors[release, pod]),
                    latency_count=float(self.answered[release, pod]),
                    confidence_count=float(self.answered[release, pod]),
                    low_confidence=float(self.low[release, pod]),
                    within=tuple(self.within[release, pod].tolist()),
                )
            )
            for pod in range(PODS)
        }


class Fleet:
    """Many independent rollouts at once; yields a window of all of them at a time."""

    def __init__(
        self, releases: int, canary: Canary, *, errors: float, rate: float, noise: Noise, seed: int, median: float = MEDIAN_SECONDS
    ) -> None:  # fmt: skip
        self._rng = rng = np.random.default_rng(seed)
        self._noise, self._rate, self._median = noise, rate, median
        shape = (releases, PODS)
        odds, slower = np.full(shape, errors / (1 - errors)), np.ones(shape)
        odds[:, 0], slower[:, 0] = canary.errors / (1 - canary.errors), canary.slower
        if noise is Noise.PODS:
            odds *= rng.lognormal(0, 0.4, shape)
            slower *= rng.lognormal(0, 0.05, shape)
        self._errors, self._slower = odds / (1 + odds), slower
        self._low = np.full(shape, 0.1)
        self._low[:, 0] = canary.low_confidence
        self._phase = rng.uniform(0, 2 * math.pi, (releases, 1))
        self._index = 0

    def window(self) -> Counts:
        """The next ten seconds."""
        self._index += 1
        errors, slower, swing = self._errors, self._slower, np.ones_like(self._phase)
        if self._noise is Noise.WAVE:
            swing = 1 + 0.5 * np.sin(self._phase + self._index / 40)
            errors, slower = errors * swing, slower * swing**0.25
        if self._noise is Noise.BURSTS:
            burst = self._rng.random(errors.shape) < 0.02
            errors = np.where(burst, np.minimum(0.95, errors + 0.3), errors)
            slower = np.where(burst, slower * 1.5, slower)
        requests = self._rng.poisson(self._rate * swing * WINDOW.total_seconds() / PODS, errors.shape)
        bad = self._rng.binomial(requests, errors)
        good = requests - bad
        cumulative = ndtr((np.log(_BOUNDS) - np.log(self._median * slower)[..., None]) / SPREAD)
        ends = np.zeros((*errors.shape, 1))
        shares: NDArray[np.float64] = np.diff(np.concatenate((ends, cumulative, ends + 1), axis=-1), axis=-1)
        buckets = np.cumsum(self._rng.multinomial(good, shares), axis=-1)
        low = self._rng.binomial(good, self._low)
        return Counts(*(each.astype(np.float64) for each in (requests, bad, low, buckets[..., _OF_PAIRS])))


def nothing_counted(releases: int) -> Counts:
    """Zeros."""
    zeros = np.zeros((releases, PODS))
    return Counts(zeros, zeros, zeros, np.zeros((releases, PODS, len(_OF_PAIRS))))


def identical(errors: float) -> Canary:
    """A canary that is no worse than stable."""
    return Canary(errors)


def faster(errors: float) -> Canary:
    """A canary that answers sooner."""
    return replace(identical(errors), slower=0.7)
