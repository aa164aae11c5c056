"""ClickHouse's HTTP interface, played at the wire, with chDB (the same engine) behind it."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest


class Server(ThreadingHTTPServer):
    """ClickHouse's HTTP interface in front of chDB; `up` False answers 503."""

    up = True
    seconds = 0.0  # that every answer takes
    asked = 0
    daemon_threads = True


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[Server]:
    """chDB cannot be opened twice in a process, so each statement runs in one of its own, on the same folder."""
    code = (
        "import sys; from chdb.session import Session; s = Session(sys.argv[1]); sql, fmt = sys.argv[2:4]\n"
        "data = sys.stdin.buffer.read()\n"
        "if data:\n"
        "    with s.send_insert(sql, fmt) as stream: stream.append(data); stream.finish()\n"
        "else: sys.stdout.buffer.write(s.query(sql, fmt).bytes())"
    )
    using = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            asked = parse_qs(urlsplit(self.path).query)
            server.asked += 1
            time.sleep(server.seconds)
            if select.select([self.connection], [], [], 0)[0]:
                self.close_connection = True  # the client gave up meanwhile
                return
            if not server.up:
                self.reply(503, b"down for maintenance")
                return
            head, _, data = (asked["query"][0].encode(), b"", body) if "query" in asked else self.split(body)
            sql, _, form = re.sub(r"\s+", " ", head.decode()).partition(" FORMAT ")
            with using:
                command = [sys.executable, "-c", code, str(tmp_path / "clickhouse"), sql, form.strip() or "TSV"]
                done = subprocess.run(
                    command, input=data, capture_output=True, timeout=60, env={**os.environ, "TZ": "UTC"}
                )
            self.reply(200 if done.returncode == 0 else 500, done.stdout or done.stderr[-300:])

        @staticmethod
        def split(body: bytes) -> tuple[bytes, bytes, bytes]:
            return body.partition(b"\n") if body.startswith(b"INSERT") else (body, b"", b"")

        def do_GET(self) -> None:
            self.reply(200, b"Ok.\n")

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
