"""A sentence-transformers folder that was not refused (`brought`), loaded and described."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.modules.layer_norm import LayerNorm
from sentence_transformers.sentence_transformer.modules.pooling import Pooling

from serinus_contract.manifest import EMBEDDING, STATES
from serinus_server.brought import HEAD_KINDS, refuse_brought
from serinus_server.errors import UnsafeModel

# Poolings that the server can do itself, on the states that every runtime returns. Any other is part of the exported graph.
_SERVED_POOLINGS: Final = ("mean", "cls", "lasttoken")
_LONGEST_WITHOUT_LIMIT: Final = 512


@dataclass(frozen=True, slots=True)
class Source:
    """A model that was loaded. `output` is what its graph will return: token states that the server pools, or embeddings."""

    model: SentenceTransformer
    transformer: Transformer
    pooling: str
    normalize: bool
    output: str
    prompt: str
    max_tokens: int
    dim: int

    @property
    def network(self) -> torch.nn.Module:
        """The transformer alone, without tokenizer and pooling."""
        network: torch.nn.Module = self.transformer.auto_model
        return network

    @property
    def head(self) -> list[Any]:
        """The modules after the transformer."""
        return list(self.model)[1:]


def load_source(folder: Path) -> Source:
    """Loads the model on the CPU. Raises UnsafeModel, with the name of the file that is the reason."""
    refuse_brought(folder)
    model = SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, model_kwargs={"attn_implementation": "eager", "dtype": "auto"}
    )
    transformer, pooling, *rest = _modules(model)
    _refuse_unknown_head(transformer, pooling, model)
    name = pooling.pooling_mode if isinstance(pooling.pooling_mode, str) else "+".join(pooling.pooling_mode)
    simple = name in _SERVED_POOLINGS and len(rest) <= 1 and all(isinstance(module, Normalize) for module in rest)
    return Source(
        model=model.float().eval().requires_grad_(),
        transformer=transformer,
        pooling=name,
        normalize=bool(rest) and isinstance(rest[-1], Normalize),
        output=STATES if simple else EMBEDDING,
        prompt=model.prompts.get(model.default_prompt_name or "") or "",
        max_tokens=int(model.max_seq_length or _LONGEST_WITHOUT_LIMIT),
        dim=int(model.get_embedding_dimension() or 0),
    )


def describe_head(module: Any) -> Mapping[str, object]:
    """What a module after the transformer does to vectors, beside its tensors; the same whatever library version wrote it."""
    kind = type(module).__name__
    match module:
        case Pooling():
            return {"kind": kind, "mode": module.pooling_mode, "prompt": module.include_prompt}
        case Dense():
            return {
                "kind": kind,
                "activation": type(module.activation_function).__name__,
                "residual": module.use_residual,
            }
        case LayerNorm():
            return {"kind": kind, "epsilon": module.norm.eps}
        case _:
            return {"kind": kind}


def _modules(model: SentenceTransformer) -> list[Any]:
    modules: list[Any] = list(model)
    sound = len(modules) > 1 and isinstance(modules[0], Transformer) and isinstance(modules[1], Pooling)
    if not sound or any(isinstance(module, Pooling) for module in modules[2:]):
        kinds = ", ".join(type(module).__name__ for module in modules)
        raise UnsafeModel(
            f"modules.json: {kinds} is not supported; a Transformer, a Pooling, then any of {', '.join(HEAD_KINDS)} are"
        )
    return modules


def _refuse_unknown_head(transformer: Transformer, pooling: Pooling, model: SentenceTransformer) -> None:
    """Settings that would change vectors here and that the server does not carry out."""
    if transformer.do_lower_case:
        raise UnsafeModel(
            "sentence_bert_config.json: do_lower_case is not supported; put lower-casing in tokenizer.json"
        )
    if not pooling.include_prompt and model.prompts.get(model.default_prompt_name or ""):
        raise UnsafeModel("1_Pooling/config.json: include_prompt false is not supported")
    if model.truncate_dim is not None:
        raise UnsafeModel(
            "config_sentence_transformers.json: truncate_dim is not supported; the server shortens where a client asks"
        )
    for module in list(model)[2:]:
        name = getattr(module, "module_input_name", "sentence_embedding")
        if name != "sentence_embedding" or getattr(module, "module_output_name", name) != name:
            raise UnsafeModel(f"modules.json: {type(module).__name__} works on {name}, not on the sentence embedding")
