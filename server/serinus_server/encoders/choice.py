"""Which runtime encodes, and why. Imports only what it tries: the CPU image has no torch, the GPU image no ONNX Runtime.

`auto` measures in `verify`, and outside a cluster at the start: the fastest runtime of this machine whose vectors stay within a stated
cosine of the golden probes' expected ones. In a cluster all pods of a revision must be alike: the operator pins what verify chose by
SERINUS_BACKEND and SERINUS_DTYPE, and without a verify step the choice follows a rule that every pod decides alike.
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
from serinus_server.encoders import Dtype, Encoder
from serinus_server.encoders.cores import cpu_flags
from serinus_server.errors import ModelUnavailable
from serinus_server.neighbourhood import lowest_cosine
from serinus_server.package import Reference

Runtime: TypeAlias = Literal["onnx", "onnx-int8", "openvino", "torch"]
Backend: TypeAlias = Literal["auto", "onnx", "onnx-int8", "openvino", "torch"]
AnyDtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16", "int8"]

# What each runtime multiplies. The CRD refuses other pairs (tests/operator/test_schema.py holds the two together).
DTYPES: Final[Mapping[Runtime, tuple[Dtype, ...]]] = {
    "onnx": ("float32",), "onnx-int8": ("int8",), "openvino": ("float32", "bfloat16"), "torch": ("float32", "bfloat16", "float16"),
}  # fmt: skip

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


def load_encoder(backend: Backend, folder: Path, manifest: Manifest, threads: int, dtype: AnyDtype = "auto") -> Encoder:
    """The encoder of a packaged model; for `auto` the one of the rule, without measuring.

    Raises ModelUnavailable when the runtime is not in this image, has not this dtype, or the package has no such export.
    """
    return _load(_by_rule(dtype) if backend == "auto" else runtime_of(backend, dtype), folder, manifest, threads, dtype)


def runtime_of(backend: Runtime, dtype: AnyDtype) -> Runtime:
    """The runtime that a pair means: ONNX Runtime has an export of its own for int8. Raises ModelUnavailable where there is none."""
    runtime: Runtime = "onnx-int8" if (backend, dtype) == ("onnx", "int8") else backend
    if dtype != "auto" and dtype not in DTYPES[runtime]:
        raise ModelUnavailable(f"backend {backend} has no dtype {dtype}, but {', '.join(DTYPES[runtime])}")
    return runtime


def choose(
    backend: Backend, folder: Path, manifest: Manifest, threads: int, *, reference: Reference, least_cosine: float,
    in_cluster: bool, tell: Callable[[str], None], dtype: AnyDtype = "auto", why: str = "",
) -> Choice:  # fmt: skip
    """As `load_encoder`, and for `auto` outside a cluster the fastest of this dtype that keeps `least_cosine` on the golden probes."""
    if backend != "auto":
        return Choice(load_encoder(backend, folder, manifest, threads, dtype), why or f"SERINUS_BACKEND={backend}")
    ruled = _by_rule(dtype)
    if in_cluster or ruled in ("torch", "onnx-int8"):
        rule = (
            "all pods of a revision are alike: verify measures, and none did" if in_cluster
            else "there is a GPU" if dtype == "auto" else f"what has dtype {dtype} here"
        )  # fmt: skip
        return Choice(_load(ruled, folder, manifest, threads, dtype), f"{rule}; SERINUS_BACKEND pins another")
    fastest: Encoder | None = None  # of the others none is kept in memory
    measured: dict[str, Measured] = {}
    least_ms = float("inf")
    for runtime in _candidates(manifest, dtype):
        encoder = _load(runtime, folder, manifest, threads, dtype)
        measured[runtime] = _measure(encoder, reference)
        if measured[runtime].lowest_cosine >= least_cosine and measured[runtime].cpu_ms_per_text < least_ms:
            fastest, least_ms = encoder, measured[runtime].cpu_ms_per_text
        tell(
            f"{runtime}: {measured[runtime].cpu_ms_per_text:.2f} CPU-ms per probe, lowest cosine {measured[runtime].lowest_cosine:.5f}"
        )
    if fastest is None:
        raise ModelUnavailable(f"no runtime keeps cosine {least_cosine} to the golden probes: {measured}")
    return Choice(fastest, f"least CPU time of {', '.join(measured)} at cosine ≥ {least_cosine}", measured)


def _load(runtime: Runtime, folder: Path, manifest: Manifest, threads: int, dtype: AnyDtype) -> Encoder:
    wanted = None if dtype == "auto" else dtype
    if find_spec(_PACKAGES[runtime]) is None:
        raise ModelUnavailable(
            f"backend {runtime} needs {_PACKAGES[runtime]}, which this image has not; try the other FLAVOR"
        )
    match runtime:
        case "torch":
            from serinus_server.encoders.torch import TorchEncoder

            return TorchEncoder(folder, manifest, threads, dtype=wanted)
        case "openvino":
            from serinus_server.encoders.openvino import OpenvinoEncoder

            return OpenvinoEncoder(folder, manifest, threads, wanted)
        case "onnx":
            from serinus_server.encoders.onnx import OnnxEncoder

            return OnnxEncoder(folder, manifest, threads)
        case "onnx-int8":
            from serinus_server.encoders.onnx import OnnxEncoder

            if ONNX_INT8_PATH not in manifest.files:
                raise ModelUnavailable(f"the package has no {ONNX_INT8_PATH}; register the model again")
            return OnnxEncoder(folder, manifest, threads, path=ONNX_INT8_PATH, backend="onnx-int8")


def encodes_on_gpu(backend: Backend, dtype: AnyDtype = "auto") -> bool:
    """Will this backend encode on a GPU? Asks for the device's file alone: nothing is imported."""
    return (
        (backend == "torch" or (backend == "auto" and dtype != "int8"))
        and find_spec("torch") is not None
        and any(Path(each).exists() for each in _GPU_DEVICES)
    )


def _by_rule(dtype: AnyDtype) -> Runtime:
    if dtype == "int8":
        return "onnx-int8"
    if find_spec("torch") is not None and any(Path(device).exists() for device in _GPU_DEVICES):
        import torch

        if torch.cuda.is_available():
            return "torch"
    if dtype in ("auto", "float32") and find_spec("onnxruntime") is not None:
        return "onnx"
    return "openvino" if dtype == "bfloat16" and find_spec("openvino") is not None else "torch"


def _candidates(manifest: Manifest, dtype: AnyDtype) -> list[Runtime]:
    has_bfloat16 = {"avx512_bf16", "amx_bf16"} & cpu_flags()
    found: list[Runtime] = ["onnx"]
    if find_spec("openvino") is not None and (has_bfloat16 or dtype != "auto"):
        found.append("openvino")  # in fp32 it is seldom faster than ONNX Runtime
    if ONNX_INT8_PATH in manifest.files:
        found.append("onnx-int8")
    return [each for each in found if dtype == "auto" or dtype in DTYPES[each]]


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
