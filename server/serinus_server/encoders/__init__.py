"""Texts in, unit vectors out: one protocol, one module per runtime. Heavy runtimes are imported only by the module that needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]
TokenIds: TypeAlias = Sequence[int]
Dtype: TypeAlias = Literal["float32", "bfloat16", "float16", "int8"]


class Encoder(Protocol):
    """An embedding model that has been loaded. Every method may be called from any thread."""

    dim: int
    backend: str
    dtype: Dtype  # of the numbers that are multiplied; vectors are float32 always
    lanes: int  # batches that may run at once, each in a thread of its own
    vocabulary: int  # token ids are below it

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut at the model's maximum."""

    def encode(self, batch: Sequence[TokenIds], *, alone: bool = False) -> Vectors:
        """Returns (len(batch), dim) float32, rows of L2 norm 1 where the model normalises. Raises what the runtime raises.

        `alone` says that nothing else runs: the batch may take every core. Otherwise it takes its lane's one.
        """

    def memory_bytes(self) -> tuple[int, int]:
        """Device memory that is reserved and that is allocated; zeros without a device. Their difference is what fragmentation costs."""
