"""The ONNX export, made at registration so that no CPU image needs torch: token states for models that are only pooled, else embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from serinus_contract.manifest import EMBEDDING
from serinus_server.source import Source
from serinus_server.space import forward


class _Graph(torch.nn.Module):
    """The model as a function of positional tensors, which is what the exporter traces."""

    def __init__(self, source: Source, names: Sequence[str]) -> None:
        super().__init__()
        self.source, self.names = source, names
        self.modules_to_trace = torch.nn.ModuleList([source.network, *source.head])

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """States (batch, tokens, dim) or embeddings (batch, dim)."""
        features = dict(zip(self.names, inputs, strict=True))
        if self.source.output == EMBEDDING:
            return forward(self.source, features)
        states: torch.Tensor = self.source.network(**features, return_dict=True).last_hidden_state
        return states


def export(source: Source, path: Path) -> None:
    """Writes the graph to `path`. The caller holds it against the model."""
    features = dict(
        source.model.tokenizer(["a short text", "another, somewhat longer text"], padding=True, return_tensors="pt")
    )
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in features]
    path.parent.mkdir(exist_ok=True)
    axes = {0: "batch", 1: "tokens"}
    dynamic = dict.fromkeys(names, axes) | {source.output: {0: "batch"} if source.output == EMBEDDING else axes}
    with warnings.catch_warnings():
        # The tracer warns of every shape that it sees as a constant; whether one matters shows when the result is compared.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Graph(source, names).eval(), tuple(features[name] for name in names), str(path), input_names=names,
            output_names=[source.output], dynamic_axes=dynamic, opset_version=17, dynamo=False,
        )  # fmt: skip
