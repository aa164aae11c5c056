"""`make soak`: an hour of rollouts, half of them bad, with faults beside them, under open-loop load on the real one-node cluster.

python3 -m tests.soak [--minutes 60] [--rate 40] [--keep]
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

from examples.sentences import sentences
from tests.cluster.binaries import ClusterError
from tests.e2e.demo import NODE_PORT, Demo
from tests.e2e.stage import MINILM, Stage
from tests.soak.faults import Faults
from tests.soak.load import WORD, Load
from tests.soak.memory import Memory
from tests.soak.report import Found, write_section
from tests.soak.rollouts import BAD, Bad, Rollouts, Versions

GPUS = 12  # a pod that is drained holds its GPU, and faults drain some at any time
_SUMMARY_SECONDS = 15.0
_MODELS_SECONDS = 900.0


class Soak:
    """Rollouts, faults and load at once, on a stage where one good version serves."""

    def __init__(self, stage: Stage, versions: Versions, requests_per_second: float) -> None:
        self._versions = versions
        self._began = time.monotonic()
        self._printing = threading.Lock()
        self.load = Load(f"http://127.0.0.1:{NODE_PORT}/predict", sentences(), requests_per_second)
        self.faults = Faults(stage, self.tell)
        self.memory = Memory(stage.cluster.plane)
        self.rollouts = Rollouts(stage.cluster.plane, Demo(stage).registry, versions, self.tell)

    def play(self, seconds: float, bad: Sequence[Bad] = BAD, most: int | None = None) -> Found:
        """Good and bad by turns, until the time is over or `most` were made; the last one begun is followed to its end."""
        self.rollouts.prepare()
        self._began = time.monotonic()
        self.load.start()
        self.faults.start()
        self.memory.start()
        over = threading.Event()
        telling = threading.Thread(target=self._summaries, args=(over,), daemon=True)
        telling.start()
        stopped_by = ""
        try:
            for turn in _turns(bad):
                if time.monotonic() - self._began >= seconds or len(self.rollouts.done) == most:
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


class Models:
    """The versions of a soak, made and registered beside the first rollout. Their numbers are as it happens."""

    def __init__(self, stage: Stage, pool: ThreadPoolExecutor, first: threading.Event) -> None:
        self._stage, self._first = stage, first
        self._finetuned = pool.submit(self._made, "finetuned", "finetune.py")
        self._damaged = pool.submit(self._made, "damaged", "damage.py")
        self._erring = pool.submit(self._made, "erring", "damage.py", "--word", WORD)

    def versions(self) -> Versions:
        """Waits for all of them."""

        def of(made: Future[str]) -> str:
            return made.result(_MODELS_SECONDS)

        return Versions(("1", of(self._finetuned)), of(self._damaged), of(self._erring))

    def _made(self, name: str, example: str, *options: str) -> str:
        folder: Path = self._stage.cluster.folder / "models" / name
        self._stage.example(example, MINILM, folder, *options)
        if not self._first.wait(_MODELS_SECONDS):
            raise ClusterError("no first version")
        return self._stage.register(folder).split(" version ")[1].split()[0]


def main() -> int:
    """Returns 0 only when every promise was kept."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second (default %(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave the cluster and everything in it running")
    arguments = parser.parse_args()
    try:
        with Stage(keep=arguments.keep) as stage:
            stage.cluster.node.advertise(stage.cluster.plane, {"nvidia.com/gpu": GPUS})
            found = _found(stage, arguments)
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    write_section(found.markdown())
    sys.stdout.write(f"\n{found.markdown()}\n")
    for lost in (*found.losses.unexplained, *found.losses.unsaved)[:20]:
        sys.stdout.write(f"{lost}\n")
    return 0 if all(found.promises().values()) else 1


def _found(stage: Stage, arguments: argparse.Namespace) -> Found:
    first = threading.Event()
    with ThreadPoolExecutor(1, "models") as pool:
        models = Models(stage, pool, first)
        demo = Demo(stage)
        try:
            demo.first_version()
        finally:
            first.set()
        demo.tell("making and registering three more versions")
        versions = models.versions()
    return Soak(stage, versions, arguments.rate).play(arguments.minutes * 60)


if __name__ == "__main__":
    sys.exit(main())
