"""Maximum mean discrepancy: how far two samples of vectors are apart in any respect, not only in their means. Pure numpy.

MMD² = E k(x, x′) + E k(y, y′) − 2 E k(x, y) for the Gaussian kernel k(x, y) = exp(−|x − y|² / 2σ²), σ the median distance within the
reference (Gretton, Borgwardt, Rasch, Schölkopf, Smola: A kernel two-sample test, JMLR 13, 2012; the unbiased estimator is their lemma 6).
Without drift its expectation is 0. Streams are summed up by random features of that kernel (Rahimi & Recht, NIPS 2007), in constant space.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from serinus_server.distances import chi_square_quantile, effective_dimensions

Rows: TypeAlias = NDArray[np.floating]

_FREQUENCIES: Final = 128  # of the random features: two numbers each
_LEAST_BANDWIDTH: Final = 1e-6


def bandwidth(sample: Rows) -> float:
    """σ: the median distance between different rows of the (m, dim) sample."""
    others = np.triu_indices(len(sample), k=1)
    median = float(np.median(_squared_distances(sample, sample)[others])) if len(sample) > 1 else 0.0
    return max(_LEAST_BANDWIDTH, median**0.5)


def mmd(x: Rows, y: Rows, sigma: float) -> float:
    """Unbiased MMD² of the rows of (n, dim) and (m, dim), at least two of each; below 0 as often as above where nothing differs."""
    n, m = len(x), len(y)
    within_x, within_y, between = (_kernel(*pair, sigma) for pair in ((x, x), (y, y), (x, y)))
    same_x, same_y = (within_x.sum() - n) / (n * (n - 1)), (within_y.sum() - m) / (m * (m - 1))
    return float(same_x + same_y - 2 * between.mean())


class Stream:
    """MMD² between a stream of weighted vectors and a reference sample: a sum of random features is all that is kept of the stream.

    The features' products are a kernel of their own, of which this is the unbiased MMD²; it is within about 1/√128 of the Gaussian one's.
    """

    def __init__(self, sample: Rows, seed: int = 0) -> None:
        """`sample` is (m, dim), at least two rows."""
        self._frequencies = np.random.default_rng(seed).standard_normal((sample.shape[1], _FREQUENCIES))
        self._frequencies = (self._frequencies / bandwidth(sample)).astype(np.float32)
        reference = self.features(sample)
        self._rows, self._reference = len(sample), reference.sum(axis=0)
        self._within = (float(self._reference @ self._reference) - self._rows) / (self._rows * (self._rows - 1))
        self._spread = spread(reference)
        self._sum = np.zeros(2 * _FREQUENCIES)
        self._weight = self._squared = 0.0

    def features(self, vectors: Rows) -> NDArray[np.float64]:
        """(n, 256) features of norm 1, whose products estimate the kernel."""
        phases = (vectors.astype(np.float32, copy=False) @ self._frequencies).astype(np.float64)
        found: NDArray[np.float64] = np.concatenate((np.cos(phases), np.sin(phases)), axis=1) / _FREQUENCIES**0.5
        return found

    def add(self, vectors: Rows, weight: float) -> None:
        """Adds (n, dim) vectors of one weight."""
        self._sum += weight * self.features(vectors).sum(axis=0)
        self._weight += weight * len(vectors)
        self._squared += weight * weight * len(vectors)

    def scale(self, factor: float) -> None:
        """All weights until now, times this."""
        self._sum *= factor
        self._weight *= factor
        self._squared *= factor * factor

    def distance(self) -> float:
        """MMD² now; 0 with fewer than two vectors."""
        pairs = self._weight**2 - self._squared
        if pairs <= 0:
            return 0.0
        within = (float(self._sum @ self._sum) - self._squared) / pairs
        between = float(self._sum @ self._reference) / (self._weight * self._rows)
        return within + self._within - 2 * between

    def by_chance(self, texts: float, probability: float) -> float:
        """What MMD² exceeds with this probability where nothing has drifted, after so many effective texts."""
        return mmd_by_chance(texts, self._rows, *self._spread, probability)


def mmd_by_chance(n: float, m: float, variance: float, degrees: float, probability: float) -> float:
    """What unbiased MMD² exceeds with this probability when nothing has drifted; `variance` and `degrees` as `spread` tells them.

    It is (1/n + 1/m) times a sum of λ·(χ²(1) − 1) over the eigenvalues λ of the features' covariance (theorem 12 of Gretton et al.), which
    has the mean and variance of tr Σ·(χ²(ν)/ν − 1) (Satterthwaite 1946).
    """
    return (1 / n + 1 / m) * variance * (chi_square_quantile(degrees, probability) / degrees - 1)


def spread(rows: Rows) -> tuple[float, float]:
    """tr Σ of the covariance of (m, dim) rows, at least two, and their effective dimensions."""
    centred = rows.astype(np.float64) - rows.mean(axis=0)
    variance = max(1e-12, float((centred**2).sum()) / (len(rows) - 1))
    return variance, effective_dimensions(variance, centred)


def _kernel(x: Rows, y: Rows, sigma: float) -> NDArray[np.float64]:
    kernel: NDArray[np.float64] = np.exp(_squared_distances(x, y) / (-2 * sigma**2))
    return kernel


def _squared_distances(x: Rows, y: Rows) -> NDArray[np.float64]:
    """(n, m) of them."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    distances: NDArray[np.float64] = np.maximum(0.0, squares)
    return distances
