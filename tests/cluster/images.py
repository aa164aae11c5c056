"""Images without a registry: a Debian base made by debootstrap, the project's Dockerfiles built by buildah, imported into containerd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import debian
from tests.cluster.binaries import ClusterError, cache_folder, pause, run, say
from tests.cluster.node import SANDBOX_IMAGE, Node

BASE_IMAGE = "localhost/python:3.11-slim"
_PACKAGES = "python3,python3-venv,ca-certificates"
_HOST_FILES = ("/etc/ssl/certs", "/etc/pip.conf")  # certificates and pip settings of this machine, where it has its own
_PIP_SETTINGS = ("PIP_INDEX_URL", "PIP_CERT", "PIP_FIND_LINKS", "PIP_DEFAULT_TIMEOUT", "SSL_CERT_FILE")


def build(dockerfile: Path, name: str, arguments: Mapping[str, str]) -> str:
    """Builds an image on the local base. Returns its name, tagged by what is in it. Layers are kept: only what changed is built again."""
    debian.install(*debian.IMAGE_PACKAGES)
    _base()
    command = ["bud", "--isolation", "chroot", "--layers", "--file", str(dockerfile), "--tag", name]
    for key, value in {"BASE_IMAGE": BASE_IMAGE, **arguments}.items():
        command += ["--build-arg", f"{key}={value}"]
    for path in _HOST_FILES:
        if Path(path).exists():
            command += ["--volume", f"{path}:{path}:ro"]
    for variable in _PIP_SETTINGS:
        if variable in os.environ:
            command += ["--env", f"{variable}={os.environ[variable]}"]
    log = cache_folder() / f"image-{dockerfile.name}.log"
    run(f"image {name}", [*_buildah(), *command, str(dockerfile.parent)], log, deadline_seconds=1800)
    tagged = f"{name}:{_id(name).removeprefix('sha256:')[:12]}"
    subprocess.run([*_buildah(), "tag", name, tagged], check=True, capture_output=True, timeout=60)
    return tagged


@dataclass(frozen=True)
class Built:
    """An image as it is in the storage: all its layers' bytes, its configuration, and the paths of all its files."""

    megabytes: float
    user: str
    labels: Mapping[str, str]
    files: frozenset[str]


def built(name: str) -> Built:
    """What there is to know of an image. Raises CalledProcessError when there is none of that name."""

    def said(*arguments: str) -> str:
        return subprocess.run([*_buildah(), *arguments], check=True, capture_output=True, text=True, timeout=120).stdout

    config = json.loads(said("inspect", "--type", "image", name))["OCIv1"]["config"]
    container = said("from", "--pull-never", name).strip()
    try:
        root = Path(said("mount", container).strip())
        paths = [Path(folder) / file for folder, _, files in os.walk(root) for file in files]
        size = sum(path.lstat().st_size for path in paths)
        found = frozenset(str(path.relative_to(root)) for path in paths)
    finally:
        said("rm", container)
    return Built(size / 1e6, config["User"], config["Labels"], found)


def load(node: Node, name: str) -> None:
    """Brings an image into the node's containerd, unless one of that name is there already."""
    there = node.ctr("images", "ls", "--quiet").stdout.split()
    if name in there:
        return
    archive = cache_folder() / "image.tar"
    archive.unlink(missing_ok=True)
    push = [*_buildah(), "push", "--disable-compression", name, f"oci-archive:{archive}:{name}"]
    run(f"exporting {name}", push, cache_folder() / "image-push.log", deadline_seconds=600)
    say(f"importing {name}")
    done = node.ctr("images", "import", archive, deadline_seconds=600)
    archive.unlink(missing_ok=True)
    if done.returncode != 0:
        raise ClusterError(f"cannot import {name}: {done.stderr.strip()}")
    for old in there:
        if old.rpartition(":")[0] == name.rpartition(":")[0]:
            node.ctr("images", "rm", old)
            subprocess.run([*_buildah(), "rmi", old], capture_output=True, timeout=60)


def load_sandbox(node: Node) -> None:
    """The image of every pod's sandbox: one static program."""
    if SANDBOX_IMAGE in node.ctr("images", "ls", "--quiet").stdout.split():
        return
    folder = pause().parent
    (folder / "Dockerfile").write_text('FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n')
    debian.install(*debian.IMAGE_PACKAGES)
    command = [*_buildah(), "bud", "--isolation", "chroot", "--tag", SANDBOX_IMAGE, str(folder)]
    run(f"image {SANDBOX_IMAGE}", command, cache_folder() / "image-pause.log", deadline_seconds=300)
    load(node, SANDBOX_IMAGE)


def _base() -> None:
    """A Debian with Python, as small as debootstrap makes it: what `FROM python:3.11-slim-bookworm` is elsewhere."""
    if _id(BASE_IMAGE):
        return
    root = cache_folder() / "base"
    shutil.rmtree(root, ignore_errors=True)
    (root / "rootfs").mkdir(parents=True)
    command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root / "rootfs")]
    run("the base image (debootstrap)", command, cache_folder() / "debootstrap.log", deadline_seconds=1800)
    for waste in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / "rootfs" / waste, ignore_errors=True)
    (root / "Dockerfile").write_text("FROM scratch\nCOPY rootfs /\n")
    command = [*_buildah(), "bud", "--isolation", "chroot", "--tag", BASE_IMAGE, str(root)]
    run(f"image {BASE_IMAGE}", command, cache_folder() / "image-base.log", deadline_seconds=600)
    shutil.rmtree(root, ignore_errors=True)


def _id(name: str) -> str:
    command = [*_buildah(), "images", "--quiet", "--no-trunc", name]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()


def _buildah() -> list[str]:
    storage = cache_folder() / "buildah"
    return ["buildah", "--root", str(storage), "--runroot", str(storage / "run")]
