"""The prediction log in ClickHouse: down, slow and hanging, under the recorder and under a whole server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from tests.server.clickhouse import Server, clickhouse
from tests.server.conftest import start, stop
from tests.server.recording import asked, counted, eventually, prediction, recorder

pytestmark = pytest.mark.integration
__all__ = ["clickhouse"]


async def test_clickhouse_down_loses_nothing_and_has_the_rows_when_it_is_back(clickhouse: Server) -> None:
    sink = f"clickhouse://serinus:secret@127.0.0.1:{clickhouse.server_port}/default"
    clickhouse.up = False
    log = recorder(sink)
    log.observe([prediction(number) for number in range(100)])
    await asyncio.sleep(1.5)
    assert counted(log)["written"] == 0
    clickhouse.up = True
    await eventually(log, written=100)
    await log.close()
    (version,) = await asked(sink, "versions")
    assert version["texts"] == 100


async def test_clickhouse_that_is_slow_costs_counted_drops_and_is_used_again_within_10_s(clickhouse: Server) -> None:
    log = recorder(f"clickhouse://serinus:secret@127.0.0.1:{clickhouse.server_port}/default", queue_rows=1000)
    log.observe([prediction(0)])
    await eventually(log, written=1)
    clickhouse.seconds = 7.0  # a call is given 5
    for first in range(1, 2001, 100):
        log.observe([prediction(first + number) for number in range(100)])
        await asyncio.sleep(0.05)
    assert counted(log) == {"written": 1, "dropped": 1000, "queue_rows": 1000}
    await asyncio.sleep(6)
    clickhouse.seconds, asked_before, ends_at = 0.0, clickhouse.asked, time.monotonic() + 10
    while clickhouse.asked == asked_before:
        assert time.monotonic() < ends_at
        await asyncio.sleep(0.1)
    await eventually(
        log, deadline_seconds=60, written=1001, dropped=1000, queue_rows=0
    )  # each statement starts a chDB here
    await log.close()


@pytest.mark.model
async def test_clickhouse_that_hangs_fails_no_prediction_and_every_row_is_written_dropped_or_waiting(
    packaged: Path, tmp_path: Path, clickhouse: Server
) -> None:
    clickhouse.seconds = 20.0
    sink = f"clickhouse://serinus:secret@127.0.0.1:{clickhouse.server_port}/default"
    room = {"SERINUS_PREDICTION_LOG_QUEUE_ROWS": "100", "SERINUS_DRAIN_SECONDS": "0"}
    served = start(packaged, tmp_path / "server.log", SERINUS_PREDICTION_LOG=sink, **room)
    served.wait_ready()

    def rows() -> dict[str, float]:
        lines = httpx.get(f"{served.url}/metrics", timeout=10).text.splitlines()
        shown = (line.removeprefix("serinus_prediction_log_").split() for line in lines if not line.startswith("#"))
        return {
            each[0]: float(each[1]) for each in shown if each[0] in ("written_total", "dropped_total", "queue_rows")
        }

    async with httpx.AsyncClient(timeout=30) as client:
        asking = (client.post(f"{served.url}/predict", json={"inputs": f"text {number}"}) for number in range(300))
        answers = await asyncio.gather(*asking)
    assert {answer.status_code for answer in answers} == {200}
    assert rows() == {"written_total": 0, "dropped_total": 200, "queue_rows": 100}
    clickhouse.seconds = 0.0
    ends_at = time.monotonic() + 60  # each statement starts a chDB here
    while rows() != {"written_total": 100, "dropped_total": 200, "queue_rows": 0}:
        assert time.monotonic() < ends_at, rows()
        await asyncio.sleep(0.2)
    assert stop(served) == 0, served.log.read_text()
