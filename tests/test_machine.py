"""What a newcomer is told before the demo begins, and when it cannot go on: a sentence that says what to do."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cluster import binaries
from tests.cluster.binaries import ClusterError
from tests.cluster.machine import Machine, alone, lacks

GOOD = Machine(root=True, python=(3, 11), venv=True, apt=True, free_gigabytes=20, built=False)
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"root": False}, "run this as root"),
        ({"python": (3, 9)}, "python3 is 3.9: 3.11 or newer"),
        ({"venv": False}, "apt-get install python3-venv"),
        ({"apt": False}, "needs Debian 12"),
        ({"free_gigabytes": 8.04}, "8.0 GB of disk are free where this wants 15 GB"),
        ({"free_gigabytes": 4.0, "built": True}, "4.0 GB of disk are free where this wants 5 GB"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_made(change: dict[str, object], told: str) -> None:
    assert lacks(GOOD) == []
    (sentence,) = lacks(replace(GOOD, **change))  # type: ignore[arg-type]
    assert told in sentence


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("go: cloud.example.com/x: dial tcp: lookup proxy: no such host", "no network"),
        ("Temporary failure in name resolution", "no network"),
        ("write /root/x: no space left on device", "the disk is full"),
        (f"OSError: [Errno 28] {os.strerror(errno.ENOSPC)}", "the disk is full"),
        ("syntax error", ""),
    ],
)
def test_the_usual_causes_are_named(said: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"making it: failed") as failed:
        binaries.run("making it", ["sh", "-c", f"echo '{said}'; exit 3"], tmp_path / "log")
    assert said in str(failed.value)
    assert told in str(failed.value).partition(";")[0]


def test_an_interrupt_ends_what_was_started(tmp_path: Path) -> None:
    """One that reached Python alone; at a terminal it reaches the program, too."""
    code = "import sys; from pathlib import Path; from tests.cluster.binaries import run; run('it', sys.argv[2:], Path(sys.argv[1]))"
    log = tmp_path / "log"
    running = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-c", code, log, "sh", "-c", "echo $$; exec sleep 60"],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    ends_at = time.monotonic() + 30
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < ends_at
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.wait(30) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="making it: failed"):
        binaries.run("making it", ["sleep", "30"], tmp_path / "log", deadline_seconds=0.2)


def test_a_second_demo_beside_the_first_is_told_who_is_at_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with (
        alone("the first"),
        pytest.raises(ClusterError, match=rf"taken by the first \(process {os.getpid()}\)"),
        alone("b"),
    ):
        pass
    with alone("the next"):
        pass


def test_the_commands_of_the_cluster_end_with_a_sentence(tmp_path: Path) -> None:
    """`make cluster-down` beside a demo that runs."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "tests.cluster", "down"]
    (tmp_path / "serinus").mkdir()
    holding = (
        "import sys, tests.cluster.machine as m\nwith m.alone('a demo'): print('held', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", holding],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    first.communicate("", timeout=30)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("this machine's cluster is taken by a demo (process ")
