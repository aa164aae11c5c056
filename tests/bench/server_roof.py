"""How near the forward pass is to what the CPU can multiply: one thread, CPU time, GEMM 1024×384×1536 in the same dtype and run.

python -m tests.bench.server_roof MODEL        prints one line of JSON: {"fp32": share, "bf16": share}
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from serinus_server.encoders.choice import Backend, load_encoder
from serinus_server.encoders.cores import cpu_flags
from serinus_server.encoders.openvino import BF16_FLAGS
from serinus_server.package import read_manifest

_TEXTS = 32
_TOKENS = 32
_FLOPS_PER_TOKEN = 21.23e6 + 9216 * _TOKENS  # MiniLM-L6: matrix products, and attention that grows with the length
_GEMM = (1024, 384, 1536)
_ROUNDS = 7


def main() -> None:
    folder = Path(sys.argv[1])
    manifest = read_manifest(folder)
    torch.set_num_threads(1)
    batch = [list(range(1000, 1000 + _TOKENS))] * _TEXTS
    shares = {}
    dtypes: dict[str, tuple[Backend, torch.dtype]] = {"fp32": ("onnx", torch.float32)}
    if BF16_FLAGS & cpu_flags():
        dtypes["bf16"] = ("openvino", torch.bfloat16)
    for name, (backend, dtype) in dtypes.items():
        encoder = load_encoder(backend, folder, manifest, threads=1)
        forward = partial(encoder.encode, batch)
        left, right = torch.randn(*_GEMM[:2]).to(dtype), torch.randn(*_GEMM[1:]).to(dtype)
        products: list[Callable[[], object]] = [partial(torch.mm, left, right)]
        if dtype == torch.float32:  # the best of the libraries: torch's and OpenBLAS' are slow on some CPUs
            products += [partial(np.matmul, left.numpy(), right.numpy()), _runtime_product(left.numpy(), right.numpy())]
        flops = 2.0 * _GEMM[0] * _GEMM[1] * _GEMM[2]
        ratios = []
        for _ in range(_ROUNDS):
            roof = max(flops / _cpu_seconds(product, 30) for product in products)
            ratios.append(_FLOPS_PER_TOKEN * _TEXTS * _TOKENS / _cpu_seconds(forward, 4) / roof)
        shares[name] = statistics.median(ratios)
    sys.stdout.write(json.dumps(shares) + "\n")


def _runtime_product(left: np.ndarray, right: np.ndarray) -> Callable[[], object]:
    """The same product by ONNX Runtime, its right side constant as weights are."""
    node = helper.make_node("MatMul", ["left", "right"], ["out"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("left", "out")]
    graph = helper.make_graph([node], "product", values[:1], values[1:], [numpy_helper.from_array(right, "right")])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return partial(session.run, None, {"left": left})


def _cpu_seconds(work: Callable[[], object], times: int) -> float:
    work()
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


if __name__ == "__main__":
    main()
