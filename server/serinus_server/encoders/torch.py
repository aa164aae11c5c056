"""PyTorch: on a GPU in half precision, on a CPU in fp32 (where it is exercised; the CPU images use ONNX Runtime).

Reads safetensors and configuration only, from the packaged folder, with transformers' own classes: nothing of a model's is ever run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModel

from serinus_contract.manifest import EMBEDDING, Manifest
from serinus_server.encoders import TokenIds, Vectors
from serinus_server.encoders.head import load_head
from serinus_server.encoders.tokens import load_tokenizer, pad, token_ids

_LENGTH_BUCKET: Final = 8  # lengths that tensor cores like, and few enough that the allocator's blocks are used again
_MEMORY_SHARE: Final = 0.9


class TorchEncoder:
    """bf16 on GPUs that have it, else fp16; fp32 on CPUs. `threads` counts for CPUs only; 0 leaves it to torch."""

    backend = "torch"

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.dim = manifest.dim
        self._manifest = manifest
        self._tokenizer = load_tokenizer(folder, manifest.max_tokens)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(_MEMORY_SHARE)
        elif threads:
            torch.set_num_threads(threads)
        self._model: Any = AutoModel.from_pretrained(
            folder, dtype=_dtype(self.device), attn_implementation="sdpa", local_files_only=True, use_safetensors=True,
            trust_remote_code=False,
        ).to(self.device).eval()  # fmt: skip
        self._head = load_head(folder).to(self.device) if manifest.output == EMBEDDING else None
        self._limit = min(manifest.max_tokens, int(getattr(self._model.config, "max_position_embeddings", 1 << 20)))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """See Encoder."""
        return token_ids(self._tokenizer, self._manifest.prompt, texts)

    @torch.inference_mode()
    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        """See Encoder."""
        ids, mask = pad(
            batch, _LENGTH_BUCKET if max(len(tokens) for tokens in batch) + _LENGTH_BUCKET <= self._limit else 1
        )
        on_device = [torch.from_numpy(array).to(self.device, non_blocking=True) for array in (ids, mask)]
        states = self._model(input_ids=on_device[0], attention_mask=on_device[1]).last_hidden_state
        vectors: Vectors = self._finish(states.float(), on_device[1]).cpu().numpy()
        return vectors

    def memory_bytes(self) -> tuple[int, int]:
        """See Encoder."""
        if self.device.type != "cuda":
            return 0, 0
        return torch.cuda.memory_reserved(), torch.cuda.memory_allocated()

    def _finish(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pools (n, tokens, dim) to (n, dim) and normalises where the model does; the model's own modules do, where it has others."""
        if self._head is not None:
            embedding: torch.Tensor = self._head({"token_embeddings": states, "attention_mask": mask})[
                "sentence_embedding"
            ]
            return embedding
        match self._manifest.pooling:
            case "mean":
                weights = mask.unsqueeze(-1).to(states.dtype)
                pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
            case "cls":
                pooled = states[:, 0]
            case "lasttoken":
                pooled = states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
            case _:
                raise ValueError(f"unknown pooling {self._manifest.pooling!r}")
        return torch.nn.functional.normalize(pooled) if self._manifest.normalize else pooled


def _dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
