"""A model's way into the registry's format and its examination, with the real model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file
from tests.server.conftest import package, root, start, stop
from tokenizers import Tokenizer

from serinus_contract import manifest as contract
from serinus_contract.manifest import Manifest
from serinus_contract.verification import VerifyReport
from serinus_server.encoders.choice import load_encoder
from serinus_server.errors import ModelUnavailable, UnsafeModel
from serinus_server.loading import fetch
from serinus_server.neighbourhood import lowest_cosine
from serinus_server.package import Stored, read_manifest, read_reference, sha256

if TYPE_CHECKING:  # torch takes ten seconds to import, in each process that collects tests
    from serinus_server.source import Source

pytestmark = pytest.mark.model


def verify(
    model: Path, tmp_path: Path, against: Path | None = None, backend: str = "onnx"
) -> tuple[int, VerifyReport | None, str]:
    report = tmp_path / "report.json"
    environment = {**os.environ, "MLFLOW_MODEL_URI": str(model), "SERINUS_BACKEND": backend}
    if against is not None:
        environment["SERINUS_VERIFY_AGAINST"] = str(against)
    run = subprocess.run(
        [sys.executable, "-m", "serinus_server", "verify", "--report", str(report)],
        env=environment, capture_output=True, text=True, timeout=120, cwd=root(),
    )  # fmt: skip
    return (
        run.returncode,
        VerifyReport.from_json(report.read_text()) if report.exists() else None,
        run.stdout + run.stderr,
    )


def test_verify_passes_the_same_model_and_fails_a_damaged_one(packaged: Path, minilm: Path, tmp_path: Path) -> None:
    code, report, _ = verify(packaged, tmp_path, against=packaged)
    assert code == 0
    assert report is not None
    assert report.passed
    damaged = tmp_path / "damaged"
    shutil.copytree(minilm, damaged)
    rng = np.random.default_rng(3)
    weights = load_file(minilm / "model.safetensors")
    noisy = {
        name: (tensor + rng.normal(0, 0.5 * tensor.std(), tensor.shape)).astype(tensor.dtype)
        if tensor.dtype.kind == "f"
        else tensor
        for name, tensor in weights.items()
    }
    save_file(noisy, damaged / "model.safetensors", metadata={"format": "pt"})
    code, report, _ = verify(package(damaged, tmp_path / "damaged-package", whole=False), tmp_path, against=packaged)
    assert code == 1
    assert report is not None
    failed = {check.name for check in report.checks if not check.passed}
    assert failed == {"neighbours", "similarities", "long-neighbours"}
    assert "top-10 neighbour overlap with stable version folder is 0.3" in report.reason


def test_a_changed_file_is_named_and_refused(packaged: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(packaged, changed)
    with (changed / "onnx" / "model.onnx").open("ab") as stream:
        stream.write(b"!")
    with pytest.raises(ModelUnavailable, match=r"onnx/model\.onnx has SHA-256"):
        fetch(str(changed), None, tmp_path)
    code, report, output = verify(changed, tmp_path)
    assert (code, report) == (2, None)
    assert "onnx/model.onnx" in output


def test_another_digest_than_the_registrys_is_refused(packaged: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="the registry named abc"):
        fetch(str(packaged), None, tmp_path, "abc")


def brought(minilm: Path, tmp_path: Path, file: str, content: bytes) -> Path:
    """A copy of the model in which somebody put this file."""
    source = tmp_path / "brought"
    shutil.copytree(minilm, source)
    (source / file).parent.mkdir(exist_ok=True)
    (source / file).write_bytes(content)
    return source


def test_a_setting_that_the_server_does_not_carry_out_is_refused(minilm: Path, tmp_path: Path) -> None:
    from serinus_server.source import load_source

    lowering = b'{"max_seq_length": 256, "do_lower_case": true}'
    with pytest.raises(UnsafeModel, match="do_lower_case is not supported"):
        load_source(brought(minilm, tmp_path, "sentence_bert_config.json", lowering))


def test_pickles_and_a_readme_beside_safetensors_are_left_alone(minilm: Path, tmp_path: Path) -> None:
    from serinus_server.source import load_source

    source = brought(minilm, tmp_path, "pytorch_model.bin", b"\x80\x04")
    assert (source / "README.md").exists()
    assert load_source(source).dim == 384


def test_onnx_tensors_outside_the_folder_are_refused_by_file_name(packaged: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(packaged, model)
    graph = onnx.load(model / contract.ONNX_PATH)
    tensor = graph.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (model / contract.ONNX_PATH).write_bytes(graph.SerializeToString())  # onnx's own `save` refuses it
    manifest = Manifest.from_json((model / contract.PATH).read_text())
    files = {**manifest.files, contract.ONNX_PATH: sha256(model / contract.ONNX_PATH)}
    (model / contract.PATH).write_text(replace(manifest, files=files).to_json())
    with pytest.raises(UnsafeModel, match=r"onnx/model\.onnx: reads its tensors from '\.\./\.\./etc/passwd'"):
        fetch(str(model), None, tmp_path)


# --- the identity of a space ------------------------------------------------------------------------------------------------------


def test_an_orthogonal_layer_makes_another_space_that_no_quality_can_tell(
    packaged: Path, rotated: Path, tmp_path: Path
) -> None:
    plain, turned = (Manifest.from_json((folder / contract.PATH).read_text()) for folder in (packaged, rotated))
    assert (plain.output, turned.output) == (contract.STATES, contract.EMBEDDING)
    assert plain.dim == turned.dim
    assert plain.space != turned.space
    code, report, output = verify(rotated, tmp_path, against=packaged, backend="auto")
    assert code == 0, output
    assert report is not None
    values = {check.name: check.value for check in report.checks}
    assert min(values["neighbours"], values["long-neighbours"]) > 0.95  # in the arithmetic that verify chose here
    ours, theirs = (read_reference(folder).vectors for folder in (packaged, rotated))
    assert abs(float((ours * theirs).sum(axis=1).mean())) < 0.2


def test_a_space_that_is_declared_is_measured_and_refused_when_it_is_another(packaged: Path, rotated: Path) -> None:
    from serinus_server.register import measure_same_space

    stable = Stored("1", read_manifest(packaged), read_reference(packaged))
    theirs = read_reference(rotated).vectors
    ours = stable.reference.vectors
    with pytest.raises(ValueError, match="--same-space-as 1: its normalize is True, this model's False"):
        measure_same_space(read_manifest(rotated), stable, lambda _: theirs)
    with pytest.raises(ValueError, match=r"--same-space-as 1: the lowest cosine to its golden probes is -?0\.\d+"):
        measure_same_space(stable.manifest, stable, lambda _: theirs)
    rng = np.random.default_rng(2)
    for noise, kept in ((1e-4, True), (3e-3, True), (2e-2, False)):
        vectors = (ours + rng.normal(0, noise, ours.shape)).astype(np.float32)
        try:
            measured = measure_same_space(stable.manifest, stable, lambda _, vectors=vectors: vectors)
            assert kept, measured
        except ValueError:
            assert not kept


def test_layers_after_pooling_are_served(rotated: Path, tmp_path: Path) -> None:
    reference = read_reference(rotated)
    served = start(rotated, tmp_path / "server.log", SERINUS_DRAIN_SECONDS="0")
    try:
        served.wait_ready(120)
        answer = httpx.post(f"{served.url}/predict", json={"inputs": reference.probes[:16]}, timeout=60)
    finally:
        assert stop(served) == 0
    assert lowest_cosine(np.array(answer.json()["embeddings"]), reference.vectors[:16]) > 0.9999
    assert answer.headers["x-embedding-space"] == Manifest.from_json((rotated / contract.PATH).read_text()).space


@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
def test_vectors_stay_as_they_are_while_later_ones_are_made(rotated: Path, backend: str) -> None:
    reference, encoder = read_reference(rotated), load_encoder(backend, rotated, read_manifest(rotated), 1)
    vectors = [encoder.encode([tokens]) for tokens in encoder.tokenize(reference.probes[:8])]
    assert lowest_cosine(np.concatenate(vectors), reference.vectors[:8]) > 0.999


def test_a_stored_prompt_is_put_before_every_text(minilm: Path, packaged: Path, tmp_path: Path) -> None:
    prompts = {"prompts": {"passage": "passage: "}, "default_prompt_name": "passage"}
    source = brought(minilm, tmp_path, "config_sentence_transformers.json", json.dumps(prompts).encode())
    prompted = package(source, tmp_path / "prompted", whole=False)
    manifest = Manifest.from_json((prompted / contract.PATH).read_text())
    assert manifest.prompt == "passage: "
    reference = read_reference(prompted)
    assert (reference.domain, reference.profile is not None and reference.profile.built_in) == (None, True)
    assert manifest.space != Manifest.from_json((packaged / contract.PATH).read_text()).space
    with_prompt, without = (load_encoder("onnx", folder, read_manifest(folder), 1) for folder in (prompted, packaged))
    assert np.allclose(
        with_prompt.encode(with_prompt.tokenize(["text"])),
        without.encode(without.tokenize(["passage: text"])),
        atol=1e-5,
    )


def test_what_a_library_version_writes_differently_is_not_in_the_identity(minilm: Path, tmp_path: Path) -> None:
    """Position ids stored as a tensor, a pooler that nobody asks, a tokenizer that pads: all files differ, no vector does."""
    from serinus_server.source import load_source
    from serinus_server.space import space_identity

    source = brought(minilm, tmp_path, "README.md", b"another one")
    weights = load_file(source / "model.safetensors")
    weights["embeddings.position_ids"] = np.arange(512)[None]
    weights["pooler.dense.bias"] = weights["pooler.dense.bias"] + 1
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(7)
    tokenizer.save(str(source / "tokenizer.json"))
    again, first = load_source(source), load_source(minilm)
    assert space_identity(again) == space_identity(first)


def test_identity_changes_with_whatever_changes_a_vector(minilm: Path) -> None:
    import torch

    from serinus_server.source import load_source
    from serinus_server.space import space_identity

    source = load_source(minilm)
    known = {space_identity(source)}

    def changed(other: Source) -> bool:
        before = len(known)
        known.add(space_identity(other))
        return len(known) == before + 1

    assert changed(replace(source, max_tokens=128))
    assert changed(replace(source, prompt="query: "))
    source.model[1].pooling_mode = "cls"
    assert changed(source)
    with torch.no_grad():
        next(source.network.parameters())[1000, 7] += 1e-3
    assert changed(source)
    source.network.half().float()
    assert changed(source)


def test_a_manifest_cannot_point_outside_its_folder(packaged: Path, tmp_path: Path) -> None:
    (tmp_path / "serinus").mkdir()
    text = (packaged / contract.PATH).read_text().replace('"config.json"', '"../../etc/passwd"')
    (tmp_path / contract.PATH).write_text(text)
    with pytest.raises(UnsafeModel, match="outside the model's folder"):
        fetch(str(tmp_path), None, tmp_path)
