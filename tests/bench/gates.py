"""`make bench-gates`: how often the gates fail a good release, and how soon a bad one, beside the rules that people use today.

python -m tests.bench.gates [--releases 2000] [--looks 240]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as RichTable
from tests.bench import plots
from tests.bench.many_releases import DEFAULT_RULES, ManyReleases, Rule, slower_at_bound, slower_in_time
from tests.bench.report import write_section
from tests.bench.rules_in_use import RULES, History
from tests.bench.traffic_model import MEDIAN_SECONDS, WINDOW, Canary, Fleet, Noise, faster, identical

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS
from serinus_operator.gates.tables import Floats
from serinus_operator.spec import AnalysisSpec, ConfidenceGate, ErrorRateGate, Gate, InconclusiveAction, LatencyGate

ALPHA = 0.05
GATES = (
    Gate("errors", ErrorRateGate(), dry_run=False),
    Gate("latency", LatencyGate(), dry_run=False),
    Gate("confidence", ConfidenceGate(only_with_reference=True), dry_run=False),
)
ANALYSIS = AnalysisSpec(WINDOW, ALPHA, 200, timedelta(minutes=30), InconclusiveAction.PAUSE, GATES)
OURS = "Serinus, all default gates"
ADOPTED = "time: canary > 1.1·b, stable > b; eight bounds"
_OBJECTIVE = next(pair for pair, (bound, _) in enumerate(COMPARED_LATENCIES_SECONDS) if bound == 0.120)
# Ways to compare latencies; each is one gate with all of α.
LATENCY_CONSTRUCTIONS = {
    ADOPTED: Rule(slower_in_time, 1.0),
    "time, b = 120 ms alone": Rule(lambda counts: _only(slower_in_time(counts), _OBJECTIVE), 1.0),
    "odds × 1.25 at b; eight bounds": Rule(slower_at_bound, 1.25),
    "odds × 2 at b; eight bounds": Rule(slower_at_bound, 2.0),
    "odds × 1.25, b = 120 ms alone": Rule(lambda counts: _only(slower_at_bound(counts), _OBJECTIVE), 1.25),
}
_CHUNK = 125  # releases simulated together: their arrays stay in the cache


@dataclass(frozen=True)
class Scenario:
    """What is simulated: a kind of canary under a kind of traffic, for so many looks of ten seconds."""

    canary: Canary
    errors: float = 0.05
    rate: float = 50.0
    noise: Noise = Noise.CONSTANT
    looks: int = 60
    median: float = MEDIAN_SECONDS


@dataclass(frozen=True)
class Job:
    """A part of a scenario's releases. Judged by the default gates; also by the `rules` in use, or the ways to compare `latency`."""

    scenario: Scenario
    releases: int
    seed: int
    rules: bool = False
    latency: bool = False


def simulate(job: Job) -> dict[str, Floats]:
    """The look at which each rule fails each release; infinity for never."""
    scenario = job.scenario
    fleet = Fleet(
        job.releases, scenario.canary, errors=scenario.errors, rate=scenario.rate, noise=scenario.noise, seed=job.seed,
        median=scenario.median,
    )  # fmt: skip
    judges = {OURS: ManyReleases(DEFAULT_RULES, job.releases)} if not job.latency else {}
    if job.latency:
        judges = {name: ManyReleases({name: rule}, job.releases) for name, rule in LATENCY_CONSTRUCTIONS.items()}
    found = {name: np.full(job.releases, math.inf) for name in judges}
    history = []
    for look in range(1, scenario.looks + 1):
        counts = fleet.window()
        history.append([counts.errors[:, 0], counts.requests[:, 0],
                        counts.errors[:, 1:].sum(axis=1), counts.requests[:, 1:].sum(axis=1)])  # fmt: skip
        for name, many in judges.items():
            many.add(counts)
            found[name] = np.where(many.log_together() >= -math.log(ALPHA), np.minimum(found[name], look), found[name])
    if job.rules:
        bad = History(*np.array(history).transpose(1, 2, 0))
        with warnings.catch_warnings(action="ignore"):  # scipy's on windows that are all alike
            found |= {name: _first(rule(bad)) for name, rule in RULES.items()}
    return found


class Bench:
    """Simulates scenarios on all cores and remembers the looks."""

    def __init__(self, pool: ProcessPoolExecutor, progress: Progress) -> None:
        self._pool, self._progress, self._seed = pool, progress, 0

    def run(self, what: str, scenario: Scenario, releases: int, **kind: bool) -> dict[str, Floats]:
        """Looks at which each rule failed, for all releases of one scenario."""
        jobs = []
        for start in range(0, releases, _CHUNK):
            self._seed += 1
            jobs.append(Job(scenario, min(_CHUNK, releases - start), self._seed, **kind))
        task = self._progress.add_task(what, total=len(jobs))
        parts = []
        for part in self._pool.map(simulate, jobs):
            parts.append(part)
            self._progress.advance(task)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


BAD = {
    "errors 5 → 10 %": Scenario(Canary(0.10)),
    "outage: errors 5 → 90 %": Scenario(Canary(0.90)),
    "25 % slower": Scenario(Canary(0.05, slower=1.25)),
    "confidence: 10 → 30 % low": Scenario(Canary(0.05, low_confidence=0.3)),
    "30 % faster": Scenario(faster(0.05)),
    "errors 1 → 2 %": Scenario(Canary(0.02), errors=0.01, looks=720),
    "errors 1 → 5 %": Scenario(Canary(0.05), errors=0.01, looks=720),
    "errors 5 → 10 %, 5 requests/s": Scenario(Canary(0.10), rate=5.0, looks=720),
    "errors 1 → 2 %, 5 requests/s": Scenario(Canary(0.02), errors=0.01, rate=5.0, looks=720),
    "outage: errors 5 → 90 %, 5 requests/s": Scenario(Canary(0.90), rate=5.0, looks=720),
    "25 % slower, 5 requests/s": Scenario(Canary(0.05, slower=1.25), rate=5.0, looks=720),
}
_TIMES = {"20 s": 2, "5 min": 30, "10 min": 60, "30 min": 180, "2 h": 720}


@dataclass
class Figures:
    """Everything that was found. `false` and `bad` hold looks by rule, by noise or by scenario."""

    false: dict[Noise, dict[str, Floats]] = field(default_factory=dict)
    bad: dict[str, Floats] = field(default_factory=dict)
    latency: dict[str, dict[str, Floats]] = field(default_factory=dict)  # by question, then by construction


def gather(bench: Bench, releases: int, looks: int) -> Figures:
    """Runs every scenario."""
    figures = Figures()
    for noise in Noise:
        scenario = Scenario(identical(0.05), noise=noise, looks=looks)
        figures.false[noise] = bench.run(f"identical, {noise}", scenario, releases, rules=True)
    for name, scenario in BAD.items():
        figures.bad[name] = bench.run(name, scenario, max(100, releases // 4))[OURS]
    for name, scenario in _latency_questions(looks).items():
        figures.latency[name] = bench.run(f"latency: {name}", scenario, max(100, releases // 4), latency=True)
    return figures


def _latency_questions(looks: int) -> dict[str, Scenario]:
    good = {f"identical, {noise}": Scenario(identical(0.05), noise=noise, looks=looks) for noise in Noise}
    return {
        **good,
        "5 % slower": Scenario(Canary(0.05, slower=1.05), looks=looks),
        "10 % slower": Scenario(Canary(0.05, slower=1.10), looks=looks),
        "10 % slower, median 60 ms": Scenario(Canary(0.05, slower=1.10), looks=looks, median=0.060),
        "25 % slower": Scenario(Canary(0.05, slower=1.25)),
        "25 % slower, median 60 ms": Scenario(Canary(0.05, slower=1.25), median=0.060),
        "25 % slower, 5 requests/s": replace(BAD["25 % slower, 5 requests/s"], looks=looks),
    }


def targets(figures: Figures) -> dict[str, bool]:
    """What was promised, and whether it is kept."""
    within = {
        name: {time: share(looks, limit) for time, limit in _TIMES.items()} for name, looks in figures.bad.items()
    }
    return {
        **{f"identical, {noise}: ≤ {ALPHA}": share(figures.false[noise][OURS], math.inf) <= ALPHA for noise in Noise},
        "errors 5 → 10 % in 5 minutes ≥ 0.85": within["errors 5 → 10 %"]["5 min"] >= 0.85,
        "errors 5 → 10 % in 10 minutes ≥ 0.99": within["errors 5 → 10 %"]["10 min"] >= 0.99,
        "outage in 2 looks": within["outage: errors 5 → 90 %"]["20 s"] == 1.0,
        "25 % slower in 10 minutes ≥ 0.99": within["25 % slower"]["10 min"] >= 0.99,
        "a faster canary never fails": within["30 % faster"]["10 min"] == 0.0,
    }


def share(looks: Floats, limit: float) -> float:
    """Share of releases failed within so many looks; with an infinite limit, failed at all."""
    return float(((looks <= limit) & np.isfinite(looks)).mean())


def main() -> int:
    """Returns 1 when a target is missed and ENFORCE is not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--releases", type=int, default=2000, help="identical releases for each kind of noise")
    parser.add_argument("--looks", type=int, default=240, help="looks of ten seconds at identical releases")
    arguments = parser.parse_args()
    began, console = time.monotonic(), Console(stderr=True)
    with Progress(console=console) as progress, ProcessPoolExecutor() as pool:
        figures = gather(Bench(pool, progress), arguments.releases, arguments.looks)
    kept, seconds = targets(figures), round(time.monotonic() - began)
    write_section("gates", _markdown(figures, arguments.releases, arguments.looks, seconds))
    plots.draw(figures.false, figures.bad, arguments.looks)
    table = RichTable("target", "met")
    for target, met in kept.items():
        table.add_row(target, "yes" if met else "NO")
    console.print(table)
    line = {
        "benchmark": "gates", "releases": arguments.releases, "looks": arguments.looks, "targets": kept, "seconds": seconds,
        "false_rollbacks": {noise: {rule: share(looks, math.inf) for rule, looks in found.items()}
                            for noise, found in figures.false.items()},
        "found": {name: {t: share(looks, limit) for t, limit in _TIMES.items()} for name, looks in figures.bad.items()},
        "machine": {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count()},
    }  # fmt: skip
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    return 0 if all(kept.values()) or os.environ.get("ENFORCE") == "0" else 1


def _markdown(figures: Figures, releases: int, looks: int, seconds: int) -> str:
    few = max(100, releases // 4)
    lines = [
        f"{releases} identical releases for each kind of noise, {looks} looks at 10 s, 50 requests/s, canary 10 %, 5 % errors:",
        f"share that is rolled back. ({seconds} s on {os.cpu_count()} cores.)",
        "",
        *_table("rule", list(Noise)),
    ]
    for rule in (OURS, *RULES):
        bold = "**" if rule == OURS else ""
        shares = [f"{bold}{share(figures.false[noise][rule], math.inf):.1%}{bold}" for noise in Noise]
        lines.append(_row(f"{bold}{rule}{bold}", shares))
    lines += [
        "",
        f"Bad canaries ({few} of each; 10 % weight, 50 requests/s and 5 % errors unless it says otherwise): share found by then.",
        "",
        *_table("canary", [*_TIMES, "median", "90 % found"]),
    ]
    for name, found in figures.bad.items():
        longest = BAD[name].looks
        shares = [f"{share(found, limit):.1%}" if limit <= longest else "" for limit in _TIMES.values()]
        lines.append(_row(name, [*shares, _minutes(found, 0.5), _minutes(found, 0.9)]))
    lines += [
        "",
        f"Ways to compare latencies, each as the only gate ({few} releases for each column): share failed within these {looks} looks;",
        "of canaries that are 25 % slower at 50 requests/s, within 5 minutes. Canaries that are up to 10 % slower are meant to pass.",
        "",
        *_table("construction", list(figures.latency)),
    ]
    for construction in LATENCY_CONSTRUCTIONS:
        shares = [
            f"{share(found[construction], 30 if question in _AT_FULL_RATE else math.inf):.1%}"
            for question, found in figures.latency.items()
        ]
        bold = "**" if construction == ADOPTED else ""
        lines.append(_row(f"{bold}{construction}{bold}", shares))
    return "\n".join(lines)


_AT_FULL_RATE = ("25 % slower", "25 % slower, median 60 ms")


def _table(first: str, columns: list[Any]) -> list[str]:
    return [_row(first, columns), "|---" * (len(columns) + 1) + "|"]


def _row(first: str, cells: list[Any]) -> str:
    return "| " + " | ".join([first, *map(str, cells)]) + " |"


def _minutes(looks: Floats, quantile: float) -> str:
    """The time by which so large a share was found."""
    look = float(np.quantile(looks, quantile, method="inverted_cdf"))
    if not math.isfinite(look):
        return "later, or never"
    seconds = look * WINDOW.total_seconds()
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _only(measured: tuple[Floats, Floats, Floats], pair: int) -> tuple[Floats, Floats, Floats]:
    by_canary, by_stable, total = (each[..., pair : pair + 1] for each in measured)
    return by_canary, by_stable, total


def _first(failed: np.ndarray[Any, np.dtype[np.bool_]]) -> Floats:
    looks: Floats = np.where(failed.any(axis=1), failed.argmax(axis=1) + 1.0, math.inf)
    return looks


if __name__ == "__main__":
    sys.exit(main())
