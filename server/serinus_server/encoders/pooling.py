"""From hidden states to vectors in numpy, for the runtimes that return states."""

from __future__ import annotations

import numpy as np

from serinus_contract.manifest import EMBEDDING, Manifest
from serinus_server.encoders import Vectors


def finish(states: Vectors, mask: np.ndarray, manifest: Manifest) -> Vectors:
    """Pools (n, tokens, dim) hidden states to (n, dim) and normalises where the model does; a graph that did so itself is done."""
    if manifest.output == EMBEDDING:
        return states
    match manifest.pooling:
        case "mean":
            weights = mask / mask.sum(axis=1, keepdims=True)
            pooled = (weights[:, None, :].astype(np.float32) @ states)[
                :, 0
            ]  # a matrix product: no masked copy of the states
        case "cls":
            pooled = states[:, 0]
        case "lasttoken":
            pooled = states[np.arange(len(states)), mask.sum(axis=1) - 1]
        case _:
            raise ValueError(f"unknown pooling {manifest.pooling!r}")
    if manifest.normalize:
        pooled = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    return pooled.astype(np.float32, copy=False)
