"""Evidence against "the canary keeps this limit", valid however often it is looked at.

Each construction starts at wealth 1 and is a supermartingale while the limit is kept, so that by Ville's inequality the probability that it
ever reaches 1/α is at most α, whatever the number of looks. Evidence is kept per bet as log wealth; their mean is the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, TypeAlias

LogWealth: TypeAlias = tuple[float, ...]

# Fractions of the wealth bet on "the mean is above the limit" (Waudby-Smith & Ramdas, Estimating means by betting, JRSS-B 2024).
_MEAN_BETS: Final = (0.05, 0.15, 0.35, 0.6, 0.9)
# Alternatives, as multiples of the limit, whose likelihood ratios are mixed for a rate (Robbins 1970).
_RATE_MULTIPLES: Final = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)

# Alternatives, as shares of the rate, that are mixed to show that the true rate is lower.
_LOW_RATE_SHARES: Final = (0.01, 0.03, 0.1, 0.2, 0.35, 0.6)

NO_MEAN_EVIDENCE: Final[LogWealth] = (0.0,) * len(_MEAN_BETS)
NO_RATE_EVIDENCE: Final[LogWealth] = (0.0,) * len(_RATE_MULTIPLES)


def bet_on_mean(log_wealth: LogWealth, value: float, limit: float) -> LogWealth:
    """One more observation of a non-negative quantity whose mean should stay ≤ `limit`: wealth ← wealth · (1 + λ(x/L − 1)).

    `value` is a window's mean, in the unit of `limit`. Raises ValueError for a negative or non-finite value.
    """
    if not (math.isfinite(value) and value >= 0 and limit > 0):
        raise ValueError(f"a non-negative value and a positive limit are needed, not {value} and {limit}")
    excess = value / limit - 1
    return tuple(wealth + math.log1p(bet * excess) for wealth, bet in zip(log_wealth, _MEAN_BETS, strict=True))


def bet_on_rate(log_wealth: LogWealth, bad: float, total: float, limit: float) -> LogWealth:
    """`total` more requests, `bad` of them bad, against "a request is bad with probability ≤ `limit`".

    Wealth ← wealth · (p/L)^bad · ((1−p)/(1−L))^(total−bad) for each alternative p = multiple · L (at most half way from L to 1).
    """
    return _bet_on_rates(
        log_wealth, bad, total, limit, [min(multiple * limit, (1 + limit) / 2) for multiple in _RATE_MULTIPLES]
    )


def bet_on_low_rate(log_wealth: LogWealth, bad: float, total: float, rate: float) -> LogWealth:
    """`total` more requests, `bad` of them bad, against "a request is bad with probability ≥ `rate`": shows that the rate is lower.

    Wealth ← wealth · (p/r)^bad · ((1−p)/(1−r))^(total−bad) for each alternative p < r. Starts at NO_RATE_EVIDENCE.
    """
    return _bet_on_rates(log_wealth, bad, total, rate, [share * rate for share in _LOW_RATE_SHARES])


def log_evidence(log_wealth: Sequence[float]) -> float:
    """log of the mean wealth over the bets, without overflow."""
    top = max(log_wealth)
    return top + math.log(sum(math.exp(wealth - top) for wealth in log_wealth) / len(log_wealth))


def log_weighted(log_values: Sequence[float], weights: Sequence[float]) -> float:
    """log of the weighted mean of what is given as logs, without overflow."""
    top = max(log_values)
    total = sum(weight * math.exp(value - top) for value, weight in zip(log_values, weights, strict=True))
    return top + math.log(total / sum(weights))


def _bet_on_rates(
    log_wealth: LogWealth, bad: float, total: float, rate: float, alternatives: Sequence[float]
) -> LogWealth:
    """Likelihood ratios of each alternative to `rate`. Raises ValueError for what are no counts or no rate."""
    if not (0 <= bad <= total and 0 < rate < 1):
        raise ValueError(f"0 ≤ bad ≤ total and 0 < rate < 1 are needed, not {bad}, {total}, {rate}")
    return tuple(
        wealth + bad * math.log(p / rate) + (total - bad) * (math.log1p(-p) - math.log1p(-rate))
        for wealth, p in zip(log_wealth, alternatives, strict=True)
    )
