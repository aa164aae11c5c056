"""The server's application: the hot routes at the edge, and what tells about the server (health, metrics, model) in plain FastAPI."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.responses import Response
from starlette.types import ASGIApp

from serinus_contract.names import MODEL_VERSION_HEADER, SPACE_HEADER
from serinus_server.batching import Batcher
from serinus_server.drift import probe_cosine
from serinus_server.edge import Edge, EdgeState
from serinus_server.encoders.choice import Choice
from serinus_server.errors import ServerError
from serinus_server.front_line import Shared, listening
from serinus_server.loading import Model
from serinus_server.mirroring import Mirror, by_dns, is_local
from serinus_server.observing import Observer
from serinus_server.package import Reference
from serinus_server.pinning import Neighbours, in_cluster
from serinus_server.routes import Routes
from serinus_server.schemas import Limits, docs
from serinus_server.settings import Settings
from serinus_server.telemetry import Telemetry

_PROBES: Final = 8  # golden probes that are encoded at the start and every five minutes: a device that went bad shows
_PROBE_SECONDS: Final = 300.0
_WARM_UP_SECONDS: Final = 300.0


def build(settings: Settings, model: Model, choice: Choice, reference: Reference, state: EdgeState,
          observers: Sequence[Observer] = (), lines: Path | None = None) -> ASGIApp:  # fmt: skip
    """The whole server for a model that has been loaded. `observers` are told of every prediction after its answer has left.

    As the engine of several front ends it also takes their lines, on the socket at `lines`.
    """
    telemetry = Telemetry()
    for observer in observers:
        telemetry.registry.register(observer)
    encoder, space = choice.encoder, model.manifest.space
    telemetry.model_info.labels(model.name, model.version, space, model.manifest.digest, encoder.backend).set(1)
    telemetry.gpu_reserved.set_function(lambda: encoder.memory_bytes()[0])
    telemetry.gpu_allocated.set_function(lambda: encoder.memory_bytes()[1])
    batcher = Batcher(
        encoder,
        telemetry,
        probe=reference.probes[0],
        max_batch_tokens=settings.max_batch_tokens,
        queue_tokens=settings.queue_tokens,
        queue_seconds=settings.queue_seconds,
        judge=None if reference.profile is None else reference.profile.confidence,
    )

    async def probe(first: int, longest_seconds: float) -> None:
        encoded = await batcher.encode(list(reference.probes[:first]), seconds=longest_seconds)
        telemetry.probe_cosine.set(probe_cosine(encoded.vectors, reference.vectors[:first]))

    async def probe_regularly() -> None:
        while True:
            await asyncio.sleep(_PROBE_SECONDS)
            with contextlib.suppress(ServerError):  # overloaded: the next time
                await probe(_PROBES, settings.request_seconds)

    shared = Shared(
        batcher, telemetry, observers, state.instance, settings.prediction_log_texts, encoder.dim,
        None if reference.domain is None else reference.domain.confidence_deciles[0],
    )  # fmt: skip
    neighbours = Neighbours(settings.release, space, in_cluster(settings.namespace))
    mirror = Mirror(
        settings.release,
        space,
        by_dns(settings.namespace),
        is_local(settings.host),
        telemetry,
        settings.mirror_per_second,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        for first in (1, _PROBES):  # warm, alone and together: no request is the one that pays
            await probe(first, _WARM_UP_SECONDS)
        telemetry.ready_at.set_to_current_time()
        probing = asyncio.create_task(probe_regularly())
        mirror.start()
        async with contextlib.AsyncExitStack() as stack:
            if lines is not None:
                await stack.enter_async_context(listening(lines, shared))
            yield
        probing.cancel()
        await mirror.stop()
        await batcher.stop()
        for observer in observers:
            await observer.close()
        await neighbours.close()

    app = FastAPI(title="Serinus embedding server", lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_health(app, model, batcher, state)
    _add_information(app, model, choice, telemetry)
    limits = Limits(settings, encoder.dim, model.manifest.max_tokens, encoder.vocabulary, model.manifest.dimensions)
    routes = Routes(model, batcher, limits, telemetry, neighbours, reference.domain, observers)
    headers = {MODEL_VERSION_HEADER: model.version, SPACE_HEADER: space}
    return Edge(app, routes.hot(), settings, telemetry, state, headers, mirror)


def _add_health(app: FastAPI, model: Model, batcher: Batcher, state: EdgeState) -> None:
    def ready() -> bool:
        return batcher.healthy and not state.draining

    @app.get("/livez", response_class=PlainTextResponse)
    @app.get("/v2/health/live", response_class=PlainTextResponse)
    async def livez() -> PlainTextResponse:
        return PlainTextResponse("the encoder is lost", 503) if batcher.lost else PlainTextResponse("ok")

    @app.get("/ready")
    @app.get("/readyz")
    @app.get("/v2/health/ready")
    @app.get(f"/v2/models/{model.name}/ready")
    async def readyz() -> JSONResponse:
        return JSONResponse({"ready": ready(), "model": model.name, "version": model.version}, 200 if ready() else 503)


def _add_information(app: FastAPI, model: Model, choice: Choice, telemetry: Telemetry) -> None:
    manifest = model.manifest

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(telemetry.exposition(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model.name, "object": "model", "created": 0, "owned_by": "serinus"}]}

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        return {"name": "serinus", "version": "0.1.0", "extensions": []}

    @app.get(f"/v2/models/{model.name}")
    async def tensors() -> dict[str, Any]:
        outputs = [{"name": "embedding", "datatype": "FP32", "shape": [-1, manifest.dim]}]
        return {
            "name": model.name,
            "versions": [model.version],
            "platform": f"serinus_{choice.encoder.backend}",
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [*outputs, {"name": "confidence", "datatype": "FP32", "shape": [-1]}],
        }

    @app.get("/info")
    async def info() -> dict[str, Any]:
        return {
            "model": {"name": model.name, "version": model.version, "space": manifest.space, "digest": manifest.digest},
            "dim": manifest.dim,
            "dimensions": [manifest.dim, *manifest.dimensions],
            "max_tokens": manifest.max_tokens,
            "pooling": manifest.pooling,
            "backend": choice.encoder.backend,
            "dtype": choice.encoder.dtype,
            "backend_reason": choice.reason,
            "backends_measured": {name: asdict(each) for name, each in choice.measured.items()},
            "lanes": choice.encoder.lanes,
        }

    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        schema["paths"] |= docs(model.name)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
