"""What every request passes first and every answer last: identity headers, tokens, errors to statuses, metrics, drain, connection age.

The hot routes are answered from here, on raw ASGI: Starlette's middleware, router and request objects would cost more than the rest of the
HTTP. kube-proxy balances connections, not requests: a keep-alive pool that is never closed never meets a new pod. So a connection that has
reached its age, and every connection while draining, is closed with the answer it is owed.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serinus_contract.names import REQUEST_ID_HEADER
from serinus_server.errors import (
    STATUS,
    BadRequest,
    NeighbourFailed,
    OtherSpace,
    Overloaded,
    ServerError,
    TooLarge,
    Unauthorized,
)
from serinus_server.mirroring import Mirror
from serinus_server.settings import Settings
from serinus_server.telemetry import Books

_AGE_SPREAD: Final = 0.1
_MAX_ID_CHARACTERS: Final = 128
_KNOWN_CONNECTIONS: Final = 10_000
_WATCHED_AFTER_SECONDS: Final = (
    0.02  # an answer is mostly sooner; to watch each connection for its client's leaving costs 20 µs
)
_CLIENT_LEFT: Final = 499
_OPEN: Final = frozenset(("/livez", "/ready", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"))
_ID_HEADER: Final = REQUEST_ID_HEADER.encode()

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a hot route, its body read. `began` is on the clock of `time.perf_counter`."""

    request_id: str
    path: str
    began: float
    headers: Mapping[bytes, bytes]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer's JSON; `after` is called with the request's seconds when the last byte has left.

    `headers` win over those that every answer has: a neighbour's answer, `forwarded`, names the model and the space that gave it.
    """

    body: bytes
    headers: Headers = field(default_factory=list)
    after: Callable[[float], None] | None = None
    status: int = 200
    forwarded: bool = False
    renamed: bool = False  # `headers` name another space than this server's own


@dataclass(frozen=True, slots=True)
class HotRoute:
    """`name` is the route in the metrics; `describe` makes the body of an error."""

    name: str
    answer: Callable[[Call], Awaitable[Reply]]
    describe: Callable[[int, str, ServerError], dict[str, Any]]


@dataclass(slots=True)
class EdgeState:
    """Shared with the process: draining is set by SIGTERM. Request ids are `instance`, which names the process, and a number."""

    draining: bool = False
    instance: str = field(default_factory=lambda: secrets.token_hex(4))
    requests: Iterator[int] = field(default_factory=itertools.count)
    closes_at: dict[tuple[str, int], float] = field(default_factory=dict)


class _ClientLeft(Exception):
    """The connection closed before the body was whole."""


class Edge:
    """The server's outermost ASGI application."""

    def __init__(
        self, app: ASGIApp, hot: Mapping[str, HotRoute], settings: Settings, telemetry: Books, state: EdgeState,
        headers: Mapping[str, str], mirror: Mirror | None = None,
    ) -> None:  # fmt: skip
        self._mirror = mirror
        self._app, self._hot, self._settings, self._telemetry, self._state = app, hot, settings, telemetry, state
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._tokens = [key.get_secret_value().encode() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's lifespan."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        asked: dict[bytes, bytes] = dict(scope["headers"])
        request_id = _given_id(asked.get(_ID_HEADER, b"")) or f"{self._state.instance}-{next(self._state.requests)}"
        headers = [*self._headers, (_ID_HEADER, request_id.encode())]
        if b"traceparent" in asked:
            headers.append((b"traceparent", asked[b"traceparent"]))
        if self._is_due(scope):
            headers.append((b"connection", b"close"))
        path = scope["path"]
        if (route := self._hot.get(path)) is None:
            await self._cold(scope, receive, _with_headers(send, headers), path, asked)
        elif scope["method"] != "POST":
            error = route.describe(405, "method_not_allowed", ServerError("this route takes POST"))
            await _send(send, 405, orjson.dumps(error), [*headers, (b"allow", b"POST")])
        else:
            await self._hot_call(route, Call(request_id, path, began, asked, b""), receive, send, headers)

    async def _cold(self, scope: Scope, receive: Receive, send: Send, path: str, asked: Mapping[bytes, bytes]) -> None:
        if self._tokens and path not in _OPEN and not self._is_known(asked):
            body = orjson.dumps({"error": {"message": _UNKNOWN, "type": "invalid_request_error", "param": None,
                                           "code": "unauthorized"}})  # fmt: skip
            await _send(send, 401, body, [(b"www-authenticate", b"Bearer")])
            return
        try:
            await self._app(scope, receive, send)
        except Exception:  # Starlette has answered 500 by now
            log.exception("%s failed", path)

    async def _hot_call(self, route: HotRoute, call: Call, receive: Receive, send: Send, headers: Headers) -> None:
        task = asyncio.current_task()
        watcher: asyncio.Task[None] | None = None
        left = False

        async def watch() -> None:
            nonlocal left
            if (await receive())["type"] == "http.disconnect" and task is not None:
                left = True
                task.cancel()

        def begin_watching() -> None:
            nonlocal watcher
            watcher = asyncio.get_running_loop().create_task(watch())

        status, reply = 500, Reply(b"")
        timer: asyncio.TimerHandle | None = None
        try:
            try:
                if self._tokens and not self._is_known(call.headers):
                    raise Unauthorized(_UNKNOWN)
                call = replace(call, body=await self._body(call.headers, receive))
                timer = asyncio.get_running_loop().call_later(_WATCHED_AFTER_SECONDS, begin_watching)
                reply = await route.answer(call)
                status = reply.status
            except ServerError as error:
                status, reply = _refusal(route, error)
            except Exception:  # a bug of ours: this request fails, and the log has its id
                log.exception("request %s failed", call.request_id)
                reply = Reply(orjson.dumps(route.describe(500, "internal", ServerError("the server failed"))))
            finally:
                if timer is not None:
                    timer.cancel()
                if watcher is not None:
                    watcher.cancel()
            if reply.forwarded or reply.renamed:
                named = {name for name, _ in reply.headers}
                headers = [header for header in headers if header[0] not in named]
            await _send(send, status, reply.body, [*headers, *reply.headers])
        except _ClientLeft:
            status = _CLIENT_LEFT
        except asyncio.CancelledError:
            if not left:
                raise
            status = _CLIENT_LEFT
        seconds = time.perf_counter() - call.began
        if reply.forwarded:  # another revision's time and faults are not this one's
            self._telemetry.passed_on(status)
        else:
            self._telemetry.answered(route.name, status, seconds)
            if self._mirror is not None:
                self._mirror.offer(call.path, call.body, call.headers, status)
        if status == 200 and reply.after is not None:
            reply.after(seconds)

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The request's body, refused as soon as it is known to be too large: by its header, or while it streams in."""
        limit = self._settings.max_body_bytes
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            raise TooLarge(f"the body is over {limit} bytes")
        chunks: list[bytes] = []
        received, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            chunks.append(message.get("body", b""))
            received += len(chunks[-1])
            if received > limit:
                raise TooLarge(f"the body is over {limit} bytes")
            more = message.get("more_body", False)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _is_known(self, headers: Mapping[bytes, bytes]) -> bool:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        known = [hmac.compare_digest(token.strip(), each) for each in self._tokens]  # all of them: time tells nothing
        return scheme.lower() == b"bearer" and any(known)

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


_UNKNOWN: Final = "a known bearer token is needed: authorization: Bearer …"


def deadline_seconds(headers: Mapping[bytes, bytes], longest: float) -> float:
    """What the client still waits for, by x-request-timeout-ms, at most `longest`. Raises BadRequest."""
    given = headers.get(b"x-request-timeout-ms")
    if given is None:
        return longest
    if not given.isdigit() or int(given) == 0:
        raise BadRequest("x-request-timeout-ms is a whole number of milliseconds above 0", "x-request-timeout-ms")
    return min(int(given) / 1000, longest)


def _refusal(route: HotRoute, error: ServerError) -> tuple[int, Reply]:
    """What the server raises on purpose, as its status and a JSON body."""
    status, code = STATUS[type(error)]
    headers: Headers = []
    if isinstance(error, Overloaded):
        headers.append((b"retry-after", str(error.retry_after_seconds).encode()))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    forwarded = isinstance(error, OtherSpace | NeighbourFailed)
    return status, Reply(orjson.dumps(route.describe(status, code, error)), headers, forwarded=forwarded)


async def _send(send: Send, status: int, body: bytes, headers: Headers) -> None:
    own = [(b"content-length", str(len(body)).encode())]
    if not any(name == b"content-type" for name, _ in headers):
        own.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": own + headers})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send, headers: Headers) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *headers]
        await send(message)

    return send_with_headers


def _given_id(given: bytes) -> str:
    """The client's own id where it is printable and short, else nothing."""
    text = given.decode("latin-1")
    return text if text.isascii() and text.isprintable() and len(text) <= _MAX_ID_CHARACTERS else ""
