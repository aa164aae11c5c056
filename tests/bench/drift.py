"""The time of a drift statistic beside evidently's: the same PSI of the same million input lengths in tokens. `make bench-drift`.

Lengths are whole numbers, so that counting them is one pass without a search. A server counts them as they come, and a look at it starts
from the counts; that is a row of its own and judges nothing.

Evidently runs in an environment of its own, made for the run; where it cannot be installed, nothing is judged. One line of JSON on standard
output, a table in docs/benchmarks.md. Processor time, medians of rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.bench.report import write_section

from serinus_server import distances

_PACKAGES = ("evidently==0.7.23", "pandas<3")  # 0.7.23 does not import with pandas 3
_TARGET = 50
_LONGEST = 512


def main() -> int:
    """Exit status 1 when a target is missed, unless ENFORCE=0."""
    parser = argparse.ArgumentParser(description="A drift statistic beside evidently's.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="values on each side (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: %(default)s)")
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    reference, seen = (_lengths(rng, mean, arguments.rows) for mean in (2.9, 3.0))
    with tempfile.TemporaryDirectory(prefix="serinus-drift-") as folder:
        theirs = _evidently(Path(folder), reference, seen, arguments.rounds)
    if theirs is None:
        return 0
    edges = np.histogram_bin_edges(np.concatenate([reference, seen]), bins="sturges")  # evidently's own bins
    expected = distances.smoothed(np.histogram(reference, edges)[0].astype(float))

    firsts = np.ceil(edges[:-1]).astype(int)  # the shortest length in each bin

    def count() -> np.ndarray:
        of_length = np.bincount(seen, minlength=_LONGEST + 1)
        return np.add.reduceat(of_length, firsts).astype(float)

    counts = count()
    assert (counts == np.histogram(seen, edges)[0]).all()
    psi = float(distances.psi(distances.smoothed(counts), expected))
    look = _median(lambda: distances.psi(distances.smoothed(counts), expected), arguments.rounds, 1000)
    whole = _median(lambda: distances.psi(distances.smoothed(count()), expected), arguments.rounds, 1)
    report, function = (statistics.median(theirs["seconds"][name]) for name in ("report", "function"))
    targets = {
        "the same PSI within a hundredth": abs(psi - theirs["psi"]) <= 0.01 * theirs["psi"],
        f"≥ {_TARGET} × faster than evidently's report, lengths counted anew": report / whole >= _TARGET,
    }
    rows = f"{arguments.rows / 1e6:g} M"
    lines = [
        f"PSI of {rows} input lengths against {rows} reference lengths in the same {len(expected)} bins: {psi:.4f} here, "
        f"{theirs['psi']:.4f} there (empty bins are filled differently). "
        f"evidently {theirs['packages']['evidently']}, pandas {theirs['packages']['pandas']}.",
        "",
        "| way | ms of processor time | evidently's report takes | its bare function takes |",
        "|---|---|---|---|",
        f"| **a look: PSI from what a server has counted** | {look * 1e3:.4f} | {report / look:,.0f} × | {function / look:,.0f} × |",
        f"| counting all lengths anew, then PSI | {whole * 1e3:.1f} | {report / whole:.0f} × | {function / whole:.1f} × |",
        f"| evidently's report on one column | {report * 1e3:.0f} | | |",
        f"| the function within that report | {function * 1e3:.0f} | | |",
    ]
    write_section("drift", "\n".join(lines))
    line: dict[str, Any] = {
        "benchmark": "drift", "look_seconds": look, "whole_seconds": whole, "report_seconds": report, "function_seconds": function,
        "targets": targets, "packages": theirs["packages"],
        "machine": {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
    }  # fmt: skip
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    return 0 if all(targets.values()) or os.environ.get("ENFORCE") == "0" else 1


def _lengths(rng: np.random.Generator, mean: float, rows: int) -> np.ndarray:
    """Lengths of texts in tokens, log-normal as those of real sentences are."""
    return np.clip(np.exp(rng.normal(mean, 0.5, rows)).astype(np.int64), 1, _LONGEST)


def _evidently(folder: Path, reference: np.ndarray, seen: np.ndarray, rounds: int) -> dict[str, Any] | None:
    """What `drift_evidently` says; None, with the reason on standard error, where evidently cannot be had."""
    environment = {**os.environ, "VIRTUAL_ENV": str(folder / "venv")}
    uv, python = Path(sys.executable).with_name("uv"), folder / "venv" / "bin" / "python"
    made = [sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")]
    for command in (made, [str(uv), "pip", "install", "--quiet", *_PACKAGES]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        if done.returncode:
            sys.stderr.write(f"evidently cannot be installed, so nothing is judged: {done.stderr.strip()[-500:]}\n")
            return None
    files = [folder / "reference.npy", folder / "seen.npy"]
    for file, values in zip(files, (reference, seen), strict=True):
        np.save(file, values)
    script = Path(__file__).with_name("drift_evidently.py")
    done = subprocess.run(
        [python, "-W", "ignore", script, *files, str(rounds)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _median(call: Callable[[], object], rounds: int, times: int) -> float:
    """Seconds of processor time of one call."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(times):
            call()
        taken.append((time.process_time() - began) / times)
    return statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main())
