"""The load: one process, keep-alive connections on 127.0.0.1, bounded in requests and time. Prints one line of JSON.

python -m tests.bench.server_load PORT --clients 32 --requests 400          closed loop: capacity
python -m tests.bench.server_load PORT --rate 50 --seconds 8 --words 16    open loop, texts of one length: latency
--leave 0.05: of the open loop's requests that share is left by its client before the answer. --openai: another server's route.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable

import orjson
import uvloop
from examples.sentences import sentences

_LIMIT_SECONDS = 120.0


class Connection:
    """One keep-alive connection, opened again when the server closes it as it may."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes, *, leave: bool = False) -> None:
        """One request and its whole answer, unless it is left. Raises RuntimeError when that is no 200 with a vector in it."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"POST {self._path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        if leave:
            await writer.drain()
            writer.close()
            self._streams = None
            return
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        if b" 200 " not in answer[:20] or length < 1000:
            raise RuntimeError(f"no answer with a vector: {answer[:200]!r}")
        if b"connection: close" in answer:
            writer.close()
            self._streams = None


async def closed_loop(
    new: Callable[[], Connection], clients: int, requests: int, body: Callable[[], bytes]
) -> list[float]:
    """Seconds of each request; each client sends its next one when it has its answer."""
    left = iter(range(requests))
    seconds: list[float] = []

    async def client() -> None:
        connection = new()
        for _ in left:
            began = time.perf_counter()
            await connection.post(body())
            seconds.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(clients)))
    return seconds


async def open_loop(
    new: Callable[[], Connection], rate: float, duration: float, body: Callable[[], bytes], leaving: float = 0.0
) -> list[float]:
    """Seconds of each request, counted from when it was due: a slow answer delays nobody's departure."""
    idle: list[Connection] = []
    seconds: list[float] = []

    async def one(due: float) -> None:
        connection = idle.pop() if idle else new()
        leave = random.random() < leaving
        await connection.post(body(), leave=leave)
        if not leave:
            seconds.append(time.perf_counter() - due)
        idle.append(connection)

    began = time.perf_counter()
    tasks = []
    for number in range(int(rate * duration)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rate", type=float, help="requests/s of an open loop")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long the open loop lasts")
    parser.add_argument("--words", type=int, help="one length: texts of so many words")
    parser.add_argument("--leave", type=float, default=0.0, help="share of the open loop's clients that leave")
    parser.add_argument("--openai", metavar="PATH", help="this route, with OpenAI's body")
    arguments = parser.parse_args()
    texts = sentences()
    random.Random(7).shuffle(texts)
    if arguments.words:
        texts = [" ".join((text.split() * arguments.words)[: arguments.words]) for text in texts]
    path = arguments.openai or "/predict"
    bodies = [orjson.dumps({"model": "m", "input": text} if arguments.openai else {"inputs": text}) for text in texts]
    numbers = iter(range(10**9))

    def body() -> bytes:
        return bodies[next(numbers) % len(bodies)]

    def new() -> Connection:
        return Connection(arguments.port, path)

    async def load() -> list[float]:
        if arguments.rate:
            work = open_loop(new, arguments.rate, arguments.seconds, body, arguments.leave)
        else:
            work = closed_loop(new, arguments.clients, arguments.requests, body)
        return await asyncio.wait_for(work, _LIMIT_SECONDS)

    began = time.perf_counter()
    seconds = sorted(uvloop.run(load()))
    wall = time.perf_counter() - began
    line = {
        "requests": len(seconds),
        "per_second": len(seconds) / wall,
        "p50_ms": 1e3 * seconds[len(seconds) // 2],
        "p99_ms": 1e3 * seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))],
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
