"""A front end's end of its line to the engine. Encodes by asking, and tells what was answered, so that one process keeps the books.

The engine's death fails everyone who waits at once: a socket that closes is noticed sooner than any timeout.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from prometheus_client.metrics_core import Metric

from serinus_server.batching import Encoded
from serinus_server.checkup import Checkup
from serinus_server.edge import EdgeState
from serinus_server.encoders import Vectors
from serinus_server.errors import DeadlineExceeded, EncoderCrashed, EncoderFailed, Overloaded, ServerError
from serinus_server.frames import Frames, Head, Kind
from serinus_server.observing import Observer, Prediction
from serinus_server.tokenising import Tokeniser, Tokenize

_TELL_SECONDS: Final = 0.05  # what is told is this much later in the metrics, and lost when this process is killed
_TELL_AT: Final = 1000
_HELLO_SECONDS: Final = 10.0
_GRACE_SECONDS: Final = 1.0  # the engine keeps the deadline; an engine that does not is given this much more
_CLOSE_SECONDS: Final = 2.0
_GONE: Final = "the encoder has stopped; this server is about to be replaced"


class EngineLine(Frames):
    """Encodes as a batcher does, counts as telemetry does, observes as an observer does: all of it by the engine."""

    def __init__(self, state: EdgeState, tokenize: Tokenize, dim: int, probe: str) -> None:
        super().__init__()
        self._state, self._dim = state, dim
        self._loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._waiting: dict[int, tuple[asyncio.Future[Encoded], list[int], float]] = {}
        self._numbers = itertools.count()
        self._checkup = Checkup(lambda: tokenize([probe]), None)
        self._tokenise = Tokeniser(tokenize, 1, self._checkup.begin)
        self._counted: list[tuple[str | int | float, ...]] = []  # a method of Books, and its arguments
        self._predictions: list[Prediction] = []
        self._telling: asyncio.TimerHandle | None = None
        self._keeps_texts = False
        self.observers: tuple[Observer, ...] = ()  # this line, where the engine observes

    @property
    def healthy(self) -> bool:
        """Is there an engine, and does the tokenizer work here?"""
        return self._transport is not None and self._checkup.failed == 0

    async def encode(
        self, texts: Sequence[str] | None, token_lists: Sequence[list[int]] | None = None, *, seconds: float = 30.0
    ) -> Encoded:
        """See Batcher."""
        began = time.perf_counter()
        if texts is not None:
            token_lists = await self._tokenise(texts)
        assert token_lists is not None
        if self._transport is None:
            raise EncoderCrashed(_GONE)
        if self.congested:
            raise Overloaded(1)
        number, answer = next(self._numbers), self._loop.create_future()
        counts = [len(tokens) for tokens in token_lists]
        spent = time.perf_counter() - began
        ids = array("i", token_lists[0] if len(counts) == 1 else itertools.chain.from_iterable(token_lists))
        self._waiting[number] = (answer, counts, spent)
        self.send((Kind.ASK, number, seconds - spent, spent, counts), ids.tobytes())
        late = self._loop.call_later(seconds - spent + _GRACE_SECONDS, _fail, answer, DeadlineExceeded(seconds))
        try:
            encoded: Encoded = await answer
            return encoded
        finally:
            late.cancel()
            if self._waiting.pop(number, None) is not None:  # the client left
                self.send((Kind.LEAVE, number))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """See Telemetry."""
        self._count("answered", route, status, seconds)

    def passed_on(self, status: int) -> None:
        """See Telemetry."""
        self._count("passed_on", status)

    def pinned(self) -> None:
        """See Telemetry."""
        self._count("pinned")

    def mirrored(self, outcome: str) -> None:
        """See Telemetry."""
        self._count("mirrored", outcome)

    def confident(self, confidence: Vectors, lowest_decile: float) -> None:
        """See Telemetry; the engine has counted this when it encoded."""

    def observe(self, predictions: Sequence[Prediction]) -> None:
        """See Observer."""
        self._predictions += predictions
        self._tell_soon(len(self._predictions))

    def collect(self) -> Iterator[Metric]:
        """See Observer: the engine has the metrics."""
        yield from ()

    async def close(self) -> None:  # type: ignore[override]
        """Tells the rest, and closes once the engine has it."""
        self._checkup.stop()
        await self._tokenise.close()
        self._tell()
        super().close()
        await asyncio.wait([self._closed], timeout=_CLOSE_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """The engine has died: whoever waits gets its 503, and no connection here is kept."""
        super().connection_lost(exc)
        self._state.draining = True
        if not self._closed.done():
            self._closed.set_result(None)
        for answer, _, _ in self._waiting.values():
            _fail(answer, EncoderCrashed(_GONE))
        _fail(self._hello, EncoderCrashed(_GONE))

    def received(self, head: Head, numbers: bytes) -> None:
        """See Frames."""
        match head:
            case [Kind.VECTORS, number, confidence, queue_seconds, encode_seconds] if number in self._waiting:
                answer, counts, spent = self._waiting.pop(number)
                vectors = np.frombuffer(numbers, dtype=np.float32).reshape(-1, self._dim)
                judged = None if confidence is None else np.array(confidence, dtype=np.float32)
                if not answer.done():
                    answer.set_result(Encoded(vectors, judged, counts, spent, queue_seconds, encode_seconds))
            case [Kind.FAILED, number, name, message, seconds] if number in self._waiting:
                answer, _, _ = self._waiting.pop(number)
                _fail(answer, _error(name, message, seconds))
            case [Kind.HELLO, instance, first, observed, keeps_texts]:
                self._state.instance, self._state.requests = instance, itertools.count(first)
                self._keeps_texts = keeps_texts
                self.observers = (self,) if observed else ()
                self._hello.set_result(None)
            case _:
                pass  # an answer to somebody who has left

    async def introduced(self) -> None:
        """Waits until the engine has said what this process is to be called. Raises TimeoutError, EncoderCrashed."""
        await asyncio.wait_for(self._hello, _HELLO_SECONDS)

    def _count(self, *what: str | int | float) -> None:
        self._counted.append(what)
        self._tell_soon(len(self._counted))

    def _tell_soon(self, held: int) -> None:
        if held >= _TELL_AT:
            self._tell()
        elif self._telling is None:
            self._telling = self._loop.call_later(_TELL_SECONDS, self._tell)

    def _tell(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        if not (self._counted or self._predictions):
            return
        rows = [
            (
                each.request_id, each.index, each.space, each.tokens, each.characters, each.latency_seconds, each.confidence,
                each.text if self._keeps_texts else None, each.document_id, each.mirrored,
            )
            for each in self._predictions
        ]  # fmt: skip
        vectors = b"".join(each.vector.tobytes() for each in self._predictions)
        self.send((Kind.TOLD, self._counted, rows), vectors)
        self._counted, self._predictions = [], []


async def connect(path: Path, state: EdgeState, tokenize: Tokenize, dim: int, probe: str) -> EngineLine:
    """A line to the engine that listens at `path`. Raises OSError, TimeoutError, EncoderCrashed."""
    _, line = await asyncio.get_running_loop().create_unix_connection(
        lambda: EngineLine(state, tokenize, dim, probe), str(path)
    )
    await line.introduced()
    return line


def _error(name: str, message: str, seconds: float) -> ServerError:
    match name:
        case "Overloaded":
            return Overloaded(int(seconds))
        case "DeadlineExceeded":
            return DeadlineExceeded(seconds)
        case "EncoderFailed":
            return EncoderFailed(message)
        case _:
            return EncoderCrashed(message)


def _fail(answer: asyncio.Future[Encoded] | asyncio.Future[None], error: ServerError) -> None:
    if not answer.done():
        answer.set_exception(error)
