"""Every accepted request gets exactly one answer, its own, whatever dies."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
import pytest
from tests.server.toy import LIMIT, POISON, Panic, ToyEncoder, batching, some_leave, vector_of

from serinus_server import batching as module
from serinus_server import checkup
from serinus_server.batching import Batcher
from serinus_server.errors import DeadlineExceeded, EncoderCrashed, EncoderFailed, Overloaded


async def until(condition: Any, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of the batcher, which has no event for tests
            await asyncio.sleep(0.01)


async def test_ten_thousand_at_once_each_get_their_own_vectors_once_while_others_leave() -> None:
    rng, encoder = random.Random(5), ToyEncoder()
    vocabulary = ["x" * length for length in range(LIMIT + 9)] + [
        f"text {number}" * rng.randint(1, 9) for number in range(300)
    ]
    answered = 0

    async def ask(batcher: Batcher, texts: list[str]) -> None:
        nonlocal answered
        encoded = await batcher.encode(texts)
        expected = np.stack([vector_of(tokens) for tokens in encoder.tokenize(texts)])
        assert np.array_equal(encoded.vectors, expected)
        assert encoded.tokens == [min(len(text), LIMIT - 1) + 1 for text in texts]
        answered += 1

    async with batching(encoder) as batcher:
        tasks = [
            asyncio.create_task(ask(batcher, rng.choices(vocabulary, k=rng.choice((1, 1, 1, 1, 5)))))
            for _ in range(10_000)
        ]
        left = await some_leave(tasks, rng)
        assert answered == 10_000 - left
        assert batcher._telemetry.queue_tokens._value.get() == 0


async def test_one_poisonous_text_fails_alone() -> None:
    encoder = ToyEncoder(lanes=1)
    async with batching(encoder) as batcher:
        encoder.may_go_on.clear()
        asked = [asyncio.create_task(batcher.encode([text])) for text in ("first", "good", chr(POISON), "fine")]
        await asyncio.sleep(0.05)
        encoder.may_go_on.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome).__name__ for outcome in outcomes] == ["Encoded", "Encoded", "EncoderFailed", "Encoded"]
        await until(lambda: batcher.healthy)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error"), MemoryError(), ArithmeticError()], ids=lambda each: type(each).__name__
)
async def test_a_broken_encoder_answers_5xx_falls_unready_and_recovers(error: Exception) -> None:
    encoder = ToyEncoder()
    async with batching(encoder) as batcher:
        encoder.raises = error
        outcomes = await asyncio.gather(*(batcher.encode([str(n)]) for n in range(50)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {EncoderFailed}
        await until(lambda: not batcher.healthy)
        assert not batcher.lost
        encoder.raises = None
        await until(lambda: batcher.healthy)
        assert (await batcher.encode(["again"])).tokens == [6]


async def test_an_encoder_that_stays_broken_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "_EVERY_SECONDS", 0.001)
    encoder = ToyEncoder()
    encoder.raises = RuntimeError("gone")
    async with batching(encoder) as batcher:
        with pytest.raises(EncoderFailed):
            await batcher.encode(["text"])
        await until(lambda: batcher.lost)
        with pytest.raises(EncoderCrashed):
            await batcher.encode(["text"])


@pytest.mark.parametrize("text", ["short", "long " * 400])
async def test_a_tokenizer_that_panics_fails_the_request_and_readiness(text: str) -> None:
    encoder = ToyEncoder()
    async with batching(encoder) as batcher:
        encoder.tokenizer_raises = Panic("index out of bounds")
        with pytest.raises(EncoderFailed, match="tokenised"):
            await batcher.encode([text])
        await until(lambda: not batcher.healthy)
        encoder.tokenizer_raises = None
        await until(lambda: batcher.healthy)


async def test_a_lane_that_dies_fails_its_batch_and_the_queue_goes_on() -> None:
    encoder = ToyEncoder(lanes=1)
    async with batching(encoder) as batcher:
        encoder.raises = Panic("poisoned lock")
        with pytest.raises(EncoderCrashed):
            await batcher.encode(["text"])
        encoder.raises = None
        assert (await batcher.encode(["next"])).tokens == [5]


async def test_vectors_that_are_not_finite_never_leave() -> None:
    class Damaged(ToyEncoder):
        def encode(self, batch: Any, *, alone: bool = False) -> Any:
            return super().encode(batch, alone=alone) * np.float32("nan")

    async with batching(Damaged()) as batcher:
        with pytest.raises(EncoderFailed):
            await batcher.encode(["text"])


async def test_whoever_leaves_or_is_too_late_is_never_encoded() -> None:
    encoder = ToyEncoder(lanes=1)
    async with batching(encoder) as batcher:
        encoder.may_go_on.clear()
        first = asyncio.create_task(batcher.encode(["first"]))
        await asyncio.sleep(0.05)
        leaving = asyncio.create_task(batcher.encode(["leaving"]))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
            await batcher.encode(["late"], seconds=0.05)
        leaving.cancel()
        encoder.may_go_on.set()
        await first
        await batcher.encode(["last"])
        assert [chr(tokens[1]) for tokens in encoder.seen] == ["f", "l"]
        assert encoder.seen[1] == encoder.tokenize(["last"])[0]


async def test_a_full_queue_says_when_to_come_back() -> None:
    encoder = ToyEncoder(lanes=1)
    async with batching(encoder, queue_tokens=100) as batcher:
        encoder.may_go_on.clear()
        waiting = [asyncio.create_task(batcher.encode(["x" * 40])) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded) as refused:
            await batcher.encode(["x" * 40])
        assert refused.value.retry_after_seconds >= 1
        encoder.may_go_on.set()
        await asyncio.gather(*waiting)
        await batcher.encode(["x" * 40])


async def test_stopping_answers_whoever_waits() -> None:
    encoder = ToyEncoder(lanes=1)
    async with batching(encoder) as batcher:
        encoder.may_go_on.clear()
        asked = [asyncio.create_task(batcher.encode(["running"]))]
        await asyncio.sleep(0.05)
        asked.append(asyncio.create_task(batcher.encode(["waiting"])))
        await asyncio.sleep(0.05)
        asyncio.get_running_loop().call_later(0.1, encoder.may_go_on.set)
        await batcher.stop()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome).__name__ for outcome in outcomes] == ["Encoded", "EncoderCrashed"]
        assert not batcher.healthy


async def test_a_batch_that_hangs_makes_the_server_unready_and_unalive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STUCK_SECONDS", 0.05)
    encoder = ToyEncoder()
    async with batching(encoder) as batcher:
        encoder.may_go_on.clear()
        hanging = asyncio.create_task(batcher.encode(["text"], seconds=0.3))
        await until(lambda: batcher.lost and not batcher.healthy)
        with pytest.raises(DeadlineExceeded):
            await hanging
