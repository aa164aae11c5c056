"""Several front ends over one engine answer as one server does, whichever of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.server.conftest import Served, start, stop
from tests.server.toy import LIMIT, POISON, ToyEncoder, batching, some_leave, vector_of

from serinus_server.batching import Batcher
from serinus_server.edge import EdgeState
from serinus_server.engine_line import EngineLine, connect
from serinus_server.errors import DeadlineExceeded, EncoderCrashed, EncoderFailed, Overloaded
from serinus_server.front_ends import front_ends
from serinus_server.front_line import Shared, listening
from serinus_server.observing import Observer, Prediction


class Keeping:
    def __init__(self) -> None:
        self.kept: list[Prediction] = []

    def observe(self, predictions: list[Prediction]) -> None:
        self.kept += predictions


@asynccontextmanager
async def lines(
    encoder: ToyEncoder, folder: Path, count: int = 2, observers: tuple[Observer, ...] = (), **limits: float
) -> AsyncIterator[tuple[Batcher, list[EngineLine]]]:
    """A batcher and `count` lines to it, over a real socket."""
    async with batching(encoder, **limits) as batcher:
        shared = Shared(batcher, batcher._telemetry, observers, "engine", False, encoder.dim, None)
        async with listening(folder / "line", shared):
            fronts = [
                await connect(folder / "line", EdgeState(), encoder.tokenize, encoder.dim, "a") for _ in range(count)
            ]
            yield batcher, fronts
            for front in fronts:
                await front.close()


async def test_ten_thousand_over_two_lines_each_get_their_own_vectors_once_while_others_leave(tmp_path: Path) -> None:
    rng, encoder = random.Random(6), ToyEncoder()
    vocabulary = ["x" * length for length in range(LIMIT + 9)] + [f"text {number}" for number in range(300)]
    answered = 0

    async def ask(front: EngineLine, texts: list[str]) -> None:
        nonlocal answered
        encoded = await front.encode(texts)
        assert np.array_equal(
            encoded.vectors, np.stack([vector_of(tokens) for tokens in encoder.tokenize(texts)]).astype(np.float32)
        )
        answered += 1

    async with lines(encoder, tmp_path) as (batcher, fronts):
        tasks = [
            asyncio.create_task(ask(rng.choice(fronts), rng.choices(vocabulary, k=rng.choice((1, 1, 1, 5)))))
            for _ in range(10_000)
        ]
        await asyncio.sleep(0)
        left = await some_leave(tasks, rng)
        assert answered == 10_000 - left
        async with asyncio.timeout(10):
            while batcher._telemetry.queue_tokens._value.get():  # noqa: ASYNC110 - those who left are still being dropped
                await asyncio.sleep(0.01)
        assert all(not front._waiting for front in fronts)


async def test_refusals_and_failures_cross_the_line_as_what_they_are(tmp_path: Path) -> None:
    encoder = ToyEncoder(lanes=1)
    async with lines(encoder, tmp_path, queue_tokens=100) as (_, [front, other]):
        with pytest.raises(EncoderFailed, match="could not be encoded"):
            await front.encode([chr(POISON)])
        encoder.may_go_on.clear()
        waiting = [asyncio.create_task(each.encode(["x" * 40])) for each in (front, other)]
        await asyncio.sleep(0.1)
        with pytest.raises(Overloaded) as refused:
            await front.encode(["x" * 40])
        assert refused.value.retry_after_seconds >= 1
        with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
            await other.encode(["late"], seconds=0.05)
        encoder.may_go_on.set()
        await asyncio.gather(*waiting)


async def test_an_engine_that_goes_fails_whoever_waits_at_once_and_readiness(tmp_path: Path) -> None:
    encoder = ToyEncoder(lanes=1)
    async with lines(encoder, tmp_path) as (_, [front, other]):
        encoder.may_go_on.clear()
        waiting = [asyncio.create_task(each.encode([text])) for each in (front, other) for text in ("a", "b")]
        await asyncio.sleep(0.1)
        for each in (front, other):
            assert each._transport is not None
            each._transport.abort()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {EncoderCrashed}
        assert not front.healthy
        with pytest.raises(EncoderCrashed):
            await front.encode(["a"])


async def test_one_set_of_books_holds_what_all_front_ends_tell(tmp_path: Path) -> None:
    keeping = Keeping()
    encoder = ToyEncoder()
    async with lines(encoder, tmp_path, observers=(keeping,)) as (batcher, fronts):  # type: ignore[arg-type]
        names = {f"{front._state.instance}-{next(front._state.requests)}" for front in fronts}
        assert len(names) == 2
        for front in fronts:
            assert front.observers == (front,)
            vector = (await front.encode(["ab"])).vectors[0]
            front.answered("/predict", 200, 0.01)
            front.passed_on(409)
            front.pinned()
            front.mirrored("sent")
            front.observe([Prediction("r", 0, "space", 3, 2, 0.01, None, vector, "ab", "mine")])
        await asyncio.sleep(0.2)
        telemetry = batcher._telemetry
        assert telemetry.requests.labels("/predict", "200")._value.get() == 2
        assert telemetry.forwarded.labels("409")._value.get() == 2
        assert telemetry._pinned._value.get() == telemetry._mirrored.labels("sent")._value.get() == 2
        assert [(each.text, each.document_id, each.tokens) for each in keeping.kept] == [(None, "mine", 3)] * 2
        assert np.array_equal(keeping.kept[0].vector, vector_of([0, *map(ord, "ab")]))


async def test_a_tokenizer_that_fails_in_a_front_end_makes_that_one_unready(tmp_path: Path) -> None:
    encoder = ToyEncoder()
    async with lines(encoder, tmp_path, count=1) as (_, [front]):
        encoder.tokenizer_raises = RuntimeError("Already borrowed")
        with pytest.raises(EncoderFailed, match="tokenised"):
            await front.encode(["a"])
        async with asyncio.timeout(5):
            while front.healthy:  # noqa: ASYNC110 - there is no event for tests
                await asyncio.sleep(0.01)
        encoder.tokenizer_raises = None
        async with asyncio.timeout(5):
            while not front.healthy:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("asked", "cores", "gpu", "count"),
    [(0, 2, False, 1), (0, 16, False, 1), (0, 17, False, 2), (0, 64, False, 4), (0, 2, True, 1), (0, 16, True, 8),
     (0, 192, True, 8), (3, 2, False, 3), (1, 64, True, 1)],
)  # fmt: skip
def test_front_ends_by_cores_and_device(asked: int, cores: int, gpu: bool, count: int) -> None:
    assert front_ends(asked, cores, gpu) == count


@pytest.fixture(scope="module")
def several(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("several")
    served = start(
        packaged, folder / "server.log", SERINUS_WORKERS="2", SERINUS_DRAIN_SECONDS="1", SERINUS_BACKEND="onnx",
        SERINUS_PREDICTION_LOG=f"jsonl:{folder / 'log.jsonl'}",
    )  # fmt: skip
    served.wait_ready()
    yield served
    if served.process.poll() is None:
        stop(served)


def children(served: Served) -> list[int]:
    pid = served.process.pid
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def engine_and_fronts(served: Served) -> tuple[int, list[int]]:
    """In the order of their start, behind multiprocessing's resource tracker."""
    _, engine, *fronts = sorted(children(served))
    return engine, fronts


def answered(served: Served) -> float:
    shown = httpx.get(f"{served.url}/metrics", timeout=10).text
    line = next(
        line for line in shown.splitlines() if line.startswith('serinus_requests_total{code="200",route="/predict"}')
    )
    return float(line.split()[-1])


@pytest.mark.model
def test_a_front_end_that_is_killed_is_started_again_and_nothing_is_counted_twice_or_lost(several: Served) -> None:
    for number in range(40):  # a connection each: both front ends answer some
        answer = httpx.post(f"{several.url}/predict", json={"inputs": f"text {number}"}, timeout=10)
        assert answer.status_code == 200
        assert answer.headers["x-embedding-space"]
    time.sleep(0.3)
    assert answered(several) == 40
    engine, fronts = engine_and_fronts(several)
    assert len(fronts) == 2
    os.kill(fronts[0], signal.SIGKILL)
    ends_at = time.monotonic() + 20
    while len(engine_and_fronts(several)[1]) < 2 or fronts[0] in children(several):
        assert time.monotonic() < ends_at
        with contextlib.suppress(httpx.HTTPError):  # a connection that the dead one had accepted
            httpx.post(f"{several.url}/predict", json={"inputs": "a text"}, timeout=10)
        time.sleep(0.1)
    assert engine_and_fronts(several)[0] == engine
    assert answered(several) >= 40
    assert httpx.get(f"{several.url}/readyz", timeout=10).status_code == 200
    for path in ("/info", "/livez", "/openapi.json", "/v1/models", "/v2/models/model/ready"):
        assert httpx.get(f"{several.url}{path}", timeout=10).status_code == 200
    assert httpx.get(f"{several.url}/nowhere", timeout=10).status_code == 404


@pytest.mark.model
def test_an_engine_that_is_killed_answers_503_to_whoever_waits_and_the_server_exits(
    several: Served, corpus: list[str]
) -> None:
    answers: list[object] = []

    def ask(number: int) -> None:
        try:
            answers.append(
                httpx.post(
                    f"{several.url}/predict", json={"inputs": corpus[number : number + 60]}, timeout=30
                ).status_code
            )
        except httpx.HTTPError as error:
            answers.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.15)
    os.kill(engine_and_fronts(several)[0], signal.SIGKILL)
    for thread in threads:
        thread.join(40)
    assert set(answers) <= {200, 503}
    assert 503 in answers
    with contextlib.suppress(httpx.HTTPError):
        assert httpx.get(f"{several.url}/readyz", timeout=5).status_code == 503
    assert several.process.wait(20) == 1
    assert "the engine died" in several.log.read_text()


@pytest.mark.model
def test_sigterm_drains_all_front_ends_then_the_engine_and_writes_the_log(packaged: Path, tmp_path: Path) -> None:
    served = start(
        packaged, tmp_path / "server.log", SERINUS_WORKERS="2", SERINUS_DRAIN_SECONDS="1", SERINUS_BACKEND="onnx",
        SERINUS_PREDICTION_LOG=f"jsonl:{tmp_path / 'log.jsonl'}",
    )  # fmt: skip
    served.wait_ready()
    ids = []
    for _ in range(10):
        ids.append(httpx.post(f"{served.url}/predict", json={"inputs": "a text"}, timeout=10).headers["x-request-id"])
    served.process.terminate()
    ends_at = time.monotonic() + 5
    while httpx.get(f"{served.url}/readyz", timeout=5).status_code == 200:
        assert time.monotonic() < ends_at
        time.sleep(0.05)
    answer = httpx.post(f"{served.url}/predict", json={"inputs": "a text"}, timeout=10)
    ids.append(answer.headers["x-request-id"])
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert served.process.wait(30) == 0, served.log.read_text()
    logged = (tmp_path / "log.jsonl").read_text()
    assert all(f'"request":{each.partition("-")[2]}' in logged for each in ids), served.log.read_text()
