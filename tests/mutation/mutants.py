"""Cosmic Ray's mutants of the decision core. A mutant that differs in annotations alone is none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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


# What `is` compares, None and members of enums, has no order, and equals itself alone; and `is` between other things is luck.
_DENIED = ("Is_IsNot", "IsNot_Is")
_FORM = "@dataclass("  # that data is frozen and has slots decides nothing


@dataclass(frozen=True)
class Mutant:
    """One change of one module."""

    module: str
    operator: str
    occurrence: int
    source: str
    line: int
    change: str


def mutants(module: str) -> Iterator[Mutant]:
    """All of a module's mutants that are none in annotations alone."""
    source = file_of(module).read_text()
    meant = _meaning(source)
    tree = get_ast(source)
    for name in plugins.operator_names():
        operator_class, kind = plugins.get_operator(name), name.partition("/")[2]
        if operator_class.arguments() or not _counts(kind):
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
            if differs and not source.splitlines()[line - 1].startswith(_FORM):
                yield Mutant(module, kind, occurrence, changed, line, _change(source, changed))


def file_of(module: str) -> Path:
    """Where a module's source is."""
    return ROOT / "operator" / "serinus_operator" / f"{module}.py"


def _counts(kind: str) -> bool:
    replaced, _, by = kind.partition("_")
    if replaced == "ReplaceBinaryOperator":
        return by in _ONE_EACH
    identity = by.startswith("Is") or by.endswith(("_Is", "_IsNot"))
    return replaced != "ReplaceComparisonOperator" or not identity or by in _DENIED


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
