"""Is it one text, or the encoder? Whatever fails may be more than one text; a golden probe tells."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

_EVERY_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


class Checkup:
    """Runs `probe` in `pool` (None: any thread) after a failure, and again each second until it succeeds; once at a time."""

    def __init__(self, probe: Callable[[], object], pool: Executor | None) -> None:
        self._probe, self._pool = probe, pool
        self._stopped = False
        self._task: asyncio.Task[None] | None = None
        self.failed = 0  # probes in a row; 0 while all is well

    def begin(self, error: BaseException) -> None:
        """Something failed with `error`."""
        log.error("%s: %s", type(error).__name__, error)
        if not self._stopped and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Asks no more."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while not self._stopped:
            try:
                await asyncio.get_running_loop().run_in_executor(self._pool, self._ask)
            except Exception as error:  # noqa: BLE001 - it stays unready, and the log says why
                self.failed += 1
                log.error("the golden probe fails too (%d): %s: %s", self.failed, type(error).__name__, error)
                await asyncio.sleep(_EVERY_SECONDS)
            else:
                self.failed = 0
                return

    def _ask(self) -> None:
        try:
            self._probe()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
