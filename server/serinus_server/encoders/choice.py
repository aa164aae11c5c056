"""Which runtime encodes, and why. Imports only what it tries: the CPU image has no torch, the GPU image no ONNX Runtime.

`auto` measures in `verify`, and outside a cluster at the start: the fastest runtime of this machine whose vectors stay within a stated
cosine of the golden probes' expected ones. In a cluster all pods of a revision must be alike: the operator pins what verify chose by
SERINUS_BACKEND, and without a verify step the choice follows a rule that every pod decides alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np

from serinus_contract.manifest import ONNX_INT8_PATH, Manifest
from serinus_server.encoders import Encoder
from serinus_server.encoders.cores import cpu_flags
from serinus_server.errors import ModelUnavailable
from serinus_server.neighbourhood import lowest_cosine
from serinus_server.package import Reference

Runtime: TypeAlias = Literal["onnx", "onnx-int8", "openvino", "torch"]
Backend: TypeAlias = Literal["auto", "onnx", "onnx-int8", "openvino", "torch"]

_PACKAGES: Final[Mapping[Runtime, str]] = {
    "onnx": "onnxruntime", "onnx-int8": "onnxruntime", "openvino": "openvino", "torch": "torch",
}  # fmt: skip
_GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # looked at first: importing torch takes seconds
_BATCH: Final = 16
_TIMED_BATCHES: Final = 4  # the shortest probes: sentences, as most requests are
_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """One candidate of `auto`: CPU milliseconds per probe in batches, and the lowest cosine to the expected vectors."""

    cpu_ms_per_text: float
    lowest_cosine: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What encodes, why, and the figures behind it."""

    encoder: Encoder
    reason: str
    measured: Mapping[str, Measured] = field(default_factory=dict)


def load_encoder(backend: Backend, folder: Path, manifest: Manifest, threads: int) -> Encoder:
    """The encoder of a packaged model; for `auto` the one of the rule, without measuring.

    Raises ModelUnavailable when the runtime is not in this image or the package has no such export.
    """
    return _load(_by_rule() if backend == "auto" else backend, folder, manifest, threads)


def choose(
    backend: Backend, folder: Path, manifest: Manifest, threads: int, *, reference: Reference, least_cosine: float,
    in_cluster: bool, tell: Callable[[str], None], why: str = "",
) -> Choice:  # fmt: skip
    """As `load_encoder`, and for `auto` outside a cluster the fastest that keeps `least_cosine` on the golden probes."""
    if backend != "auto":
        return Choice(load_encoder(backend, folder, manifest, threads), why or f"SERINUS_BACKEND={backend}")
    ruled = _by_rule()
    if in_cluster or ruled == "torch":
        rule = "all pods of a revision are alike: verify measures, and none did" if in_cluster else "there is a GPU"
        return Choice(load_encoder(ruled, folder, manifest, threads), f"{rule}; SERINUS_BACKEND pins another")
    fastest: Encoder | None = None  # of the others none is kept in memory
    measured: dict[str, Measured] = {}
    least_ms = float("inf")
    for runtime in _candidates(manifest):
        encoder = _load(runtime, folder, manifest, threads)
        measured[runtime] = _measure(encoder, reference)
        if measured[runtime].lowest_cosine >= least_cosine and measured[runtime].cpu_ms_per_text < least_ms:
            fastest, least_ms = encoder, measured[runtime].cpu_ms_per_text
        tell(
            f"{runtime}: {measured[runtime].cpu_ms_per_text:.2f} CPU-ms per probe, lowest cosine {measured[runtime].lowest_cosine:.5f}"
        )
    if fastest is None:
        raise ModelUnavailable(f"no runtime keeps cosine {least_cosine} to the golden probes: {measured}")
    return Choice(fastest, f"least CPU time of {', '.join(measured)} at cosine ≥ {least_cosine}", measured)


def _load(runtime: Runtime, folder: Path, manifest: Manifest, threads: int) -> Encoder:
    if find_spec(_PACKAGES[runtime]) is None:
        raise ModelUnavailable(
            f"backend {runtime} needs {_PACKAGES[runtime]}, which this image has not; try the other FLAVOR"
        )
    match runtime:
        case "torch":
            from serinus_server.encoders.torch import TorchEncoder

            return TorchEncoder(folder, manifest, threads)
        case "openvino":
            from serinus_server.encoders.openvino import OpenvinoEncoder

            return OpenvinoEncoder(folder, manifest, threads)
        case "onnx":
            from serinus_server.encoders.onnx import OnnxEncoder

            return OnnxEncoder(folder, manifest, threads)
        case "onnx-int8":
            from serinus_server.encoders.onnx import OnnxEncoder

            if ONNX_INT8_PATH not in manifest.files:
                raise ModelUnavailable(f"the package has no {ONNX_INT8_PATH}; register the model again")
            return OnnxEncoder(folder, manifest, threads, path=ONNX_INT8_PATH, backend="onnx-int8")


def encodes_on_gpu(backend: Backend) -> bool:
    """Will this backend encode on a GPU? Asks for the device's file alone: nothing is imported."""
    return (
        backend in ("auto", "torch")
        and find_spec("torch") is not None
        and any(Path(each).exists() for each in _GPU_DEVICES)
    )


def _by_rule() -> Runtime:
    if find_spec("torch") is not None and any(Path(device).exists() for device in _GPU_DEVICES):
        import torch

        if torch.cuda.is_available():
            return "torch"
    return "onnx" if find_spec("onnxruntime") is not None else "torch"


def _candidates(manifest: Manifest) -> list[Runtime]:
    found: list[Runtime] = ["onnx"]
    if find_spec("openvino") is not None and {"avx512_bf16", "amx_bf16"} & cpu_flags():
        found.append("openvino")  # in fp32 it is no faster than ONNX Runtime
    if ONNX_INT8_PATH in manifest.files:
        found.append("onnx-int8")
    return found


def _measure(encoder: Encoder, reference: Reference) -> Measured:
    """Process CPU time, best of some rounds: neighbours on the machine make a round slower and never faster."""
    tokens = sorted(enumerate(encoder.tokenize(reference.probes)), key=lambda each: len(each[1]))
    batches = [tokens[start : start + _BATCH] for start in range(0, len(tokens), _BATCH)]
    vectors = np.empty_like(reference.vectors)
    for batch in batches:
        vectors[[index for index, _ in batch]] = encoder.encode([ids for _, ids in batch])
    timed = [[ids for _, ids in batch] for batch in batches[:_TIMED_BATCHES]]
    seconds = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        for ids in timed:
            encoder.encode(ids)
        seconds.append(time.process_time() - began)
    return Measured(1000 * min(seconds) / sum(map(len, timed)), lowest_cosine(vectors, reference.vectors))
