"""The taint ledger straight from where the log is, ClickHouse or chDB; the release from a real API server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from tests.cluster.control_plane import ControlPlane
from tests.operator.conftest import stand_in
from tests.operator.specs import with_spec
from tests.operator.stand_in import StandIn
from tests.server.clickhouse import Server, clickhouse

from serinus_operator.cli.log_rows import dropped, rows_of
from serinus_operator.cli.taint import Tainted, ledger
from serinus_server.observing import Prediction
from serinus_server.prediction_log.recorder import LogSettings, Recorder

pytestmark = pytest.mark.integration
__all__ = ["clickhouse", "stand_in"]

SERVED = {"release": "embedder", "revision": "bad", "model_version": "2"}


async def test_clickhouse_is_asked_and_dropped_rows_are_said(clickhouse: Server) -> None:
    """A process that had room for 40 rows was asked for 100 while its sink was down: 60 are missing, and counters and gaps agree."""
    source = f"clickhouse://serinus:secret@127.0.0.1:{clickhouse.server_port}/default"
    log = Recorder(LogSettings(source, queue_rows=40, flush_seconds=0.3), "p1", SERVED, time.time)
    clickhouse.up = False
    for index in range(100):
        log.observe([prediction(f"p1-{index}", f"doc-{index}")])
    clickhouse.up = True
    async with asyncio.timeout(60):
        while log.written < 40:  # noqa: ASYNC110 - the writer is another process
            await asyncio.sleep(0.1)
    log.observe([prediction("p1-100", "doc-100")])
    await log.close()
    found = ledger(await asyncio.to_thread(rows_of, source, "embedder", "bad"), "embedder", "bad")
    assert [text.document_id for text in found.texts] == [*(f"doc-{index}" for index in range(40)), "doc-100"]
    assert found.missing == 60
    assert {metric.name: metric.samples[0].value for metric in log.collect()}["serinus_prediction_log_dropped"] == 60
    assert ledger(await asyncio.to_thread(rows_of, source, "embedder", "good"), "embedder", "good").texts == ()
    clickhouse.up = False
    with pytest.raises(click.ClickException, match=r"log query: .*503"):
        await asyncio.to_thread(rows_of, source, "embedder", "bad")
    with pytest.raises(click.ClickException, match="is no name"):
        rows_of(source, "embedder", "' OR 1 = 1")


async def test_chdb_is_asked_through_the_server_that_holds_it(tmp_path: Path) -> None:
    source = f"chdb:{tmp_path}/log"
    log = Recorder(LogSettings(source, flush_seconds=0.3), "p1", SERVED, time.time)
    log.observe([prediction("p1-0", "doc-0")])
    async with asyncio.timeout(60):
        while not log.written:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    found = ledger(await asyncio.to_thread(rows_of, source, "embedder", "bad"), "embedder", "bad")
    await log.close()
    assert found.texts == (Tainted("p1-0", 0, "doc-0"),)


def test_what_prometheus_does_not_know_is_never_nothing_dropped(stand_in: StandIn) -> None:
    stand_in.answer = lambda _: (
        200,
        '{"status": "success", "data": {"resultType": "vector", "result": [{"value": [1, "60"]}]}}',
    )
    assert dropped(stand_in.url, "default", "embedder", "bad") == 60
    assert 'serinus_dev_revision="bad"' in stand_in.asked[-1]["query"]
    stand_in.answer = lambda _: (200, '{"status": "success", "data": {"resultType": "vector", "result": []}}')
    with pytest.raises(click.ClickException, match="has no counter of dropped rows"):
        dropped(stand_in.url, "default", "embedder", "bad")
    stand_in.answer = lambda _: (503, "")
    with pytest.raises(click.ClickException, match="does not tell of dropped rows"):
        dropped(stand_in.url, "default", "embedder", "bad")


async def test_the_ledger_of_a_release_on_a_real_control_plane(
    control_plane: ControlPlane, clickhouse: Server, stand_in: StandIn
) -> None:
    release = with_spec()
    release["metadata"]["name"] = "embedder"
    created = await asyncio.to_thread(control_plane.kubectl, "apply", "-f", "-", stdin=json.dumps(release))
    assert created.returncode == 0, created.stderr
    entry = {"revision": "bad", "version": "2", "result": "RolledBack", "reason": "errors: 5 % against 0.1 %",
             "startedAt": "2026-01-01T00:00:00Z", "endedAt": "2026-01-01T00:10:00Z"}  # fmt: skip
    path = "/apis/serinus.dev/v1alpha1/namespaces/default/modelreleases/embedder/status"
    code, answer = control_plane.call("PATCH", path, {"status": {"history": [entry]}}, "application/merge-patch+json")
    assert code == 200, answer
    source = f"clickhouse://serinus:secret@127.0.0.1:{clickhouse.server_port}/default"
    log = Recorder(LogSettings(source, flush_seconds=0.3), "p1", SERVED, time.time)
    for index in range(3):
        log.observe([prediction(f"p1-{index}", f"doc-{index}")])
    async with asyncio.timeout(120):
        while log.written < 3:  # noqa: ASYNC110 - the writer is another process
            await asyncio.sleep(0.1)
    await log.close()
    stand_in.answer = lambda _: (
        200,
        '{"status": "success", "data": {"resultType": "vector", "result": [{"value": [1, "7"]}]}}',
    )
    command = [
        sys.executable,
        "-m",
        "serinus_operator.cli",
        "-n",
        "default",
        "taint",
        "embedder",
        "--prometheus",
        stand_in.url,
    ]
    environment = {**os.environ, "KUBECONFIG": str(control_plane.kubeconfig), "SERINUS_PREDICTION_LOG": source}
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["p1-0", "0", "doc-0", "p1-1", "0", "doc-1", "p1-2", "0", "doc-2"]
    assert "model version 2, revision bad, RolledBack: errors: 5 % against 0.1 %" in done.stderr
    assert "0 rows of its 1 processes are missing" in done.stderr
    assert "its servers counted 7 rows as dropped" in done.stderr


def prediction(request_id: str, document_id: str) -> Prediction:
    return Prediction(request_id, 0, "space", 3, 5, 0.01, 0.9, np.zeros(4, dtype=np.float32), None, document_id)
