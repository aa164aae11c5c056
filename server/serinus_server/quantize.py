"""The int8 export, made at registration: dynamic, per channel, smoothed; matrix products only (embedding tables stay exact).

At registration and not at first load, because then it has a digest, is the same in every pod, is held against the golden probes before
anybody serves it, and the CPU image needs no quantiser. The products that int8 damages most stay in fp32, as few as keep every probe
within the cosine and the neighbourhoods that make it the same vector space; each costs speed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from serinus_contract.manifest import ONNX_INT8_PATH, ONNX_PATH, Manifest
from serinus_server.encoders import Vectors
from serinus_server.encoders.onnx import OnnxEncoder
from serinus_server.encoders.tokens import feeds
from serinus_server.neighbourhood import nearest, overlap
from serinus_server.smoothing import smooth

LEAST_MEAN_COSINE: Final = 0.99
LEAST_COSINE: Final = 0.99  # with the neighbours: what makes an int8 copy the same space
LEAST_OVERLAP: Final = 0.95
_KEPT_EXACT: Final = (0, 2, 4, 8)  # products in fp32, tried in turn; MiniLM takes two
_CALIBRATION_TEXTS: Final = 40
_CALIBRATION_TOKENS: Final = 64
_BATCH: Final = 16


def write_int8(
    folder: Path, manifest: Manifest, texts: Sequence[str], expected: Vectors, tell: Callable[[str], None]
) -> None:
    """Writes the int8 export beside the fp32 one where its mean cosine to `expected` (n, dim) is at least 0.99; else says so."""
    exact = OnnxEncoder(folder, manifest, threads=0)
    tokens = exact.tokenize(texts)
    model = onnx.load(folder / ONNX_PATH)
    inputs = {each.name for each in model.graph.input}
    short = [ids for ids in tokens if len(ids) <= _CALIBRATION_TOKENS][:_CALIBRATION_TEXTS] or tokens[:1]
    products = smooth(model, [feeds([ids], inputs)[0] for ids in short])
    target = folder / ONNX_INT8_PATH
    with tempfile.TemporaryDirectory(prefix="serinus-") as scratch:
        smoothed = Path(scratch) / "smoothed.onnx"
        onnx.save(model, smoothed)
        for count in _KEPT_EXACT:
            quantize_dynamic(
                smoothed, target, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8,
                nodes_to_exclude=products[:count],
            )  # fmt: skip
            cosine, kept = _held_against(folder, manifest, tokens, expected)
            tell(
                f"int8, {count} of {len(products)} products exact: mean cosine {cosine.mean():.4f}, lowest {cosine.min():.4f},"
                f" neighbours kept {kept:.3f}"
            )
            if cosine.min() >= LEAST_COSINE and kept >= LEAST_OVERLAP:
                return
    if cosine.mean() < LEAST_MEAN_COSINE:
        tell("int8: left out")
        target.unlink()


def _held_against(
    folder: Path, manifest: Manifest, tokens: Sequence[Sequence[int]], expected: Vectors
) -> tuple[np.ndarray, float]:
    """Each text's cosine to `expected`, and the share of neighbours that are the same."""
    encoder = OnnxEncoder(folder, manifest, threads=0, path=ONNX_INT8_PATH, backend="onnx-int8")
    batches = [encoder.encode(tokens[start : start + _BATCH]) for start in range(0, len(tokens), _BATCH)]
    vectors = np.concatenate(batches)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    return (vectors * expected).sum(axis=1) / norms, overlap(nearest(vectors), nearest(expected))
