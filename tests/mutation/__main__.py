"""`make test-mutation`: Cosmic Ray's mutants of the decision core, and how many of them the tests kill.

Tests that are not long are collected once, and run once to see which functions of the core each of them calls. For each mutant a process is
forked in which its functions have the mutant's code; it runs the tests that call them, the quickest first. No file is changed. Where more
than the bodies of functions differ, the process has imported nothing of Serinus yet. A mutant survives when its tests pass, or when none of
them failed within --budget seconds: the share is rather too low than too high.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import math
import multiprocessing
import os
import random
import sys
import time
import warnings
from collections.abc import Mapping
from multiprocessing.connection import Connection
from types import CodeType
from typing import Any

import attrs  # noqa: F401 - imported before the forks, as those below
import cattrs  # noqa: F401
import hypothesis
import numpy  # noqa: F401
import pytest
import yaml  # noqa: F401
from tests.mutation.mutants import CORE, ROOT, Mutant, mutants
from tests.mutation.running import ALIVE, CANNOT, KILLED, Fresh, Reach, Warm, concerned, files, forked

_TESTS = (
    "stages", "room", "plan", "capacity", "gates", "bake", "behaviour", "observe", "judging", "comparison",
    "prometheus", "spaces", "routing", "retention", "cost", "forecast", "promises",
)  # fmt: skip
_OPTIONS = ("-q", "-m", "not long", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist")
_TOLD_EVERY_SECONDS = 15.0


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Gives one module of ours the mutant's source."""

    def __init__(self, mutant: Mutant) -> None:
        self._name, self._source = "serinus_operator." + mutant.module.replace("/", "."), mutant.source

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname == self._name else None

    def get_filename(self, fullname: str) -> str:
        return "mutant.py"

    def get_data(self, path: str) -> bytes:
        return self._source.encode()

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, "mutant.py", "exec")


class Court:
    """Judges mutants one after the other; a context manager over the warm process."""

    def __init__(self, budget_seconds: float) -> None:
        self._budget = budget_seconds
        self._orders, theirs = multiprocessing.Pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _warm(theirs, budget_seconds)
        self.reach: Mapping[str, Reach] = self._orders.recv()

    def close(self) -> None:
        """Ends the warm process."""
        self._orders.send(None)
        os.waitpid(self._pid, 0)

    def kills(self, mutant: Mutant) -> bool:
        """Does a test fail because of it?"""
        self._orders.send(mutant)
        outcome = self._orders.recv()
        if outcome == CANNOT:
            outcome = forked(lambda: self._afresh(mutant), self._budget)
        return bool(outcome == KILLED)

    def _afresh(self, mutant: Mutant) -> int:
        sys.meta_path.insert(0, _Finder(mutant))
        wanted = [name for name in concerned(self.reach, mutant) if self.reach[name].seconds < self._budget]
        _settings()
        names = {name.partition("::")[0] for name in wanted}
        done = pytest.main([*_OPTIONS, "-x", *sorted(names)], plugins=[Fresh(wanted, self._budget)])
        return ALIVE if done == pytest.ExitCode.OK else KILLED


def _warm(orders: Connection, budget_seconds: float) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    _settings()
    pytest.main([*_OPTIONS, *files(_TESTS)], plugins=[Warm(orders, budget_seconds)])
    os._exit(0)


def _settings() -> None:
    hypothesis.settings.register_profile("mutation", derandomize=True, database=None)
    hypothesis.settings.load_profile("mutation")


def interval(killed: int, of: int) -> tuple[float, float]:
    """The share's 95 % confidence interval (Wilson 1927)."""
    z, share = 1.96, killed / of
    middle, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


def main() -> int:
    """Returns 1 when fewer than --least percent of the drawn mutants are killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=CORE)
    parser.add_argument("--draw", type=int, help="so many mutants of all, drawn at random (seed 0)")
    parser.add_argument("--seconds", type=float, default=1e9, help="draw no more after this time")
    parser.add_argument(
        "--budget", type=float, default=10.0, help="processor seconds of tests for each mutant (default %(default)s)"
    )
    parser.add_argument("--least", type=float, default=90.0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.chdir(ROOT)
    began = time.monotonic()
    court = Court(arguments.budget)
    print(
        f"{len(court.reach)} tests that take no longer than the budget, measured in {time.monotonic() - began:.0f} s",
        flush=True,
    )
    found = [mutant for module in arguments.modules for mutant in mutants(module)]
    random.Random(0).shuffle(found)
    ends_at, told_at, alive, done = time.monotonic() + arguments.seconds, time.monotonic(), [], 0
    for mutant in found[: arguments.draw]:
        if time.monotonic() > ends_at:
            break
        done += 1
        if not court.kills(mutant):
            alive.append(mutant)
            print(f"survives: {mutant.module}.py:{mutant.line} {mutant.operator}: {mutant.change}", flush=True)
        if time.monotonic() > told_at + _TOLD_EVERY_SECONDS:
            told_at = time.monotonic()
            print(f"{done - len(alive)} of {done} killed", flush=True)
    court.close()
    if not done:
        return 2
    share, (low, high) = 100 * (1 - len(alive) / done), interval(done - len(alive), done)
    print(
        f"{done} of {len(found)} mutants drawn, {done - len(alive)} killed: {share:.1f} % (95 %: {100 * low:.1f} to {100 * high:.1f})"
    )
    return int(share < arguments.least)


if __name__ == "__main__":
    sys.exit(main())
