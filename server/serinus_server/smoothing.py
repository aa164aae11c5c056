"""Moves what int8 cannot hold from the activations of an ONNX graph into its weights (SmoothQuant, Xiao et al. 2022, arXiv 2211.10438).

Dynamic int8 has one step for all channels of an activation. A few channels of a transformer are a hundred times larger than the rest, which
then fall between the steps. Divided by s and the weights multiplied by s, channel by channel, the product is the same and both fit better;
the weights have a step for each channel of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_STRENGTH: Final = 0.6  # of 0.4 to 0.75 the one with the highest cosine for MiniLM
_LEAST: Final = 1e-5
_STEPS: Final = 255

Floats = NDArray[np.float32]


def smooth(model: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]]) -> list[str]:
    """Smooths every product with constant weights in `model`, by what flows through it for `feeds`, inputs of one text each.

    Returns the names of those products, the one that int8 damages most (its error's norm) first.
    """
    graph = model.graph
    weights = {each.name: each for each in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    sources = sorted({node.input[0] for node in products})
    seen = _seen(model, sources, feeds)
    errors: dict[str, float] = {}
    before: dict[str, Any] = {}  # the division, by the node that it comes before
    for number, source in enumerate(sources):
        users = [node for node in products if node.input[0] == source]
        matrices = [numpy_helper.to_array(weights[node.input[1]]) for node in users]
        scale = _scale(seen[source], matrices)
        divisor, divided = f"smooth_{number}", f"smooth_{number}_out"
        graph.initializer.append(numpy_helper.from_array(1 / scale, divisor))
        before[users[0].name] = helper.make_node("Mul", [source, divisor], [divided], name=f"smooth_{number}_mul")
        for node, matrix in zip(users, matrices, strict=True):
            scaled = np.ascontiguousarray(matrix * scale[:, None])
            errors[node.name] = _error([values / scale for values in seen[source]], scaled)
            graph.initializer.append(numpy_helper.from_array(scaled, f"smooth_{node.name}"))
            node.input[0], node.input[1] = divided, f"smooth_{node.name}"
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.name in before:
            graph.node.append(before[node.name])
        graph.node.append(node)
    _drop_unused(graph)
    return sorted(errors, key=lambda name: -errors[name])


def _seen(
    model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, list[Floats]]:
    """What flows through `names`: (tokens, width) for each of `feeds`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    seen: dict[str, list[Floats]] = {name: [] for name in names}
    for feed in feeds:
        for name, values in zip(names, session.run(list(names), dict(feed)), strict=True):
            seen[name].append(values.reshape(-1, values.shape[-1]))
    return seen


def _scale(activations: Sequence[Floats], matrices: Sequence[Floats]) -> Floats:
    """(width,) by which channels of the activations are divided; 1 in the geometric mean."""
    largest = np.max([np.abs(values).max(axis=0) for values in activations], axis=0)
    heaviest = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)
    scale = np.maximum(largest, _LEAST) ** _STRENGTH / np.maximum(heaviest, _LEAST) ** (1 - _STRENGTH)
    even: Floats = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
    return even


def _error(activations: Sequence[Floats], matrix: Floats) -> float:
    """Norm of what rounding an activation to 256 steps changes in the product, in the mean of the texts.

    One product for all of them: on busy cores BLAS' threads spend more time on beginning a small product together than on the product.
    """
    changed = np.concatenate([_rounded(values) - values for values in activations]) @ matrix
    ends = np.cumsum([len(values) for values in activations])
    return float(np.mean([np.linalg.norm(part) for part in np.split(changed, ends[:-1])]))


def _rounded(values: Floats) -> Floats:
    step = max((max(float(values.max()), 0.0) - min(float(values.min()), 0.0)) / _STEPS, 1e-12)
    rounded: Floats = np.rint(values / step) * step
    return rounded


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
