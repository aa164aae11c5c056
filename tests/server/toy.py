"""A runtime that takes no time and can be told to fail: it stands where ONNX Runtime, OpenVINO or torch would."""

from __future__ import annotations

import asyncio
import random
import threading
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from starlette.types import ASGIApp

from serinus_server.batching import Batcher
from serinus_server.encoders import Dtype, TokenIds, Vectors
from serinus_server.telemetry import Telemetry

LIMIT = 64
POISON = 666


class Panic(BaseException):
    """What a Rust library raises when it panics: no Exception."""


class ToyEncoder:
    """Tokens are the text's code points; the vector is made of their checksum, so that no two texts share one."""

    dim = 4
    backend = "toy"
    dtype: Dtype = "float32"
    vocabulary = 0x11_0000

    def __init__(self, lanes: int = 2) -> None:
        self.lanes = lanes
        self.raises: BaseException | None = None
        self.tokenizer_raises: BaseException | None = None
        self.seen: list[list[int]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if self.tokenizer_raises is not None:
            raise self.tokenizer_raises
        return [[0, *map(ord, text[: LIMIT - 1])] for text in texts]

    def encode(self, batch: Sequence[TokenIds], *, alone: bool = False) -> Vectors:
        self.may_go_on.wait(20)
        self.seen += [list(tokens) for tokens in batch]
        if self.raises is not None:
            raise self.raises
        if any(POISON in tokens for tokens in batch):
            raise ValueError("poison")
        return np.stack([vector_of(tokens) for tokens in batch])

    def memory_bytes(self) -> tuple[int, int]:
        return 0, 0


def vector_of(tokens: TokenIds) -> Vectors:
    digest = zlib.crc32(np.array(tokens, dtype=np.int64).tobytes())
    vector = np.array([digest & 0xFFF, digest >> 12 & 0xFFF, digest >> 24, len(tokens)], dtype=np.float32) + 1
    unit: Vectors = vector / np.linalg.norm(vector)
    return unit


@asynccontextmanager
async def batching(encoder: ToyEncoder, **limits: Any) -> AsyncIterator[Batcher]:
    settings = {"probe": "probe", "max_batch_tokens": 2048, "queue_tokens": 10**9, "queue_seconds": 1e9, **limits}
    batcher = Batcher(encoder, Telemetry(), **settings)
    batcher.start()
    try:
        yield batcher
    finally:
        encoder.may_go_on.set()
        await batcher.stop()


@asynccontextmanager
async def alive(app: ASGIApp) -> AsyncIterator[None]:
    """The application between its startup and its shutdown, as uvicorn would run it."""
    asked: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    answered: asyncio.Queue[Any] = asyncio.Queue()
    task = asyncio.create_task(
        app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, asked.get, answered.put)
    )
    for phase in ("startup", "shutdown"):
        asked.put_nowait({"type": f"lifespan.{phase}"})
        message = await asyncio.wait_for(answered.get(), 20)
        assert message["type"] == f"lifespan.{phase}.complete", message
        if phase == "startup":
            yield
    await task


async def some_leave(tasks: Sequence[asyncio.Task[None]], rng: random.Random) -> int:
    """Cancels a tenth of the tasks, some once others have begun, and waits for all. Returns how many left; none may fail."""
    for number, task in enumerate(rng.sample(tasks, len(tasks) // 10)):
        task.cancel()
        if number % 100 == 0:
            await asyncio.sleep(0)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
    left = sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert 0 < left <= len(tasks) // 10
    return left
