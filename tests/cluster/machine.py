"""Is this machine one for the demo? Asked before anything is made: `python3 -m tests.cluster.machine` says in a sentence what is missing.

Needs nothing but Python: an old one is among what it finds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.cluster.binaries import ClusterError, cache_folder, state_folder

NOT_ROOT = "a node needs root (a bridge, containers, iptables): run this as root"
FIRST_GIGABYTES, LATER_GIGABYTES = 15.0, 5.0  # with everything to build, and with all of it in the cache
_PYTHON = (3, 11)


@dataclass(frozen=True)
class Machine:
    """What matters of it."""

    root: bool
    python: tuple[int, int]
    venv: bool
    apt: bool
    free_gigabytes: float
    built: bool  # is what takes the room there already?


def lacks(machine: Machine) -> list[str]:
    """A sentence for each thing that is missing, that says what to do; empty when the demo can begin."""
    needed = LATER_GIGABYTES if machine.built else FIRST_GIGABYTES
    version = ".".join(str(each) for each in machine.python)
    checks = (
        (machine.root, NOT_ROOT),
        (machine.python >= _PYTHON, f"python3 is {version}: 3.11 or newer is needed"),
        (machine.venv, "python3 cannot make virtual environments: apt-get install python3-venv"),
        (machine.apt, "there is no apt-get: this needs Debian 12, or a container of it"),
        (
            machine.free_gigabytes >= needed,
            f"{machine.free_gigabytes:.1f} GB of disk are free where this wants {needed:.0f} GB (here, in {cache_folder()} "
            f"and in {state_folder()}): make room, or have XDG_CACHE_HOME and XDG_STATE_HOME name a larger disk",
        ),
    )
    return [sentence for kept, sentence in checks if not kept]


def this_machine() -> Machine:
    """As it is now."""
    places = [Path.cwd(), cache_folder(), state_folder()]
    return Machine(
        root=os.geteuid() == 0,
        python=(sys.version_info[0], sys.version_info[1]),
        venv=find_spec("venv") is not None and find_spec("ensurepip") is not None,
        apt=shutil.which("apt-get") is not None,
        free_gigabytes=min(shutil.disk_usage(_there(place)).free for place in places) / 1e9,
        built=any(cache_folder().glob("hyperkube-*/hyperkube")) and Path(".venv/.installed").exists(),
    )


@contextmanager
def alone(what: str) -> Iterator[None]:
    """One at a time: there is one cluster on a machine. Raises ClusterError, naming who is at it, when another one is."""
    path = cache_folder() / "cluster.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise ClusterError(
                f"this machine's cluster is taken by {stream.read()}: wait for its end, or end it"
            ) from error
        stream.truncate(0)
        stream.write(f"{what} (process {os.getpid()})")
        stream.flush()
        yield


def _there(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def main() -> int:
    """Returns 1 when something is missing."""
    found = lacks(this_machine())
    for sentence in found:
        sys.stderr.write(f"{sentence}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
