"""Folders that would run code are refused by file name, before anything is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.server.conftest import root

from serinus_server.brought import refuse_brought
from serinus_server.errors import UnsafeModel


def brought(minilm: Path, tmp_path: Path, file: str, content: bytes) -> Path:
    """A copy of the model without its weights, in which somebody put this file."""
    source = tmp_path / "brought"
    shutil.copytree(minilm, source, ignore=shutil.ignore_patterns("*.safetensors", "*.onnx"))
    (source / file).parent.mkdir(exist_ok=True)
    (source / file).write_bytes(content)
    return source


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("2_Dense/pytorch_model.bin", b"\x80\x04", "2_Dense/pytorch_model.bin: pickled weights"),
        ("modeling_mine.py", b"import os", "modeling_mine.py"),
        ("config.json", b'{"auto_map": {"AutoModel": "mine.Model"}}', "config.json: auto_map"),
        ("modules.json", b'[{"idx": 0, "name": "0", "path": "", "type": "mine.Module"}]', "mine.Module is unknown"),
        (
            "modules.json",
            b'[{"path": "", "type": "sentence_transformers.models.CNN"}]',
            "CNN is unknown; Transformer, Pooling",
        ),
    ],
)
def test_models_that_would_run_code_are_refused_by_file_name(
    minilm: Path, tmp_path: Path, file: str, content: bytes, named: str
) -> None:
    with pytest.raises(UnsafeModel, match=named):
        refuse_brought(brought(minilm, tmp_path, file, content))


def test_an_activation_function_of_the_models_own_is_refused(minilm: Path, tmp_path: Path) -> None:
    source = brought(minilm, tmp_path, "2_Dense/config.json", b'{"activation_function": "mine.Evil"}')
    modules = json.loads((source / "modules.json").read_text())
    modules[2] |= {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (source / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnsafeModel, match=r"2_Dense/config\.json: activation_function mine\.Evil"):
        refuse_brought(source)


def test_a_refusal_is_one_sentence_on_the_command_line(minilm: Path, tmp_path: Path) -> None:
    source = brought(minilm, tmp_path, "modeling_mine.py", b"import os")
    command = [
        sys.executable,
        "-m",
        "serinus_server",
        "register",
        str(source),
        "--name",
        "m",
        "--tracking-uri",
        "http://127.0.0.1:1",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root())
    assert run.returncode == 2
    assert "modeling_mine.py" in run.stderr
    assert "Traceback" not in run.stderr
