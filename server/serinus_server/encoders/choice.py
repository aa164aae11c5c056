"""Which runtime encodes. Imports only the one that is chosen: the CPU image has no torch, the GPU image no ONNX Runtime."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

from serinus_contract.manifest import Manifest
from serinus_server.encoders import Encoder
from serinus_server.errors import ModelUnavailable

Backend: TypeAlias = Literal["auto", "onnx", "torch"]


def load_encoder(backend: Backend, folder: Path, manifest: Manifest, threads: int) -> Encoder:
    """The encoder of a packaged model. `auto` is torch where there is a GPU for it, else ONNX Runtime, else torch on the CPU.

    Raises ModelUnavailable when the runtime is not in this image.
    """
    chosen = _automatic() if backend == "auto" else backend
    package = {"onnx": "onnxruntime", "torch": "torch"}[chosen]
    if find_spec(package) is None:
        raise ModelUnavailable(f"backend {chosen} needs {package}, which this image has not; try the other FLAVOR")
    if chosen == "torch":
        from serinus_server.encoders.torch import TorchEncoder

        return TorchEncoder(folder, manifest, threads)
    from serinus_server.encoders.onnx import OnnxEncoder

    return OnnxEncoder(folder, manifest, threads)


def _automatic() -> Literal["onnx", "torch"]:
    if find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return "torch"
    return "onnx" if find_spec("onnxruntime") is not None else "torch"
