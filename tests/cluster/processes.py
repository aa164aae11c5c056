"""Programs started by us: one log and one pid file each, stopped by process id only, never by name."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.cluster.binaries import ClusterError, cause, heartbeat, tail


class Processes:
    """The programs of one cluster; their logs and pid files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Starts a program in a session of its own, so that an interrupt at the terminal does not reach it."""
        if self.pid(name) is not None:
            raise ClusterError(f"{name} runs already, with process id {self.pid(name)}")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as stream:
            process = subprocess.Popen(
                [str(each) for each in command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self._children[process.pid] = process
        self._pid_file(name).write_text(f"{process.pid} {_started_at(process.pid)}")

    def log(self, name: str) -> Path:
        """The program's log file."""
        return self.folder / f"{name}.log"

    def names(self) -> list[str]:
        """Programs with a pid file, in the order in which they were started."""
        return [path.stem for path in sorted(self.folder.glob("*.pid"), key=lambda path: path.stat().st_mtime_ns)]

    def pid(self, name: str) -> int | None:
        """The program's process id while it runs; a recycled id of some other program does not count."""
        try:
            pid, started_at = self._pid_file(name).read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        child = self._children.get(int(pid))
        if child is not None and child.poll() is not None:
            return None
        return int(pid) if _started_at(int(pid)) == started_at else None

    def wait(self, name: str, ready: Callable[[], bool], deadline_seconds: float) -> None:
        """Waits until `ready`. Raises ClusterError with the end of the program's log when it dies or takes too long."""
        ends_at = time.monotonic() + deadline_seconds
        with heartbeat(f"waiting for {name}"):
            while not ready():
                if self.pid(name) is None or time.monotonic() > ends_at:
                    what = "ended" if self.pid(name) is None else f"not ready after {deadline_seconds:.0f} s"
                    end = tail(self.log(name))
                    raise ClusterError(f"{name}: {what}{cause(end)}; the end of {self.log(name)}:\n{end}")
                time.sleep(0.1)

    def stop(self, name: str, deadline_seconds: float = 15) -> bool:
        """Asks the program to end, then insists. Returns whether it was running."""
        pid = self.pid(name)
        if pid is not None:
            os.killpg(pid, signal.SIGTERM)  # it leads the group of what it started itself
            ends_at = time.monotonic() + deadline_seconds
            while self.pid(name) is not None and time.monotonic() < ends_at:
                time.sleep(0.05)
            if self.pid(name) is not None:
                os.killpg(pid, signal.SIGKILL)
            child = self._children.pop(pid, None)
            if child is not None:
                child.wait(deadline_seconds)
        self._pid_file(name).unlink(missing_ok=True)
        return pid is not None

    def stop_all(self) -> list[str]:
        """Stops everything, last started first. Returns what was running."""
        return [name for name in reversed(self.names()) if self.stop(name)]

    def _pid_file(self, name: str) -> Path:
        return self.folder / f"{name}.pid"


def _started_at(pid: int) -> str:
    """The process's start in clock ticks since boot: field 22 of its stat, counted after the command's closing bracket."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    return "gone" if fields[0] == "Z" else fields[19]
