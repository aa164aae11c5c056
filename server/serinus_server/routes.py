"""The hot routes: a request's body in, an answer's JSON out. Parsing is in `schemas`, the way through HTTP in `edge`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import orjson

from serinus_contract.names import DOCUMENT_IDS_HEADER, MIRROR_HEADER, SPACE_HEADER
from serinus_server.batching import Encoded, Encoding
from serinus_server.edge import Call, HotRoute, Reply, deadline_seconds
from serinus_server.errors import OtherSpace
from serinus_server.loading import Model
from serinus_server.matryoshka import Spaces, shorten
from serinus_server.observing import Observer, Prediction, tell
from serinus_server.pinning import Neighbours
from serinus_server.profile import Profile
from serinus_server.schemas import (
    Asked,
    Limits,
    infer_error,
    infer_path,
    openai_error,
    parse_infer,
    parse_openai,
    parse_predict,
)
from serinus_server.telemetry import Books

_SPACE: Final = SPACE_HEADER.encode()
_MIRRORED: Final = MIRROR_HEADER.encode()
_DOCUMENT_IDS: Final = DOCUMENT_IDS_HEADER.encode()


class Routes:
    """What the hot routes share: the model, the batcher, and who learns of predictions."""

    def __init__(
        self, model: Model, batcher: Encoding, limits: Limits, telemetry: Books, neighbours: Neighbours,
        profile: Profile | None, observers: Sequence[Observer],
    ) -> None:  # fmt: skip
        self._model, self._batcher, self._limits, self._telemetry = model, batcher, limits, telemetry
        self._neighbours, self._profile, self._observers = neighbours, profile, observers
        self._space = model.manifest.space
        self._spaces = Spaces(self._space, model.manifest.dim, model.manifest.dimensions)

    def hot(self) -> dict[str, HotRoute]:
        """The routes by path."""
        return {
            "/predict": HotRoute("/predict", self._route(parse_predict, self._predict), openai_error),
            "/v1/embeddings": HotRoute("/v1/embeddings", self._route(parse_openai, self._openai), openai_error),
            infer_path(self._model.name): HotRoute("/v2/infer", self._route(parse_infer, self._infer), infer_error),
        }

    def _route(
        self, parse: Callable[[bytes, Limits], Asked], render: Callable[[Call, Asked, Encoded], dict[str, Any]]
    ) -> Any:
        async def answer(call: Call) -> Reply:
            pinned, dim = call.headers.get(_SPACE), None
            if pinned is not None:
                if (dim := self._spaces.dim_of(pinned.decode("latin-1"))) is None:
                    return await self._forwarded(call)
                self._telemetry.pinned()
            seconds = deadline_seconds(call.headers, self._limits.settings.request_seconds)
            asked = parse(call.body, self._limits)
            if dim is not None and asked.dim not in (None, dim):
                raise OtherSpace(f"dimensions {asked.dim} are not those of the space that is pinned", "dimensions")
            encoded = await self._batcher.encode(asked.texts, asked.token_lists, seconds=seconds)
            self._observe_confidence(encoded)
            timing = (
                f"tokenize;dur={encoded.tokenise_seconds * 1e3:.2f}, queue;dur={encoded.queue_seconds * 1e3:.2f}, "
                f"encode;dur={encoded.encode_seconds * 1e3:.2f}"
            )
            headers, answered = [(b"server-timing", timing.encode())], encoded
            if (dim := dim or asked.dim or self._spaces.dim) != self._spaces.dim:
                headers.append((_SPACE, self._spaces.name(dim).encode()))
                normalize = self._model.manifest.normalize
                answered = replace(encoded, vectors=shorten(encoded.vectors, dim, normalize))
            body = orjson.dumps(render(call, asked, answered), option=orjson.OPT_SERIALIZE_NUMPY)
            return Reply(body, headers, self._after(call, asked, encoded), renamed=answered is not encoded)

        return answer

    async def _forwarded(self, call: Call) -> Reply:
        """The answer of the space that the client pins, in that one's own name."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in call.headers.items()}
        given = await self._neighbours.answer(call.path, call.body, headers, call.request_id)
        passed = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.headers.items()]
        return Reply(given.body, passed, status=given.status, forwarded=True)

    def _predict(self, call: Call, _: Asked, encoded: Encoded) -> dict[str, Any]:
        space = self._spaces.name(encoded.vectors.shape[1])
        served = {"name": self._model.name, "version": self._model.version, "space": space}
        return {
            "embeddings": encoded.vectors,
            "confidence": encoded.confidence,
            "model": served,
            "request_id": call.request_id,
        }

    def _openai(self, _: Call, asked: Asked, encoded: Encoded) -> dict[str, Any]:
        form: Callable[[np.ndarray], Any] = _base64 if asked.base64 else lambda vector: vector
        data = [
            {"object": "embedding", "index": index, "embedding": form(vector)}
            for index, vector in enumerate(encoded.vectors)
        ]
        total = sum(encoded.tokens)
        usage = {"prompt_tokens": total, "total_tokens": total}
        return {"object": "list", "data": data, "model": self._model.name, "usage": usage}

    def _infer(self, _: Call, asked: Asked, encoded: Encoded) -> dict[str, Any]:
        outputs = [_tensor("embedding", encoded.vectors)]
        if encoded.confidence is not None:
            outputs.append(_tensor("confidence", encoded.confidence))
        identity = {} if asked.id is None else {"id": asked.id}
        return {"model_name": self._model.name, "model_version": self._model.version, **identity, "outputs": outputs}

    def _observe_confidence(self, encoded: Encoded) -> None:
        if self._profile is None or encoded.confidence is None:
            return
        self._telemetry.confident(encoded.confidence, self._profile.confidence_deciles[0])

    def _after(self, call: Call, asked: Asked, encoded: Encoded) -> Callable[[float], None] | None:
        if not self._observers:
            return None

        def after(seconds: float) -> None:
            texts: Sequence[str | None] = asked.texts or [None] * len(encoded.tokens)
            confidence = None if self._profile is None else encoded.confidence
            ids, mirrored = _document_ids(call, len(texts)), _MIRRORED in call.headers
            tell(self._observers, [
                Prediction(
                    call.request_id, index, self._space, encoded.tokens[index], len(text or ""), seconds,
                    None if confidence is None else float(confidence[index]), encoded.vectors[index], text,
                    ids[index], mirrored,
                )
                for index, text in enumerate(texts)
            ])  # fmt: skip

        return after


def _document_ids(call: Call, texts: int) -> list[str]:
    """The client's names of its texts, where it sent as many as texts."""
    given = call.headers.get(_DOCUMENT_IDS, b"").decode("latin-1")
    ids = [each.strip() for each in given.split(",")] if given else []
    return ids if len(ids) == texts else [""] * texts


def _tensor(name: str, values: np.ndarray) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": list(values.shape), "data": values.ravel()}


def _base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")
