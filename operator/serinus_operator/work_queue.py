"""A keyed queue: a key waits once however often it is added, one worker at a time has it, failures come back later and later.

After each turn a key rests a little, so that a burst of events (every pod of a batch sends four) is answered once. One timer wakes one
worker for each key that is due: to wake them all at every event was most of what an event cost.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_K = TypeVar("_K")
_FIRST_RETRY_SECONDS = 0.5
_LAST_RETRY_SECONDS = 60.0


class WorkQueue(Generic[_K]):
    """Keys with the moment they are due, in the event loop's time."""

    def __init__(self, rest_seconds: float = 0.0) -> None:
        self._rest_seconds = rest_seconds
        self._rests_until: dict[_K, float] = {}
        self._due: dict[_K, float] = {}
        self._heap: list[
            tuple[float, int, _K]
        ] = []  # of what nobody works on; an entry that `_due` does not confirm is void
        self._sequence = 0
        self._busy: set[_K] = set()
        self._failures: dict[_K, int] = {}
        self._idle: deque[asyncio.Future[_K]] = deque()  # workers without work
        self._timer: asyncio.TimerHandle | None = None

    def add(self, key: _K, delay_seconds: float = 0.0) -> None:
        """The key is due after the delay, or earlier if it was so already."""
        due = asyncio.get_running_loop().time() + max(0.0, delay_seconds)
        if key not in self._due or due < self._due[key]:
            self._due[key] = due
            if key not in self._busy:
                self._push(key)
                self._hand_out()

    async def work(
        self, handle: Callable[[_K], Awaitable[float | None]], failed: Callable[[_K, Exception], None]
    ) -> None:
        """Serves keys for ever: `handle` returns the seconds until the key is due again, None for not by itself."""
        while True:
            key = await self._take()
            try:
                again = await handle(key)
                self._failures.pop(key, None)
            except Exception as error:  # noqa: BLE001 - a worker must outlive any one release's failure; it is reported and retried
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                again = min(_FIRST_RETRY_SECONDS * 2 ** (failures - 1), _LAST_RETRY_SECONDS)
                failed(key, error)
            self._busy.discard(key)
            self._rests_until[key] = asyncio.get_running_loop().time() + self._rest_seconds
            if key in self._due:  # added while it was worked on
                self._push(key)
            if again is not None:
                self.add(key, again)

    async def _take(self) -> _K:
        """The next due key that nobody is working on."""
        waiting = asyncio.get_running_loop().create_future()
        self._idle.append(waiting)
        self._hand_out()
        try:
            return await waiting
        finally:
            if waiting.cancelled():
                self._idle.remove(waiting)

    def _push(self, key: _K) -> None:
        self._due[key] = max(self._due[key], self._rests_until.get(key, 0.0))
        self._sequence += 1
        heapq.heappush(self._heap, (self._due[key], self._sequence, key))

    def _hand_out(self) -> None:
        """Due keys go to idle workers; the timer is set for the next one."""
        loop = asyncio.get_running_loop()
        while self._heap and self._idle:
            due, _, key = self._heap[0]
            if self._due.get(key) == due and key not in self._busy:
                if due > loop.time():
                    break
                del self._due[key]
                self._rests_until.pop(key, None)
                self._busy.add(key)
                self._idle.popleft().set_result(key)
            heapq.heappop(self._heap)
        if self._timer is not None:
            self._timer.cancel()
        wanted = bool(self._heap and self._idle)
        self._timer = loop.call_at(self._heap[0][0], self._hand_out) if wanted else None
