"""The demo: a release promoted, a damaged model refused before traffic, a starved revision rolled back under traffic, no request lost.

python3 -m tests.e2e.demo [--keep]      (as `make demo` does, which sets up what this needs)
"""

from __future__ import annotations

import argparse
import errno
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event
from typing import Any

import mlflow
import yaml
from examples.sentences import sentences
from tests.cluster import services
from tests.cluster.binaries import DISK_IS_FULL, ClusterError, heartbeat
from tests.e2e.stage import MINILM, ROOT, Stage, until
from tests.e2e.traffic import Traffic

from serinus_operator.cli.dashboard import panels, source
from serinus_operator.cli.dashboard.record import Record

NAME = "defect-embedder"
RELEASE = f"modelrelease/{NAME}"
EXAMPLE = ROOT / "examples" / "modelrelease.yaml"
NODE_PORT = 30801
REQUESTS_PER_SECOND = 20.0
BUSY_REQUESTS_PER_SECOND = 75.0  # while version 2 is judged: the more requests, the sooner a verdict
CALM_REQUESTS_PER_SECOND = 20.0  # while a revision starves: slow answers, but no queue that would end in refusals
STARVED_CPU = "80m"  # 8 ms of CPU in every 100 ms, where an answer takes 10
_ROLLOUT_SECONDS = 600
_SILENT_SECONDS = 15.0
_TRAINING_SECONDS = 600


@dataclass(frozen=True)
class Outcome:
    """What happened; `broken` names every promise that was not kept."""

    traffic: Traffic
    history: list[dict[str, Any]]
    standing: dict[str, Any]  # aliases and stages in MLflow
    broken: list[str]


class Demo:
    """The story, told on a stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.registry = mlflow.MlflowClient(stage.mlflow_url, stage.mlflow_url)
        self.traffic = Traffic(f"http://127.0.0.1:{NODE_PORT}/predict", sentences(), REQUESTS_PER_SECOND)
        self.broken: list[str] = []
        self._began = self._printed_at = time.monotonic()
        self._shown = ""
        self._first_registered = Event()  # versions are numbered in the order in which they are registered

    def play(self) -> Outcome:
        """All acts. Raises ClusterError when one does not come to its end in time."""
        with ThreadPoolExecutor(1, "trainer") as trainer:
            finetuned = trainer.submit(self._made_ready, "finetune.py", "version 2: fine-tuned for a few steps")
            damaged = trainer.submit(self._made_ready, "damage.py", "version 3: noise on every weight matrix")
            self.first_version()
            with heartbeat("version 2 is in the making"):
                finetuned.result(_TRAINING_SECONDS)
            self.traffic.start()
            try:
                self.second_version()
                with heartbeat("version 3 is in the making"):
                    damaged.result(_TRAINING_SECONDS)
                self.damaged_version()
                self.starved_revision()
            finally:
                self.traffic.stop()
        return self._outcome()

    def _made_ready(self, example: str, what: str) -> None:
        """Makes a model and registers it, while the story goes on: its alias moves when its turn comes."""
        model = self.stage.cluster.folder / "models" / example.removesuffix(".py")
        self.stage.example(example, MINILM, model)
        self._first_registered.wait(_TRAINING_SECONDS)
        self.tell(f"registered {what}: {self.stage.register(model)}")

    def first_version(self) -> None:
        """Version 1 is registered and released: with nothing to compare it with, verify and readiness promote it."""
        self.tell("registering version 1: all-MiniLM-L6-v2 as published")
        try:
            with heartbeat("exporting, making golden probes, registering"):
                registered = self.stage.register(MINILM, "--alias", "challenger")
            self.tell(registered)
        finally:
            self._first_registered.set()
        self.tell(f"kubectl apply -f {EXAMPLE.relative_to(ROOT)}")
        self.stage.kubectl("apply", "-f", str(EXAMPLE))
        self.stage.kubectl("apply", "-f", "-", stdin=json.dumps(node_port()))
        self.follow("version 1 promoted", lambda release: serves(release, "1"))
        until("its door answers", lambda: services.answers(f"http://127.0.0.1:{NODE_PORT}/ready"), 30)

    def second_version(self) -> None:
        """Version 2, briefly fine-tuned, goes through canary and analyses to promotion."""
        self.tell("moving the alias `challenger` to version 2")
        self.traffic.requests_per_second = BUSY_REQUESTS_PER_SECOND
        self.registry.set_registered_model_alias(NAME, "challenger", "2")
        self.follow("version 2 promoted", lambda release: serves(release, "2"))
        self.traffic.requests_per_second = REQUESTS_PER_SECOND
        self.expect("alias champion is on version 2", lambda: self._aliases().get("champion") == "2")
        self.expect(
            "version 2 is in Production, version 1 Archived",
            lambda: (self._stages().get("2"), self._stages().get("1")) == ("Production", "Archived"),
        )
        self.expect("the page of releases draws both versions and the evidence", self._page_compares)

    def damaged_version(self) -> None:
        """Version 3 has noise on its weights: verify refuses it before any traffic."""
        self.tell("moving the alias `challenger` to version 3, the damaged one")
        self.registry.set_registered_model_alias(NAME, "challenger", "3")
        release = self.follow("version 3 refused", lambda release: rejected(release, "3"))
        self.expect("the reason is the neighbour overlap", lambda: "overlap" in release["status"]["target"]["reason"])
        self.expect("version 3 answered nothing", lambda: self.traffic.by_version["3"] == 0)
        self.registry.set_registered_model_alias(NAME, "challenger", "2")
        self.follow("the alias is back on version 2", lambda release: serves(release, "2"))

    def starved_revision(self) -> None:
        """The same version with hardly any CPU: correct answers, too slow; the latency gate takes it back."""
        self.tell(f"an edit: the same version 2, with a CPU limit of {STARVED_CPU}")
        resources = {"requests": {"cpu": STARVED_CPU}, "limits": {"cpu": STARVED_CPU}}
        self.traffic.requests_per_second = CALM_REQUESTS_PER_SECOND
        patch = json.dumps({"spec": {"serving": {"resources": resources}}})
        self.stage.kubectl("patch", RELEASE, "--type=merge", "--patch", patch)
        release = self.follow("the starved revision rolled back", _starved_is_gone)
        reason = release["status"]["history"][0]["reason"]
        self.expect(f"the latency gate did it: {reason}", lambda: "latency" in reason)

    def follow(self, what: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Prints the release's line whenever it changes, and again after 15 seconds of silence, until `done`."""

        seen = ""

        def look() -> dict[str, Any] | None:
            nonlocal seen
            release = self.stage.release(NAME)
            if release["metadata"]["resourceVersion"] != seen or time.monotonic() - self._printed_at > _SILENT_SECONDS:
                seen = release["metadata"]["resourceVersion"]
                self._show(*self.stage.kubectl("get", RELEASE).splitlines()[:2])
            return release if done(release) else None

        found: dict[str, Any] = until(what, look, _ROLLOUT_SECONDS)
        self.tell(f"{what}: {found['status'].get('message', '')}")
        return found

    def _show(self, header: str, line: str) -> None:
        """The release's line, if it says anything new or nothing was said for long."""
        known = line.rpartition(" ")[0].rstrip()  # without the age
        if known == self._shown and time.monotonic() - self._printed_at <= _SILENT_SECONDS:
            return
        if not self._shown:
            self._print(header)
        self._shown = known
        self._print(line)

    def expect(self, promise: str, kept: Callable[[], bool], deadline_seconds: float = 30) -> None:
        """Notes a promise that is not kept in time."""
        try:
            until(promise, kept, deadline_seconds)
            self.tell(f"ok: {promise}")
        except ClusterError:
            self.tell(f"NOT SO: {promise}")
            self.broken.append(promise)

    def tell(self, text: str) -> None:
        """A line of the story; it breaks the table, whose header is then printed again."""
        self._shown = ""
        self._print(f"── {text}")

    def _print(self, text: str) -> None:
        self._printed_at = time.monotonic()
        sys.stdout.write(f"{time.monotonic() - self._began:5.0f} s  {text}\n")
        sys.stdout.flush()

    def _outcome(self) -> Outcome:
        if self.traffic.failures:
            self.broken.append(f"{len(self.traffic.failures)} requests failed, first: {self.traffic.failures[0]}")
        if self.traffic.answered != self.traffic.sent:
            self.broken.append(f"{self.traffic.sent} requests, {self.traffic.answered} answers")
        history = self.stage.release(NAME)["status"]["history"]
        return Outcome(self.traffic, history, {"aliases": self._aliases(), "stages": self._stages()}, self.broken)

    def _page_compares(self) -> bool:
        """Has each of its charts its lines, from what this cluster's Prometheus scraped? (Drift says something from 200 texts on.)"""
        release, scraped = self.stage.release(NAME), source.at(services.PROMETHEUS_URL)
        found = panels.panels(release, Record(), scraped, *panels.span(release, datetime.now(UTC)))
        compared = [chart for chart in found.compared if chart.id != "drift"]
        remembered = [points for chart in found.rollout for points in chart.lines.values()]
        return (
            len(compared) == 5
            and all({"stable", "former"} <= set(chart.lines) for chart in compared)
            and all(remembered)
        )

    def _aliases(self) -> dict[str, str]:
        aliases = self.registry.get_registered_model(NAME).aliases
        return {name: str(version) for name, version in aliases.items()}

    def _stages(self) -> dict[str, str]:
        versions = self.registry.search_model_versions(f"name='{NAME}'")
        return {str(version.version): str(version.current_stage) for version in versions}


def summary(outcome: Outcome, stage: Stage) -> str:
    """The end of the demo, as text."""
    traffic = outcome.traffic
    percentiles = statistics.quantiles(traffic.seconds, n=100) if len(traffic.seconds) > 1 else [0.0] * 99
    lines = [
        "",
        f"requests sent    {traffic.sent}",
        f"requests failed  {len(traffic.failures)}",
        *(f"  {failure}" for failure in traffic.failures[:10]),
        f"answered by      {', '.join(f'version {name}: {count}' for name, count in sorted(traffic.by_version.items()))}",
        f"latency          p50 {percentiles[49] * 1000:.0f} ms, p99 {percentiles[98] * 1000:.0f} ms (the starved canary included)",
        "history",
        *(f"  version {entry['version']} {entry['result']}: {entry['reason']}" for entry in outcome.history),
        f"MLflow aliases   {outcome.standing['aliases']}",
        f"MLflow stages    {outcome.standing['stages']}",
        *(f"NOT SO: {promise}" for promise in outcome.broken),
    ]
    if stage.keep:
        lines += [
            "",
            'to look further: eval "$(python3 -m tests.cluster env)"; kubectl get modelreleases -o wide; '
            f"kubectl describe {RELEASE}",
            f"MLflow: {stage.mlflow_url}   the end of it all: make cluster-down",
        ]
    else:
        lines += ["", "to look further: make demo KEEP=1 leaves everything running"]
    return "\n".join(lines) + "\n"


def node_port() -> dict[str, Any]:
    """A door from this machine to the release's pods; clients in the cluster use the Service of the release's own name."""
    port = {"name": "http", "port": 8001, "targetPort": "http", "nodePort": NODE_PORT}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{NAME}-door", "namespace": "default"},
        "spec": {"type": "NodePort", "selector": {"serinus.dev/release": NAME}, "ports": [port]},
    }


def serves(release: dict[str, Any], version: str) -> bool:
    """Does this version serve, with nothing else under way?"""
    status = release.get("status", {})
    stable = status.get("stable") or {}
    return status.get("phase") == "Healthy" and stable.get("version") == version and not status.get("canary")


def rejected(release: dict[str, Any], version: str) -> bool:
    """Was this version rejected, and is its canary gone?"""
    status = release.get("status", {})
    target = status.get("target") or {}
    return bool(target.get("version") == version and target.get("rejected") and not status.get("canary"))


def _starved_is_gone(release: dict[str, Any]) -> bool:
    limits = yaml.safe_load(EXAMPLE.read_text())["spec"]["serving"]["resources"]["limits"]
    edited = release["spec"]["serving"]["resources"]["limits"] != limits
    return edited and rejected(release, "2")


def main() -> int:
    """Returns 0 only when every promise was kept."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.e2e.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave the cluster and everything in it running")
    try:
        with Stage(keep=parser.parse_args().keep) as stage:
            outcome = Demo(stage).play()
            sys.stdout.write(summary(outcome, stage))
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what the demo started has been stopped\n")
        return 130
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.stderr.write(f"{DISK_IS_FULL}\n")
        return 1
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
