"""A window's 2×2 table, canary and stable by bad and good, and Fisher's noncentral hypergeometric distribution of its corner.

Given both totals and the number of bad requests m, the canary's bad ones follow P(x) ∝ C(n_c, x)·C(n_s, m−x)·ψ^x, where ψ is the odds ratio
of a bad request, canary to stable (R. A. Fisher, 1935). Terms are built by their recurrence in logs, outward from the mode: exact to
1e-9 for 10⁵ requests in a window and to 1e-6 for 10⁷, where differences of lgamma are off by 1e-8 and more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_DEVIATIONS: Final = 14.0  # beyond so many standard deviations of the mode (and 60 counts more) a term is below 1e-40
_SPARE_COUNTS: Final = 60


@dataclass(frozen=True, slots=True)
class Table:
    """Requests of one window; counts, not rates. Raises ValueError when more are bad than there are."""

    canary_total: int
    canary_bad: int
    stable_total: int
    stable_bad: int

    def __post_init__(self) -> None:
        if not (0 <= self.canary_bad <= self.canary_total and 0 <= self.stable_bad <= self.stable_total):
            raise ValueError(f"not a table of counts: {self}")

    @property
    def bad(self) -> int:
        """m, the bad requests of both sides."""
        return self.canary_bad + self.stable_bad

    @property
    def says_nothing(self) -> bool:
        """Given its margins the corner can have one value only."""
        low, high = self.support
        return low == high

    @property
    def support(self) -> tuple[int, int]:
        """Least and greatest value that `canary_bad` could have with these margins."""
        return max(0, self.bad - self.stable_total), min(self.bad, self.canary_total)


class Corner:
    """The distribution of a table's corner for several odds ratios at once. Arrays run over `counts`, a part of the support."""

    def __init__(self, table: Table, odds_ratios: tuple[float, ...]) -> None:
        self._table = table
        modes = [_mode(table, odds_ratio) for odds_ratio in odds_ratios]
        reaches = [_SPARE_COUNTS + _DEVIATIONS * _deviation(table, mode) for mode in modes]
        low, high = table.support
        first = min([table.canary_bad, *(int(mode - reach) for mode, reach in zip(modes, reaches, strict=True))])
        last = max([table.canary_bad, *(int(mode + reach) + 1 for mode, reach in zip(modes, reaches, strict=True))])
        first, last = max(low, first), min(high, last)
        self.counts: Floats = np.arange(first, last + 1, dtype=np.float64)
        self._centre = min(max(modes[0], first), last) - first
        self._log_terms = _log_terms(table, self.counts, self._centre)

    def log_probabilities(self, odds_ratio: float) -> Floats:
        """log P(x) for every x in `counts`."""
        terms = self._log_terms + (self.counts - self.counts[self._centre]) * math.log(odds_ratio)
        top = float(terms.max())
        normalised: Floats = terms - (top + math.log(float(np.exp(terms - top).sum())))
        return normalised

    @property
    def seen(self) -> int:
        """Index of what was observed."""
        return int(self._table.canary_bad - self.counts[0])


def mid_ranks(probabilities: Floats) -> Floats:
    """u(x) = P(X < x) + ½ P(X = x) for every x: its mean is ½ under the distribution itself (Lancaster's mid-P)."""
    ranks: Floats = np.minimum(1.0, np.cumsum(probabilities) - 0.5 * probabilities)
    return ranks


def _log_terms(table: Table, counts: Floats, centre: int) -> Floats:
    """log of C(n_c, x)·C(n_s, m−x) relative to the term at `centre`, by the ratio of neighbours."""
    below = counts[:-1]
    steps = (
        np.log(table.canary_total - below)
        + np.log(table.bad - below)
        - np.log(below + 1)
        - np.log(table.stable_total - table.bad + below + 1)
    )
    left = -np.cumsum(steps[:centre][::-1])[::-1]
    right = np.cumsum(steps[centre:])
    return np.concatenate((left, np.zeros(1), right))


def _mode(table: Table, odds_ratio: float) -> int:
    """Where P is largest: the greatest x with P(x) ≥ P(x − 1), the smaller root of (ψ−1)x² − bx + c."""
    a = odds_ratio - 1
    b = table.stable_total - table.bad + (table.canary_total + table.bad + 2) * odds_ratio
    c = (table.canary_total + 1) * (table.bad + 1) * odds_ratio
    mode = int(2 * c / (b + math.sqrt(max(0.0, b * b - 4 * a * c))))
    low, high = table.support
    return min(max(mode, low), high)


def _deviation(table: Table, mode: int) -> float:
    """About the standard deviation: the inverse curvature of log P at its mode."""
    cells = (mode, table.canary_total - mode, table.bad - mode, table.stable_total - table.bad + mode)
    return 1 / math.sqrt(sum(1 / (cell + 1) for cell in cells))
