"""A recorder of predictions in tests, what it has counted, and its log asked as people ask it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np

from serinus_server.observing import Prediction
from serinus_server.prediction_log.recorder import LogSettings, Recorder

SERVED = {"release": "embedder", "revision": "abc12", "model_version": "7"}
VECTOR = np.full(4, 0.5, dtype=np.float32)


def prediction(number: int, **changes: Any) -> Prediction:
    fields: dict[str, Any] = {
        "request_id": f"a1b2c3d4-{number}", "index": 0, "space": "space-1", "tokens": 12, "characters": 50 + number % 7,
        "latency_seconds": 0.009 + number % 100 / 1e4, "confidence": 0.9, "vector": VECTOR, "text": f"text {number}",
    }  # fmt: skip
    return Prediction(**{**fields, **changes})


def recorder(sink: str, **settings: Any) -> Recorder:
    return Recorder(LogSettings(sink, flush_seconds=0.3, **settings), "a1b2c3d4", SERVED, time.time)


def counted(recorder: Recorder) -> dict[str, float]:
    return {
        metric.name.removeprefix("serinus_prediction_log_"): metric.samples[0].value for metric in recorder.collect()
    }


async def eventually(recorder: Recorder, deadline_seconds: float = 30, **wanted: float) -> None:
    ends_at = time.monotonic() + deadline_seconds
    while not wanted.items() <= counted(recorder).items():
        assert time.monotonic() < ends_at, counted(recorder)
        await asyncio.sleep(0.05)


def query(sink: str, *arguments: str) -> list[dict[str, Any]]:
    """`serinus-server log query`, as people run it."""
    command = [sys.executable, "-m", "serinus_server", "log", "query", "--prediction-log", sink, "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


async def asked(sink: str, *arguments: str) -> list[dict[str, Any]]:
    return await asyncio.to_thread(query, sink, *arguments)
