"""Steady, bounded traffic of real sentences: open loop at a constant rate, half over kept connections, half over new ones.

Nothing is tried twice: a connection that is refused is a failed request, as it is for the simplest client.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import aiohttp

_TIMEOUT_SECONDS = 30.0
_KEPT_SECONDS = 5.0  # a connection without requests


@dataclass(frozen=True)
class Failed:
    """What a request got instead of its vector; `version` is of the model that answered, empty when nobody did."""

    told: str
    version: str = ""


@dataclass
class Traffic:
    """Sends in a thread of its own from `start` to `stop`. Counts may be read, and the rate changed, at any time."""

    url: str
    texts: Sequence[str]
    requests_per_second: float
    most_seconds: float = 45 * 60.0
    sent: int = 0
    failures: list[str] = field(default_factory=list)
    by_version: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # latencies of answers
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to send."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sends no more, and waits for what is on its way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2 * _TIMEOUT_SECONDS)

    @property
    def answered(self) -> int:
        """Requests that got their vector."""
        return sum(self.by_version.values())

    async def _run(self) -> None:
        began = due = time.monotonic()
        connector, timeout = (
            aiohttp.TCPConnector(keepalive_timeout=_KEPT_SECONDS),
            aiohttp.ClientTimeout(_TIMEOUT_SECONDS),
        )
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client, asyncio.TaskGroup() as tasks:
            while not self._stop.is_set() and time.monotonic() - began < self.most_seconds:
                tasks.create_task(self.send(client, self.sent))
                self.sent += 1
                due += 1 / self.requests_per_second
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    def text(self, number: int) -> str:
        """What is asked for."""
        return self.texts[number % len(self.texts)]

    async def send(self, client: aiohttp.ClientSession, number: int) -> None:
        """One request, tried once."""
        failed = await self.ask(client, number)
        if failed is not None:
            self.failures.append(failed.told)

    async def ask(self, client: aiohttp.ClientSession, number: int) -> Failed | None:
        """One try; None when it got its vector."""
        headers = {} if number % 2 else {"connection": "close"}
        began = time.monotonic()
        try:
            async with client.post(self.url, json={"inputs": self.text(number)}, headers=headers) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return Failed(_told(number, error))
        version = answer.headers.get("x-model-version", "")
        if answer.status != 200 or not json.loads(body)["embeddings"]:
            told = (
                f"request {number} at {datetime.now():%H:%M:%S}: {answer.status} {body[:200].decode(errors='replace')}"
            )
            return Failed(told, version)
        self.seconds.append(time.monotonic() - began)
        self.by_version[version] += 1
        return None


def _told(number: int, error: BaseException) -> str:
    """When it was, and what it was caused by: a connection that failed names the operating system's reason last."""
    causes: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        causes += [str(each) for each in cause.exceptions] if isinstance(cause, BaseExceptionGroup) else [str(cause)]
        cause = cause.__cause__ or cause.__context__
    return f"request {number} at {datetime.now():%H:%M:%S}: {type(error).__name__} {' < '.join(dict.fromkeys(causes))}"
