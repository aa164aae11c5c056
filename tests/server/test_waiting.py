"""The queue: nobody starves, nobody is lost, and lengths go together where that pays."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from serinus_server.waiting import OVERHEAD_TOKENS, Queue, group_of


@dataclass
class Owner:
    name: str = ""
    abandoned: bool = False


LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=24)


def emptied(queue: Queue, lanes: int = 1) -> list[list[tuple[str, int]]]:
    batches = []
    while batch := queue.take(lanes):
        batches.append([(text.owner.name, text.index) for text in batch])
    return batches


@given(st.lists(LENGTHS, min_size=1, max_size=8), st.integers(1, 4), st.integers(1, 2048))
def test_every_text_is_taken_once_within_the_token_budget(requests: list[list[int]], lanes: int, budget: int) -> None:
    queue = Queue(budget)
    for number, lengths in enumerate(requests):
        queue.add(Owner(str(number)), [range(length) for length in lengths])
    taken = []
    while batch := queue.take(lanes):
        assert len(batch) == 1 or max(len(text.tokens) for text in batch) * len(batch) <= budget
        taken += [(text.owner.name, text.index) for text in batch]
    assert sorted(taken) == sorted(
        (str(n), index) for n, lengths in enumerate(requests) for index in range(len(lengths))
    )


def test_a_small_request_goes_ahead_of_a_large_ones_tail_and_the_tail_does_not_starve() -> None:
    queue = Queue(max_batch_tokens=40)
    queue.add(Owner("large"), [range(20)] * 10)
    order = [text.owner.name for text in queue.take(1)]
    for _ in range(20):
        queue.add(Owner("small"), [range(20)])
        order += [text.owner.name for text in queue.take(1)]
    assert "small" in order[:4]
    assert order[:22].count("large") == 10


def test_whoever_has_left_is_dropped_at_the_pop_without_hurting_the_batch() -> None:
    queue, gone, here = Queue(1000), Owner("gone"), Owner("here")
    queue.add(gone, [range(5)] * 3)
    queue.add(here, [range(5)])
    gone.abandoned = True
    assert emptied(queue) == [[("here", 0)]]


def test_what_waits_is_shared_among_free_lanes() -> None:
    queue = Queue(10_000)
    queue.add(Owner("r"), [range(20)] * 8)
    assert [len(queue.take(2)), len(queue.take(1))] == [4, 4]


def test_short_texts_do_not_wait_behind_the_padding_of_a_long_one() -> None:
    assert group_of(10, [10, 11, 12, 200]) == (10, 12)
    assert group_of(200, [10, 11, 12, 200]) == (200, 200)
    assert group_of(20, [20, 22, 24]) == (20, 24)


@given(LENGTHS)
def test_the_split_costs_no_more_than_one_group_or_all_alone(lengths: list[int]) -> None:
    groups = {group_of(length, lengths) for length in lengths}
    cost = sum(OVERHEAD_TOKENS + most * sum(least <= length <= most for length in lengths) for least, most in groups)
    assert cost <= OVERHEAD_TOKENS + max(lengths) * len(lengths)
    assert cost <= sum(OVERHEAD_TOKENS + length for length in lengths)
