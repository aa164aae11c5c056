"""What can be said of two sets of vectors of the same texts, across spaces or within one. Pure numpy."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from serinus_server.encoders import Vectors
from serinus_server.profile import unit

NEIGHBOURS: Final = 10


def nearest(vectors: Vectors, k: int = NEIGHBOURS) -> NDArray[np.int32]:
    """The k nearest other rows of each row by cosine, (n, k), nearest first."""
    cosines = _cosines(vectors)
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :k].astype(np.int32)


def overlap(ours: NDArray[np.int32], theirs: NDArray[np.int32]) -> float:
    """Mean share of common members of two (n, k) neighbour lists."""
    shared = [len(set(a) & set(b)) for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)]
    return float(np.mean(shared)) / ours.shape[1]


def similarity_correlation(ours: Vectors, theirs: Vectors) -> float:
    """Pearson correlation of the two sets' pairwise cosines; valid across spaces. 0 where one of them has collapsed."""
    above = np.triu_indices(len(ours), 1)
    with np.errstate(all="ignore"):
        correlation = np.corrcoef(_cosines(ours)[above], _cosines(theirs)[above])[0, 1]
    return float(np.nan_to_num(correlation))


def lowest_cosine(ours: Vectors, theirs: Vectors) -> float:
    """The lowest cosine between rows of the same text; −1 where a vector is not finite. Within one space only."""
    return float(np.nan_to_num((unit(ours) * unit(theirs)).sum(axis=1), nan=-1.0).min())


def mean_cosine(vectors: Vectors) -> float:
    """Mean cosine between different rows: near 1 when the model says the same of everything."""
    return float(np.nan_to_num(_cosines(vectors)[np.triu_indices(len(vectors), 1)].mean(), nan=1.0))


def _cosines(vectors: Vectors) -> Vectors:
    rows = unit(vectors)
    return rows @ rows.T
