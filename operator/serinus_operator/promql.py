"""Asks Prometheus what a user's own query says. Users choose these queries, so each is short-lived, small, and few run at once.

The namespace of the release goes along as a parameter of that name. Prometheus itself ignores it; a proxy that enforces a label by such a
parameter (prom-label-proxy) keeps a query to its own namespace. Without one a query may read every series of this Prometheus.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Final

import aiohttp

from serinus_operator.gates.queries import Measurement, Said, measurement_of

SWITCHED_OFF: Final = "off"
_QUERY_SECONDS: Final = 10.0
_AT_ONCE: Final = 4
_MOST_BYTES: Final = 1_000_000
_MOST_SERIES: Final = 2  # one is needed; a second one tells that there are too many


class Queries:
    """One place to ask, of which the rest of the operator is independent: it has its own connections and its own limits."""

    def __init__(self, url: str, seconds: float = _QUERY_SECONDS) -> None:
        self._url, self._seconds = url, seconds
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def measure(self, query: str, namespace: str, at: datetime) -> Measurement:
        """What the query says at the instant `at`. Does not raise: what goes wrong is UNREADABLE, with the reason."""
        if self._url == SWITCHED_OFF:
            return Measurement(Said.UNREADABLE, problem="the administrator of this operator has switched promQL off")
        try:
            async with asyncio.timeout(self._seconds), self._free:
                return await self._ask(query, namespace, at)
        except TimeoutError:
            return Measurement(Said.UNREADABLE, problem=f"no answer within {self._seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Measurement(Said.UNREADABLE, problem=f"Prometheus: {type(error).__name__}: {str(error)[:200]}")

    async def _ask(self, query: str, namespace: str, at: datetime) -> Measurement:
        parameters = {
            "query": query,
            "time": str(at.timestamp()),
            "timeout": f"{self._seconds:g}s",
            "limit": str(_MOST_SERIES),
            "namespace": namespace,
        }
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self._url}/api/v1/query", params=parameters) as answer,
        ):
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > _MOST_BYTES:
                    return Measurement(Said.UNREADABLE, problem=f"the answer has more than {_MOST_BYTES} bytes")
            return read(bytes(body), answer.status)


def read(body: bytes, status: int) -> Measurement:
    """What an answer of Prometheus says. Does not raise."""
    try:
        return measurement_of(json.loads(body))
    except (ValueError, RecursionError):
        return Measurement(Said.UNREADABLE, problem=f"Prometheus answers {status}, and no JSON")
