"""The queue: bursts are answered once, nothing added is lost, two turns of a key never overlap."""

from __future__ import annotations

import asyncio

from serinus_operator.work_queue import WorkQueue

REST = 0.05


class Turns:
    """Two workers on a queue, and who had a turn when. A context manager."""

    def __init__(self, queue: WorkQueue[str]) -> None:
        self._queue, self.had = queue, list[tuple[str, float]]()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Turns:
        loop = asyncio.get_running_loop()

        async def handle(key: str) -> None:
            self.had.append((key, loop.time()))

        def failed(key: str, error: Exception) -> None:
            raise AssertionError(f"{key}: {error}")

        self._tasks = [asyncio.create_task(self._queue.work(handle, failed)) for _ in range(2)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait(self, count: int) -> None:
        """Until there have been so many turns; fails after a minute."""
        async with asyncio.timeout(60):
            while len(self.had) < count:  # noqa: ASYNC110 - the queue tells nobody of a turn
                await asyncio.sleep(REST / 10)


async def test_a_burst_of_events_is_answered_at_once_and_then_once_more_after_a_rest() -> None:
    queue = WorkQueue[str](REST)
    async with Turns(queue) as turns:
        queue.add("a")
        await turns.wait(1)
        for _ in range(10):
            queue.add("a")
        await turns.wait(2)
        await asyncio.sleep(3 * REST)
    assert len(turns.had) == 2
    assert turns.had[1][1] - turns.had[0][1] >= REST


async def test_one_keys_rest_holds_up_no_other() -> None:
    queue = WorkQueue[str](rest_seconds=1000)
    async with Turns(queue) as turns:
        for key in ("a", "b", "c"):
            queue.add(key)
        await turns.wait(3)
    assert sorted(key for key, _ in turns.had) == ["a", "b", "c"]
