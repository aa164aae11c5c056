"""Two pytest plugins: one that collects once and forks for each mutant, one for mutants that need fresh imports.

Each runs only tests that call the mutant's function, the quickest first, and stops at the first that fails or when its time is over.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from tests.mutation.mutants import CORE, Mutant, file_of
from tests.mutation.swapping import swapped

KILLED, ALIVE, CANNOT = 0, 77, 78
_FOREVER_SECONDS = 20.0  # of processor time; beyond what its tests may take, a mutant never ends: killed, too
_ASLEEP_SECONDS = 300  # of the clock: nor does one that waits


@dataclass(frozen=True)
class Reach:
    """What a test calls of the core, as module and line of the function, and how much processor time it takes."""

    seconds: float
    functions: frozenset[tuple[str, int]]


class Warm:
    """Measures every test's reach, tells it, then answers one mutant after the other."""

    def __init__(self, orders: Connection, budget_seconds: float) -> None:
        self._orders, self._budget = orders, budget_seconds

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        reach = _in_child(lambda: _reach(session.items, self._budget))
        self._orders.send(reach)
        while (mutant := self._orders.recv()) is not None:
            self._orders.send(forked(lambda mutant=mutant: self._judge(session.items, reach, mutant), self._budget))
        return True

    def _judge(self, items: list[pytest.Item], reach: Mapping[str, Reach], mutant: Mutant) -> int:
        if not swapped(mutant):
            return CANNOT
        wanted = {name: at for at, name in enumerate(concerned(reach, mutant))}
        ends_at = time.process_time() + self._budget
        for item in sorted((item for item in items if item.nodeid in wanted), key=lambda item: wanted[item.nodeid]):
            if time.process_time() + reach[item.nodeid].seconds > ends_at:
                break
            if any(report.failed for report in runtestprotocol(item, nextitem=None, log=False)):
                return KILLED
        return ALIVE


class Fresh:
    """Keeps the tests that concern a mutant, in their order, and ends after the budget."""

    def __init__(self, wanted: list[str], budget_seconds: float) -> None:
        self._order = {name: at for at, name in enumerate(wanted)}
        self._ends_at = time.process_time() + budget_seconds

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (each for each in items if each.nodeid in self._order), key=lambda each: self._order[each.nodeid]
        )

    def pytest_runtest_logfinish(self) -> None:
        if time.process_time() > self._ends_at:
            os._exit(ALIVE)


def concerned(reach: Mapping[str, Reach], mutant: Mutant) -> list[str]:
    """Tests that call the function that the mutant's line is in, or any of its module's where it is in none; the quickest first."""
    starts = sorted({line for each in reach.values() for module, line in each.functions if module == mutant.module})
    enclosing = [line for line in starts if line <= mutant.line]
    within = {(mutant.module, line) for line in starts}
    chosen = {(mutant.module, enclosing[-1])} if enclosing else within
    names = [name for name, each in reach.items() if each.functions & chosen]
    return sorted(names, key=lambda name: reach[name].seconds)


def forked(judge: Callable[[], int], budget_seconds: float) -> int:
    """What `judge` returns in a child; KILLED when the child dies otherwise."""
    pid = os.fork()
    if pid == 0:
        signal.setitimer(signal.ITIMER_PROF, budget_seconds + _FOREVER_SECONDS)
        signal.alarm(_ASLEEP_SECONDS)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        outcome = KILLED
        try:
            outcome = judge()
        finally:
            os._exit(outcome)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code in (ALIVE, CANNOT) else KILLED


def _in_child(measure: Callable[[], dict[str, Any]]) -> dict[str, Reach]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            with os.fdopen(writing, "w") as stream:
                json.dump(measure(), stream)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        found = json.load(stream)
    os.waitpid(pid, 0)
    return {
        name: Reach(seconds, frozenset((module, line) for module, line in functions))
        for name, (seconds, functions) in found.items()
    }


def _reach(items: list[pytest.Item], budget_seconds: float) -> dict[str, Any]:
    """Of every test that passes within the budget, which tracing doubles."""
    signal.signal(signal.SIGPROF, _too_slow)
    modules = {str(file_of(module)): module for module in CORE}
    found: dict[str, Any] = {}
    for item, following in zip(items, [*items[1:], None], strict=True):
        called: set[tuple[str, int]] = set()

        def note(frame: FrameType, event: str, argument: object, called: set[tuple[str, int]] = called) -> None:
            module = modules.get(frame.f_code.co_filename)
            if module is not None and not frame.f_code.co_name.startswith("<"):
                called.add((module, frame.f_code.co_firstlineno))

        began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, 2 * budget_seconds)
        sys.settrace(note)
        try:
            reports = runtestprotocol(item, nextitem=following, log=False)
        finally:
            sys.settrace(None)
            signal.setitimer(signal.ITIMER_PROF, 0)
        if not any(report.failed for report in reports):
            found[item.nodeid] = time.process_time() - began, sorted(called)
    return found


def _too_slow(*_: object) -> None:
    raise TimeoutError


def files(names: tuple[str, ...]) -> list[str]:
    """Paths of test files, by what they are about."""
    return [str(Path("tests") / "operator" / f"test_{name}.py") for name in names]
