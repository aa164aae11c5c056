"""ONNX Runtime on CPUs: the exports that `register` made, tokenised by `tokenizers`, pooled in numpy. No torch.

One session with one thread serves every lane (a session may run in several threads at once and holds its weights once); a second one
with all cores answers a text that is alone. Neither spins while it waits: spinning burns the CPU time of whoever shares the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from serinus_contract.manifest import ONNX_INT8_PATH, ONNX_PATH, Manifest
from serinus_server.encoders import Dtype, TokenIds, Vectors
from serinus_server.encoders.cores import cores
from serinus_server.encoders.pooling import finish
from serinus_server.encoders.tokens import Tokenizing, feeds


class OnnxEncoder:
    """Inference from the export at `path` in the model's folder. `threads` 0 takes all cores that the process may use."""

    def __init__(
        self, folder: Path, manifest: Manifest, threads: int, *, path: str = ONNX_PATH, backend: str = "onnx"
    ) -> None:
        self.dim, self.backend = manifest.dim, backend
        self.dtype: Dtype = "int8" if path == ONNX_INT8_PATH else "float32"
        self._manifest = manifest
        self._tokenize = Tokenizing(folder, manifest)
        self.vocabulary = self._tokenize.vocabulary
        self.lanes = cores(threads)
        self._narrow = _session(folder / path, 1)
        self._wide = _session(folder / path, self.lanes) if self.lanes > 1 else self._narrow
        self._inputs = {each.name for each in self._narrow.get_inputs()}

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """See Encoder."""
        return self._tokenize(texts)

    def encode(self, batch: Sequence[TokenIds], *, alone: bool = False) -> Vectors:
        """See Encoder."""
        named, mask = feeds(batch, self._inputs)
        states: Vectors = (self._wide if alone else self._narrow).run(None, named)[0]
        return finish(states, mask, self._manifest)

    def memory_bytes(self) -> tuple[int, int]:
        """See Encoder."""
        return 0, 0


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
