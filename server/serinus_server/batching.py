"""From single requests to batches: token-budgeted, work-conserving, bounded. Every accepted request gets exactly one answer.

There is no fixed wait: while a batch runs in the encode thread the next one gathers. Texts whose client has left are dropped at the pop.
A batch that fails is tried again text by text, so that one poisonous text fails alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from serinus_server.encoders import Encoder, Vectors
from serinus_server.errors import EncoderCrashed, EncoderFailed, Overloaded
from serinus_server.telemetry import Telemetry

_SMOOTHING = 0.2


@dataclass(slots=True)
class _Item:
    tokens: list[int]
    answer: asyncio.Future[Vectors] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """One encoder with its queue. `start` before `encode`, `stop` at the end."""

    def __init__(
        self,
        encoder: Encoder,
        telemetry: Telemetry,
        *,
        max_batch_tokens: int,
        queue_tokens: int,
        queue_seconds: float = 10.0,
    ) -> None:
        self._encoder, self._telemetry = encoder, telemetry
        self._max_batch_tokens, self._queue_tokens = max_batch_tokens, queue_tokens
        self._queue_seconds = queue_seconds
        self._waiting: deque[_Item] = deque()
        self._admitted_tokens = 0
        self._tokens_per_second = 1000.0
        self._work = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._tokenize_thread = ThreadPoolExecutor(1, "tokenize")
        self._encode_thread = ThreadPoolExecutor(1, "encode")

    def start(self) -> None:
        """Starts the encode loop."""
        self._loop_task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends the loop; whoever still waits gets EncoderCrashed."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        for thread in (self._tokenize_thread, self._encode_thread):
            thread.shutdown(wait=True, cancel_futures=True)

    @property
    def alive(self) -> bool:
        """Is the encode loop running?"""
        return self._loop_task is not None and not self._loop_task.done()

    async def encode(self, texts: Sequence[str]) -> tuple[Vectors, list[int]]:
        """Vectors (len(texts), dim) and the tokens of each text. Raises Overloaded, EncoderFailed, EncoderCrashed."""
        loop = asyncio.get_running_loop()
        token_lists = await loop.run_in_executor(self._tokenize_thread, self._encoder.tokenize, texts)
        total = sum(len(tokens) for tokens in token_lists)
        if not self.alive:
            raise EncoderCrashed("the encoder has stopped; this server is about to be replaced")
        wait_seconds = self._admitted_tokens / self._tokens_per_second
        full = self._admitted_tokens + total > self._queue_tokens or wait_seconds > self._queue_seconds
        if self._admitted_tokens and full:
            raise Overloaded(max(1, round(wait_seconds)))
        items = [_Item(tokens) for tokens in token_lists]
        self._admit(total)
        try:
            self._waiting.extend(items)
            self._work.set()
            vectors = [await item.answer for item in items]
        finally:
            self._admit(-total)
            for item in items:
                if item.answer.done() and not item.answer.cancelled():
                    item.answer.exception()  # seen: a second failure of the same request is no surprise
                item.answer.cancel()
        for tokens in token_lists:
            self._telemetry.input_tokens.observe(len(tokens))
        return np.stack(vectors), [len(tokens) for tokens in token_lists]

    def _admit(self, tokens: int) -> None:
        self._admitted_tokens += tokens
        self._telemetry.queue_tokens.set(self._admitted_tokens)

    async def _run(self) -> None:
        batch: list[_Item] = []
        try:
            while True:
                await self._work.wait()
                batch = self._pop()
                if batch:
                    await self._encode_batch(batch)
                if not self._waiting:
                    self._work.clear()
        finally:
            for item in (*batch, *self._waiting):
                if not item.answer.done():
                    item.answer.set_exception(EncoderCrashed("the encoder has stopped"))

    def _pop(self) -> list[_Item]:
        """As many waiting texts as fit into the token budget once padded to the longest, at least one, without those who left."""
        batch: list[_Item] = []
        longest = 0
        while self._waiting:
            item = self._waiting[0]
            if item.answer.done():
                self._waiting.popleft()
                continue
            longest = max(longest, len(item.tokens))
            if batch and longest * (len(batch) + 1) > self._max_batch_tokens:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _encode_batch(self, batch: Sequence[_Item]) -> None:
        tokens = sum(len(item.tokens) for item in batch)
        began = time.perf_counter()
        try:
            vectors = await self._forward([item.tokens for item in batch])
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises, each text of the batch gets its own answer
            await self._one_by_one(batch, error)
            return
        seconds = time.perf_counter() - began
        self._telemetry.encode.observe(seconds)
        self._telemetry.batch_tokens.observe(tokens)
        self._tokens_per_second += _SMOOTHING * (tokens / max(seconds, 1e-6) - self._tokens_per_second)
        for item, vector in zip(batch, vectors, strict=True):
            if not item.answer.done():
                item.answer.set_result(vector)

    async def _one_by_one(self, batch: Sequence[_Item], error: Exception) -> None:
        for item in batch:
            if item.answer.done():
                continue
            try:
                if len(batch) == 1:
                    raise error
                vector = (await self._forward([item.tokens]))[0]
            except Exception as cause:  # noqa: BLE001 - as above
                if not item.answer.done():
                    item.answer.set_exception(EncoderFailed(f"the text could not be encoded: {type(cause).__name__}"))
            else:
                if not item.answer.done():
                    item.answer.set_result(vector)

    async def _forward(self, batch: Sequence[Sequence[int]]) -> Vectors:
        return await asyncio.get_running_loop().run_in_executor(self._encode_thread, self._encoder.encode, batch)
