"""A keyed queue: a key waits once however often it is added, one worker at a time has it, failures come back later and later.

After each turn a key rests a little, so that a burst of events (every pod of a batch sends four) is answered once.
"""

from __future__ import annotations

import asyncio
import heapq
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
        self._heap: list[tuple[float, int, _K]] = []
        self._sequence = 0
        self._busy: set[_K] = set()
        self._failures: dict[_K, int] = {}
        self._changed = asyncio.Condition()

    async def add(self, key: _K, delay_seconds: float = 0.0) -> None:
        """The key is due after the delay, or earlier if it was so already."""
        due = asyncio.get_running_loop().time() + max(0.0, delay_seconds)
        async with self._changed:
            if key not in self._due or due < self._due[key]:
                self._due[key] = due
                self._sequence += 1
                heapq.heappush(self._heap, (due, self._sequence, key))
                self._changed.notify_all()

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
            async with self._changed:
                self._busy.discard(key)
                self._rests_until[key] = asyncio.get_running_loop().time() + self._rest_seconds
                self._changed.notify_all()
            if again is not None:
                await self.add(key, again)

    async def _take(self) -> _K:
        """The next due key that nobody is working on."""
        async with self._changed:
            while True:
                now = asyncio.get_running_loop().time()
                blocked = []
                wait: float | None = None
                while self._heap:
                    due, sequence, key = heapq.heappop(self._heap)
                    if self._due.get(key) != due:
                        continue  # superseded by an earlier moment
                    rested = self._rests_until.get(key, 0.0)
                    if due <= now < rested:
                        self._due[key] = rested
                        heapq.heappush(self._heap, (rested, sequence, key))
                        continue
                    if due > now:
                        heapq.heappush(self._heap, (due, sequence, key))
                        wait = due - now
                        break
                    if key in self._busy:
                        blocked.append((due, sequence, key))
                        continue
                    for entry in blocked:
                        heapq.heappush(self._heap, entry)
                    del self._due[key]
                    self._rests_until.pop(key, None)
                    self._busy.add(key)
                    return key
                for entry in blocked:
                    heapq.heappush(self._heap, entry)
                try:
                    await asyncio.wait_for(self._changed.wait(), wait)
                except TimeoutError:
                    continue
