"""`make soak`: an hour of rollouts, half of them bad, with faults beside them, under open-loop load on the real one-node cluster.

python3 -m tests.soak [--minutes 60] [--rate 40] [--keep]
"""

from __future__ import annotations

import argparse
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tests.cluster.binaries import ClusterError
from tests.e2e.demo import Demo
from tests.e2e.stage import MINILM, Stage
from tests.soak.load import WORD
from tests.soak.report import Found, write_section
from tests.soak.rollouts import Versions
from tests.soak.soak import REQUESTS_PER_SECOND, Soak

_MODELS_SECONDS = 900.0


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
    parser.add_argument(
        "--rate", type=float, default=REQUESTS_PER_SECOND, help="requests a second (default %(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the cluster and everything in it running")
    arguments = parser.parse_args()
    try:
        with Stage(keep=arguments.keep) as stage:
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
