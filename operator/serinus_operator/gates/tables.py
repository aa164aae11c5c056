"""2×2 tables of windows, canary and stable by bad and good, and Fisher's noncentral hypergeometric distribution of their corners.

Given both totals and the number of bad requests m, the canary's bad ones follow P(x) ∝ C(n_c, x)·C(n_s, m−x)·ψ^x, where ψ is the odds ratio
of a bad request, canary to stable (R. A. Fisher, 1935). Terms are built by their recurrence in logs, outward from the mode: exact to
1e-9 for 10⁵ requests in a window and to 1e-6 for 10⁷, where differences of lgamma are off by 1e-8 and more.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
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


@dataclass(frozen=True, slots=True)
class Tables:
    """Many tables at once, one or a simulation's thousands: each field is (T,) float64 of whole numbers, as in Table."""

    canary_total: Floats
    canary_bad: Floats
    stable_total: Floats
    stable_bad: Floats

    @classmethod
    def of(cls, *tables: Table) -> Tables:
        """These tables, in their order."""
        columns = np.array([astuple(table) for table in tables], dtype=np.float64).T
        return cls(*columns)

    @property
    def bad(self) -> Floats:
        """Each table's m."""
        return self.canary_bad + self.stable_bad

    @property
    def support(self) -> tuple[Floats, Floats]:
        """Least and greatest value that `canary_bad` could have with these margins."""
        return np.maximum(0.0, self.bad - self.stable_total), np.minimum(self.bad, self.canary_total)


class Corners:
    """The distributions of the corners of T tables for several odds ratios.

    Arrays are (T, W): a row runs over the part of its table's support, from `first`, that matters for the given odds ratios, (T, R).
    """

    def __init__(self, tables: Tables, odds_ratios: Floats) -> None:
        low, high = tables.support
        modes = np.stack([_modes(tables, each) for each in odds_ratios.T], axis=1)
        reaches = _SPARE_COUNTS + _DEVIATIONS * _deviations(tables, modes)
        self.first = np.maximum(low, np.minimum(tables.canary_bad, np.floor(modes - reaches).min(axis=1)))
        last = np.minimum(high, np.maximum(tables.canary_bad, np.floor(modes + reaches).max(axis=1) + 1))
        self._rows = np.arange(len(low))
        self._seen = (tables.canary_bad - self.first).astype(np.int64)
        counts = self.first[:, None] + np.arange(int((last - self.first).max()) + 1)
        centre = (np.clip(modes[:, 0], self.first, last) - self.first).astype(np.int64)
        self._from_centre = counts - (self.first + centre)[:, None]
        self._log_terms = np.where(counts <= last[:, None], _log_terms(tables, counts, centre), -np.inf)

    def log_probabilities(self, odds_ratios: Floats) -> Floats:
        """log P(x) at one odds ratio for each table; (T, W), -inf beyond the support."""
        terms = self._log_terms + self._from_centre * np.log(odds_ratios)[:, None]
        top = terms.max(axis=1, keepdims=True)
        normalised: Floats = terms - (top + np.log(np.exp(terms - top).sum(axis=1, keepdims=True)))
        return normalised

    def seen(self, values: Floats) -> Floats:
        """Of (T, W) values, each table's at what was observed; (T,)."""
        observed: Floats = values[self._rows, self._seen]
        return observed


def mid_ranks(probabilities: Floats) -> Floats:
    """u(x) = P(X < x) + ½ P(X = x) for every x: its mean is ½ under the distribution itself (Lancaster's mid-P)."""
    ranks: Floats = np.minimum(1.0, np.cumsum(probabilities, axis=1) - 0.5 * probabilities)
    return ranks


def _log_terms(tables: Tables, counts: Floats, centre: NDArray[np.int64]) -> Floats:
    """log of C(n_c, x)·C(n_s, m−x) relative to the term at `centre`, by the ratio of neighbours. Beyond the support: any number."""
    below, bad = counts[:, :-1], tables.bad[:, None]
    up = np.log(np.maximum(1.0, tables.canary_total[:, None] - below)) + np.log(np.maximum(1.0, bad - below))
    down = np.log(below + 1) + np.log(np.maximum(1.0, tables.stable_total[:, None] - bad + below + 1))
    terms = np.concatenate((np.zeros((len(counts), 1)), np.cumsum(up - down, axis=1)), axis=1)
    relative: Floats = terms - terms[np.arange(len(counts)), centre][:, None]
    return relative


def _modes(tables: Tables, odds_ratios: Floats) -> Floats:
    """Where P is largest: the greatest x with P(x) ≥ P(x − 1), the smaller root of (ψ−1)x² − bx + c."""
    a = odds_ratios - 1
    b = tables.stable_total - tables.bad + (tables.canary_total + tables.bad + 2) * odds_ratios
    c = (tables.canary_total + 1) * (tables.bad + 1) * odds_ratios
    modes = np.floor(2 * c / (b + np.sqrt(np.maximum(0.0, b * b - 4 * a * c))))
    clipped: Floats = np.clip(modes, *tables.support)
    return clipped


def _deviations(tables: Tables, modes: Floats) -> Floats:
    """About the standard deviations, (T, R): the inverse curvature of log P at its modes."""
    canary, bad, stable = tables.canary_total[:, None], tables.bad[:, None], tables.stable_total[:, None]
    cells = (modes, canary - modes, bad - modes, stable - bad + modes)
    curvature: Floats = sum((1 / (cell + 1) for cell in cells), start=np.zeros_like(modes))
    return 1 / np.sqrt(curvature)
