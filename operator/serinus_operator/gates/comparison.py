"""Evidence that the canary is worse than stable, valid however often it is looked at and however load and weight change between looks.

Two test martingales on each window's 2×2 table, mixed half and half (both start at wealth 1; Ville's inequality bounds the chance of ever
reaching 1/α by α). The mid-rank bets find small lasting differences; the likelihood ratios find outages within a look or two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from serinus_operator.gates.betting import LogWealth, log_evidence
from serinus_operator.gates.tables import Corner, Floats, Table, mid_ranks

# Fractions of the wealth bet on "the canary's mid-rank is above ½".
_RANK_BETS: Final = (0.05, 0.15, 0.35, 0.6, 0.9)
# Alternatives of the likelihood ratios, as multiples of the tolerated odds ratio.
_RATIO_MULTIPLES: Final = (1.5, 2.0, 3.0, 5.0, 10.0)
# A window may multiply the wealth of a likelihood ratio by so much: else one burst private to a pod decides. A cap keeps a supermartingale.
_LARGEST_FACTOR: Final = 20.0
# Likelihood ratios need more tolerance than ranks: they grow without bound in what is merely different.
_RATIO_TOLERANCE: Final = 1.6
# A step should have been able to see odds doubled.
_SOUGHT_ODDS_RATIO: Final = 2.0

DEFAULT_TOLERANCE: Final = 1.25


@dataclass(frozen=True, slots=True)
class Comparison:
    """Log wealth per bet, what was compared, and the log wealth that a doubling of the odds was expected to reach by now."""

    ranks: LogWealth = (0.0,) * len(_RANK_BETS)
    ratios: LogWealth = (0.0,) * len(_RATIO_MULTIPLES)
    power: LogWealth = (0.0,) * len(_RANK_BETS)


def compare(before: Comparison, table: Table, tolerance: float) -> Comparison:
    """One more window. `tolerance` is the odds ratio of a bad request, canary to stable, that is still good; ≥ 1.

    Ranks: wealth ← wealth · (1 + λ(2u − 1)) with u the mid-rank of the canary's bad requests at odds ratio `tolerance`; E[u] = ½ there
    and less below it. Ratios: wealth ← wealth · min(20, P_ψ(x) / P_ψ₀(x)), ψ₀ = 1.6 · tolerance. A table whose margins leave one value
    says nothing.
    """
    if table.says_nothing:
        return before
    base = _RATIO_TOLERANCE * tolerance
    alternatives = tuple(base * multiple for multiple in _RATIO_MULTIPLES)
    sought = max(_SOUGHT_ODDS_RATIO, 1.6 * tolerance)
    corner = Corner(table, (tolerance, sought, base, *alternatives))
    ranks = mid_ranks(np.exp(corner.log_probabilities(tolerance)))
    bets = np.log1p(np.multiply.outer(_RANK_BETS, 2 * ranks - 1))
    expected = bets @ np.exp(corner.log_probabilities(sought))
    at_base = corner.log_probabilities(base)[corner.seen]
    gains = [
        min(math.log(_LARGEST_FACTOR), float(corner.log_probabilities(each)[corner.seen] - at_base))
        for each in alternatives
    ]
    return Comparison(
        ranks=_add(before.ranks, bets[:, corner.seen]),
        ratios=_add(before.ratios, gains),
        power=_add(before.power, expected),
    )


def log_worse(comparison: Comparison) -> float:
    """log of ½·E_ranks + ½·E_ratios."""
    return log_evidence((log_evidence(comparison.ranks), log_evidence(comparison.ratios)))


def log_power(comparison: Comparison) -> float:
    """log of what the evidence was expected to reach, had the odds doubled. A lower bound: the ratios' part is left out."""
    return log_evidence(comparison.power) - math.log(2)


def pod_tolerance(bad: Sequence[float], totals: Sequence[float]) -> float:
    """How far one pod of the same version may lastingly be from the others: the 95 % quantile of its odds ratio to them; 1 when they agree.

    The variance of the pods' log odds beyond their sampling noise, by moments (DerSimonian & Laird 1986), read as that of a lognormal. Pods
    with fewer than 20 requests are left out; fewer than two pods tell nothing.
    """
    pods = [(k, n) for k, n in zip(bad, totals, strict=True) if n >= 20]
    if len(pods) < 2:
        return 1.0
    hits, misses = np.array([k + 0.5 for k, _ in pods]), np.array([n - k + 0.5 for k, n in pods])
    log_odds, weights = np.log(hits / misses), 1 / (1 / hits + 1 / misses)
    mean = float((weights * log_odds).sum() / weights.sum())
    scatter = float((weights * (log_odds - mean) ** 2).sum()) - (len(pods) - 1)
    variance = max(0.0, scatter / float(weights.sum() - (weights**2).sum() / weights.sum()))
    return math.exp(1.645 * math.sqrt(variance * (1 + 1 / (len(pods) - 1))))


def _add(before: LogWealth, gains: Sequence[float] | Floats) -> LogWealth:
    return tuple(wealth + float(gain) for wealth, gain in zip(before, gains, strict=True))
