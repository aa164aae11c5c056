"""`make fuzz TARGET=request FUZZ_SECONDS=600`: atheris changes the seeds of one target, led by the code that they reach.

What is found is written beside the seeds and ends the run; it stays there as a seed once it is mended.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["serinus_contract", "serinus_operator", "serinus_server"]):
    from tests.fuzz.targets import TARGETS

SEEDS = Path(__file__).parent / "seeds"


def main() -> None:
    """Ends with status 0 when nothing was found in the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    arguments = parser.parse_args()
    seeds = SEEDS / arguments.target
    with tempfile.TemporaryDirectory(prefix="serinus-fuzz-") as corpus:
        limits = [
            f"-max_total_time={arguments.seconds}",
            "-max_len=8192",
            "-timeout=10",
            "-rss_limit_mb=3000",
            "-print_final_stats=1",
        ]
        atheris.Setup(
            [sys.argv[0], *limits, f"-artifact_prefix={seeds}/", corpus, str(seeds)], TARGETS[arguments.target]
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
