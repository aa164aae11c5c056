"""Turns functions that are already imported into a mutant's: their code is exchanged in place, wherever they are held."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import CodeType, FunctionType

from tests.mutation.mutants import Mutant, file_of


def swapped(mutant: Mutant) -> bool:
    """Makes this process the mutant's. False, and nothing is done, where more than functions' bodies differ."""
    path = str(file_of(mutant.module))
    before = list(_codes(compile(file_of(mutant.module).read_text(), path, "exec")))
    after = list(_codes(compile(mutant.source, path, "exec")))
    if len(before) != len(after):
        return False
    live: dict[CodeType, list[FunctionType]] = {}
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename == path:
            live.setdefault(thing.__code__, []).append(thing)
    exchanged = []
    for old, new in zip(before, after, strict=True):
        if old == new:
            continue
        functions = live.get(old, [])
        if (
            not functions
            and old.co_name not in ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>", "<lambda>")
            and _own(old) != _own(new)
        ):
            return False
        exchanged += [(function, new) for function in functions]
    for function, new in exchanged:
        function.__code__ = new
    return bool(exchanged)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _own(code: CodeType) -> tuple[object, ...]:
    """A body's code without that of the functions in it."""
    constants = tuple(repr(each) for each in code.co_consts if not isinstance(each, CodeType))
    return code.co_code, constants, code.co_names, code.co_varnames
