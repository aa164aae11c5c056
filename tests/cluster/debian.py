"""What the cluster takes from Debian: packages, installed where they are missing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.cluster.binaries import ClusterError, cache_folder, run, say

NODE_PACKAGES = ("containernetworking-plugins", "conntrack", "iptables", "iproute2", "kmod", "procps", "openssl")
BUILD_PACKAGES = ("gcc", "libc6-dev", "libseccomp-dev", "pkg-config")
IMAGE_PACKAGES = ("buildah", "debootstrap")


def install(*packages: str) -> None:
    """Installs what is missing. Raises ClusterError where that needs root or the mirror does not answer."""
    missing = [package for package in packages if not _is_installed(package)]
    if not missing:
        return
    if os.geteuid() != 0:
        raise ClusterError("not root: run `apt-get install " + " ".join(missing) + "` and try again")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    log = cache_folder() / "apt.log"
    if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        run("apt-get update", ["apt-get", "update"], log, deadline_seconds=600)
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    try:
        run("installing " + ", ".join(missing), command, log, environment=quiet, deadline_seconds=900)
    except ClusterError:
        say("once more, with fresh package lists")
        run("apt-get update", ["apt-get", "update"], log, deadline_seconds=600)
        run("installing " + ", ".join(missing), command, log, environment=quiet, deadline_seconds=900)


def program(package: str, name: str) -> Path:
    """One program out of a package that is not installed: no service of it starts, and no root is needed."""
    folder = cache_folder() / f"debian-{package}"
    found = folder / "usr" / "bin" / name
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        log = cache_folder() / "apt.log"
        # The download needs no list of its own, and a sandboxed user could not write here.
        command = ["apt-get", "download", "--option", "APT::Sandbox::User=root", package]
        run(f"downloading {package}", command, log, folder=folder, deadline_seconds=300)
        (archive,) = folder.glob("*.deb")
        run(f"unpacking {package}", ["dpkg-deb", "--extract", str(archive), str(folder)], log, deadline_seconds=60)
        archive.unlink()
    return found


def _is_installed(package: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True, timeout=60).stdout == "installed"
