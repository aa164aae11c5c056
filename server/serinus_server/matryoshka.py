"""Shortened vectors of models that were trained for it (Matryoshka, Kusupati et al. 2022, arXiv 2205.13147).

The first d components, brought to length again, are vectors of a space of their own, `SPACE;d=256`: they are comparable with each other and
with no others. Which d a model was trained for is declared when it is registered; any other is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np

from serinus_server.encoders import Vectors

_MARK: Final = ";d="


@dataclass(frozen=True, slots=True)
class Spaces:
    """The spaces of one model: its own, of `dim` components, and one for each of `dimensions`."""

    space: str
    dim: int
    dimensions: Collection[int]

    def name(self, dim: int) -> str:
        """The space of vectors of `dim` components."""
        return self.space if dim == self.dim else f"{self.space}{_MARK}{dim}"

    def dim_of(self, name: str) -> int | None:
        """Components of the vectors of a space; None where it is not one of this model's."""
        if name == self.space:
            return self.dim
        return next((dim for dim in self.dimensions if name == self.name(dim)), None)


def shorten(vectors: Vectors, dim: int, normalize: bool) -> Vectors:
    """The first `dim` components of (n, more) vectors, rows of L2 norm 1 where the model normalises."""
    cut = vectors[:, :dim]
    if normalize:
        cut = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
    return np.ascontiguousarray(cut, dtype=np.float32)


def full_space(name: str) -> str:
    """The space that a shortened one was cut from."""
    return name.partition(_MARK)[0]
