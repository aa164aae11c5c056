"""The HTTP surface. The two hot routes are Starlette routes with orjson; the rest is plain FastAPI."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import orjson
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from serinus_contract.names import DOCUMENT_IDS_HEADER, MODEL_VERSION_HEADER, SPACE_HEADER
from serinus_server.batching import Batcher
from serinus_server.drift import probe_cosine
from serinus_server.edge import Edge, EdgeState, answer_error
from serinus_server.encoders import Encoder, Vectors
from serinus_server.errors import ServerError
from serinus_server.loading import Model
from serinus_server.observing import Observer, Prediction, tell
from serinus_server.package import Reference
from serinus_server.pinning import Neighbours, in_cluster
from serinus_server.schemas import DOCS, EmbeddingRequest, parse_openai, parse_predict
from serinus_server.settings import Settings
from serinus_server.telemetry import Telemetry

_PROBES = 8  # golden probes that are encoded at the start and every five minutes: a device that went bad shows
_PROBE_SECONDS = 300.0


def build(settings: Settings, model: Model, encoder: Encoder, reference: Reference, state: EdgeState,
          observers: Sequence[Observer] = ()) -> ASGIApp:  # fmt: skip
    """The whole server for a model that has been loaded. `observers` are told of every prediction after its answer has left."""
    telemetry = Telemetry()
    for observer in observers:
        telemetry.registry.register(observer)
    space = model.manifest.space
    telemetry.model_info.labels(model.name, model.version, space, model.manifest.digest, encoder.backend).set(1)
    telemetry.gpu_reserved.set_function(lambda: encoder.memory_bytes()[0])
    telemetry.gpu_allocated.set_function(lambda: encoder.memory_bytes()[1])
    batcher = Batcher(
        encoder,
        telemetry,
        max_batch_tokens=settings.max_batch_tokens,
        queue_tokens=settings.queue_tokens,
        queue_seconds=settings.queue_seconds,
    )

    async def probe() -> None:
        vectors, _ = await batcher.encode(list(reference.probes[:_PROBES]))
        telemetry.probe_cosine.set(probe_cosine(vectors, reference.vectors[:_PROBES]))

    async def probe_regularly() -> None:
        while True:
            await asyncio.sleep(_PROBE_SECONDS)
            with contextlib.suppress(ServerError):  # overloaded: the next time
                await probe()

    neighbours = Neighbours(settings.release, space, in_cluster(settings.namespace))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        await probe()  # warm: the first request is not the one that pays
        telemetry.ready_at.set_to_current_time()
        probing = asyncio.create_task(probe_regularly())
        yield
        probing.cancel()
        await batcher.stop()
        for observer in observers:
            await observer.close()
        await neighbours.close()

    app = FastAPI(title="Serinus embedding server", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(ServerError, answer_error)

    async def encode(request: Request, asked: EmbeddingRequest) -> tuple[Vectors, list[float] | None, list[int]]:
        vectors, tokens = await batcher.encode(asked.texts)
        confidence = None
        if reference.profile is not None:
            confidence = [float(value) for value in reference.profile.confidence(vectors)]
            for value in confidence:
                telemetry.confidence.observe(value)
            lowest = reference.profile.confidence_deciles[0]
            telemetry.low_confidence.inc(sum(value < lowest for value in confidence))
        return vectors, confidence, tokens

    async def after(
        request: Request, texts: list[str], vectors: Vectors, confidence: list[float] | None, tokens: list[int]
    ) -> None:
        latency_seconds = time.perf_counter() - request.state.began
        ids = _document_ids(request, len(texts))
        tell(observers, [
            Prediction(request.state.request_id, index, space, tokens[index], len(text), latency_seconds,
                       confidence[index] if confidence else None, vectors[index], text, ids[index])
            for index, text in enumerate(texts)
        ])  # fmt: skip

    def own_space(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """The route, for requests that pin this space or none; others are passed to the space that they pin."""

        async def answer(request: Request) -> Response:
            if request.headers.get(SPACE_HEADER, space) == space:
                return await route(request)
            path, state = request.url.path, request.state
            state.forwarded = True
            given = await neighbours.answer(path, await request.body(), request.headers, state.request_id)
            return Response(given.body, given.status, given.headers)

        return answer

    async def predict(request: Request) -> Response:
        asked = parse_predict(await request.body(), settings)
        vectors, confidence, tokens = await encode(request, asked)
        served = {"name": model.name, "version": model.version, "space": space}
        answer = {
            "embeddings": vectors,
            "confidence": confidence,
            "model": served,
            "request_id": request.state.request_id,
        }
        return _json(answer, BackgroundTask(after, request, asked.texts, vectors, confidence, tokens))

    async def embeddings(request: Request) -> Response:
        asked = parse_openai(await request.body(), settings, encoder.dim)
        vectors, confidence, tokens = await encode(request, asked)
        form: Callable[[np.ndarray], Any] = _base64 if asked.base64 else lambda vector: vector
        data = [
            {"object": "embedding", "index": index, "embedding": form(vector)} for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
        answer = {"object": "list", "data": data, "model": model.name, "usage": usage}
        return _json(answer, BackgroundTask(after, request, asked.texts, vectors, confidence, tokens))

    app.add_route("/predict", own_space(predict), methods=["POST"])
    app.add_route("/v1/embeddings", own_space(embeddings), methods=["POST"])
    _add_information(app, model, encoder, telemetry, lambda: batcher.alive and not state.draining)
    headers = {MODEL_VERSION_HEADER: model.version, SPACE_HEADER: space}
    return Edge(app, settings, telemetry, state, headers)


def _add_information(
    app: FastAPI, model: Model, encoder: Encoder, telemetry: Telemetry, ready: Callable[[], bool]
) -> None:
    @app.get("/livez")
    async def livez() -> PlainTextResponse:
        return PlainTextResponse("ok")

    @app.get("/ready")
    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        return JSONResponse({"ready": ready(), "model": model.name, "version": model.version}, 200 if ready() else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(telemetry.exposition(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model.name, "object": "model", "owned_by": "serinus"}]}

    @app.get("/info")
    async def info() -> dict[str, Any]:
        manifest = model.manifest
        return {
            "model": {"name": model.name, "version": model.version, "space": manifest.space, "digest": manifest.digest},
            "dim": manifest.dim,
            "max_tokens": manifest.max_tokens,
            "pooling": manifest.pooling,
            "backend": encoder.backend,
        }

    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        for route, docs in DOCS.items():
            schema["paths"][route] = {
                "post": {
                    "summary": f"Embeddings of texts ({route})",
                    **docs,
                    "responses": {"200": {"description": "vectors"}},
                }
            }
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document_ids(request: Request, texts: int) -> list[str]:
    """The client's names of its texts, where it sent as many as texts."""
    given = request.headers.get(DOCUMENT_IDS_HEADER, "")
    ids = [each.strip() for each in given.split(",")] if given else []
    return ids if len(ids) == texts else [""] * texts


def _json(answer: dict[str, Any], after: BackgroundTask) -> Response:
    body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json", background=after)


def _base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
