"""Every encoder gives the vectors of sentence-transformers, and a choice says what it rests on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serinus_contract import manifest as contract
from serinus_contract.manifest import Manifest
from serinus_server.encoders import Encoder, Vectors, openvino
from serinus_server.encoders.choice import Backend, choose, load_encoder, runtime_of
from serinus_server.encoders.cores import cores, cpu_flags
from serinus_server.errors import ModelUnavailable
from serinus_server.neighbourhood import lowest_cosine, nearest, overlap
from serinus_server.package import read_manifest, read_reference

_REFERENCE = """
import dataclasses, json, sys
from pathlib import Path
import numpy as np
from sentence_transformers import SentenceTransformer
from serinus_server.encoders import torch as module
from serinus_server.encoders.torch import TorchEncoder
from serinus_server.neighbourhood import lowest_cosine, nearest, overlap
from serinus_server.package import read_manifest
texts, packaged = json.load(sys.stdin), Path(sys.argv[2])
model = SentenceTransformer(sys.argv[1], device="cpu")
expected = model.encode(texts, show_progress_bar=False)
torch = TorchEncoder(packaged, read_manifest(packaged), 0)
ids = torch.tokenize(texts)
module._GRAPH_TEXTS, module._GRAPH_TOKENS = (1, 8), (16, 32)
shaped = TorchEncoder(packaged, read_manifest(packaged), 0, shapes=True)
def encode(encoder, ids, size):
    return np.concatenate([encoder.encode(ids[i : i + size]) for i in range(0, len(ids), size)])
pooled = {}
for mode in ("cls", "lasttoken"):
    model[1].pooling_mode = mode
    pooled[mode] = model.encode(texts[:60], show_progress_bar=False)
    manifest = dataclasses.replace(read_manifest(packaged), pooling=mode)
    pooled["torch-" + mode] = encode(TorchEncoder(packaged, manifest, 0), ids[:60], 20)
half = encode(TorchEncoder(packaged, read_manifest(packaged), 0, dtype="bfloat16"), ids[:60], 20)
np.savez(sys.argv[3], **pooled, half=half, expected=expected, torch=encode(torch, ids, 32), shaped=encode(shaped, ids[:80], 5))
"""


@pytest.fixture(scope="module")
def texts(corpus: list[str]) -> list[str]:
    """A thousand and more: sentences, their beginnings, and what models stumble over."""
    odd = [
        "ß" * 3000,
        "a",
        "日本語のテキスト",
        "🙂 emoji 🙃",
        "x " * 600,
        "NULL\0byte",
        "MiXeD CaSe",
        "...",
        "1234567890",
    ]
    return [*corpus, *(text[: len(text) // 2] for text in corpus[:60]), *odd]


@pytest.fixture(scope="module")
def expected(
    minilm: Path, packaged: Path, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Vectors]:
    """By sentence-transformers, and by our torch encoder, in a process of its own."""
    target = tmp_path_factory.mktemp("expected") / "vectors.npz"
    command = [sys.executable, "-c", _REFERENCE, str(minilm), str(packaged), str(target)]
    subprocess.run(command, input=json.dumps(texts), text=True, check=True, timeout=300, capture_output=True)
    return dict(np.load(target))


def vectors(encoder: Encoder, texts: list[str]) -> Vectors:
    ids = sorted(enumerate(encoder.tokenize(texts)), key=lambda each: len(each[1]))
    rows = np.empty((len(texts), encoder.dim), dtype=np.float32)
    for start in range(0, len(ids), 32):
        batch = ids[start : start + 32]
        rows[[index for index, _ in batch]] = encoder.encode([tokens for _, tokens in batch])
    return rows


@pytest.mark.model
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_vectors_are_those_of_sentence_transformers(
    backend: Backend, packaged: Path, texts: list[str], expected: dict[str, Vectors]
) -> None:
    assert len(texts) >= 1000
    ours = vectors(load_encoder(backend, packaged, read_manifest(packaged), 0), texts)
    assert lowest_cosine(ours, expected["expected"]) >= 0.999
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-3)


@pytest.mark.model
@pytest.mark.parametrize("pooling", ["cls", "lasttoken"])
def test_other_poolings_are_those_of_sentence_transformers(
    pooling: str, packaged: Path, texts: list[str], expected: dict[str, Vectors]
) -> None:
    encoder = load_encoder("onnx", packaged, replace(read_manifest(packaged), pooling=pooling), 0)
    assert lowest_cosine(vectors(encoder, texts[:60]), expected[pooling]) >= 0.999
    assert lowest_cosine(expected[f"torch-{pooling}"], expected[pooling]) >= 0.999


@pytest.mark.model
def test_torch_gives_the_vectors_of_sentence_transformers(expected: dict[str, Vectors]) -> None:
    assert lowest_cosine(expected["torch"], expected["expected"]) >= 0.999
    assert lowest_cosine(expected["shaped"], expected["expected"][:80]) >= 0.999  # through the buffers that graphs use


@pytest.mark.model
def test_int8_stays_within_its_own_promise(packaged: Path, texts: list[str], expected: dict[str, Vectors]) -> None:
    """On texts that it was not made with: every cosine 0.98, and the neighbourhoods that retrieval rests on: 92 % of the ten nearest."""
    ours = vectors(load_encoder("onnx-int8", packaged, read_manifest(packaged), 0), texts)
    assert lowest_cosine(ours, expected["expected"]) >= 0.98
    assert overlap(nearest(ours), nearest(expected["expected"])) >= 0.92
    reference = read_reference(packaged)
    golden = vectors(load_encoder("onnx-int8", packaged, read_manifest(packaged), 0), list(reference.probes))
    assert lowest_cosine(golden, reference.vectors) >= 0.99
    assert overlap(nearest(golden), reference.neighbours) >= 0.95


@pytest.mark.model
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_lanes_and_tokenizers_may_be_used_from_many_threads_at_once(
    backend: Backend, packaged: Path, corpus: list[str]
) -> None:
    encoder = load_encoder(backend, packaged, read_manifest(packaged), 2)
    alone = {text: encoder.encode(encoder.tokenize([text]), alone=True)[0] for text in corpus[:12]}
    wrong: list[str] = []

    def work() -> None:
        for text, vector in alone.items():
            if float(encoder.encode(encoder.tokenize([text]))[0] @ vector) < 0.999:
                wrong.append(text)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def chosen(packaged: Path, backend: Backend, **extra: Any) -> Any:
    reference, manifest = read_reference(packaged), read_manifest(packaged)
    least = extra.pop("least_cosine", 0.999)
    return choose(backend, packaged, manifest, 1, reference=reference, least_cosine=least, tell=print, **extra)


@pytest.mark.model
def test_bfloat16_of_torch_keeps_what_verify_asks_for(expected: dict[str, Vectors]) -> None:
    assert lowest_cosine(expected["half"], expected["expected"][:60]) >= 0.999


@pytest.mark.model
def test_a_dtype_that_was_asked_for_is_what_encodes(packaged: Path) -> None:
    for backend, dtype, runs in (
        ("onnx", "int8", "onnx-int8"),
        ("openvino", "float32", "openvino"),
        ("auto", "int8", "onnx-int8"),
    ):
        encoder = load_encoder(backend, packaged, read_manifest(packaged), 1, dtype)  # type: ignore[arg-type]
        assert (encoder.backend, encoder.dtype) == (runs, dtype)
    found = chosen(packaged, "auto", in_cluster=False, dtype="float32")
    assert (set(found.measured), found.encoder.dtype) == ({"onnx", "openvino"}, "float32")
    assert chosen(packaged, "auto", in_cluster=False, dtype="int8").encoder.dtype == "int8"


@pytest.mark.model
def test_bfloat16_is_what_the_cpu_multiplies_or_refused(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO itself would take float32 without a word."""
    if openvino.BF16_FLAGS & cpu_flags():
        assert chosen(packaged, "auto", in_cluster=True, dtype="bfloat16").encoder.backend == "openvino"
    monkeypatch.setattr(openvino, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(ModelUnavailable, match="bfloat16 needs a CPU with one of"):
        load_encoder("openvino", packaged, read_manifest(packaged), 1, "bfloat16")
    assert load_encoder("openvino", packaged, read_manifest(packaged), 1).dtype == "float32"


def test_a_dtype_that_a_runtime_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(ModelUnavailable, match="backend onnx has no dtype bfloat16, but float32"):
        runtime_of("onnx", "bfloat16")


@pytest.mark.model
def test_in_a_cluster_nothing_is_measured(packaged: Path) -> None:
    assert chosen(packaged, "auto", in_cluster=True).measured == {}
    assert chosen(packaged, "onnx-int8", in_cluster=True).encoder.backend == "onnx-int8"
    with pytest.raises(ModelUnavailable, match=r"no runtime keeps cosine 1\.1"):
        chosen(packaged, "auto", in_cluster=False, least_cosine=1.1)


def test_a_package_without_an_int8_export_says_what_to_do(tmp_path: Path) -> None:
    manifest = Manifest("space", 3, 8, "mean", True, {contract.ONNX_PATH: "0"})
    with pytest.raises(ModelUnavailable, match="register the model again"):
        load_encoder("onnx-int8", tmp_path, manifest, 0)


def test_cores_are_those_that_the_process_may_use() -> None:
    assert 1 <= cores() <= len(os.sched_getaffinity(0))
    assert cores(1) == 1
