"""The recorder, the writer's real process, and the sinks that are files: chDB and JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from tests.server.conftest import start, stop
from tests.server.recording import asked, counted, eventually, prediction, query, recorder

from serinus_server.prediction_log.recorder import LogSettings
from serinus_server.prediction_log.sinks import ClickHouseTarget, parse_target


@pytest.mark.integration
async def test_what_was_predicted_is_found_while_it_is_written_and_after(tmp_path: Path) -> None:
    sink = f"chdb:{tmp_path}"
    log = recorder(sink, embedding_share=1.0)
    log.observe([prediction(number) for number in range(300)])
    log.observe([prediction(0, request_id="mine", document_id="doc-9", latency_seconds=3.0, confidence=None)])
    await eventually(log, written=301)
    (slowest,) = await asked(sink, "slowest", "--limit", "1")
    assert (slowest["request_id"], slowest["document_id"], slowest["latency_ms"]) == ("mine", "doc-9", 3000)
    assert slowest["confidence_of_1"] is None
    await log.close()
    (version,) = await asked(sink, "versions")
    assert (version["release"], version["model_version"], version["texts"]) == ("embedder", "7", 301)
    (confidence,) = await asked(sink, "confidence", "--every", "1d")
    assert confidence["mean"] == pytest.approx(0.9, abs=1e-3)
    own = "SELECT max(request_id) AS id, countIf(text = '') AS textless, any(embedding) AS embedding FROM {table}"
    (row,) = await asked(sink, "--sql", own)
    assert row == {"id": "mine", "textless": 301, "embedding": [64, 64, 64, 64]}
    (minute,) = await asked(
        sink, "--sql", "SELECT sum(texts) AS texts, max(slowest_us) AS us FROM predictions_by_minute"
    )
    assert minute == {"texts": 301, "us": 3_000_000}


@pytest.mark.integration
async def test_a_file_of_json_lines_answers_the_same_questions(tmp_path: Path) -> None:
    sink = f"jsonl:{tmp_path / 'log' / 'predictions.jsonl'}"
    log = recorder(sink, texts=True)
    log.observe([prediction(number) for number in range(300)])
    await log.close()
    for question in ("versions", "latency", "confidence", "lengths", "low-confidence"):
        assert await asked(sink, question), question
    assert await asked(sink, "gaps") == []
    (row,) = await asked(sink, "--sql", "SELECT text, release FROM {table} WHERE request = 7")
    assert row == {"text": "text 7", "release": "embedder"}
    human = [sys.executable, "-m", "serinus_server", "log", "query", "lengths", "--prediction-log", sink]
    run = partial(subprocess.run, human, capture_output=True, text=True, timeout=60)
    shown = (await asyncio.to_thread(run)).stdout
    assert "Input lengths, by version over time" in shown
    assert "tokens p90" in shown


async def test_a_full_sink_fails_nothing_counts_drops_and_is_used_again_within_10_s(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    file.symlink_to("/dev/full")
    log = recorder(f"jsonl:{file}", queue_rows=1000)
    for first in range(0, 3000, 100):
        log.observe([prediction(first + number) for number in range(100)])
        await asyncio.sleep(0)
    assert counted(log) == {"written": 0, "dropped": 2000, "queue_rows": 1000}
    await asyncio.sleep(1.5)
    file.unlink()  # room again
    await eventually(log, deadline_seconds=10, written=1000, dropped=2000, queue_rows=0)
    log.observe([prediction(3000)])
    await log.close()
    (gap,) = await asked(f"jsonl:{file}", "gaps")
    assert (gap["rows"], gap["missing"]) == (1000, 2000)


async def test_a_sink_that_hangs_delays_nothing(tmp_path: Path) -> None:
    log = recorder(f"jsonl:{tmp_path / 'rows'}", queue_rows=1000)
    log.observe([prediction(0)])
    await eventually(log, written=1)
    writer = await asyncio.to_thread(writer_of, os.getpid())
    os.kill(writer, signal.SIGSTOP)
    began = time.monotonic()
    for number in range(1, 3001):
        log.observe([prediction(number)])
        await asyncio.sleep(0)
    assert time.monotonic() - began < 5
    assert counted(log) == {"written": 1, "dropped": 2000, "queue_rows": 1000}
    os.kill(writer, signal.SIGCONT)
    await eventually(log, deadline_seconds=10, written=1001)
    await log.close()


async def test_a_folder_that_cannot_be_written_is_used_once_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.write_text("a file where the folder should be")
    log = recorder(f"chdb:{folder}")
    log.observe([prediction(number) for number in range(10)])
    await asyncio.sleep(2)
    assert counted(log) == {"written": 0, "dropped": 0, "queue_rows": 10}
    folder.unlink()
    await eventually(log, deadline_seconds=10, written=10)
    await log.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, timeout=20).returncode != 0:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=20)


def fill(folder: Path) -> None:
    """Leaves no room."""
    with (folder / "filler").open("ab", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))


@pytest.mark.integration
@pytest.mark.parametrize("sink", ["chdb:{}/log", "jsonl:{}/log/rows"])
async def test_a_disk_that_is_full_or_read_only_costs_counted_drops_and_is_used_again_within_10_s(
    small_disk: Path, sink: str
) -> None:
    log, number = recorder(sink.format(small_disk), queue_rows=2000), 0
    log.observe([prediction(0)])
    await eventually(log, written=1)

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True, timeout=20)

    faults = [(partial(fill, small_disk), (small_disk / "filler").unlink)]
    if sink.startswith("jsonl"):  # no file system becomes read-only while chDB has files of it open
        faults.append((partial(remount, "ro"), partial(remount, "rw")))
    for break_it, repair in faults:
        dropped = counted(log)["dropped"]
        await asyncio.to_thread(break_it)
        for _ in range(60):
            if break_it.func is fill:
                await asyncio.to_thread(break_it)  # merges give room back
            log.observe([prediction(number := number + 1) for _ in range(100)])
            await asyncio.sleep(0.02)
        now = counted(log)
        assert now["dropped"] > dropped
        assert sum(now.values()) == number + 1
        await asyncio.to_thread(repair)
        await eventually(log, deadline_seconds=10, dropped=now["dropped"], queue_rows=0)
    await log.close()
    (found,) = await asked(
        sink.format(small_disk), "--sql", "SELECT count() AS rows, uniqExact(request) AS requests FROM {table}"
    )
    assert found["rows"] == found["requests"] == counted(log)["written"] == number + 1 - counted(log)["dropped"]


@pytest.mark.integration
async def test_a_killed_writer_loses_nothing_and_writes_nothing_twice(tmp_path: Path) -> None:
    log = recorder(f"chdb:{tmp_path}")
    taken = 0
    for attempt in range(3):
        for _ in range(20):
            log.observe([prediction(taken + number) for number in range(500)])
            taken += 500
            await asyncio.sleep(0.02)
        if attempt < 2:
            os.kill(await asyncio.to_thread(writer_of, os.getpid()), signal.SIGKILL)
    await eventually(log, written=taken, dropped=0)
    await log.close()
    (found,) = await asked(
        f"chdb:{tmp_path}", "--sql", "SELECT count() AS rows, uniqExact(request) AS requests FROM {table}"
    )
    assert found == {"rows": taken, "requests": taken}


def writer_of(parent: int) -> int:
    """The writer's process, once it runs."""
    ends_at = time.monotonic() + 20
    while time.monotonic() < ends_at:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent and b"prediction_log.writer" in (stat.parent / "cmdline").read_bytes():
                    return int(stat.parent.name)
            except OSError:
                continue
        time.sleep(0.05)
    raise AssertionError("no writer")


def test_a_killed_server_loses_at_most_one_batch(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    code = (
        "import asyncio, sys; from tests.server.recording import prediction, recorder\n"
        "async def main():\n"
        "    log = recorder(sys.argv[1])\n"
        "    for number in range(10**9):\n"
        "        log.observe([prediction(number)]); await asyncio.sleep(0)\n"
        "        if number % 1000 == 0: print(number, flush=True)\n"
        "asyncio.run(main())"
    )
    command = [sys.executable, "-c", code, f"jsonl:{file}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as server:
        assert server.stdout is not None
        taken = 0
        while taken < 35_000:
            taken = int(server.stdout.readline())
        server.kill()
        taken = max([taken, *(int(line) for line in server.stdout.read().split())])
    ends_at = time.monotonic() + 20
    lines = -1
    while (now := file.read_bytes().count(b"\n") if file.exists() else 0) != lines or not lines:
        lines = now
        assert time.monotonic() < ends_at
        time.sleep(0.7)
    assert taken - 10_000 <= lines <= taken + 1000


@pytest.mark.parametrize(
    ("sink", "named"),
    [
        ("chdb", "not 'chdb'"),
        ("kafka:topic", "chdb:FOLDER, clickhouse://"),
        ("clickhouse://user:secret@/db", "names no host"),
        ("clickhouse://user:secret@host:99999/db", "Port out of range"),
        ("chdb:/" + "long/" * 30, "too long"),
    ],
)
def test_a_sink_that_cannot_be_meant_is_refused_without_its_password(sink: str, named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)) as refused:
        LogSettings(sink)
    assert "secret" not in str(refused.value)


def test_a_clickhouse_url_is_read_whole() -> None:
    target = parse_target("clickhouse://me:p%40ss@db.example/logs?secure=true")
    assert target == ClickHouseTarget("db.example", 8443, "logs", "me", "p@ss", True)


def test_a_command_that_cannot_read_says_why() -> None:
    command = [sys.executable, "-m", "serinus_server", "log", "query", "--prediction-log", "jsonl:/nowhere/x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "serinus-server: /nowhere/x is no file\n"


@pytest.mark.model
def test_a_served_prediction_is_in_the_log_with_its_request_id(packaged: Path, tmp_path: Path) -> None:
    sink = f"chdb:{tmp_path / 'log'}"
    served = start(
        packaged,
        tmp_path / "server.log",
        SERINUS_PREDICTION_LOG=sink,
        SERINUS_DRAIN_SECONDS="0",
        SERINUS_RELEASE="mine",
    )
    served.wait_ready()
    texts, ids = ["An assert statement inserts assertions.", "Boil the potatoes."], {"x-document-ids": "a, b"}
    answer = httpx.post(f"{served.url}/predict", json={"inputs": texts}, headers=ids, timeout=30)
    httpx.post(f"{served.url}/v1/embeddings", json={"input": "x", "model": "m"}, timeout=30)
    assert httpx.post(f"{served.url}/predict", json={"inputs": []}, timeout=30).status_code == 422
    assert "serinus_prediction_log_queue_rows" in httpx.get(f"{served.url}/metrics", timeout=10).text
    assert stop(served) == 0, served.log.read_text()
    wanted = "SELECT request_id, document_id, characters, confidence FROM {table} ORDER BY request, item"
    first, second, third = query(sink, "--sql", wanted)
    assert first["request_id"] == second["request_id"] == answer.headers["x-request-id"] != third["request_id"]
    assert (first["document_id"], second["document_id"], second["characters"]) == ("a", "b", len(texts[1]))
    assert first["confidence"] == round(answer.json()["confidence"][0] * 65535)
    (version,) = query(sink, "versions")
    assert (version["release"], version["model_version"], version["requests"]) == ("mine", "folder", 2)


@pytest.mark.model
def test_a_log_that_cannot_be_meant_stops_the_server_before_it_loads_a_model(tmp_path: Path) -> None:
    served = start(tmp_path, tmp_path / "server.log", SERINUS_PREDICTION_LOG="kafka:topic")
    assert served.process.wait(30) == 2
    assert "the prediction log is chdb:FOLDER" in served.log.read_text()
