"""`make test-mutation`: Cosmic Ray's mutants of the decision core, and how many of them the tests kill.

A process that has imported pytest and what the tests need, and nothing of Serinus, is forked for each mutant: no file is changed, and no
mutant waits for imports. A mutant that differs in annotations alone is none.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.machinery
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import attrs  # noqa: F401 - imported before the forks, as those below
import cattrs  # noqa: F401
import hypothesis
import numpy  # noqa: F401
import pytest
import yaml  # noqa: F401
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import MutationVisitor

ROOT = Path(__file__).parents[2]
CORE = (
    "rollout/plan",
    "rollout/stages",
    "rollout/room",
    "rollout/capacity",
    "rollout/steps",
    "rollout/movement",
    "gates/judge",
    "gates/limits",
)
_FIRST = ("stages", "room", "plan", "capacity", "gates", "bake", "behaviour", "observe")
_THEN = ("judging", "comparison", "crashes", "prometheus", "spaces", "routing", "promises")
_SECONDS = 120
# Ten ways to replace one plus die of the same test: one way counts.
_ONE_EACH = (
    "Add_Sub",
    "Sub_Add",
    "Mul_Div",
    "Div_Mul",
    "FloorDiv_Mul",
    "Mod_Mul",
    "Pow_Mul",
    "BitOr_BitAnd",
    "BitAnd_BitOr",
)


@dataclass(frozen=True)
class Mutant:
    """One change of one module."""

    module: str
    operator: str
    occurrence: int
    source: str
    line: int
    change: str


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


def mutants(module: str) -> Iterator[Mutant]:
    """All of a module's mutants that are none in annotations alone."""
    source = (ROOT / "operator" / "serinus_operator" / f"{module}.py").read_text()
    meant = _meaning(source)
    tree = get_ast(source)
    for name in plugins.operator_names():
        operator_class, kind = plugins.get_operator(name), name.partition("/")[2]
        if operator_class.arguments() or (
            kind.startswith("ReplaceBinaryOperator_") and kind.partition("_")[2] not in _ONE_EACH
        ):
            continue
        operator = operator_class()
        positions = [position for node in ast_nodes(tree) for position in operator.mutation_positions(node)]
        for occurrence, ((line, _), _) in enumerate(positions):
            changed = MutationVisitor.mutate_code(source, operator, occurrence)
            if changed is None:
                continue
            try:
                differs = _meaning(changed) != meant
            except SyntaxError:
                continue
            if differs:
                yield Mutant(module, kind, occurrence, changed, line, _change(source, changed))


def _meaning(source: str) -> str:
    """The syntax tree without annotations, type aliases and __all__."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            if isinstance(node.annotation, ast.Name) and node.annotation.id == "TypeAlias":
                node.value = None
            node.annotation = ast.Constant(value=None)
    return ast.dump(tree)


def _change(before: str, after: str) -> str:
    for one, another in zip(before.splitlines(), after.splitlines(), strict=False):
        if one != another:
            return f"{one.strip()}  →  {another.strip()}"
    return "a line less"


def killed(mutant: Mutant) -> str:
    """By which tests: `first`, `then`; empty when it survives."""
    for name, tests in (("first", _FIRST), ("then", _THEN)):
        if _fails(mutant, [str(ROOT / "tests" / "operator" / f"test_{each}.py") for each in tests]):
            return name
    return ""


def _fails(mutant: Mutant, tests: list[str]) -> bool:
    pid = os.fork()
    if pid == 0:
        signal.alarm(_SECONDS)  # one that never ends is killed, too
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.meta_path.insert(0, _Finder(mutant))
        hypothesis.settings.register_profile("mutation", derandomize=True, database=None)
        hypothesis.settings.load_profile("mutation")
        os.chdir(ROOT)
        os._exit(pytest.main(["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", *tests]))
    _, status = os.waitpid(pid, 0)
    return status != 0


def main() -> int:
    """Returns 1 when fewer than --least percent of the drawn mutants are killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=CORE)
    parser.add_argument("--draw", type=int, help="so many mutants of all, drawn at random (seed 0)")
    parser.add_argument("--seconds", type=float, default=1e9, help="draw no more after this time")
    parser.add_argument("--least", type=float, default=90.0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    source = (ROOT / "operator" / "serinus_operator" / "rollout" / "plan.py").read_text()
    if killed(Mutant("rollout/plan", "nothing", 0, source, 0, "")):
        print("the tests fail without a mutant")
        return 2
    found = [mutant for module in arguments.modules for mutant in mutants(module)]
    random.Random(0).shuffle(found)
    drawn = found[: arguments.draw]
    ends_at, alive, done = time.monotonic() + arguments.seconds, [], 0
    for mutant in drawn:
        if time.monotonic() > ends_at:
            break
        done += 1
        if not killed(mutant):
            alive.append(mutant)
            print(f"survives: {mutant.module}.py:{mutant.line} {mutant.operator}: {mutant.change}", flush=True)
    share = 100 * (1 - len(alive) / done) if done else 0.0
    print(f"{done} of {len(found)} mutants drawn, {done - len(alive)} killed: {share:.1f} %")
    return int(share < arguments.least)


if __name__ == "__main__":
    sys.exit(main())
