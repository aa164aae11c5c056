"""The rules that people use today, beside the gates on the same data: at which look each would fail each release."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serinus_operator.gates.tables import Floats


@dataclass(frozen=True)
class History:
    """Errors and requests of both sides; each (releases, looks)."""

    bad: Floats
    total: Floats
    stable_bad: Floats
    stable_total: Floats


Failed = NDArray[np.bool_]  # (releases, looks)


def one_window(history: History) -> Failed:
    canary = history.bad / np.maximum(1, history.total)
    stable = history.stable_bad / np.maximum(1, history.stable_total)
    worse: Failed = (history.total > 0) & (history.stable_total > 0) & (canary > 1.25 * stable)
    return worse


def three_windows(history: History) -> Failed:
    one = one_window(history)
    three = np.zeros_like(one)
    three[:, 2:] = one[:, 2:] & one[:, 1:-1] & one[:, :-2]
    return three


def z_test(history: History) -> Failed:
    """All data so far, one-sided at 5 %, at every look."""
    bad, total, stable_bad, stable_total = (
        np.cumsum(each, axis=1) for each in (history.bad, history.total, history.stable_bad, history.stable_total)
    )
    both, total, stable_total = np.maximum(1, total + stable_total), np.maximum(1, total), np.maximum(1, stable_total)
    pooled = (bad + stable_bad) / both
    deviation = np.sqrt(pooled * (1 - pooled) * (1 / total + 1 / stable_total))
    far: Failed = (bad / total - stable_bad / stable_total) > 1.645 * deviation
    return far & (deviation > 0)


def kayenta(history: History) -> Failed:
    """Kayenta's judge: Mann–Whitney over the windows' rates at 98 %, with an effect of 25 %; silent before 10 points."""
    from scipy.stats import mannwhitneyu

    canary = history.bad / np.maximum(1, history.total)
    stable = history.stable_bad / np.maximum(1, history.stable_total)
    failed = np.zeros(canary.shape, dtype=np.bool_)
    for look in range(10, canary.shape[1] + 1):
        ours, theirs = canary[:, :look], stable[:, :look]
        worse = mannwhitneyu(ours, theirs, axis=1, alternative="greater", method="asymptotic").pvalue < 0.02
        failed[:, look - 1] = worse & (ours.mean(axis=1) > 1.25 * theirs.mean(axis=1))
    return failed


RULES: dict[str, Callable[[History], Failed]] = {
    "one window > 1.25 × stable": one_window,
    "three such windows in a row": three_windows,
    "z-test at 5 %, every look": z_test,
    "Mann–Whitney (as Kayenta), every look": kayenta,
}
