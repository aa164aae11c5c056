"""What comes after the transformer: sentence-transformers' own modules, read from a packaged folder. Nothing of a model's is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.sentence_transformer.modules.layer_norm import LayerNorm
from sentence_transformers.sentence_transformer.modules.pooling import Pooling

from serinus_server.brought import HEAD_KINDS

_KNOWN: Final[dict[str, Any]] = dict(zip(HEAD_KINDS, (Pooling, Dense, LayerNorm, Normalize), strict=True))


def load_head(folder: Path) -> torch.nn.Sequential:
    """The modules after the first one: features with `token_embeddings` and `attention_mask` in, with `sentence_embedding` out."""
    described = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules = [
        _KNOWN[str(each["type"]).rpartition(".")[2]].load(str(folder), subfolder=each["path"], local_files_only=True)
        for each in described[1:]
    ]
    return torch.nn.Sequential(*modules).eval()
