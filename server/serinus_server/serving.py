"""The process that serves: load, warm up, answer, and on SIGTERM drain. uvicorn does the HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from socket import socket
from types import FrameType

import uvicorn

from serinus_server.app import build
from serinus_server.drift import Drift
from serinus_server.edge import EdgeState
from serinus_server.encoders.choice import choose
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
    logging_to = _log_settings(settings)
    model = fetch(settings.model_uri, settings.tracking_uri, settings.model_folder, settings.digest)
    log.info("serving %s version %s, space %s", model.name, model.version, model.manifest.space)
    reference = read_reference(model.folder)
    choice = choose(
        settings.backend, model.folder, model.manifest, settings.threads, reference=reference,
        least_cosine=settings.least_cosine, in_cluster=bool(settings.release), tell=log.info,
    )  # fmt: skip
    log.info("backend %s: %s", choice.encoder.backend, choice.reason)
    state = EdgeState()
    observers: list[Observer] = []
    if logging_to is not None:
        observers.append(_recorder(logging_to, settings, model, state))
    if reference.profile is not None:
        observers.append(Drift(reference.profile, settings.drift_half_life_seconds))
    app = build(settings, model, choice, reference, state, observers)
    config = uvicorn.Config(
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
    )
    DrainingServer(config, state, settings.drain_seconds).run()


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
