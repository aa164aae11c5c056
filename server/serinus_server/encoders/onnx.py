"""ONNX Runtime on CPUs: the export that `register` made, tokenised by `tokenizers`, pooled in numpy. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from serinus_contract.manifest import EMBEDDING, ONNX_PATH, Manifest
from serinus_server.encoders import TokenIds, Vectors
from serinus_server.encoders.tokens import load_tokenizer, pad, token_ids


class OnnxEncoder:
    """fp32 inference. `threads` 0 lets the runtime take one per core."""

    backend = "onnx"

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.dim = manifest.dim
        self._manifest = manifest
        self._tokenizer = load_tokenizer(folder, manifest.max_tokens)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(folder / ONNX_PATH), options, ["CPUExecutionProvider"])
        self._inputs = {each.name for each in self._session.get_inputs()}

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """See Encoder."""
        return token_ids(self._tokenizer, self._manifest.prompt, texts)

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        """See Encoder."""
        ids, mask = pad(batch)
        feeds = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(ids)
        states: Vectors = self._session.run(None, feeds)[0]
        return finish(states, mask, self._manifest)

    def memory_bytes(self) -> tuple[int, int]:
        """See Encoder."""
        return 0, 0


def finish(states: Vectors, mask: np.ndarray, manifest: Manifest) -> Vectors:
    """Pools (n, tokens, dim) hidden states to (n, dim) and normalises where the model does; a graph that did so itself is done."""
    if manifest.output == EMBEDDING:
        return states
    match manifest.pooling:
        case "mean":
            weights = mask[:, :, None].astype(np.float32)
            pooled = (states * weights).sum(axis=1) / weights.sum(axis=1)
        case "cls":
            pooled = states[:, 0]
        case "lasttoken":
            pooled = states[np.arange(len(states)), mask.sum(axis=1) - 1]
        case _:
            raise ValueError(f"unknown pooling {manifest.pooling!r}")
    if manifest.normalize:
        pooled = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    return pooled.astype(np.float32, copy=False)
