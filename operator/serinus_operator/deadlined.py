"""HTTP whose reads end at an instant, however the bytes arrive: `requests` bounds each wait for the socket, not the sum of them.

A server that sends a byte now and then would otherwise hold its reader for ever. At the deadline the sockets are shut from another thread.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class DeadlinedAdapter(HTTPAdapter):
    """Within `until`, requests of the session that it is mounted on are refused after the deadline and cut off at it."""

    def __init__(self) -> None:
        self._sockets: set[socket.socket] = set()
        self._ends_at = float("inf")
        super().__init__(max_retries=0)

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """What is asked in this block ends after so many seconds, with requests.RequestException. One block at a time."""
        self._ends_at = time.monotonic() + seconds
        timer = threading.Timer(seconds, self._cut_off)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._ends_at = float("inf")

    @property
    def over(self) -> bool:
        """Has the block's time passed?"""
        return time.monotonic() >= self._ends_at

    def send(self, request: requests.PreparedRequest, *arguments: Any, **named: Any) -> requests.Response:
        """As HTTPAdapter's. Raises requests.Timeout after the deadline."""
        if self.over:
            raise requests.Timeout("there is no time left for this query")
        return super().send(request, *arguments, **named)

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        """Connections of its pools are known by their sockets."""
        super().init_poolmanager(*arguments, **named)
        opened = self._opened

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                opened(self.sock)

        class Secured(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                opened(self.sock)

        plain = type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": Plain})
        secured = type("SecuredPool", (HTTPSConnectionPool,), {"ConnectionCls": Secured})
        self.poolmanager.pool_classes_by_scheme = {"http": plain, "https": secured}

    def _opened(self, connected: socket.socket | None) -> None:
        if connected is None:
            return
        self._sockets = {each for each in self._sockets if each.fileno() >= 0} | {connected}
        if self.over:
            self._cut_off()

    def _cut_off(self) -> None:
        for each in tuple(self._sockets):
            with contextlib.suppress(OSError):  # it is closed already
                each.shutdown(socket.SHUT_RDWR)
