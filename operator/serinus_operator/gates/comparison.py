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
from serinus_operator.gates.tables import Corners, Floats, Table, Tables, mid_ranks

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

# A pod with fewer requests says too little of its own rate.
_LEAST_OF_A_POD: Final = 20
_TINY: Final = 1e-12

DEFAULT_TOLERANCE: Final = 1.25


@dataclass(frozen=True, slots=True)
class Comparison:
    """Log wealth per bet, what was compared, and the log wealth that a doubling of the odds was expected to reach by now."""

    ranks: LogWealth = (0.0,) * len(_RANK_BETS)
    ratios: LogWealth = (0.0,) * len(_RATIO_MULTIPLES)
    power: LogWealth = (0.0,) * len(_RANK_BETS)


def starting_at(log_wealth: float) -> Comparison:
    """A comparison that goes on with wealth gathered elsewhere, the same in each bet."""
    return Comparison(ranks=(log_wealth,) * len(_RANK_BETS), ratios=(log_wealth,) * len(_RATIO_MULTIPLES))


@dataclass(frozen=True, slots=True)
class Gains:
    """What T tables add to log wealth per bet, and what they would be expected to add to the ranks' had the odds doubled; (T, 5) each."""

    ranks: Floats
    ratios: Floats
    expected: Floats


def compare(before: Comparison, table: Table, tolerance: float) -> Comparison:
    """One more window. `tolerance` is the odds ratio of a bad request, canary to stable, that is still good; ≥ 1."""
    return compare_each((before,), (table,), (tolerance,))[0]


def compare_each(
    before: Sequence[Comparison], tables: Sequence[Table], tolerances: Sequence[float]
) -> tuple[Comparison, ...]:
    """One more window of several kinds of table, each with its own comparison."""
    found = gains(Tables.of(*tables), np.array(tolerances))
    gained = zip(before, found.ranks, found.ratios, found.expected, strict=True)
    return tuple(
        Comparison(_add(each.ranks, ranks), _add(each.ratios, ratios), _add(each.power, expected))
        for each, ranks, ratios, expected in gained
    )


def gains(tables: Tables, tolerances: Floats) -> Gains:
    """The bets' outcomes on T tables with (T,) tolerances; a table whose margins leave one value says nothing and adds 0.

    Ranks: wealth ← wealth · (1 + λ(2u − 1)) with u the mid-rank of the canary's bad requests at odds ratio `tolerance`; E[u] = ½ there
    and less below it. Ratios: wealth ← wealth · min(20, P_ψ(x) / P_ψ₀(x)), ψ₀ = 1.6 · tolerance.
    """
    base = _RATIO_TOLERANCE * tolerances
    alternatives = [base * multiple for multiple in _RATIO_MULTIPLES]
    sought = np.maximum(_SOUGHT_ODDS_RATIO, 1.6 * tolerances)
    corners = Corners(tables, np.stack([tolerances, sought, base, *alternatives], axis=1))
    ranks = 2 * mid_ranks(np.exp(corners.log_probabilities(tolerances))) - 1
    if_sought = np.exp(corners.log_probabilities(sought))
    at_base = corners.seen(corners.log_probabilities(base))
    ratios = [corners.seen(corners.log_probabilities(each)) - at_base for each in alternatives]
    return Gains(
        ranks=np.log1p(np.multiply.outer(corners.seen(ranks), _RANK_BETS)),
        ratios=np.minimum(math.log(_LARGEST_FACTOR), np.stack(ratios, axis=1)),
        expected=np.stack([(if_sought * np.log1p(bet * ranks)).sum(axis=1) for bet in _RANK_BETS], axis=1),
    )


def log_worse(comparison: Comparison) -> float:
    """log of ½·E_ranks + ½·E_ratios."""
    return log_evidence((log_evidence(comparison.ranks), log_evidence(comparison.ratios)))


def log_power(comparison: Comparison) -> float:
    """log of what the evidence was expected to reach, had the odds doubled. A lower bound: the ratios' part is left out."""
    return log_evidence(comparison.power) - math.log(2)


def pod_tolerances(bad: Floats, totals: Floats) -> Floats:
    """How far one pod of the same version may lastingly be from the others: the 95 % quantile of its odds ratio to them; 1 when they agree.

    Both are (T, pods), the result (T,). The variance of the pods' log odds beyond their sampling noise, by moments (DerSimonian & Laird
    1986), read as that of a lognormal. Pods with fewer than 20 requests are left out; fewer than two pods tell nothing.
    """
    known = totals >= _LEAST_OF_A_POD
    pods = known.sum(axis=1)
    hits, misses = bad + 0.5, totals - bad + 0.5
    log_odds, weights = np.log(hits / misses), known / (1 / hits + 1 / misses)
    total = np.maximum(weights.sum(axis=1), _TINY)
    mean = (weights * log_odds).sum(axis=1) / total
    scatter = (weights * (log_odds - mean[:, None]) ** 2).sum(axis=1) - (pods - 1)
    information = np.where(pods >= 2, total - (weights**2).sum(axis=1) / total, 1.0)
    variance = np.maximum(0.0, scatter / information)
    apart = np.exp(1.645 * np.sqrt(variance * (1 + 1 / np.maximum(1, pods - 1))))
    tolerances: Floats = np.where(pods >= 2, apart, 1.0)
    return tolerances


def _add(before: LogWealth, gains: Sequence[float] | Floats) -> LogWealth:
    return tuple(wealth + float(gain) for wealth, gain in zip(before, gains, strict=True))
