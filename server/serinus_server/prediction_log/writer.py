"""The process that writes the log: batches from standard input into the sink, one after the other, each tried until it is written.

A reader thread takes at once what comes: the serving process never waits for a slow sink, and its death loses nothing that it had sent.
When standard input ends, what was taken is still written, for at most 10 s.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from serinus_contract.names import PREDICTION_LOG_ENV
from serinus_server.errors import LogUnavailable
from serinus_server.prediction_log.frames import Answer, Batch, read_batch
from serinus_server.prediction_log.sinks import SOCKET, ChdbTarget, Sink, Target, listens, open_sink, parse_target

_LONGEST_PAUSE_SECONDS: Final = 4.0  # between tries; a sink that is back is used within 10 s
_LAST_TRIES_SECONDS: Final = 10.0

log = logging.getLogger(__name__)


class Writer:
    """One sink, opened when it can be, opened anew after it failed."""

    def __init__(self, target: Target, retention_days: int, answers: BinaryIO) -> None:
        self._target, self._retention_days, self._answers = target, retention_days, answers
        self._sink: Sink | None = None
        self._using = threading.Lock()  # the sink is used by one thread at a time
        self._taken: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._gives_up_at: float | None = None

    def run(self, batches: BinaryIO) -> None:
        """Writes until the stream has ended and all that it brought is written."""
        threading.Thread(target=self._take, args=(batches,), daemon=True).start()
        while (batch := self._taken.get()) is not None:
            self._write(batch)
        with self._using:
            if self._sink is not None:
                self._sink.close()

    def query(self, sql: str) -> dict[str, object]:
        """Answers a query between two batches."""
        try:
            with self._using:
                return {"rows": self._opened().query(sql)}
        except LogUnavailable as error:
            return {"error": str(error)}

    def _take(self, batches: BinaryIO) -> None:
        while (batch := read_batch(batches)) is not None:
            self._taken.put(batch)
        self._gives_up_at = time.monotonic() + _LAST_TRIES_SECONDS
        self._taken.put(None)

    def _write(self, batch: Batch) -> None:
        pause_seconds = 0.25
        while True:
            try:
                with self._using:
                    self._opened().insert(batch.rows, batch.token)
            except LogUnavailable as error:
                self._answer(Answer(batch.token, str(error)))
                with self._using:
                    self._forget()
            else:
                self._answer(Answer(batch.token))
                return
            if self._gives_up_at is not None and time.monotonic() > self._gives_up_at:
                log.error("%d rows are lost: the server has ended and the log cannot be written", batch.count)
                return
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _opened(self) -> Sink:
        if self._sink is None:
            self._sink = open_sink(self._target, self._retention_days)
        return self._sink

    def _forget(self) -> None:
        """A connection that failed is made anew."""
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def _answer(self, answer: Answer) -> None:
        try:
            self._answers.write(answer.line())
            self._answers.flush()
        except OSError:
            pass  # the server is gone; what it sent is still written


def answer_queries(folder: Path, query: Callable[[str], dict[str, object]]) -> None:
    """Listens on a socket in chDB's folder, which nobody else can open while this process holds it."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(json.dumps(query(json.loads(self.rfile.readline()))).encode())

    path = folder / SOCKET
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if listens(path):
            log.error("%s is held by the writer of another server; give each server a folder of its own", folder)
            return
        path.unlink(missing_ok=True)
        before = os.umask(0o077)  # who may read the folder's files may ask
        try:
            server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        finally:
            os.umask(before)
    except OSError as error:
        log.warning("the log cannot be queried while it is written: %s: %s", path, error)
        return
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    """Started by the serving process: the sink in the environment, days of retention as the argument."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ends with its standard input, after the server
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    target = parse_target(os.environ[PREDICTION_LOG_ENV])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    writer = Writer(target, int(sys.argv[1]), answers)
    if isinstance(target, ChdbTarget):
        answer_queries(target.folder, writer.query)
    writer.run(sys.stdin.buffer)


if __name__ == "__main__":
    main()
