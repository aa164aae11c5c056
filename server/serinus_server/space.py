"""The identity of a vector space: two vectors may be compared when, and only when, this is the same for both.

It hashes tensor values, not files: saving a model again, with another library version or another dtype that holds the same numbers,
changes every file and no vector. A copy whose numbers differ is another space unless it is declared and measured to be the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

import torch

from serinus_server.source import Source, describe_head

# Of a transformer's configuration, what changes vectors and no tensor. Libraries add fields of their own with every version.
_SEMANTIC: Final = (
    *("model_type", "num_attention_heads", "num_key_value_heads", "hidden_act", "layer_norm_eps", "rms_norm_eps"),
    *("position_embedding_type", "sliding_window"),
)


def space_identity(source: Source) -> str:
    """16 hex digits (as much as a label holds with ease) over tensors in use, tokenizer, semantic configuration and dimension."""
    identity = hashlib.sha256()
    for name, tensor in sorted(tensors_in_use(source), key=lambda named: named[0]):
        values = tensor.detach().to(torch.float32).contiguous().numpy()
        identity.update(f"{name} {values.shape}".encode())
        identity.update(values.astype("<f4", copy=False).tobytes())
    identity.update(_canonical(canonical_tokenizer(source.model.tokenizer.backend_tokenizer.to_str())))
    identity.update(_canonical(_semantics(source)))
    return identity.hexdigest()[:16]


def tensors_in_use(source: Source) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters that a text's vector depends on, found by a backward pass, named by module and by the network's own names.

    A pooler that is stored and never asked, or buffers such as position ids that one library version stores and the next does not, are
    none of them; nor is the prefix that sentence-transformers puts before the names.
    """
    states = forward(source, dict(source.model.tokenizer(["a text"], return_tensors="pt")))
    states.square().sum().backward()
    for index, module in enumerate([source.network, *source.head]):
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                yield f"{index}.{name}", parameter
                parameter.grad = None


def forward(source: Source, features: dict[str, torch.Tensor]) -> torch.Tensor:
    """The embedding of tokenised texts, (n, dim), by the model itself."""
    states = source.network(**features, return_dict=True).last_hidden_state
    result: dict[str, Any] = {"token_embeddings": states, "attention_mask": features["attention_mask"]}
    for module in source.head:
        result = module(result)
    embedding: torch.Tensor = result["sentence_embedding"]
    return embedding


def canonical_tokenizer(text: str) -> Any:
    """A tokenizer's JSON without truncation and padding, and without what library versions write differently."""
    tokenizer = json.loads(text)
    for name in ("version", "truncation", "padding"):
        tokenizer.pop(name, None)
    merges = tokenizer["model"].get("merges")
    if merges:
        tokenizer["model"]["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    return _without_defaults(tokenizer)


def _without_defaults(value: Any) -> Any:
    """Fields that are null or false are as good as absent: a new library version writes its new fields so."""
    if isinstance(value, dict):
        return {key: _without_defaults(each) for key, each in value.items() if each is not None and each is not False}
    if isinstance(value, list):
        return [_without_defaults(each) for each in value]
    return value


def _semantics(source: Source) -> dict[str, Any]:
    configuration = source.transformer.auto_model.config
    rotary = getattr(configuration, "rope_parameters", None) or {}
    theta = rotary.get("rope_theta", getattr(configuration, "rope_theta", None))
    return {
        "transformer": {name: getattr(configuration, name, None) for name in _SEMANTIC} | {"rope_theta": theta},
        "head": [describe_head(module) for module in source.head],
        "max_tokens": source.max_tokens,
        "prompts": {name: text for name, text in source.model.prompts.items() if text},
        "prompt": source.prompt,
        "dim": source.dim,
    }


def _canonical(value: Any) -> bytes:
    return json.dumps(_without_defaults(value), sort_keys=True, separators=(",", ":")).encode()
