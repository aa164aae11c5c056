"""`make bench-gates`: how often the gates fail a good release, and how soon a bad one, beside the rules that people use today.

python -m tests.bench.gates [--releases 2000]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import TypedDict

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as RichTable
from tests.bench.report import write_section
from tests.bench.traffic_model import START, Canary, Noise, Release, faster, identical

from serinus_operator.gates.judge import Evidence, Verdict, judge, verdicts
from serinus_operator.spec import AnalysisSpec, ConfidenceGate, ErrorRateGate, Gate, InconclusiveAction, LatencyGate

ALPHA = 0.05
GATES = (
    Gate("errors", ErrorRateGate(), dry_run=False),
    Gate("latency", LatencyGate(), dry_run=False),
    Gate("confidence", ConfidenceGate(only_with_reference=True), dry_run=False),
)
ANALYSIS = AnalysisSpec(timedelta(seconds=10), ALPHA, 200, timedelta(minutes=30), InconclusiveAction.PAUSE, GATES)
OURS = "Serinus, all default gates"


def looks_until_failed(
    canary: Canary, errors: float, rate: float, noise: Noise, looks: int, seed: int
) -> dict[str, int | None]:
    """The look at which each rule fails one simulated release; None for never."""
    release = Release(np.random.default_rng(seed), canary, errors=errors, rate=rate, noise=noise)
    evidence, found = Evidence("c", START), dict.fromkeys((OURS, *_RULES))
    history: list[tuple[float, float, float, float]] = []  # canary bad, canary, stable bad, stable: per window
    for look in range(1, looks + 1):
        window = release.window()
        canary_counts, stable_counts = window.of("c"), window.of("s")
        history.append((canary_counts.errors, canary_counts.requests, stable_counts.errors, stable_counts.requests))
        if found[OURS] is None:
            evidence = judge(ANALYSIS, evidence, window, "s")
            if any(gate.verdict is Verdict.FAIL for gate in verdicts(ANALYSIS, evidence)):
                found[OURS] = look
        for name, rule in _RULES.items():
            if found[name] is None and rule(history):
                found[name] = look
        if None not in found.values():
            break
    return found


def _one_window(history: list[tuple[float, float, float, float]]) -> bool:
    bad, total, stable_bad, stable_total = history[-1]
    return total > 0 and stable_total > 0 and bad / total > 1.25 * stable_bad / stable_total


def _three_windows(history: list[tuple[float, float, float, float]]) -> bool:
    return len(history) >= 3 and all(_one_window(history[: len(history) - back]) for back in range(3))


def _z_test(history: list[tuple[float, float, float, float]]) -> bool:
    """All data so far, one-sided at 5 %, at every look."""
    bad, total, stable_bad, stable_total = (sum(column) for column in zip(*history, strict=True))
    if not (total and stable_total):
        return False
    pooled = (bad + stable_bad) / (total + stable_total)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / total + 1 / stable_total))
    return deviation > 0 and (bad / total - stable_bad / stable_total) / deviation > 1.645


def _kayenta(history: list[tuple[float, float, float, float]]) -> bool:
    """Kayenta's judge: Mann–Whitney over the windows' rates at 98 %, with an effect of 25 %; silent before 10 points."""
    if len(history) < 10:
        return False
    from scipy.stats import mannwhitneyu

    canary = [bad / max(1.0, total) for bad, total, _, _ in history]
    stable = [bad / max(1.0, total) for _, _, bad, total in history]
    worse = mannwhitneyu(canary, stable, alternative="greater", method="asymptotic").pvalue < 0.02
    return bool(worse and np.mean(canary) > 1.25 * np.mean(stable))


_RULES: dict[str, Callable[[list[tuple[float, float, float, float]]], bool]] = {
    "one window > 1.25 × stable": _one_window,
    "three such windows in a row": _three_windows,
    "z-test at 5 %, every look": _z_test,
    "Mann–Whitney (as Kayenta), every look": _kayenta,
}


def run(
    jobs: list[tuple[Canary, float, float, Noise, int, int]], what: str, progress: Progress
) -> list[dict[str, int | None]]:
    """Simulates releases on all cores."""
    task = progress.add_task(what, total=len(jobs))
    with ProcessPoolExecutor() as pool:
        found = []
        for each in pool.map(_job, jobs, chunksize=8):
            found.append(each)
            progress.advance(task)
    return found


def _job(job: tuple[Canary, float, float, Noise, int, int]) -> dict[str, int | None]:
    return looks_until_failed(*job)


def false_rollbacks(releases: int, looks: int, progress: Progress) -> dict[str, dict[str, float]]:
    """Share of identical versions that each rule fails, by kind of noise."""
    table: dict[str, dict[str, float]] = {}
    for noise in Noise:
        jobs = [(identical(0.05), 0.05, 50.0, noise, looks, seed) for seed in range(releases)]
        found = run(jobs, f"identical versions, {noise}", progress)
        for rule in (OURS, *_RULES):
            table.setdefault(rule, {})[noise] = sum(each[rule] is not None for each in found) / releases
    return table


_BAD: dict[str, tuple[Canary, float, float]] = {  # canary, stable's error rate, requests a second
    "errors 5 → 10 %": (Canary(0.10), 0.05, 50.0),
    "outage: errors 5 → 90 %": (Canary(0.90), 0.05, 50.0),
    "25 % slower": (Canary(0.05, slower=1.25), 0.05, 50.0),
    "confidence: 10 → 30 % low": (Canary(0.05, low_confidence=0.3), 0.05, 50.0),
    "errors 1 → 2 %": (Canary(0.02), 0.01, 50.0),
    "errors 5 → 10 %, 5 requests/s": (Canary(0.10), 0.05, 5.0),
    "25 % slower, 5 requests/s": (Canary(0.05, slower=1.25), 0.05, 5.0),
    "30 % faster": (faster(0.05), 0.05, 50.0),
}


class Found(TypedDict):
    """Shares of bad canaries found in time, and the median look; None when more than half are never found."""

    in_2: float
    in_30: float
    in_60: float
    median_look: float | None


def power(releases: int, progress: Progress) -> dict[str, Found]:
    """For each kind of bad canary: found within 2, 30 and 60 looks, and the median look."""
    table = {}
    for name, (canary, errors, rate) in _BAD.items():
        jobs = [(canary, errors, rate, Noise.CONSTANT, 60, seed) for seed in range(releases)]
        looks = np.array([each[OURS] or math.inf for each in run(jobs, name, progress)])
        median = float(np.median(looks))
        within = [float((looks <= limit).mean()) for limit in (2, 30, 60)]
        table[name] = Found(
            in_2=within[0], in_30=within[1], in_60=within[2], median_look=median if math.isfinite(median) else None
        )
    return table


def main() -> int:
    """Returns 1 when a target is missed and ENFORCE is not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--releases", type=int, default=2000)
    parser.add_argument("--looks", type=int, default=240)
    arguments = parser.parse_args()
    began, console = time.monotonic(), Console(stderr=True)
    with Progress(console=console) as progress:
        false = false_rollbacks(arguments.releases, arguments.looks, progress)
        found = power(max(100, arguments.releases // 4), progress)
    targets = {
        **{f"identical, {noise}: ≤ {ALPHA}": false[OURS][noise] <= ALPHA for noise in Noise},
        "errors 5 → 10 % in 5 minutes ≥ 0.85": found["errors 5 → 10 %"]["in_30"] >= 0.85,
        "errors 5 → 10 % in 10 minutes ≥ 0.99": found["errors 5 → 10 %"]["in_60"] >= 0.99,
        "outage in 2 looks": found["outage: errors 5 → 90 %"]["in_2"] == 1.0,
        "25 % slower in 10 minutes ≥ 0.99": found["25 % slower"]["in_60"] >= 0.99,
        "a faster canary never fails": found["30 % faster"]["in_60"] == 0.0,
    }
    write_section("gates", _markdown(false, found, arguments.releases, arguments.looks))
    table = RichTable("target", "met")
    for target, met in targets.items():
        table.add_row(target, "yes" if met else "NO")
    console.print(table)
    line = {
        "benchmark": "gates", "releases": arguments.releases, "looks": arguments.looks, "false_rollbacks": false,
        "power": found, "targets": targets, "seconds": round(time.monotonic() - began),
        "machine": {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count()},
    }  # fmt: skip
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    return 0 if all(targets.values()) or os.environ.get("ENFORCE") == "0" else 1


def _markdown(false: dict[str, dict[str, float]], found: dict[str, Found], releases: int, looks: int) -> str:
    lines = [
        f"{releases} identical releases for each kind of noise, {looks} looks at 10 s, 50 requests/s, canary 10 %, 5 % errors:",
        "share that is rolled back.",
        "",
        "| rule | " + " | ".join(Noise) + " |",
        "|---|" + "---|" * len(Noise),
    ]
    for rule, by_noise in false.items():
        bold = "**" if rule == OURS else ""
        lines.append(
            f"| {bold}{rule}{bold} | " + " | ".join(f"{bold}{by_noise[noise]:.1%}{bold}" for noise in Noise) + " |"
        )
    lines += [
        "",
        "| bad canary | found in 2 looks | in 5 minutes | in 10 minutes | median look |",
        "|---|---|---|---|---|",
    ]
    for name, each in found.items():
        look = "never" if each["median_look"] is None else f"{each['median_look']:.0f}"
        lines.append(f"| {name} | {each['in_2']:.1%} | {each['in_30']:.1%} | {each['in_60']:.1%} | {look} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
