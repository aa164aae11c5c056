"""What requests look like, checked by hand on the hot path: every refusal names the field. `DOCS` documents them in the OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from serinus_server.errors import BadRequest, InvalidInput, ServerError, TooLarge
from serinus_server.settings import Settings


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for: the settings' limits and the model's own."""

    settings: Settings
    dim: int
    max_tokens: int
    vocabulary: int
    dimensions: tuple[int, ...] = ()  # that vectors may be cut to


@dataclass(frozen=True, slots=True)
class Asked:
    """Texts or token ids to encode, one of the two. `base64` asks for OpenAI's little-endian float32 form, `id` is echoed, `dim` wanted."""

    texts: list[str] | None = None
    token_lists: list[list[int]] | None = None
    base64: bool = False
    id: str | None = None
    dim: int | None = None


def parse_predict(body: bytes, limits: Limits) -> Asked:
    """Reads `{"inputs": "text" | ["text", …]}`. Raises BadRequest, InvalidInput, TooLarge."""
    return Asked(_texts(_object(body), "inputs", limits.settings))


def parse_openai(body: bytes, limits: Limits) -> Asked:
    """Reads OpenAI's embeddings request; `dimensions` is the model's own or one that it was trained for. Raises as `parse_predict`."""
    data = _object(body)
    form = data.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise InvalidInput(f"encoding_format is float or base64, not {form!r}", "encoding_format")
    wanted = data.get("dimensions")
    if wanted is not None and (type(wanted) is not int or wanted not in (limits.dim, *limits.dimensions)):
        cut = f"may be cut to {', '.join(map(str, limits.dimensions))}" if limits.dimensions else "may not be cut"
        raise InvalidInput(f"dimensions: this model has {limits.dim}, and its vectors {cut}", "dimensions")
    given = data.get("input")
    if isinstance(given, list) and given and not isinstance(given[0], str):
        return Asked(token_lists=_token_lists(given, limits), base64=form == "base64", dim=wanted)
    return Asked(_texts(data, "input", limits.settings), base64=form == "base64", dim=wanted)


def parse_infer(body: bytes, limits: Limits) -> Asked:
    """Reads an Open Inference Protocol request with one BYTES tensor of texts. Raises as `parse_predict`."""
    data = _object(body)
    tensors, identity = data.get("inputs"), data.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InvalidInput("id is a text", "id")
    if not isinstance(tensors, list) or len(tensors) != 1 or not isinstance(tensors[0], dict):
        raise InvalidInput("inputs is a list of one tensor: the texts", "inputs")
    tensor = tensors[0]
    if tensor.get("datatype") != "BYTES":
        raise InvalidInput(f"inputs[0].datatype is BYTES, not {tensor.get('datatype')!r}", "inputs[0].datatype")
    texts = _texts(tensor, "data", limits.settings)
    if not isinstance(tensor["data"], list) or tensor.get("shape") not in ([len(texts)], [len(texts), 1]):
        raise InvalidInput(f"inputs[0].shape is [{len(texts)}], the number of texts in data", "inputs[0].shape")
    return Asked(texts, id=identity)


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadRequest("the body is not a JSON object")
    return data


def _texts(data: dict[str, Any], field: str, settings: Settings) -> list[str]:
    if field not in data:
        raise InvalidInput(f"{field} is missing: a text or a list of texts", field)
    texts = [data[field]] if isinstance(data[field], str) else data[field]
    if not isinstance(texts, list) or not texts:
        raise InvalidInput(f"{field} is a text or a list of at least one text, not {type(data[field]).__name__}", field)
    _count(texts, field, settings)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(f"{field}[{index}] is {type(text).__name__}, a text is needed", field)
        if not text or text.isspace():
            raise InvalidInput(f"{field}[{index}] is empty", field)
        if len(text) > settings.max_text_characters:
            allowed = settings.max_text_characters
            raise TooLarge(f"{field}[{index}] has {len(text)} characters, {allowed} are allowed", field)
    return texts


def _token_lists(given: list[Any], limits: Limits) -> list[list[int]]:
    """Ids of this model's own tokenizer, special tokens included; one list of them or a list of lists."""
    lists = given if isinstance(given[0], list) else [given]
    _count(lists, "input", limits.settings)
    for index, ids in enumerate(lists):
        if not isinstance(ids, list) or not ids:
            raise InvalidInput(f"input[{index}] is a list of at least one token id", "input")
        if len(ids) > limits.max_tokens:
            raise TooLarge(f"input[{index}] has {len(ids)} tokens, {limits.max_tokens} are allowed", "input")
        if not all(type(token) is int and 0 <= token < limits.vocabulary for token in ids):
            raise InvalidInput(f"input[{index}]: token ids are whole numbers in 0..{limits.vocabulary - 1}", "input")
    return lists


def _count(items: list[Any], field: str, settings: Settings) -> None:
    if len(items) > settings.max_texts:
        raise TooLarge(f"{field} has {len(items)} texts, {settings.max_texts} are allowed in one request", field)


_TEXTS: Final[dict[str, Any]] = {
    "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}
_TOKENS: Final[dict[str, Any]] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TENSOR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "data": {"type": "array"},
    },
}
_OPENAI_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_INFER_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_VECTORS: Final[dict[str, Any]] = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
_HEADERS: Final[list[dict[str, Any]]] = [
    {"name": name, "in": "header", "required": False, "description": what, "schema": {"type": kind}}
    for name, kind, what in (
        ("x-request-id", "string", "echoed; at most 128 printable characters"),
        ("x-embedding-space", "string", "answer from this space or not at all (409)"),
        ("x-request-timeout-ms", "integer", "a deadline: 504 when no answer is there by then"),
        ("traceparent", "string", "W3C trace context, handed back"),
    )
]


def _object_schema(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _post(summary: str, asked: dict[str, Any], answer: dict[str, Any], error: dict[str, Any]) -> dict[str, Any]:
    def of(schema: dict[str, Any]) -> dict[str, Any]:
        return {"application/json": {"schema": schema}}

    refusals = {status: {"description": what, "content": of(error)} for status, what in _REFUSALS.items()}
    return {
        "post": {
            "summary": summary,
            "parameters": _HEADERS,
            "requestBody": {"required": True, "content": of(asked)},
            "responses": {
                "200": {"description": "vectors, in the order of the texts", "content": of(answer)},
                **refusals,
            },
        }
    }


_REFUSALS: Final[Mapping[str, str]] = {
    "400": "not a JSON object, or a header that cannot be read",
    "401": "no known bearer token, where the server asks for one",
    "409": "another embedding space is served here",
    "413": "body, text or list over its limit",
    "422": "a field is missing or has a value that is not possible; the message names it",
    "429": "the queue is full; Retry-After says when to come back",
    "500": "the encoder failed on this text",
    "503": "the encoder has stopped",
    "504": "the deadline passed",
}


def infer_path(model: str) -> str:
    """The Open Inference Protocol's route of a model."""
    return f"/v2/models/{model}/infer"


def docs(model: str) -> dict[str, Any]:
    """The hot routes in the OpenAPI."""
    number_list = {"type": "array", "items": {"type": "number"}}
    return {
        "/predict": _post(
            "Vectors and confidence of texts",
            _object_schema(["inputs"], {"inputs": _TEXTS}),
            _object_schema(
                ["embeddings", "confidence", "model", "request_id"],
                {"embeddings": _VECTORS, "confidence": {"type": ["array", "null"], "items": {"type": "number"}}},
            ),
            _OPENAI_ERROR,
        ),
        "/v1/embeddings": _post(
            "OpenAI's embeddings",
            _object_schema(
                ["input"],
                {
                    "input": {"oneOf": [*_TEXTS["oneOf"], _TOKENS, {"type": "array", "items": _TOKENS, "minItems": 1}]},
                    "model": {"type": "string"},
                    "encoding_format": {"enum": ["float", "base64"]},
                    "dimensions": {"type": "integer"},
                },
            ),
            _object_schema(
                ["object", "data", "model", "usage"],
                {
                    "data": {
                        "type": "array",
                        "items": _object_schema(
                            ["object", "index", "embedding"],
                            {"index": {"type": "integer"}, "embedding": {"anyOf": [number_list, {"type": "string"}]}},
                        ),
                    },
                    "usage": _object_schema(
                        ["prompt_tokens", "total_tokens"],
                        {"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}},
                    ),
                },
            ),
            _OPENAI_ERROR,
        ),
        infer_path(model): _post(
            "Open Inference Protocol v2: one BYTES tensor of texts in, FP32 vectors out",
            _object_schema(["inputs"], {"id": {"type": "string"}, "inputs": {"type": "array", "items": _TENSOR}}),
            _object_schema(
                ["model_name", "model_version", "outputs"], {"outputs": {"type": "array", "items": _TENSOR}}
            ),
            _INFER_ERROR,
        ),
    }


def openai_error(status: int, code: str, error: ServerError) -> dict[str, Any]:
    """OpenAI's error envelope, which `/predict` uses as well."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": str(error), "type": kind, "param": error.field, "code": code}}


def infer_error(status: int, code: str, error: ServerError) -> dict[str, Any]:
    """The Open Inference Protocol's error."""
    del status
    return {"error": f"{code}: {error}"}
