"""Forks the operator from a process that has imported it: a life begins in a tenth of a second, and ends by a real SIGKILL.

Reads one JSON order a line, {"environment": …, "log": …}; answers with the pid of the life that it began.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from serinus_operator import __main__ as operator


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead need no wait
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _live(order)
        print(pid, flush=True)


def _live(order: dict[str, object]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, source in enumerate((nothing, log, log)):
        os.dup2(source, stream)
    os.environ.update(order["environment"])  # type: ignore[arg-type]
    operator.main()


if __name__ == "__main__":
    main()
