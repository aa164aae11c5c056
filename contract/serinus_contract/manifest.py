"""The manifest of a packaged model: which files belong to it, with their SHA-256, and what its vectors are.

Written by `serinus-server register` as `serinus/manifest.json`; read by the server and the verify Job. The digest names all of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from typing import Any, Final

PATH: Final = "serinus/manifest.json"
PROFILE_PATH: Final = "serinus/profile.json"
PROBES_PATH: Final = "serinus/probes.json"
VECTORS_PATH: Final = "serinus/vectors.safetensors"
REFERENCE_PATH: Final = "serinus/reference.json"
ONNX_PATH: Final = "onnx/model.onnx"
ONNX_INT8_PATH: Final = "onnx/model-int8.onnx"
STATES: Final = "states"
EMBEDDING: Final = "embedding"
SCHEMA: Final = 1
_FORMS: Final[Mapping[Any, type]] = {
    "str": str,
    "int": int,
    "bool": bool,
    "Mapping[str, str]": dict,
    "tuple[int, ...]": tuple,
}


class MalformedManifest(ValueError):
    """Not a manifest, or one that points outside its folder; the text says why."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What serving needs to know of a model.

    `output` is what the graph returns: `states` (batch, tokens, dim), which the server pools (`pooling` is mean, cls or lasttoken) and
    normalises, or `embedding` (batch, dim), finished. `prompt` goes before every text; `max_tokens` counts it and the special tokens.
    `files` maps relative paths to SHA-256 in hex. `dimensions` are those that vectors may be cut to (Matryoshka), largest first.
    """

    space: str
    dim: int
    max_tokens: int
    pooling: str
    normalize: bool
    files: Mapping[str, str]
    output: str = STATES
    prompt: str = ""
    dimensions: tuple[int, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over everything in the manifest, hence over every file."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no white space."""
        data = {"schema": SCHEMA, **asdict(self)}
        if not self.dimensions:  # a field that is new must not change the digests of what was registered without it
            del data["dimensions"]
        return json.dumps(data, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Reads what `to_json` wrote. Raises MalformedManifest, also for a path that leaves the model's folder."""
        try:
            data: dict[str, Any] = json.loads(text)
            if data.pop("schema") != SCHEMA:
                raise MalformedManifest(f"the manifest's schema is not {SCHEMA}")
            manifest = cls(**{**data, "dimensions": tuple(map(int, data.get("dimensions", ())))})
            _check_forms(manifest)
            for path in manifest.files:
                pure = PurePosixPath(path)
                if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
                    raise MalformedManifest(f"the manifest names {path!r}, which is outside the model's folder")
        except MalformedManifest:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise MalformedManifest(f"not a manifest: {type(error).__name__}: {error}") from error
        return manifest


def _check_forms(manifest: Manifest) -> None:
    """Raises MalformedManifest for a field that is of another form than it should be."""
    for field in fields(manifest):
        value, form = getattr(manifest, field.name), _FORMS[field.type]
        if not isinstance(value, form) or (form is int and isinstance(value, bool)):
            raise MalformedManifest(f"the manifest's {field.name} is {type(value).__name__}, {form.__name__} is needed")
    if not all(isinstance(digest, str) for digest in manifest.files.values()):
        raise MalformedManifest("the manifest's files are not all with their SHA-256")
