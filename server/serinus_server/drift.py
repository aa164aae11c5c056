"""Drift of what is asked, against the served model's own reference profile: streaming, decayed, answered from a few numbers.

Observes predictions after their answers. Three signals: length of the input (tokens), confidence, and where the embeddings lie (their
cosine to the reference's mean, how far their own mean is from it, and how far all of them are from the reference's sample). A text weighs
half as much after each half-life; Kish's effective n of those weights says how much may be concluded. Drift is high or moderate only when
it is both large by the usual limits and larger than chance makes it once in 100 000 looks; with fewer than 200 effective texts nothing is
said. MMD, which has no usual limits, is told with its floor and makes no level.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from serinus_contract import metrics as contract
from serinus_server import distances, mmd
from serinus_server.encoders import Vectors
from serinus_server.observing import Prediction
from serinus_server.profile import Deciles, Profile, unit

LEAST_TEXTS: Final = 200
BY_CHANCE: Final = 1e-5
PSI_LIMITS: Final = (0.1, 0.25)  # moderate, high
SHIFT_LIMITS: Final = (0.05, 0.15)  # moderate, high; in units of the reference's own variance
_LEAST_SHARE: Final = 0.05
_LARGEST_EXPONENT: Final = 200.0  # of two, in a weight, before all weights are brought down


class Level(IntEnum):
    """What is said of a signal. The numbers are the metric's."""

    NONE = 0
    MODERATE = 1
    HIGH = 2


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins between the reference's deciles, with the reference's share in each; a value on a bound lies above it.

    Bins that hold less than a twentieth of the reference (between equal or nearly equal deciles) are joined: PSI of a bin that expects
    hardly any text is noise.
    """

    bounds: tuple[float, ...]
    shares: tuple[float, ...]
    texts: int  # that the shares rest on

    @classmethod
    def between(cls, deciles: Deciles, shares: Sequence[float], texts: int) -> Bins:
        """From the ten shares between nine deciles."""
        bounds: list[float] = []
        kept = [0.0]
        for share, bound in zip(shares[:-1], deciles, strict=True):
            kept[-1] += share
            if kept[-1] >= _LEAST_SHARE and sum(kept) <= 1 - _LEAST_SHARE:
                bounds.append(bound)
                kept.append(0.0)
        return cls(tuple(bounds), (*kept[:-1], 1 - sum(kept[:-1])), texts)

    def reference(self) -> distances.Probabilities:
        """The reference's probabilities, smoothed as what is seen is."""
        return distances.smoothed(np.asarray(self.shares) * self.texts)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one signal says. `shift` and `mmd` are of the embeddings alone; `level` is None below 200 effective texts."""

    psi: float
    js: float
    kl: float
    ks: float
    psi_floor: float
    js_floor: float
    kl_floor: float
    ks_floor: float
    level: Level | None
    shift: float | None = None
    shift_floor: float | None = None
    mmd: float | None = None
    mmd_floor: float | None = None


class Drift:
    """Observes predictions; `findings` answers from state in microseconds. Not thread-safe: the event loop's alone."""

    def __init__(self, profile: Profile, half_life_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._half_life_seconds, self._clock, self._began = half_life_seconds, clock, clock()
        self._lengths = Bins.between(profile.token_deciles, profile.token_shares, profile.texts)
        self._confidences = Bins.between(profile.confidence_deciles, profile.confidence_shares, profile.held_out)
        self._cosines = Bins.between(profile.mean_cosine_deciles, profile.mean_cosine_shares, profile.held_out)
        self._direction = unit(profile.mean[None])[0]
        self._mean, self._texts = profile.mean.astype(np.float64), profile.texts
        self._variance, self._degrees = spread(profile)
        self._seen = {name: [0.0] * len(bins.shares) for name, bins in self._bins().items()}
        self._sum = np.zeros(len(profile.mean), dtype=np.float64)
        self._mmd = mmd.Stream(profile.sample)
        self._weight = self._squared_weight = 0.0
        self._long_or_short = self._far_or_near = 0
        self._length_band = (profile.token_deciles[0], profile.token_deciles[-1])
        self._cosine_band = (profile.mean_cosine_deciles[0], profile.mean_cosine_deciles[-1])

    def observe(self, predictions: Sequence[Prediction]) -> None:
        """Adds the texts of one request, each with a weight that is larger than that of all earlier ones (forward decay)."""
        weight = self._weight_now()
        vectors = unit(np.stack([prediction.vector for prediction in predictions]))
        cosines = (vectors @ self._direction).tolist()
        lengths, confidences, places = (self._seen[name] for name in ("input_length", "confidence", "embedding"))
        for prediction, cosine in zip(predictions, cosines, strict=True):
            lengths[bisect_right(self._lengths.bounds, prediction.tokens)] += weight
            places[bisect_right(self._cosines.bounds, cosine)] += weight
            if prediction.confidence is not None:
                confidences[bisect_right(self._confidences.bounds, prediction.confidence)] += weight
            self._long_or_short += not self._length_band[0] <= prediction.tokens <= self._length_band[1]
            self._far_or_near += not self._cosine_band[0] <= cosine <= self._cosine_band[1]
        self._sum += weight * vectors.sum(axis=0, dtype=np.float64)
        self._mmd.add(vectors, weight)
        self._weight += weight * len(predictions)
        self._squared_weight += weight * weight * len(predictions)

    async def close(self) -> None:
        """Nothing is held that would be lost."""

    @property
    def effective_texts(self) -> float:
        """Kish's effective n of the decayed weights: (Σw)² / Σw²."""
        return self._weight**2 / self._squared_weight if self._squared_weight else 0.0

    def findings(self) -> dict[str, Finding]:
        """What each signal says now; nothing before the first text."""
        texts = self.effective_texts
        if not texts:
            return {}
        found = {name: self._compare(bins, self._seen[name], texts) for name, bins in self._bins().items()}
        by_cosine = found["embedding"]
        shift, floor = self._shift(texts)
        level = None if by_cosine.level is None else max(by_cosine.level, judge(shift, floor, SHIFT_LIMITS))
        apart, apart_by_chance = self._mmd.distance(), self._mmd.by_chance(texts, BY_CHANCE)
        found["embedding"] = replace(
            by_cosine, level=level, shift=shift, shift_floor=floor, mmd=apart, mmd_floor=apart_by_chance
        )
        return found

    def collect(self) -> Iterator[Metric]:
        """The metrics, computed when Prometheus asks."""
        drift = GaugeMetricFamily(contract.DRIFT, "Distance from the reference profile", labels=["signal", "statistic"])
        floor = GaugeMetricFamily(
            contract.DRIFT_FLOOR, "What chance exceeds once in 100 000 looks", labels=["signal", "statistic"]
        )
        level = GaugeMetricFamily(
            contract.DRIFT_LEVEL, "0 none, 1 moderate, 2 high; absent below 200 effective texts", labels=["signal"]
        )
        for signal, finding in self.findings().items():
            for statistic in ("psi", "js", "kl", "ks", "shift", "mmd"):
                value, by_chance = getattr(finding, statistic), getattr(finding, f"{statistic}_floor")
                if value is not None:
                    drift.add_metric([signal, statistic], value)
                    floor.add_metric([signal, statistic], by_chance)
            if finding.level is not None:
                level.add_metric([signal], finding.level)
        yield from (drift, floor, level)
        yield GaugeMetricFamily(contract.DRIFT_TEXTS, "Effective texts in the window", value=self.effective_texts)
        yield CounterMetricFamily(
            contract.INPUT_OUT_OF_BAND_TOTAL, "Texts shorter or longer than nine tenths", value=self._long_or_short
        )
        yield CounterMetricFamily(
            contract.EMBEDDING_OUT_OF_BAND_TOTAL,
            "Embeddings nearer or farther than nine tenths",
            value=self._far_or_near,
        )

    def _bins(self) -> dict[str, Bins]:
        return {"input_length": self._lengths, "confidence": self._confidences, "embedding": self._cosines}

    def _weight_now(self) -> float:
        exponent = (self._clock() - self._began) / self._half_life_seconds
        if exponent > _LARGEST_EXPONENT:
            down = 2.0**-exponent
            for counts in self._seen.values():
                counts[:] = [count * down for count in counts]
            self._sum *= down
            self._mmd.scale(down)
            self._weight *= down
            self._squared_weight *= down * down
            self._began += exponent * self._half_life_seconds
            exponent = 0.0
        return float(2.0**exponent)

    def _compare(self, bins: Bins, seen: list[float], texts: float) -> Finding:
        weights = np.asarray(seen)
        total = weights.sum()
        p = distances.smoothed(weights * (texts / total if total else 0.0))
        q = bins.reference()
        value = float(distances.psi(p, q))
        sizes = texts, bins.texts
        floor = distances.psi_by_chance(*sizes, len(seen), BY_CHANCE)
        return Finding(
            psi=value,
            js=float(distances.js(p, q)),
            kl=float(distances.kl(p, q)),
            ks=float(distances.ks(p, q)),
            psi_floor=floor,
            js_floor=distances.js_by_chance(*sizes, len(seen), BY_CHANCE),
            kl_floor=distances.kl_by_chance(*sizes, len(seen), BY_CHANCE),
            ks_floor=distances.ks_by_chance(*sizes, BY_CHANCE),
            level=judge(value, floor, PSI_LIMITS) if texts >= LEAST_TEXTS and total else None,
        )

    def _shift(self, texts: float) -> tuple[float, float]:
        """Squared distance between the means in units of the reference's variance, and what chance makes of it.

        Without drift it is (1/n + 1/m) times a weighted sum of χ²(1), which has the mean and variance of χ²(ν)/ν (Satterthwaite 1946).
        """
        gap = self._sum / self._weight - self._mean
        by_chance = distances.chi_square_quantile(self._degrees, BY_CHANCE) / self._degrees
        return float(gap @ gap) / self._variance, (1 / texts + 1 / self._texts) * by_chance


def judge(value: float, floor: float, limits: tuple[float, float]) -> Level:
    """Large by the limit and larger than chance makes it."""
    moderate, high = limits
    if value > max(high, floor):
        return Level.HIGH
    return Level.MODERATE if value > max(moderate, floor) else Level.NONE


def spread(profile: Profile) -> tuple[float, float]:
    """The reference's variance, tr Σ = 1 − |mean|² for vectors of norm 1, and its effective dimensions."""
    variance = max(1 - float(profile.mean @ profile.mean), 1e-9)
    return variance, distances.effective_dimensions(variance, profile.sample.astype(np.float64) - profile.mean)


def probe_cosine(vectors: Vectors, expected: Vectors) -> float:
    """The lowest cosine between rows of two (n, dim) sets: 1 while the server encodes as the model did when it was registered."""
    return float((unit(vectors) * unit(expected)).sum(axis=1).min())
