"""From requests to batches and back: work-conserving, bounded. Every accepted request gets exactly one answer.

There is no fixed wait: while batches run in the encoder's lanes the next one gathers. Requests whose client has left or whose deadline has
passed are dropped at the pop. A batch that fails is tried again text by text, so that one poisonous text fails alone; when not even that
helps a golden probe tells whether it is the text or the encoder, and readiness falls with the encoder.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from serinus_server.checkup import Checkup
from serinus_server.encoders import Encoder, Vectors
from serinus_server.errors import DeadlineExceeded, EncoderCrashed, EncoderFailed, Overloaded, ServerError
from serinus_server.telemetry import Telemetry
from serinus_server.tokenising import Tokeniser
from serinus_server.waiting import Queue, Waiting

_SMOOTHING: Final = 0.2
_STUCK_SECONDS: Final = 60.0  # no batch takes that long: a runtime that hangs is as dead as one that fails
_LOST_AFTER_CHECKS: Final = 30

Judge = Callable[[Vectors], Vectors]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A request's answer: (n, dim) vectors, (n,) confidence where the model has a profile, tokens of each text, seconds by phase."""

    vectors: Vectors
    confidence: Vectors | None
    tokens: list[int]
    tokenise_seconds: float
    queue_seconds: float
    encode_seconds: float


class Request:
    """Someone who waits for `missing` texts; `answer` is set once."""

    __slots__ = (
        "answer",
        "began_at",
        "confidence",
        "counts",
        "ended_at",
        "missing",
        "queued_at",
        "rows",
        "tokenise_seconds",
    )

    def __init__(self, counts: list[int], tokenise_seconds: float, answer: asyncio.Future[None]) -> None:
        self.counts, self.tokenise_seconds = counts, tokenise_seconds
        self.answer, self.missing = answer, len(counts)
        self.rows: list[Vectors | None] = [None] * len(counts)
        self.confidence: list[float] = [0.0] * len(counts)
        self.queued_at = time.perf_counter()
        self.began_at = self.ended_at = 0.0

    @property
    def abandoned(self) -> bool:
        """Nobody waits any more: the client left, the deadline passed, or another text of the request failed."""
        return self.answer.done()

    def fail(self, error: ServerError) -> None:
        """Nobody will have an answer to this request any more, unless one was given."""
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass(frozen=True, slots=True)
class _Done:
    """What a lane hands back: for each text its vector or what was raised, and the batch's confidences."""

    rows: list[Vectors | BaseException]
    confidence: Vectors | None
    began_at: float
    ended_at: float


class Encoding(Protocol):
    """Who encodes for the hot routes: this process's batcher, or the engine's behind a line."""

    async def encode(
        self, texts: Sequence[str] | None, token_lists: Sequence[list[int]] | None = None, *, seconds: float = 30.0
    ) -> Encoded:
        """Encodes texts, or token ids. Raises Overloaded, DeadlineExceeded after `seconds`, EncoderFailed, EncoderCrashed."""


class Batcher:
    """One encoder with its queue. `start` before `encode`, `stop` at the end. All but the lanes' work happens on the event loop."""

    def __init__(
        self,
        encoder: Encoder,
        telemetry: Telemetry,
        *,
        probe: str,
        max_batch_tokens: int,
        queue_tokens: int,
        queue_seconds: float = 10.0,
        judge: Judge | None = None,
    ) -> None:
        self._encoder, self._telemetry, self._judge, self._probe = encoder, telemetry, judge, probe
        self._queue_tokens, self._queue_seconds = queue_tokens, queue_seconds
        self._queue = Queue(max_batch_tokens)
        self._admitted_tokens = 0
        self._tokens_per_second = 1000.0
        self._running: dict[asyncio.Future[_Done], tuple[float, list[Waiting]]] = {}
        self._started = self._dispatch_due = False
        self._lanes = ThreadPoolExecutor(encoder.lanes, "encode")
        self._checkup = Checkup(self._encode_probe, self._lanes)
        self._tokenise = Tokeniser(encoder.tokenize, max(1, min(4, encoder.lanes)), self._checkup.begin)

    def start(self) -> None:
        """Accepts work from now on."""
        self._loop = asyncio.get_running_loop()
        self._started = True

    async def stop(self) -> None:
        """Accepts no more; whoever still waits gets EncoderCrashed."""
        self._started = False
        self._checkup.stop()
        for text in self._queue.drain():
            text.owner.fail(EncoderCrashed("the encoder has stopped; this server is about to be replaced"))
        await self._tokenise.close()
        await asyncio.to_thread(self._lanes.shutdown, wait=True, cancel_futures=True)

    @property
    def healthy(self) -> bool:
        """Is the encoder answering? False between a failed checkup and the next one that succeeds, and when a batch hangs."""
        return self._started and self._checkup.failed == 0 and not self._stuck()

    @property
    def lost(self) -> bool:
        """Has the encoder failed for so long that only a new process can help?"""
        return self._checkup.failed >= _LOST_AFTER_CHECKS or self._stuck()

    async def encode(self, texts: Sequence[str] | None, token_lists: Sequence[list[int]] | None = None,
                     *, seconds: float = 30.0) -> Encoded:  # fmt: skip
        """Encodes texts, or token ids. Raises Overloaded, DeadlineExceeded after `seconds`, EncoderFailed, EncoderCrashed."""
        began = time.perf_counter()
        if texts is not None:
            token_lists = await self._tokenise(texts)
        assert token_lists is not None
        spent = time.perf_counter() - began
        request = self.submit(token_lists, seconds - spent, spent)
        try:
            await request.answer
        finally:
            request.answer.cancel()
        return self.encoded(request)

    def submit(self, token_lists: Sequence[list[int]], seconds: float, tokenise_seconds: float = 0.0) -> Request:
        """Puts token ids into the queue; the request's `answer` is set within `seconds`, and its owner may cancel it before.

        Raises Overloaded, EncoderCrashed; `answer` fails with DeadlineExceeded, EncoderFailed, EncoderCrashed.
        """
        counts = [len(tokens) for tokens in token_lists]
        total = sum(counts)
        self._admit(total)
        request = Request(counts, tokenise_seconds, self._loop.create_future())
        late = DeadlineExceeded(seconds + tokenise_seconds)
        timer = self._loop.call_later(seconds, request.fail, late)

        def left(_: asyncio.Future[None]) -> None:
            timer.cancel()
            self._admitted_tokens -= total
            self._telemetry.queue_tokens.set(self._admitted_tokens)

        request.answer.add_done_callback(left)
        self._queue.add(request, token_lists)
        if not self._dispatch_due:  # what arrives in the same turn of the loop goes into the same batch
            self._dispatch_due = True
            self._loop.call_soon(self._dispatch)
        return request

    def encoded(self, request: Request) -> Encoded:
        """What a request was answered, once `answer` is set; counted in the metrics."""
        rows = [row for row in request.rows if row is not None]
        timing = (request.tokenise_seconds, request.began_at - request.queued_at, request.ended_at - request.began_at)
        for count in request.counts:
            self._telemetry.input_tokens.observe(count)
        self._telemetry.tokenise.observe(timing[0])
        self._telemetry.queue.observe(timing[1])
        confidence = None if self._judge is None else np.array(request.confidence, dtype=np.float32)
        return Encoded(rows[0][None] if len(rows) == 1 else np.stack(rows), confidence, request.counts, *timing)

    def _admit(self, tokens: int) -> None:
        if not self._started or self.lost:
            raise EncoderCrashed("the encoder has stopped; this server is about to be replaced")
        wait_seconds = self._admitted_tokens / self._tokens_per_second
        full = self._admitted_tokens + tokens > self._queue_tokens or wait_seconds > self._queue_seconds
        if self._admitted_tokens and full:
            raise Overloaded(max(1, math.ceil(wait_seconds)))
        self._admitted_tokens += tokens
        self._telemetry.queue_tokens.set(self._admitted_tokens)

    def _dispatch(self) -> None:
        """Fills the free lanes."""
        self._dispatch_due = False
        while len(self._running) < self._encoder.lanes and self._queue and self._started:
            free = self._encoder.lanes - len(self._running)
            alone = len(self._queue) == 1 and not self._running
            batch = self._queue.take(free)
            if not batch:
                return
            work = self._loop.run_in_executor(self._lanes, self._forward, batch, alone)
            self._running[work] = (time.perf_counter(), batch)
            work.add_done_callback(self._answer)

    def _forward(self, batch: Sequence[Waiting], alone: bool) -> _Done:
        """In a lane's thread: the vectors of a batch, or what each of its texts raised on its own."""
        began = time.perf_counter()
        rows: list[Vectors | BaseException]
        try:
            vectors = self._encode([text.tokens for text in batch], alone)
            confidence = None if self._judge is None else self._judge(vectors)
            rows = list(vectors)
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises, each text of the batch gets its own answer
            confidence = None
            rows = [error] if len(batch) == 1 else [self._encode_or_error(text.tokens) for text in batch]
        return _Done(rows, confidence, began, time.perf_counter())

    def _encode(self, batch: Sequence[Sequence[int]], alone: bool) -> Vectors:
        vectors = self._encoder.encode(batch, alone=alone)
        if len(vectors) != len(batch) or not np.isfinite(vectors).all():
            raise ArithmeticError("the encoder returned no finite vector for each text")
        return vectors

    def _encode_or_error(self, tokens: Sequence[int]) -> Vectors | BaseException:
        try:
            return self._encode([tokens], False)[0]
        except Exception as error:  # noqa: BLE001 - as above
            return error

    def _answer(self, work: asyncio.Future[_Done]) -> None:
        """On the loop: hands out what a lane has done, and gives the lane more."""
        _, batch = self._running.pop(work)
        error = None if work.cancelled() else work.exception()
        if work.cancelled() or error is not None:
            for text in batch:
                text.owner.fail(EncoderCrashed("the encoder has stopped"))
            if error is not None:
                self._checkup.begin(error)
            self._dispatch()
            return
        done = work.result()
        failed = [row for row in done.rows if isinstance(row, BaseException)]
        for position, (text, row) in enumerate(zip(batch, done.rows, strict=True)):
            request: Request = text.owner
            if isinstance(row, BaseException):
                request.fail(EncoderFailed(f"the text could not be encoded: {type(row).__name__}"))
                continue
            request.rows[text.index] = row
            if done.confidence is not None:
                request.confidence[text.index] = float(done.confidence[position])
            elif self._judge is not None:
                request.confidence[text.index] = float(self._judge(row[None])[0])
            request.began_at = request.began_at or done.began_at
            request.missing -= 1
            if request.missing == 0 and not request.answer.done():
                request.ended_at = done.ended_at
                request.answer.set_result(None)
        if len(failed) == len(batch):
            self._checkup.begin(failed[0])
        elif not failed:
            self._measure(batch, done)
        self._dispatch()

    def _measure(self, batch: Sequence[Waiting], done: _Done) -> None:
        seconds = max(done.ended_at - done.began_at, 1e-6)
        tokens = sum(len(text.tokens) for text in batch)
        padded = max(len(text.tokens) for text in batch) * len(batch)
        self._telemetry.encode.observe(seconds)
        self._telemetry.batch_tokens.observe(tokens)
        self._telemetry.padding.inc(padded - tokens)
        rate = tokens / seconds * (len(self._running) + 1)
        self._tokens_per_second += _SMOOTHING * (rate - self._tokens_per_second)

    def _stuck(self) -> bool:
        if not self._running:
            return False
        return time.perf_counter() - min(began for began, _ in self._running.values()) > _STUCK_SECONDS

    def _encode_probe(self) -> None:
        self._encode(self._encoder.tokenize([self._probe]), False)
