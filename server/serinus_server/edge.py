"""What every request passes first and every answer last: limits, identity headers, errors to statuses, metrics, drain, connection age.

kube-proxy balances connections, not requests: a keep-alive pool that is never closed never meets a new pod. So a connection that has
reached its age, and every connection while draining, is closed with the answer it is owed.
"""

from __future__ import annotations

import itertools
import logging
import random
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serinus_contract.names import REQUEST_ID_HEADER
from serinus_server.errors import STATUS, Overloaded, TooLarge
from serinus_server.settings import Settings
from serinus_server.telemetry import HOT_ROUTES, Telemetry

_AGE_SPREAD = 0.1
_MAX_ID_CHARACTERS = 128
_KNOWN_CONNECTIONS = 10_000

log = logging.getLogger(__name__)


@dataclass(slots=True)
class EdgeState:
    """Shared with the process: draining is set by SIGTERM. Request ids are `instance`, which names the process, and a number."""

    draining: bool = False
    instance: str = field(default_factory=lambda: secrets.token_hex(4))
    requests: Iterator[int] = field(default_factory=itertools.count)
    closes_at: dict[tuple[str, int], float] = field(default_factory=dict)


class Edge:
    """ASGI middleware around the whole app."""

    def __init__(
        self, app: ASGIApp, settings: Settings, telemetry: Telemetry, state: EdgeState, headers: Mapping[str, str]
    ) -> None:
        self._app, self._settings, self._telemetry, self._state = app, settings, telemetry, state
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _given_id(scope) or f"{self._state.instance}-{next(self._state.requests)}"
        scope.setdefault("state", {}).update(request_id=request_id, began=began)
        headers = [*self._headers, (REQUEST_ID_HEADER.encode(), request_id.encode())]
        if self._is_due(scope):
            headers.append((b"connection", b"close"))
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = message.get("headers", [])
                named = {name for name, _ in given}  # a neighbour's answer names the model and the space that gave it
                message["headers"] = [*given, *(header for header in headers if header[0] not in named)]
            await send(message)

        try:
            await self._app(scope, self._bounded(scope, receive), send_with_headers)
        except Exception:  # Starlette has answered 500 by now; the fault is logged with its request
            log.exception("request %s failed", request_id)
        if scope["state"].get("forwarded"):  # another revision's time and faults are not this one's
            self._telemetry.forwarded.labels(str(status)).inc()
        elif scope["path"] in HOT_ROUTES and status:
            self._telemetry.requests.labels(scope["path"], str(status)).inc()
            if status < 300:
                self._telemetry.duration.labels(scope["path"]).observe(time.perf_counter() - began)

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """The request's body, refused as soon as it is known to be too large: by its header, or while it streams in."""
        limit, received = self._settings.max_body_bytes, 0
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        too_large = TooLarge(f"the body is over {limit} bytes")

        async def bounded() -> Message:
            nonlocal received
            if declared.isdigit() and int(declared) > limit:
                raise too_large
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise too_large
            return message

        return bounded

    def _is_due(self, scope: Scope) -> bool:
        """Is this connection to be closed with the answer?"""
        if self._state.draining:
            return True
        client, closes_at, now = scope.get("client"), self._state.closes_at, time.monotonic()
        if client is None:
            return False
        key = (client[0], client[1])
        if key not in closes_at:
            if len(closes_at) >= _KNOWN_CONNECTIONS:
                self._state.closes_at = closes_at = {known: at for known, at in closes_at.items() if at > now}
            spread = random.uniform(1 - _AGE_SPREAD, 1 + _AGE_SPREAD)  # noqa: S311 - spreads load, hides nothing
            closes_at[key] = now + self._settings.connection_age_seconds * spread
        if now < closes_at[key]:
            return False
        del closes_at[key]
        return True


async def answer_error(_: Request, error: Exception) -> Response:
    """What the server raises on purpose, as its status and a JSON body."""
    status, code = STATUS[type(error)]  # type: ignore[index]
    headers = {"retry-after": str(error.retry_after_seconds)} if isinstance(error, Overloaded) else {}
    return Response(orjson.dumps({"error": {"code": code, "message": str(error)}}), status, headers, "application/json")


def _given_id(scope: Scope) -> str:
    """The client's own id where it is printable and short, else nothing."""
    given = next((value for name, value in scope["headers"] if name == REQUEST_ID_HEADER.encode()), b"")
    text: str = given.decode("latin-1")
    return text if text.isascii() and text.isprintable() and len(text) <= _MAX_ID_CHARACTERS else ""
