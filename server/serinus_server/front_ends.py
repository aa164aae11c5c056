"""Several front ends over one engine: who starts whom, and what happens when one of them dies.

The parent starts the engine, waits until it is warm, then lets uvicorn's own supervisor run the front ends on one inherited socket. A front
end that dies is started anew by it. When the engine dies all ends, with status 1: docs/adr/0010-front-ends.md says why.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import signal
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from socket import socket
from types import FrameType
from typing import Final, TypeAlias

import uvicorn
from uvicorn.supervisors import Multiprocess

from serinus_server.front import HTTP_SOCKET, Front
from serinus_server.loading import Model
from serinus_server.package import Reference
from serinus_server.settings import Settings

_CORES_FOR_EACH: Final = 16  # CPUs: a front end's 0.2 ms a request keeps up with 16 cores' 4 ms
_MOST: Final = 8
_START_SECONDS: Final = 600.0
_END_SECONDS: Final = 20.0

log = logging.getLogger("serinus_server")

Engine: TypeAlias = Callable[[Settings, Model, Path, Connection], None]


def front_ends(asked: int, cores: int, gpu: bool) -> int:
    """How many front ends; 1 is a server without an engine of its own. `asked` 0 decides by device and cores.

    With a GPU HTTP, JSON and tokenising are the cost: half the cores for it. On CPUs the model is: one process while it keeps up.
    """
    if asked:
        return asked
    wanted = cores // 2 if gpu else math.ceil(cores / _CORES_FOR_EACH)
    return max(1, min(_MOST, wanted))


class FrontEnds(Multiprocess):
    """uvicorn's supervisor, that ends when the engine does."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket], engine: BaseProcess) -> None:
        super().__init__(config, sockets)
        self._engine = engine
        self.failed = False  # it ends because of its own processes, not by a signal

    def keep_subprocess_alive(self) -> None:
        """Called twice a second."""
        if self.should_exit.is_set():
            return
        if not self._engine.is_alive():
            log.error("the engine died (%s): the server ends", self._engine.exitcode)
            self.should_exit.set()
        super().keep_subprocess_alive()
        self.failed = self.should_exit.is_set()


def serve(settings: Settings, model: Model, reference: Reference, config: Callable[..., uvicorn.Config], count: int,
          engine: Engine) -> None:  # fmt: skip
    """Serves with `count` front ends until a signal. Raises SystemExit with 1 when the engine dies or a front end cannot start."""
    settings = settings.model_copy(update={"workers": count})
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    with tempfile.TemporaryDirectory(prefix="serinus-") as folder:
        sockets = Path(folder)
        process = spawn.Process(target=engine, args=(settings, model, sockets, theirs), name="engine")
        process.start()
        theirs.close()
        try:
            _wait_warm(process, ours)
            chosen = config(Front(settings, model, reference, sockets), factory=True, workers=count)
            supervisor = FrontEnds(chosen, [chosen.bind_socket()], process)
            log.info("%d front ends over one engine", count)
            supervisor.run()
        finally:
            ours.close()  # that is what ends the engine, however this process ends
            process.join(_END_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
    if supervisor.failed:
        raise SystemExit(1)


def _wait_warm(process: BaseProcess, ours: Connection) -> None:
    if not ours.poll(_START_SECONDS):
        raise SystemExit(f"the engine was not warm within {_START_SECONDS:.0f} s")
    try:
        ours.recv()
    except EOFError:
        process.join(_END_SECONDS)
        raise SystemExit(process.exitcode or 1) from None


class EngineServer(uvicorn.Server):
    """The engine's HTTP, for its front ends. It ends when the pipe to the parent does, not by a signal to the group."""

    def __init__(self, config: uvicorn.Config, parent: Connection) -> None:
        super().__init__(config)
        self._parent = parent

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Tells the parent that the engine is warm."""
        await super().startup(sockets)
        if not self.should_exit:
            self._parent.send("warm")
            threading.Thread(target=self._wait_for_the_end, daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Left to the parent, which drains the front ends first."""

    def _wait_for_the_end(self) -> None:
        try:
            self._parent.recv()
        except (EOFError, OSError):
            self.should_exit = True


def run_engine(app: object, sockets: Path, parent: Connection) -> None:
    """Runs the engine's application in this process until its parent goes."""
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        uds=str(sockets / HTTP_SOCKET),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
    server = EngineServer(config, parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    server.run()
    if not server.started:
        raise SystemExit(1)
