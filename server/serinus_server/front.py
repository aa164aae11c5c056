"""A front end: HTTP, JSON and tokenising in a process of its own, for an engine that it shares with others.

The hot routes are those of a server alone, with a line to the engine where that one has a batcher. All else (health, metrics, information)
is the engine's own answer, asked over HTTP on a socket of this machine: there is one of each, whichever front end is asked.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

import httpx
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serinus_contract.names import MODEL_VERSION_HEADER, SPACE_HEADER
from serinus_server.edge import Edge, EdgeState
from serinus_server.encoders.tokens import Tokenizing
from serinus_server.engine_line import EngineLine, connect
from serinus_server.loading import Model
from serinus_server.mirroring import Mirror, by_dns, is_local
from serinus_server.package import Reference
from serinus_server.pinning import Neighbours, in_cluster
from serinus_server.routes import Routes
from serinus_server.schemas import Limits
from serinus_server.settings import Settings

HTTP_SOCKET: Final = "http.sock"
LINE_SOCKET: Final = "line.sock"
_ASK_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


class Front:
    """Makes one front end's application, in its process. `sockets` is the folder where the engine listens."""

    def __init__(self, settings: Settings, model: Model, reference: Reference, sockets: Path) -> None:
        self._settings, self._model, self._reference, self._sockets = settings, model, reference, sockets

    def __call__(self) -> ASGIApp:
        """The application, before its startup."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log each scrape
        return _Application(self._settings, self._model, self._reference, self._sockets)


class _Application:
    """The lifespan opens the line; from then on an `Edge` answers."""

    def __init__(self, settings: Settings, model: Model, reference: Reference, sockets: Path) -> None:
        self._settings, self._model, self._reference, self._sockets = settings, model, reference, sockets
        self._state = EdgeState()
        self._line: EngineLine | None = None
        self._edge: Edge | None = None
        transport = httpx.AsyncHTTPTransport(uds=str(sockets / HTTP_SOCKET))
        self._engine = httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=_ASK_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        assert self._edge is not None
        await self._edge(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        settings, model, profile = self._settings, self._model, self._reference.domain
        tokenize = Tokenizing(model.folder, model.manifest)
        try:
            line = await connect(
                self._sockets / LINE_SOCKET, self._state, tokenize, model.manifest.dim, self._reference.probes[0]
            )
        except Exception as error:  # noqa: BLE001 - uvicorn ends this process, and its parent says so
            await send({"type": "lifespan.startup.failed", "message": f"no line to the engine: {error!r}"})
            return
        space = model.manifest.space
        neighbours = Neighbours(settings.release, space, in_cluster(settings.namespace))
        limits = Limits(
            settings, model.manifest.dim, model.manifest.max_tokens, tokenize.vocabulary, model.manifest.dimensions
        )
        mirror = Mirror(
            settings.release, space, by_dns(settings.namespace), is_local(settings.host), line,
            settings.mirror_per_second / settings.workers,
        )  # fmt: skip
        routes = Routes(model, line, limits, line, neighbours, profile, line.observers)
        headers = {MODEL_VERSION_HEADER: model.version, SPACE_HEADER: space}
        self._line, self._edge = line, Edge(self._cold, routes.hot(), settings, line, self._state, headers, mirror)
        mirror.start()
        _drain_on_sigterm(self._state, settings.drain_seconds)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await mirror.stop()
        await neighbours.close()
        await self._engine.aclose()
        await line.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _cold(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the engine answers; unready where this front end is, whatever the engine says."""
        path = scope["path"]
        assert self._line is not None
        answer: Response
        if path.endswith(("/ready", "/readyz")) and (self._state.draining or not self._line.healthy):
            answer = JSONResponse({"ready": False, "model": self._model.name, "version": self._model.version}, 503)
        else:
            answer = await self._asked(scope["method"], scope["raw_path"].decode("latin-1"))
        await answer(scope, receive, send)

    async def _asked(self, method: str, path: str) -> Response:
        try:
            given = await self._engine.request(method, path)
        except httpx.HTTPError as error:
            return PlainTextResponse(f"the engine does not answer ({type(error).__name__})", 503)
        return Response(given.content, given.status_code, media_type=given.headers.get("content-type"))


def _drain_on_sigterm(state: EdgeState, seconds: float) -> None:
    """The first SIGTERM goes unready and serves on for `seconds`, then uvicorn's own handler ends the process gracefully."""
    loop = asyncio.get_running_loop()
    end = signal.getsignal(signal.SIGTERM)
    assert callable(end)
    finish: Callable[[int, FrameType | None], object] = end

    def drain(number: int, frame: FrameType | None) -> None:
        if state.draining:  # the second signal, or the engine is gone and there is nothing to serve with
            finish(number, frame)
            return
        state.draining = True
        loop.call_soon_threadsafe(loop.call_later, seconds, finish, number, None)

    signal.signal(signal.SIGTERM, drain)
