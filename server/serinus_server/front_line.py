"""The engine's ends of its lines to the front ends: what they ask goes into the one queue, what they tell into the one set of books."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from serinus_server.batching import Batcher, Request
from serinus_server.encoders import Vectors
from serinus_server.errors import DeadlineExceeded, EncoderCrashed, Overloaded, ServerError
from serinus_server.frames import Frames, Head, Kind
from serinus_server.observing import Observer, Prediction, tell
from serinus_server.telemetry import Telemetry

_NUMBERS_EACH: Final = 1 << 40  # request numbers of one front end: none is given twice within an instance


@dataclass(frozen=True, slots=True)
class Shared:
    """What all lines of an engine share. `lowest_decile` is that of the reference's confidence."""

    batcher: Batcher
    telemetry: Telemetry
    observers: Sequence[Observer]
    instance: str
    keeps_texts: bool
    dim: int
    lowest_decile: float | None
    lines: itertools.count[int] = field(default_factory=itertools.count)


class FrontLine(Frames):
    """One front end."""

    def __init__(self, shared: Shared) -> None:
        super().__init__()
        self._shared = shared
        self._asked: dict[int, asyncio.Future[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Says hello: the name that request ids carry, and a range of numbers of its own."""
        super().connection_made(transport)
        shared = self._shared
        first = next(shared.lines) * _NUMBERS_EACH
        self.send((Kind.HELLO, shared.instance, first, bool(shared.observers), shared.keeps_texts))

    def connection_lost(self, exc: Exception | None) -> None:
        """The front end has gone, and with it whoever waited there."""
        super().connection_lost(exc)
        for answer in list(self._asked.values()):
            answer.cancel()

    def received(self, head: Head, numbers: bytes) -> None:
        """See Frames."""
        match head:
            case [Kind.ASK, number, seconds, spent, counts]:
                self._ask(number, seconds, spent, counts, numbers)
            case [Kind.LEAVE, number]:
                if (answer := self._asked.get(number)) is not None:
                    answer.cancel()
            case [Kind.TOLD, counted, rows]:
                self._told(counted, rows, numbers)
            case _:
                raise ValueError(f"a front end says {head[:1]}")

    def _ask(self, number: int, seconds: float, spent: float, counts: list[int], numbers: bytes) -> None:
        ids = array("i", numbers).tolist()
        ends = list(itertools.accumulate(counts, initial=0))
        token_lists = [ids[begin:end] for begin, end in itertools.pairwise(ends)]
        try:
            request = self._shared.batcher.submit(token_lists, seconds, spent)
        except ServerError as error:
            self._failed(number, error)
            return
        self._asked[number] = request.answer
        request.answer.add_done_callback(partial(self._answered, number, request))

    def _answered(self, number: int, request: Request, answer: asyncio.Future[None]) -> None:
        del self._asked[number]
        if answer.cancelled():
            return
        error = answer.exception()
        if error is not None:
            self._failed(number, error)
            return
        shared = self._shared
        encoded = shared.batcher.encoded(request)
        if encoded.confidence is not None and shared.lowest_decile is not None:
            shared.telemetry.confident(encoded.confidence, shared.lowest_decile)
        told = (Kind.VECTORS, number, encoded.confidence, encoded.queue_seconds, encoded.encode_seconds)
        self.send(told, encoded.vectors.astype(np.float32, copy=False).tobytes())

    def _failed(self, number: int, error: BaseException) -> None:
        seconds = 0.0
        if isinstance(error, Overloaded):
            seconds = error.retry_after_seconds
        elif isinstance(error, DeadlineExceeded):
            seconds = error.seconds
        name = type(error) if isinstance(error, ServerError) else EncoderCrashed
        self.send((Kind.FAILED, number, name.__name__, str(error), seconds))

    def _told(self, counted: list[Head], rows: list[Head], numbers: bytes) -> None:
        books = self._shared.telemetry
        for what in counted:
            match what:
                case ["answered", route, status, seconds]:
                    books.answered(route, status, seconds)
                case ["passed_on", status]:
                    books.passed_on(status)
                case ["pinned"]:
                    books.pinned()
                case ["mirrored", outcome]:
                    books.mirrored(outcome)
                case _:
                    raise ValueError(f"a front end counts {what[:1]}")
        if rows:
            vectors = np.frombuffer(numbers, dtype=np.float32).reshape(len(rows), self._shared.dim)
            each = zip(rows, vectors, strict=True)
            tell(self._shared.observers, [_prediction(row, vector) for row, vector in each])


def _prediction(row: Head, vector: Vectors) -> Prediction:
    request_id, index, space, tokens, characters, seconds, confidence, text, document_id, mirrored = row
    return Prediction(
        request_id, index, space, tokens, characters, seconds, confidence, vector, text, document_id, mirrored
    )


@contextlib.asynccontextmanager
async def listening(path: Path, shared: Shared) -> AsyncIterator[None]:
    """Takes front ends at `path` until the end."""
    server = await asyncio.get_running_loop().create_unix_server(lambda: FrontLine(shared), str(path))
    try:
        yield
    finally:
        server.close()
