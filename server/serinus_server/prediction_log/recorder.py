"""The serving process's side of the prediction log: rows into a bounded buffer, cut into batches, handed to the writer's process.

Nothing here waits for the sink. A batch is kept until the writer says that it is written, and sent again to a new writer when the old one
died; when more rows wait than the queue holds, new ones are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from serinus_contract.metrics import (
    PREDICTION_LOG_DROPPED_TOTAL,
    PREDICTION_LOG_QUEUE_ROWS,
    PREDICTION_LOG_WRITTEN_TOTAL,
)
from serinus_contract.names import PREDICTION_LOG_ENV
from serinus_contract.prediction_log import CONFIDENCE_SCALE, EMBEDDING_SCALE
from serinus_server.observing import Prediction
from serinus_server.prediction_log.frames import Answer, Batch
from serinus_server.prediction_log.sinks import parse_target

_BATCH_ROWS: Final = 10_000
_RESTART_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 5.0
_MAX_UINT16: Final = 0xFFFF
_MAX_UINT32: Final = 0xFFFFFFFF

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Where predictions are logged, and what of them. Raises ValueError for a sink that cannot be meant."""

    sink: str
    retention_days: int = 30
    queue_rows: int = 100_000
    texts: bool = False
    embedding_share: float = 0.0
    flush_seconds: float = 5.0  # an insert costs chDB some 20 ms of processor time, however few its rows

    def __post_init__(self) -> None:
        parse_target(self.sink)


class Recorder:
    """Observes predictions. `instance` names this process; request ids that it made begin with it."""

    def __init__(
        self, settings: LogSettings, instance: str, served: dict[str, str], clock: Callable[[], float]
    ) -> None:
        self._settings, self._instance, self._clock = settings, instance, clock
        self._constant = orjson.dumps({"instance": instance, **served})[:-1]
        self._buffer: list[bytes] = []
        self._head = b""  # of the rows in the buffer: what is the same for all of them
        self._sequence = 0  # rows taken before the buffer's first one
        self._batches: deque[Batch] = deque()  # not yet known to be written, oldest first
        self._sent = 0  # batches of those that the present writer has
        self._waiting_rows = 0  # in the batches
        self._taken = self._dropped = 0
        self.written = 0  # rows that the sink has
        self._wake = asyncio.Event()
        self._closing = False
        self._run_task: asyncio.Task[None] | None = None

    def observe(self, predictions: Sequence[Prediction]) -> None:
        """Takes the texts of one request, or drops and counts them. Microseconds. What no client got is not logged."""
        if predictions and predictions[0].mirrored:
            return
        now = round(self._clock(), 3)
        for prediction in predictions:
            self._taken += 1
            if self._waiting_rows + len(self._buffer) >= self._settings.queue_rows:
                self._dropped += 1
                continue
            if not self._buffer:
                self._sequence = self._taken - 1
                self._head = self._constant + b',"sequence":%d,' % self._sequence
            self._buffer.append(self._head + orjson.dumps(self._row(prediction, now))[1:])
            if len(self._buffer) >= _BATCH_ROWS:
                self._cut()
        if self._run_task is None:
            self._run_task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Writes what is held, for at most 5 s; the writer's process goes on for as long at most with what it has."""
        self._closing = True
        self._wake.set()
        if self._run_task is not None:
            await self._run_task
        lost = self._waiting_rows + len(self._buffer)
        if lost:
            log.error("%d rows of the prediction log may be lost: the sink did not take them", lost)

    def collect(self) -> Iterator[Metric]:
        """The log's metrics, for Prometheus' registry."""
        yield CounterMetricFamily(PREDICTION_LOG_WRITTEN_TOTAL, "Rows written to the sink", value=self.written)
        yield CounterMetricFamily(
            PREDICTION_LOG_DROPPED_TOTAL, "Rows dropped because the queue was full", value=self._dropped
        )
        yield GaugeMetricFamily(
            PREDICTION_LOG_QUEUE_ROWS, "Rows that wait to be written", value=self._waiting_rows + len(self._buffer)
        )

    def _row(self, prediction: Prediction, now: float) -> dict[str, Any]:
        instance, _, number = prediction.request_id.partition("-")
        ours = instance == self._instance and number.isdecimal()
        row: dict[str, Any] = {
            "ts": now,
            "item": prediction.index,
            "space": prediction.space,
            "characters": prediction.characters,
            "tokens": min(prediction.tokens, _MAX_UINT16),
            "latency_us": min(round(prediction.latency_seconds * 1e6), _MAX_UINT32),
        }
        if ours:
            row["request"] = int(number)
        else:
            row["client_request_id"] = prediction.request_id
        if prediction.confidence is not None:
            row["confidence"] = round(prediction.confidence * CONFIDENCE_SCALE)
        if prediction.document_id:
            row["document_id"] = prediction.document_id
        if self._settings.texts and prediction.text is not None:
            row["text"] = prediction.text
        if self._settings.embedding_share and random.random() < self._settings.embedding_share:  # noqa: S311 - a sample
            row["embedding"] = np.clip(np.rint(prediction.vector * EMBEDDING_SCALE), -128, 127).astype(np.int8).tolist()
        return row

    def _cut(self) -> None:
        """What is in the buffer becomes a batch."""
        if self._buffer:
            batch = Batch(f"{self._instance}-{self._sequence}", len(self._buffer), b"\n".join(self._buffer) + b"\n")
            self._batches.append(batch)
            self._waiting_rows += batch.count
            self._buffer = []
            self._wake.set()

    async def _run(self) -> None:
        """Keeps a writer's process, until closed."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                writer = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "serinus_server.prediction_log.writer", str(self._settings.retention_days),
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
                    env={**os.environ, PREDICTION_LOG_ENV: self._settings.sink},
                )  # fmt: skip
            except OSError:
                log.exception("the prediction log's writer cannot be started")
                if self._closing:
                    return
                await asyncio.sleep(_RESTART_SECONDS)
                continue
            self._sent = 0
            answers = loop.create_task(self._hear(writer))
            with contextlib.suppress(ConnectionError):
                await self._send(writer, answers)
            await self._end(writer, answers)
            if self._closing:
                return
            log.error("the prediction log's writer ended with status %s; another is started", writer.returncode)
            await asyncio.sleep(_RESTART_SECONDS)

    async def _send(self, writer: asyncio.subprocess.Process, answers: asyncio.Task[None]) -> None:
        """Sends batches as they are cut, until the writer dies, or all is written after `close`."""
        stream = writer.stdin
        assert stream is not None
        gives_up_at = float("inf")
        loop = asyncio.get_running_loop()
        while not answers.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), 0.05 if self._closing else self._settings.flush_seconds)
            self._wake.clear()
            self._cut()
            for index in range(self._sent, len(self._batches)):
                stream.write(self._batches[index].head())
                stream.write(self._batches[index].rows)
                self._sent += 1
            if self._closing:
                gives_up_at = min(gives_up_at, loop.time() + _CLOSE_SECONDS)
                if not self._batches or loop.time() > gives_up_at:
                    return

    async def _hear(self, writer: asyncio.subprocess.Process) -> None:
        """Takes the writer's answers until it ends."""
        assert writer.stdout is not None
        said = ""
        while line := await writer.stdout.readline():
            try:
                answer = Answer.read(line)
            except (ValueError, TypeError):
                log.error("the prediction log's writer answers what it should not: %r", line[:200])
                return
            if answer.error:
                if answer.error != said:
                    log.warning("prediction log: %s; trying again", answer.error)
                said = answer.error
                continue
            if said:
                log.warning("prediction log: written again")
            said = ""
            batch = self._batches.popleft()
            self._sent -= 1
            self._waiting_rows -= batch.count
            self.written += batch.count

    async def _end(self, writer: asyncio.subprocess.Process, answers: asyncio.Task[None]) -> None:
        """No more batches for this writer. It is left to finish what it has, or killed when it does not."""
        assert writer.stdin is not None
        writer.stdin.close()
        try:
            await asyncio.wait_for(writer.wait(), _CLOSE_SECONDS)
        except TimeoutError:
            writer.kill()
            await writer.wait()
        await answers
