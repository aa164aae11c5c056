"""Texts in, unit vectors out: one protocol, one module per runtime. Heavy runtimes are imported only by the module that needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]
TokenIds: TypeAlias = Sequence[int]


class Encoder(Protocol):
    """An embedding model that has been loaded."""

    dim: int
    backend: str

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut at the model's maximum. Safe to call from one thread at a time."""

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        """Returns (len(batch), dim) float32, rows of L2 norm 1 where the model normalises. Raises what the runtime raises."""

    def memory_bytes(self) -> tuple[int, int]:
        """Device memory that is reserved and that is allocated; zeros without a device. Their difference is what fragmentation costs."""
