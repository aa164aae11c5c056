"""Prometheus at the wire: answers every query with what a test says, and what the operator's own queries would find of pods."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from serinus_contract.metrics import COMPARED_LATENCIES_SECONDS
from serinus_operator.gates.windows import Reading
from serinus_operator.prometheus import Prometheus

AT = datetime(2026, 1, 1, tzinfo=UTC)
RELEASE = ("default", "embedder")


class StandIn:
    """Answers `/api/v1/query` with what `answer` makes of the parameters: a status and a body. `asked` are the parameters so far."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, str]], tuple[int, str]] = lambda _: (200, vector())
        self.seconds = 0.0  # before it answers
        self.trickles = ""  # "head" or "body": from there on a byte every 50 ms
        self.asked: list[dict[str, str]] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                stand_in.asked.append(asked)
                time.sleep(stand_in.seconds)
                status, body = stand_in.answer(asked)
                if stand_in.trickles:
                    self.trickle(body)
                    return
                self.send_response(status)
                self.send_header("content-length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def trickle(self, body: str) -> None:
                head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n"
                at_once, slowly = ("", head + body) if stand_in.trickles == "head" else (head, body)
                self.wfile.write(at_once.encode())
                for each in slowly:
                    self.wfile.write(each.encode())
                    time.sleep(0.05)

            def log_message(self, *_: Any) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the operator did not wait
                    super().handle()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def vector(*series: dict[str, Any], **more: Any) -> str:
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": list(series)}, **more})


def one(value: str, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [AT.timestamp(), value]}


def of(kind: str, result: Any) -> str:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}})


def error(kind: str, text: str) -> str:
    return json.dumps({"status": "error", "errorType": kind, "error": text})


def counted(query: str, *, bounds: bool = True, **pods: dict[str, float]) -> str:
    """Answers one of the snapshot's queries for these pods: revision → counter → value."""
    counters = {
        'code=~"5..': "errors", "requests_total": "requests", "duration_seconds_sum": "seconds", "duration_seconds_count": "answered",
        "confidence_sum": "confidence", "confidence_count": "texts", "low_confidence": "low", "input_out": "inputs",
        "embedding_out": "embeddings", "ready_at": "ready", "_bucket": "buckets",
        "input_tokens_sum": "tokens",
    }  # fmt: skip
    name = next(counter for part, counter in counters.items() if part in query)
    series = []
    for revision, values in pods.items():
        labels = {
            "namespace": RELEASE[0], "pod": f"pod-{revision}", "serinus_dev_release": RELEASE[1], "serinus_dev_revision": revision,
        }  # fmt: skip
        if name == "buckets" and values.get("own_buckets"):
            series += [one(str(values["answered"]), **labels, le=le) for le in ("0.3", "3", "+Inf")]
        elif name == "buckets" and "answered" in values:
            limits = [str(limit) for pair in COMPARED_LATENCIES_SECONDS for limit in pair] + ["+Inf"]
            series += [one(str(values["answered"]), **labels, le=le) for le in limits]
        elif name in values:
            series.append(one(str(values[name]), **labels))
    return vector(*series)


async def read(stand_in: StandIn, at: datetime, **pods: dict[str, float]) -> Reading:
    stand_in.answer = lambda asked: (200, counted(asked["query"], **pods))
    return (await Prometheus(stand_in.url, 5).snapshot(at)).get(RELEASE, {})
