"""This server with an encoder that costs nothing: what is left is HTTP, JSON, queue and answers; with front ends, the line as well.

python -m tests.bench.server_free MODEL PORT [FRONT_ENDS]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import uvicorn
from starlette.types import ASGIApp

from serinus_server.app import build
from serinus_server.edge import EdgeState
from serinus_server.encoders import Dtype, TokenIds, Vectors
from serinus_server.encoders.choice import Choice
from serinus_server.front import LINE_SOCKET
from serinus_server.front_ends import run_engine, serve
from serinus_server.loading import Model, fetch
from serinus_server.package import read_reference
from serinus_server.settings import Settings


class FreeEncoder:
    """Twenty tokens for every text, and always the same vector."""

    backend = "free"
    dtype: Dtype = "float32"
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
    config = partial(
        uvicorn.Config, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False, loop="uvloop", http="httptools"
    )  # fmt: skip
    if len(sys.argv) > 3:
        serve(settings, model, read_reference(model.folder), config, int(sys.argv[3]), run_free_engine)
    else:
        uvicorn.Server(config(application(settings, model))).run()


def application(settings: Settings, model: Model, lines: Path | None = None) -> ASGIApp:
    choice = Choice(FreeEncoder(model.manifest.dim), "it is free")
    return build(settings, model, choice, read_reference(model.folder), EdgeState(), lines=lines)


def run_free_engine(settings: Settings, model: Model, sockets: Path, parent: Connection) -> None:
    run_engine(application(settings, model, sockets / LINE_SOCKET), sockets, parent)


if __name__ == "__main__":
    main()
