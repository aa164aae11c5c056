"""What requests look like, checked by hand on the hot path: every refusal names the field. Documented in the OpenAPI by `DOCS`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from serinus_server.errors import BadRequest, InvalidInput, TooLarge
from serinus_server.settings import Settings


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts to encode. `base64` asks for OpenAI's little-endian float32 form."""

    texts: list[str]
    base64: bool = False


def parse_predict(body: bytes, settings: Settings) -> EmbeddingRequest:
    """Reads `{"inputs": "text" | ["text", …]}`. Raises BadRequest, InvalidInput, TooLarge."""
    return EmbeddingRequest(_texts(_object(body), "inputs", settings))


def parse_openai(body: bytes, settings: Settings, dim: int) -> EmbeddingRequest:
    """Reads OpenAI's embeddings request; `dimensions` may only be the model's own. Raises as `parse_predict`."""
    data = _object(body)
    form = data.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise InvalidInput(f"encoding_format is float or base64, not {form!r}")
    if data.get("dimensions") not in (None, dim):
        raise InvalidInput(f"dimensions: this model has {dim}")
    return EmbeddingRequest(_texts(data, "input", settings), base64=form == "base64")


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
        raise InvalidInput(f"{field} is missing: a text or a list of texts")
    texts = [data[field]] if isinstance(data[field], str) else data[field]
    if not isinstance(texts, list) or not texts:
        raise InvalidInput(f"{field} is a text or a list of at least one text, not {type(data[field]).__name__}")
    if len(texts) > settings.max_texts:
        raise TooLarge(f"{field} has {len(texts)} texts, {settings.max_texts} are allowed in one request")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(f"{field}[{index}] is {type(text).__name__}, a text is needed")
        if not text.strip():
            raise InvalidInput(f"{field}[{index}] is empty")
        if len(text) > settings.max_text_characters:
            raise TooLarge(f"{field}[{index}] has {len(text)} characters, {settings.max_text_characters} are allowed")
    return texts


def _body(field: str, extra: dict[str, Any]) -> dict[str, Any]:
    text: dict[str, Any] = {
        "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
    }
    schema = {"type": "object", "required": [field], "properties": {field: text, **extra}}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


DOCS: Final = {
    "/predict": _body("inputs", {}),
    "/v1/embeddings": _body(
        "input",
        {
            "model": {"type": "string"},
            "encoding_format": {"enum": ["float", "base64"]},
            "dimensions": {"type": "integer"},
        },
    ),
}
