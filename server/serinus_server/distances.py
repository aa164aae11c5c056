"""How far two distributions over the same bins are apart, and how far they would be by chance. Pure numpy; scipy is the oracle in tests.

`p` is what is seen, `q` the reference: probabilities over B bins in the last axis, each sum 1, none zero (`smoothed`). In nats.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float64]

_PRIOR: Final = 0.5  # of a text in each bin (Jeffreys): no bin is empty, so that no logarithm is infinite


def smoothed(weights: NDArray[np.float64]) -> Probabilities:
    """(…, B) weights as probabilities of which none is zero."""
    raised = weights + _PRIOR
    return raised / raised.sum(axis=-1, keepdims=True)


def psi(p: Probabilities, q: Probabilities) -> NDArray[np.float64]:
    """Population stability index: Σ (p − q)·ln(p/q), the symmetric Kullback–Leibler divergence."""
    return ((p - q) * np.log(p / q)).sum(axis=-1)


def kl(p: Probabilities, q: Probabilities) -> NDArray[np.float64]:
    """Kullback–Leibler divergence of p from q: Σ p·ln(p/q)."""
    return (p * np.log(p / q)).sum(axis=-1)


def js(p: Probabilities, q: Probabilities) -> NDArray[np.float64]:
    """Jensen–Shannon divergence, at most ln 2."""
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


def ks(p: Probabilities, q: Probabilities) -> NDArray[np.float64]:
    """Kolmogorov–Smirnov distance at the bins' bounds."""
    return np.abs(np.cumsum(p - q, axis=-1)).max(axis=-1)


def psi_by_chance(seen: float, reference: float, bins: int, probability: float) -> float:
    """What PSI exceeds with this probability when nothing has drifted: (1/n + 1/m)·χ²(B − 1), n and m texts (Yurdakul & Naranjo 2020)."""
    return (1 / seen + 1 / reference) * chi_square_quantile(bins - 1, probability)


def kl_by_chance(seen: float, reference: float, bins: int, probability: float) -> float:
    """The same for KL, half of PSI to second order in p − q."""
    return psi_by_chance(seen, reference, bins, probability) / 2


def js_by_chance(seen: float, reference: float, bins: int, probability: float) -> float:
    """The same for JS, an eighth of PSI to second order in p − q."""
    return psi_by_chance(seen, reference, bins, probability) / 8


def ks_by_chance(seen: float, reference: float, probability: float) -> float:
    """What KS exceeds with at most this probability when nothing has drifted: √((1/n + 1/m)·ln(2/probability)/2) (Smirnov 1939).

    Of continuous values it is the probability's first term; at the bounds of bins KS is smaller.
    """
    return math.sqrt((1 / seen + 1 / reference) * math.log(2 / probability) / 2)


def effective_dimensions(variance: float, centred: NDArray[np.float64]) -> float:
    """(tr Σ)² / tr Σ², at least 1, of (m, dim) centred rows whose tr Σ is `variance`; tr Σ² is their mean squared product."""
    products = centred @ centred.T
    count = len(centred)
    if count < 2:
        return 1.0
    squared = float((products**2).sum() - (np.diag(products) ** 2).sum()) / (count * (count - 1))
    return max(1.0, variance**2 / max(squared, 1e-12))


@cache
def chi_square_quantile(degrees: float, probability: float) -> float:
    """The value that χ² with (also fractional) degrees of freedom exceeds with this probability. By bisection, to 1e-12 of itself."""
    low, high = 0.0, degrees + 1.0
    while chi_square_tail(degrees, high) > probability:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if chi_square_tail(degrees, middle) > probability:
            low = middle
        else:
            high = middle
    return high


def chi_square_tail(degrees: float, value: float) -> float:
    """P(χ² > value): the regularised upper incomplete gamma function Q(degrees/2, value/2).

    By its series below the mean and by its continued fraction (modified Lentz) above (Press et al., Numerical Recipes, 6.2).
    """
    a, x = degrees / 2, value / 2
    if x <= 0:
        return 1.0
    scale = math.exp(-x + a * math.log(x) - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        while term > total * 1e-16:
            a += 1
            term *= x / a
            total += term
        return 1 - total * scale
    tiny = 1e-300
    b, step = x + 1 - a, 0
    c, d = 1 / tiny, 1 / b
    fraction = d
    while True:
        step += 1
        numerator = -step * (step - a)
        b += 2
        d = numerator * d + b
        d = 1 / (d if abs(d) > tiny else tiny)
        c = b + numerator / c
        c = c if abs(c) > tiny else tiny
        fraction *= d * c
        if abs(d * c - 1) < 1e-16:
            return fraction * scale
