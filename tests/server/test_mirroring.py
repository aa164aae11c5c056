"""Copies of shared requests reach a canary of another space: marked, in proportion, at nobody's expense. The canary is real HTTP."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.server.test_http import Keeping, serving

from serinus_contract.metrics import MIRRORED_TOTAL, PINNED_TOTAL
from serinus_contract.names import HOP_HEADER, HTTP_PORT, MIRROR_HEADER, SPACE_HEADER
from serinus_server.mirroring import Mirror, by_dns, is_local
from serinus_server.prediction_log.recorder import LogSettings, Recorder
from serinus_server.telemetry import Telemetry

OURS, ANOTHER = "127.0.0.1", "127.0.0.2"
BODY = b'{"inputs": "a text"}'


@dataclass
class Canary:
    """A pod of the canary, as far as a copy can see."""

    address: str
    seen: list[tuple[str, bytes, dict[str, str]]] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def canary() -> Iterator[Canary]:
    shown = Canary(f"127.77.{os.getpid() >> 8 & 0xFF}.{os.getpid() & 0xFF or 1}")  # another run's is another one
    shown.may_answer.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            shown.seen.append((self.path, self.rfile.read(int(headers["content-length"])), headers))
            shown.may_answer.wait(20)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((shown.address, HTTP_PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield shown
    shown.may_answer.set()
    server.shutdown()
    server.server_close()


@dataclass
class Trial:
    """What the DNS says."""

    sources: Collection[str] = (OURS,)
    targets: Collection[str] = ()

    async def find(self, service: str) -> Collection[str]:
        return {"r-mirror-from": self.sources, "r-mirror-to": self.targets}[service]


@asynccontextmanager
async def mirroring(trial: Trial, telemetry: Telemetry, most_per_second: float = 1e9) -> AsyncIterator[Mirror]:
    mirror = Mirror("r", "0" * 16, trial.find, is_local(OURS), telemetry, most_per_second, look_seconds=0.05)
    mirror.start()
    mirror.offer("/predict", BODY, {}, 200)  # before a trial is known of, nothing is passed on
    await asyncio.sleep(0.2)
    try:
        yield mirror
    finally:
        await mirror.stop()


def counted(telemetry: Telemetry, outcome: str) -> float:
    return telemetry.registry.get_sample_value(MIRRORED_TOTAL, {"outcome": outcome}) or 0.0


async def all_gone(telemetry: Telemetry, copies: int) -> None:
    async with asyncio.timeout(20):
        while sum(counted(telemetry, outcome) for outcome in ("sent", "failed", "dropped")) < copies:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_copy_is_marked_and_carries_neither_pin_nor_cookies(canary: Canary) -> None:
    telemetry = Telemetry()
    async with mirroring(Trial(targets=[canary.address]), telemetry) as mirror:
        given = {b"content-type": b"application/json", SPACE_HEADER.encode(): b"0" * 16, b"cookie": b"secret"}
        mirror.offer("/v1/embeddings", BODY, given, 200)
        await all_gone(telemetry, 1)
    ((path, body, headers),) = canary.seen
    assert (path, body, headers["content-type"]) == ("/v1/embeddings", BODY, "application/json")
    assert headers[MIRROR_HEADER] == "0" * 16
    assert not {SPACE_HEADER, "cookie"} & set(headers)


async def test_a_canarys_pod_gets_what_one_of_stables_gets(canary: Canary) -> None:
    telemetry = Telemetry()
    async with mirroring(Trial([OURS, ANOTHER, "127.0.0.3", "127.0.0.4"], [canary.address]), telemetry) as mirror:
        for index in range(800):
            mirror.offer("/predict", BODY, {}, 500 if index % 2 else 200)  # also of what stable failed at
            await asyncio.sleep(0)
            if index % 50 == 0:
                await asyncio.sleep(0.05)
        await all_gone(telemetry, 140)
    assert 140 <= len(canary.seen) <= 260  # of 800 a quarter, within 5 standard deviations
    assert counted(telemetry, "dropped") == 0


@pytest.mark.parametrize(
    "trial",
    [Trial(targets=()), Trial([ANOTHER], ["127.0.0.9"]), Trial((), ["127.0.0.9"])],
    ids=["no-trial", "a-canarys-pod-or-a-retained-one", "no-source"],
)
async def test_only_stables_servers_mirror_and_only_in_a_trial(trial: Trial) -> None:
    telemetry = Telemetry()
    async with mirroring(trial, telemetry) as mirror:
        for _ in range(50):
            mirror.offer("/predict", BODY, {}, 200)
        await asyncio.sleep(0.2)
    assert [counted(telemetry, outcome) for outcome in ("sent", "failed", "dropped")] == [0, 0, 0]


async def test_copies_what_was_passed_on_and_what_was_turned_away_are_not_copied(canary: Canary) -> None:
    telemetry = Telemetry()
    async with mirroring(Trial(targets=[canary.address]), telemetry) as mirror:
        for header in (MIRROR_HEADER, HOP_HEADER):
            mirror.offer("/predict", BODY, {header.encode(): b"1" * 16}, 200)
        for status in (401, 413, 429, 499):
            mirror.offer("/predict", BODY, {}, status)
        mirror.offer("/predict", b"the one", {}, 200)
        await all_gone(telemetry, 1)
    assert [body for _, body, _ in canary.seen] == [b"the one"]


async def test_a_canary_that_hangs_costs_dropped_copies_and_nothing_else(canary: Canary) -> None:
    telemetry = Telemetry()
    canary.may_answer.clear()
    async with mirroring(Trial(targets=[canary.address]), telemetry) as mirror:
        for _ in range(1000):
            mirror.offer("/predict", BODY, {}, 200)
            await asyncio.sleep(0)
        assert counted(telemetry, "dropped") >= 1000 - 256 - 8
        for _ in range(10):
            mirror.offer("/predict", b"x" * 5_000_000, {}, 200)  # four megabytes may wait
        canary.may_answer.set()
        await all_gone(telemetry, 1010)
    assert len(canary.seen) <= 264
    assert b"x" * 5_000_000 not in [body for _, body, _ in canary.seen]


async def test_a_canary_that_is_gone_is_counted_and_only_so_many_copies_are_sent() -> None:
    telemetry = Telemetry()
    async with mirroring(Trial(targets=["127.0.0.9"]), telemetry, most_per_second=5) as mirror:
        for _ in range(50):
            mirror.offer("/predict", BODY, {}, 200)
        await all_gone(telemetry, 50)
    assert 5 <= counted(telemetry, "failed") <= 6


async def test_the_end_of_a_trial_ends_the_copies(canary: Canary) -> None:
    telemetry, trial = Telemetry(), Trial(targets=[canary.address])
    async with mirroring(trial, telemetry) as mirror:
        mirror.offer("/predict", BODY, {}, 200)
        await all_gone(telemetry, 1)
        trial.targets = ()
        await asyncio.sleep(0.2)
        mirror.offer("/predict", BODY, {}, 200)
        await asyncio.sleep(0.1)
    assert len(canary.seen) == 1


async def test_a_name_that_nobody_has_is_no_pod() -> None:
    find = by_dns("no-such-namespace")
    assert find is not None
    assert await find("r-mirror-to") == ()
    assert by_dns("") is None
    assert is_local("0.0.0.0")("127.0.0.1")
    assert not is_local("0.0.0.0")("192.0.2.1")


async def test_what_no_client_got_counts_for_the_gates_and_is_not_logged(tmp_path: Path) -> None:
    keeping = Keeping()
    async with serving(observers=[keeping]) as client:
        for headers in ({MIRROR_HEADER: "0" * 16}, {SPACE_HEADER: "space1"}, {}):
            assert (await client.post("/predict", json={"inputs": "a"}, headers=headers)).status_code == 200
        shown = (await client.get("/metrics")).text
    assert 'serinus_requests_total{code="200",route="/predict"} 3.0' in shown
    assert f"{PINNED_TOTAL} 1.0" in shown
    assert [each.mirrored for each in keeping.kept] == [True, False, False]
    recorder = Recorder(LogSettings(f"jsonl:{tmp_path}/rows.jsonl"), "abcd", {}, lambda: 1.0)
    for each in keeping.kept:
        recorder.observe([each])
    await recorder.close()
    assert recorder.written == 2
