"""PyTorch: on a GPU in half precision, on a CPU in fp32 (where it is exercised; the CPU images use the other runtimes).

Batches are padded to length buckets. On a GPU the common shapes are CUDA graphs, captured before the server is ready, the largest first, in
one memory pool: a launch costs one call instead of a hundred, and the allocator's blocks stay the same. Other shapes run as they are.
Reads safetensors and configuration only, from the packaged folder, with transformers' own classes: nothing of a model's is ever run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from serinus_contract.manifest import EMBEDDING, Manifest
from serinus_server.encoders import Dtype, TokenIds, Vectors
from serinus_server.encoders.cores import cores
from serinus_server.encoders.head import load_head
from serinus_server.encoders.tokens import Tokenizing, pad
from serinus_server.errors import ModelUnavailable

_LENGTH_BUCKET: Final = 8  # lengths that tensor cores like, and few enough that the allocator's blocks are used again
_MEMORY_SHARE: Final = 0.9
_GRAPH_TEXTS: Final = (1, 8, 32, 128)
_GRAPH_TOKENS: Final = (16, 32, 64, 128)
_TORCH: Final[Mapping[Dtype, torch.dtype]] = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip
_WARM_UPS: Final = 3  # before a capture: libraries choose and initialise their kernels outside the graph

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shape:
    """A batch of `texts` rows of `tokens` columns that is kept ready: its buffers here and on the device, and the captured graph."""

    here: tuple[torch.Tensor, torch.Tensor]
    there: tuple[torch.Tensor, torch.Tensor]
    vectors: torch.Tensor
    vectors_here: torch.Tensor
    graph: Any


class TorchEncoder:
    """`dtype` None takes bfloat16 on GPUs that have it, else float16, and float32 on CPUs. `threads` 0 takes all cores; a GPU needs none.

    `shapes` prepares shapes on a CPU too, without graphs, to exercise that way; `random_weights` needs the configuration alone.
    """

    backend = "torch"
    lanes = 1  # a GPU is kept busy by one stream of whole batches, and torch's own threads share one batch on a CPU

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        threads: int,
        *,
        dtype: Dtype | None = None,
        shapes: bool | None = None,
        random_weights: bool = False,
    ) -> None:
        self.dim = manifest.dim
        self._manifest = manifest
        self._tokenize = None if random_weights else Tokenizing(folder, manifest)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(_MEMORY_SHARE)
        else:
            torch.set_num_threads(cores(threads))
        self.dtype: Dtype = dtype or _usual(self.device)
        _require(self.dtype, self.device)
        self._model = _network(folder, _TORCH[self.dtype], random_weights).to(self.device).eval()
        self._head = load_head(folder).to(self.device) if manifest.output == EMBEDDING else None
        self.vocabulary = int(self._model.config.vocab_size)
        self._limit = min(manifest.max_tokens, int(getattr(self._model.config, "max_position_embeddings", 1 << 20)))
        self._busy = threading.Lock()  # the shapes' buffers hold one batch at a time
        self._shapes: dict[tuple[int, int], Shape] = {}
        if self.device.type == "cuda" if shapes is None else shapes:
            self._prepare()

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """See Encoder."""
        if self._tokenize is None:
            raise ValueError("random weights have no tokenizer: encode token ids")
        return self._tokenize(texts)

    @torch.inference_mode()
    def encode(self, batch: Sequence[TokenIds], *, alone: bool = False) -> Vectors:
        """See Encoder."""
        longest = max(map(len, batch))
        if (shape := self._shapes.get(self._fitting(len(batch), longest))) is not None:
            return self._replay(shape, batch)
        ids, mask = pad(batch, _LENGTH_BUCKET if longest + _LENGTH_BUCKET <= self._limit else 1)
        on_device = [torch.from_numpy(array).to(self.device, non_blocking=True) for array in (ids, mask)]
        vectors: Vectors = self._forward(on_device[0], on_device[1]).cpu().numpy()
        return vectors

    def memory_bytes(self) -> tuple[int, int]:
        """See Encoder."""
        if self.device.type != "cuda":
            return 0, 0
        return torch.cuda.memory_reserved(), torch.cuda.memory_allocated()

    def _fitting(self, texts: int, tokens: int) -> tuple[int, int]:
        """The smallest prepared shape that holds such a batch; (0, 0) where none does."""
        rows = next((each for each in _GRAPH_TEXTS if each >= texts), 0)
        columns = next((each for each in _GRAPH_TOKENS if each >= tokens), 0)
        return (rows, columns) if rows and columns else (0, 0)

    @torch.inference_mode()
    def _prepare(self) -> None:
        pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        wanted = [(texts, tokens) for texts in _GRAPH_TEXTS for tokens in _GRAPH_TOKENS if tokens <= self._limit]
        for texts, tokens in sorted(wanted, key=lambda shape: -shape[0] * shape[1]):
            pinned = self.device.type == "cuda"
            here = tuple(torch.ones((texts, tokens), dtype=torch.int64, pin_memory=pinned) for _ in range(2))
            there = tuple(each.to(self.device) for each in here)
            for _ in range(_WARM_UPS if pinned else 1):
                vectors = self._forward(*there)
            graph = None
            if pinned:
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    vectors = self._forward(*there)
            back = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=pinned)
            self._shapes[texts, tokens] = Shape((here[0], here[1]), (there[0], there[1]), vectors, back, graph)
        log.info("%d batch shapes are prepared on %s", len(self._shapes), self.device)

    def _replay(self, shape: Shape, batch: Sequence[TokenIds]) -> Vectors:
        """Fills the shape's buffers, runs it, copies the batch's rows back. Rows that nobody asked for are one token long."""
        with self._busy:
            ids, mask = (each.numpy() for each in shape.here)
            ids[:] = 0
            mask[:] = 0
            mask[len(batch) :, 0] = 1  # a row without any token would divide by zero
            for row, tokens in enumerate(batch):
                ids[row, : len(tokens)] = tokens
                mask[row, : len(tokens)] = 1
            for here, there in zip(shape.here, shape.there, strict=True):
                there.copy_(here, non_blocking=True)
            if shape.graph is None:
                shape.vectors.copy_(self._forward(*shape.there))
            else:
                shape.graph.replay()
            shape.vectors_here.copy_(shape.vectors)  # waits for the device
            return np.array(shape.vectors_here.numpy()[: len(batch)])

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(n, tokens) ids and mask → (n, dim) float32. The mask goes in whole: transformers would look at its values to make one."""
        allowed = mask[:, None, None, :].to(torch.bool).expand(-1, 1, ids.shape[1], -1)
        states = self._model(input_ids=ids, attention_mask=allowed).last_hidden_state
        return self._finish(states.float(), mask)

    def _finish(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pools (n, tokens, dim) to (n, dim) and normalises where the model does; the model's own modules do, where it has others."""
        if self._head is not None:
            features = self._head({"token_embeddings": states, "attention_mask": mask})
            embedding: torch.Tensor = features["sentence_embedding"]
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


def _network(folder: Path, dtype: torch.dtype, random_weights: bool) -> Any:
    if random_weights:
        torch.manual_seed(0)
        configuration = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return AutoModel.from_config(configuration, dtype=dtype, attn_implementation="sdpa")
    return AutoModel.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True, use_safetensors=True, trust_remote_code=False
    )  # fmt: skip


def _usual(device: torch.device) -> Dtype:
    if device.type == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _require(dtype: Dtype, device: torch.device) -> None:
    """Raises ModelUnavailable for numbers that the device does not multiply."""
    if dtype == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ModelUnavailable("dtype bfloat16 is not among those of this GPU; float16 is")
    if dtype == "float16" and device.type == "cpu":
        raise ModelUnavailable("dtype float16 needs a GPU, and this pod has none; CPUs have float32 and bfloat16")
