"""Texts that wait, and which of them go together into the next batch. Pure: no clock, no I/O.

Order: each text carries the place in the stream of served tokens at which it would start if its request had the server alone. So a request
of one text that arrives late goes ahead of the tail of a request of 256, and that tail is never overtaken by what comes after its place:
nobody starves. Shape: a batch costs its padded tokens plus a fixed overhead, so lengths are split where padding would cost more than one
more forward pass does.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

OVERHEAD_TOKENS: Final = (
    24  # a forward pass of MiniLM on one core costs as much as 10 (int8) to 30 (bf16) tokens before the first one
)
_LOOK_AHEAD: Final = 256


@dataclass(slots=True)
class Waiting:
    """One text, the `index`-th of its request. `owner` is the request; those of an `abandoned` one are dropped at the pop."""

    tokens: Sequence[int]
    owner: Any
    index: int


class Queue:
    """Waiting texts by place."""

    def __init__(self, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._heap: list[tuple[int, int, Waiting]] = []  # place, order of arrival
        self._served_tokens = 0
        self._number = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, owner: Any, token_lists: Iterable[Sequence[int]]) -> None:
        """The texts of one request, in its order."""
        place = self._served_tokens
        for index, tokens in enumerate(token_lists):
            self._number += 1
            heapq.heappush(self._heap, (place, self._number, Waiting(tokens, owner, index)))
            place += len(tokens)

    def take(self, lanes: int) -> list[Waiting]:
        """The batch with the first text in it, leaving `lanes` − 1 such shares for others; empty when nobody waits any more.

        Texts whose owner is `abandoned` are left out for good. At least one text, else at most `max_batch_tokens` once padded.
        """
        waiting: list[tuple[int, int, Waiting]] = []
        while self._heap and len(waiting) < _LOOK_AHEAD:
            entry = heapq.heappop(self._heap)
            if not entry[2].owner.abandoned:
                waiting.append(entry)
        if not waiting:
            return []
        share = -(-len(waiting) // lanes)
        near, far = waiting[:share], waiting[share:]
        shortest, longest = group_of(len(near[0][2].tokens), [len(text.tokens) for _, _, text in near])
        batch: list[Waiting] = []
        width = 0
        for entry in near:
            length = len(entry[2].tokens)
            wider = max(width, length)
            if not batch or (shortest <= length <= longest and wider * (len(batch) + 1) <= self._max_batch_tokens):
                batch.append(entry[2])
                width = wider
            else:
                far.append(entry)
        for entry in far:
            heapq.heappush(self._heap, entry)
        self._served_tokens += sum(len(text.tokens) for text in batch)
        return batch

    def drain(self) -> list[Waiting]:
        """Everyone who waits; the queue is empty afterwards."""
        waiting, self._heap = self._heap, []
        return [text for _, _, text in waiting]


def group_of(length: int, lengths: Iterable[int]) -> tuple[int, int]:
    """Shortest and longest length of the group that `length` belongs to when `lengths` are split at least cost.

    The cost of a group is OVERHEAD_TOKENS + its longest × its size. Groups of least cost are runs of the sorted lengths, so that dynamic
    programming over the distinct lengths finds them.
    """
    counted = sorted(Counter(lengths).items())
    least = [0]
    begins: list[int] = []
    for last, (longest, _) in enumerate(counted):
        size, best, begin = 0, -1, last
        for first in range(last, -1, -1):
            size += counted[first][1]
            cost = least[first] + OVERHEAD_TOKENS + longest * size
            if best < 0 or cost <= best:
                best, begin = cost, first
        least.append(best)
        begins.append(begin)
    last = len(counted) - 1
    while counted[begins[last]][0] > length:
        last = begins[last] - 1
    return counted[begins[last]][0], counted[last][0]
