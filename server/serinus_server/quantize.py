"""The int8 export, made at registration: dynamic, per channel, matrix products only (embedding tables stay exact).

At registration and not at first load, because then it has a digest, is the same in every pod, is held against the golden probes before
anybody serves it, and the CPU image needs no quantiser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic

from serinus_contract.manifest import ONNX_INT8_PATH, ONNX_PATH, Manifest
from serinus_server.encoders import Vectors
from serinus_server.encoders.onnx import OnnxEncoder

LEAST_MEAN_COSINE: Final = 0.99
_BATCH: Final = 16


def write_int8(
    folder: Path, manifest: Manifest, texts: Sequence[str], expected: Vectors, tell: Callable[[str], None]
) -> None:
    """Writes the int8 export beside the fp32 one where its mean cosine to `expected` (n, dim) is at least 0.99; else says so."""
    quantize_dynamic(
        folder / ONNX_PATH, folder / ONNX_INT8_PATH, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8
    )  # fmt: skip
    encoder = OnnxEncoder(folder, manifest, threads=0, path=ONNX_INT8_PATH, backend="onnx-int8")
    tokens = encoder.tokenize(texts)
    vectors = np.concatenate(
        [encoder.encode(tokens[start : start + _BATCH]) for start in range(0, len(tokens), _BATCH)]
    )
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = (vectors * expected).sum(axis=1) / norms
    kept = bool(cosine.mean() >= LEAST_MEAN_COSINE)
    tell(f"int8: mean cosine {cosine.mean():.4f}, lowest {cosine.min():.4f}; {'kept' if kept else 'left out'}")
    if not kept:
        (folder / ONNX_INT8_PATH).unlink()
