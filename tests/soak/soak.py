"""Rollouts, faults and load at once, on a stage where a good version serves."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import cycle

from examples.sentences import sentences
from tests.cluster.binaries import ClusterError
from tests.e2e.demo import NODE_PORT, Demo
from tests.e2e.stage import Stage
from tests.soak.faults import Faults
from tests.soak.load import Load
from tests.soak.memory import Memory
from tests.soak.report import Found
from tests.soak.rollouts import BAD, Bad, Rollouts, Versions

GPUS = 12  # a pod that is drained holds its GPU, and faults drain some at any time
REQUESTS_PER_SECOND = 40.0
_SUMMARY_SECONDS = 15.0


class Soak:
    """Rollouts, faults and load at once, on a stage where one good version serves."""

    def __init__(self, stage: Stage, versions: Versions, requests_per_second: float) -> None:
        self._stage, self._versions = stage, versions
        self._began = time.monotonic()
        self._printing = threading.Lock()
        self.load = Load(f"http://127.0.0.1:{NODE_PORT}/predict", sentences(), requests_per_second)
        self.faults = Faults(stage, self.tell)
        self.memory = Memory(stage.cluster.plane)
        self.rollouts = Rollouts(stage.cluster.plane, Demo(stage).registry, versions, self.tell)

    def play(self, seconds: float) -> Found:
        """Good and bad by turns, until the time is over; the last one begun is followed to its end."""
        self._stage.cluster.node.advertise(self._stage.cluster.plane, {"nvidia.com/gpu": GPUS})
        self.load.start()
        self.rollouts.prepare()  # a rollout, too: the soak's pods ask for less
        self._began = time.monotonic()
        self.faults.start()
        self.memory.start()
        over = threading.Event()
        telling = threading.Thread(target=self._summaries, args=(over,), daemon=True)
        telling.start()
        stopped_by = ""
        try:
            for turn in _turns(BAD):
                if time.monotonic() - self._began >= seconds:
                    break
                self.rollouts.good() if turn is None else self.rollouts.bad(turn)
        except (ClusterError, OSError) as error:
            stopped_by = str(error)
            self.tell(f"ended: {error}")
        finally:
            self.faults.stop()
            self.load.stop()
            self.memory.stop()
            over.set()
            telling.join(5)
        growths = [growth for growth in (self.memory.operator(), self.memory.servers()) if growth is not None]
        took = time.monotonic() - self._began
        return Found(took, self.load, self.rollouts.done, self.faults.done, growths, self._versions, stopped_by)

    def tell(self, text: str) -> None:
        """A line of the story."""
        with self._printing:
            sys.stdout.write(f"{time.monotonic() - self._began:6.0f} s  {text}\n")
            sys.stdout.flush()

    def _summaries(self, over: threading.Event) -> None:
        while not over.wait(_SUMMARY_SECONDS):
            kept = sum(each.kept for each in self.rollouts.done)
            self.tell(
                f"    {self.load.sent} sent, {len(self.load.lost)} failed once, {len(self.load.failures)} twice; "
                f"{kept} of {len(self.rollouts.done)} rollouts as they should, {len(self.faults.done)} faults"
            )


def _turns(bad: Sequence[Bad]) -> Iterator[Bad | None]:
    for each in cycle(bad):
        yield None
        yield each
