"""The process that serves: load, warm up, answer, and on SIGTERM drain. uvicorn does the HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socket
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from serinus_server.app import build
from serinus_server.drift import Drift
from serinus_server.edge import EdgeState
from serinus_server.encoders.choice import choose, encodes_on_gpu
from serinus_server.encoders.cores import cores
from serinus_server.errors import ServerError
from serinus_server.front import LINE_SOCKET
from serinus_server.front_ends import front_ends, run_engine
from serinus_server.front_ends import serve as serve_with_front_ends
from serinus_server.loading import Model, fetch
from serinus_server.observing import Observer
from serinus_server.package import read_reference
from serinus_server.prediction_log.recorder import LogSettings, Recorder
from serinus_server.settings import Settings

_LONGEST_REQUEST_SECONDS = 30

log = logging.getLogger("serinus_server")


class DrainingServer(uvicorn.Server):
    """On the first signal goes unready and serves on for `drain_seconds`, then shuts down gracefully; the second one ends it now."""

    def __init__(self, config: uvicorn.Config, state: EdgeState, drain_seconds: float) -> None:
        super().__init__(config)
        self._state, self._drain_seconds = state, drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Remembers the loop that the drain is timed on."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        if self._state.draining or self._loop is None:
            super().handle_exit(sig, frame)
            return
        self._state.draining = True
        log.info("draining for %.0f s", self._drain_seconds)
        self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_seconds, self._end)

    def _end(self) -> None:
        """The drain is over: a graceful end, with exit status 0 (uvicorn would raise a captured signal again)."""
        self.should_exit = True


def serve(settings: Settings) -> None:
    """Serves until a signal. Raises ModelUnavailable, UnsafeModel when there is nothing to serve."""
    _log_settings(settings)
    model = fetch(settings.model_uri, settings.tracking_uri, settings.model_folder, settings.digest)
    log.info("serving %s version %s, space %s", model.name, model.version, model.manifest.space)
    count = front_ends(settings.workers, cores(settings.threads), encodes_on_gpu(settings.backend, settings.dtype))
    if count > 1:
        reference = read_reference(model.folder)
        serve_with_front_ends(settings, model, reference, partial(_config, settings), count, run_as_engine)
        return
    state = EdgeState()
    app = _application(settings, model, state)
    DrainingServer(_config(settings, app), state, settings.drain_seconds).run()


def run_as_engine(settings: Settings, model: Model, sockets: Path, parent: Connection) -> None:
    """The engine's process: loads, warms up, and answers its front ends. Exits with 2 when there is no encoder for this model."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        open_settings = settings.model_copy(update={"api_keys": ()})  # front ends have asked for the key
        app = _application(open_settings, model, EdgeState(), sockets / LINE_SOCKET)
    except ServerError as error:
        log.error("%s", error)
        raise SystemExit(2) from error
    run_engine(app, sockets, parent)


def _application(settings: Settings, model: Model, state: EdgeState, lines: Path | None = None) -> ASGIApp:
    reference = read_reference(model.folder)
    choice = choose(
        settings.backend, model.folder, model.manifest, settings.threads, reference=reference,
        least_cosine=settings.least_cosine, in_cluster=bool(settings.release), tell=log.info,
        dtype=settings.dtype, why=settings.backend_reason,
    )  # fmt: skip
    log.info("backend %s, %s: %s", choice.encoder.backend, choice.encoder.dtype, choice.reason)
    observers: list[Observer] = []
    if (logging_to := _log_settings(settings)) is not None:
        observers.append(_recorder(logging_to, settings, model, state))
    if reference.domain is not None:
        observers.append(Drift(reference.domain, settings.drift_half_life_seconds))
    return build(settings, model, choice, reference, state, observers, lines)


def _config(settings: Settings, app: Any, **extra: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_LONGEST_REQUEST_SECONDS,
        timeout_keep_alive=75,
        server_header=False,
        **extra,
    )


def _log_settings(settings: Settings) -> LogSettings | None:
    """Read before the model is fetched: a sink that cannot be meant is said at once. Raises ValueError."""
    if settings.prediction_log is None:
        return None
    return LogSettings(
        settings.prediction_log,
        settings.prediction_log_days,
        settings.prediction_log_queue_rows,
        settings.prediction_log_texts,
        settings.prediction_log_embeddings,
    )


def _recorder(chosen: LogSettings, settings: Settings, model: Model, state: EdgeState) -> Recorder:
    served = {"release": settings.release, "revision": settings.revision, "model_version": model.version}
    return Recorder(chosen, state.instance, served, time.time)  # noqa: TID251 - rows carry the time of day
