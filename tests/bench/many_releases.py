"""The gates' comparison for thousands of simulated releases at once: the operator's own bets and tolerances, vectorised over releases.

Only the bookkeeping is here (which counts make a table, means over bets, tables and gates); `tests/operator/test_bench.py` holds it against
`judge` and `verdicts`, look by look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from tests.bench.traffic_model import PODS, Counts, nothing_counted

from serinus_operator.gates.comparison import gains, pod_tolerances
from serinus_operator.gates.judge import weight_of
from serinus_operator.gates.tables import Floats, Tables
from serinus_operator.spec import ErrorRateGate

# Of what was counted: bad requests by the canary's rule, bad ones by stable's, all; each (releases, pods, tables).
Measure: TypeAlias = Callable[[Counts], tuple[Floats, Floats, Floats]]


@dataclass(frozen=True)
class Rule:
    """One gate: the tables that it makes, the odds ratio that it tolerates in each, and its weight beside the others."""

    measure: Measure
    tolerance: float
    weight: float = 1.0


def errors(counts: Counts) -> tuple[Floats, Floats, Floats]:
    bad, total = counts.errors[..., None], counts.requests[..., None]
    return bad, bad, total


def low_confidence(counts: Counts) -> tuple[Floats, Floats, Floats]:
    bad, total = counts.low[..., None], counts.answered[..., None]
    return bad, bad, total


def slower_in_time(counts: Counts) -> tuple[Floats, Floats, Floats]:
    """Canary slower than 1.1·b against stable slower than b, for every compared bound b."""
    total = np.repeat(counts.answered[..., None], counts.within.shape[-1] // 2, axis=-1)
    return total - counts.within[..., 1::2], total - counts.within[..., ::2], total


def slower_at_bound(counts: Counts) -> tuple[Floats, Floats, Floats]:
    """Both slower than b, for every compared bound b."""
    _, bad, total = slower_in_time(counts)
    return bad, bad, total


DEFAULT_RULES = {
    "errors": Rule(errors, 1.25, weight=weight_of(ErrorRateGate())),
    "latency": Rule(slower_in_time, 1.0),
    "confidence": Rule(low_confidence, 2.0),
}


class ManyReleases:
    """Evidence of many releases, for some gates. Pods' lasting differences are measured on what was counted before each window."""

    def __init__(self, rules: dict[str, Rule], releases: int) -> None:
        self._rules, self._before = rules, nothing_counted(releases)
        self._ranks: dict[str, Floats] = {}
        self._ratios: dict[str, Floats] = {}

    def add(self, counts: Counts) -> None:
        """One more window of every release."""
        for name, rule in self._rules.items():
            by_canary, by_stable, total = rule.measure(counts)
            shape = (total.shape[0], total.shape[2])
            sides = (total[:, 0], by_canary[:, 0], total[:, 1:].sum(axis=1), by_stable[:, 1:].sum(axis=1))
            found = gains(Tables(*(side.ravel() for side in sides)), self._tolerances(rule).ravel())
            self._ranks[name] = self._ranks.get(name, 0.0) + found.ranks.reshape(*shape, -1)
            self._ratios[name] = self._ratios.get(name, 0.0) + found.ratios.reshape(*shape, -1)
        self._before = self._before + counts

    def _tolerances(self, rule: Rule) -> Floats:
        _, bad, total = rule.measure(self._before)
        rows = [each[:, 1:].transpose(0, 2, 1).reshape(-1, PODS - 1) for each in (bad, total)]
        return np.maximum(rule.tolerance, pod_tolerances(*rows)).reshape(len(total), -1)

    def log_evidence(self) -> dict[str, Floats]:
        """Each gate's log evidence; (releases,)."""
        return {
            name: log_mean(log_mean(np.stack((log_mean(self._ranks[name]), log_mean(self._ratios[name])), axis=-1)))
            for name in self._rules
        }

    def log_together(self) -> Floats:
        """log of the gates' evidence together, their weighted mean, which is judged against 1/α; (releases,)."""
        weights = np.array([rule.weight for rule in self._rules.values()])
        weighted = np.stack(list(self.log_evidence().values()), axis=-1) + np.log(weights / weights.mean())
        return log_mean(weighted)


def log_mean(log_values: Floats) -> Floats:
    """log of the mean over the last axis, without overflow."""
    top = log_values.max(axis=-1, keepdims=True)
    mean: Floats = top[..., 0] + np.log(np.exp(log_values - top).mean(axis=-1))
    return mean
