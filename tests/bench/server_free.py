"""This server with an encoder that costs nothing: what is left is HTTP, JSON, queue and answers.

python -m tests.bench.server_free MODEL PORT
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import uvicorn

from serinus_server.app import build
from serinus_server.edge import EdgeState
from serinus_server.encoders import TokenIds, Vectors
from serinus_server.encoders.choice import Choice
from serinus_server.loading import fetch
from serinus_server.package import read_reference
from serinus_server.settings import Settings


class FreeEncoder:
    """Twenty tokens for every text, and always the same vector."""

    backend = "free"
    lanes = 2
    vocabulary = 30_522

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._vectors = np.full((1024, dim), dim**-0.5, dtype=np.float32)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(range(20)) for _ in texts]

    def encode(self, batch: Sequence[TokenIds], *, alone: bool = False) -> Vectors:
        return self._vectors[: len(batch)]

    def memory_bytes(self) -> tuple[int, int]:
        return 0, 0


def main() -> None:
    os.environ["MLFLOW_MODEL_URI"] = sys.argv[1]
    settings = Settings()  # type: ignore[call-arg]
    model = fetch(settings.model_uri, None, Path("/nowhere"))
    reference = read_reference(model.folder)
    app = build(settings, model, Choice(FreeEncoder(model.manifest.dim), "it is free"), reference, EdgeState())
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False, loop="uvloop", http="httptools"
    )  # fmt: skip


if __name__ == "__main__":
    main()
