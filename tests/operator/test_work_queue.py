"""The queue: bursts are answered once, nothing added is lost, two turns of a key never overlap."""

from __future__ import annotations

import asyncio

from serinus_operator.work_queue import WorkQueue

REST = 0.05


async def turns_of(queue: WorkQueue[str], seconds: float, workers: int = 2) -> list[tuple[str, float]]:
    """Who had a turn, and when, while `seconds` passed."""
    loop, turns = asyncio.get_running_loop(), list[tuple[str, float]]()

    async def handle(key: str) -> None:
        turns.append((key, loop.time()))

    def failed(key: str, error: Exception) -> None:
        raise AssertionError(f"{key}: {error}")

    tasks = [asyncio.create_task(queue.work(handle, failed)) for _ in range(workers)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return turns


async def burst(queue: WorkQueue[str], key: str) -> None:
    for _ in range(10):
        await queue.add(key)
        await asyncio.sleep(REST / 20)


async def test_a_burst_of_events_is_answered_at_once_and_then_once_more_after_a_rest() -> None:
    queue = WorkQueue[str](REST)
    adding = asyncio.create_task(burst(queue, "a"))
    turns = await turns_of(queue, 4 * REST)
    await adding
    assert len(turns) == 2
    assert turns[1][1] - turns[0][1] >= REST


async def test_one_keys_rest_holds_up_no_other() -> None:
    queue = WorkQueue[str](rest_seconds=10)
    for key in ("a", "b", "c"):
        await queue.add(key)
    assert sorted(key for key, _ in await turns_of(queue, 0.1)) == ["a", "b", "c"]
