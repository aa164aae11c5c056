"""What the operator tells Prometheus of releases and registries, read from what it holds whenever it is scraped. Decides nothing.

All but how rollouts ended follows from the stored statuses: a restart of the operator changes no alert.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from serinus_operator.cache import Cache, Key
from serinus_operator.gates.judge import Verdict
from serinus_operator.rollout.cost import Cost, amount
from serinus_operator.rollout.model import Phase, Result

JSON: TypeAlias = dict[str, Any]

_UNDECIDED: Final = frozenset((str(Verdict.INCONCLUSIVE), str(Verdict.NO_DATA), str(Verdict.ERROR)))
_RELEASE: Final = ("namespace", "release")


class Metrics:
    """A collector over the cache, and what no stored status holds: how rollouts ended, how registries answered, costs of this minute."""

    def __init__(self, cache: Cache, clock: Callable[[], datetime]) -> None:
        self._cache, self._clock = cache, clock
        self._ended: Counter[tuple[Key, str]] = Counter()
        self._answered_at: dict[str, datetime] = {}
        self._failing_since: dict[str, datetime] = {}
        self._costs: dict[Key, Cost] = {}

    def rollout_ended(self, key: Key, reason: str) -> None:
        """An event of a release; those that are a rollout's end are counted."""
        if reason in set(Result):
            self._ended[key, reason] += 1

    def cost(self, key: Key, cost: Cost) -> None:
        """What a release's versions have used, which may be ahead of the stored status."""
        self._costs[key] = cost

    def registry_answered(self, registry: str) -> None:
        """The registry answered, be it with a refusal."""
        self._answered_at[registry] = self._clock()
        self._failing_since.pop(registry, None)

    def registry_failed(self, registry: str) -> None:
        """The registry did not answer."""
        self._failing_since.setdefault(registry, self._clock())

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        releases = sorted(self._cache.releases)
        yield from self._rollouts(self._statuses(releases))
        yield from _gates(self._statuses(releases))
        yield from self._used(releases)
        ended = CounterMetricFamily("serinus_rollouts_ended", "Rollouts that ended", labels=[*_RELEASE, "result"])
        for key in releases:
            for result in Result:
                ended.add_metric([*key, result], self._ended[key, result])
        yield ended
        answered = _gauge("serinus_registry_answered_at_seconds", "Unix time of the last answer", "registry")
        failing = _gauge(
            "serinus_registry_failing_since_seconds", "Unix time of the first failure; 0: it answers", "registry"
        )
        for registry in sorted({*self._answered_at, *self._failing_since}):
            if registry in self._answered_at:
                answered.add_metric([registry], self._answered_at[registry].timestamp())
            since = self._failing_since.get(registry)
            failing.add_metric([registry], since.timestamp() if since else 0)
        yield from (answered, failing)

    def _statuses(self, releases: list[Key]) -> Iterator[tuple[Key, JSON]]:
        """One after another: all of them unpacked would be most of the operator's memory."""
        for key in releases:
            release = self._cache.releases.get(key)  # it is the scrape's own thread
            if release is not None:
                yield key, release.json().get("status") or {}

    def _used(self, releases: list[Key]) -> Iterator[Metric]:
        of = [*_RELEASE, "version"]
        gpus = CounterMetricFamily("serinus_cost_gpu_seconds", "Seconds of accelerators that pods held", labels=of)
        pods = CounterMetricFamily("serinus_cost_cpu_pod_seconds", "Seconds of pods without accelerator", labels=of)
        requests = CounterMetricFamily("serinus_cost_requests", "Requests, counted every 5 minutes at rest", labels=of)
        tokens = CounterMetricFamily("serinus_cost_tokens", "Tokens, counted every 5 minutes at rest", labels=of)
        money = _gauge("serinus_cost_amount", "The price of that time, where there is a price", *of, "currency")
        for key in releases:
            cost = self._costs.get(key, Cost())
            for used in cost.as_of(self._clock()) if cost.versions else ():
                gpus.add_metric([*key, used.version], used.gpu_seconds)
                pods.add_metric([*key, used.version], used.cpu_pod_seconds)
                requests.add_metric([*key, used.version], used.requests)
                tokens.add_metric([*key, used.version], used.tokens)
                price = amount(used, cost.price)
                if price is not None:
                    money.add_metric([*key, used.version, cost.price.currency], price)
        yield from (gpus, pods, requests, tokens, money)

    @staticmethod
    def _rollouts(releases: Iterable[tuple[Key, JSON]]) -> Iterator[Metric]:
        phase = _gauge("serinus_release_phase", "1 for the phase of a release", *_RELEASE, "phase")
        revision = _gauge(
            "serinus_release_revision_info", "Which revision is what", *_RELEASE, "role", "revision", "version"
        )
        weight = _gauge("serinus_release_weight_percent", "Share of the canary", *_RELEASE, "of")
        step = _gauge("serinus_release_step", "Step of the rollout, from 1; 0 without one", *_RELEASE)
        progressed = _gauge(
            "serinus_release_progressed_at_seconds", "Unix time of the last progress; while rolling", *_RELEASE
        )
        ended = _gauge(
            "serinus_release_ended_at_seconds", "Unix time of the last rollout's end", *_RELEASE, "result", "version"
        )
        for key, status in releases:
            for each in Phase:
                phase.add_metric([*key, each], float(status.get("phase", Phase.PROGRESSING) == each))
            for role in ("stable", "canary"):
                if role in status:
                    revision.add_metric([*key, role, status[role]["revision"], status[role]["version"]], 1)
            for of in ("desired", "achieved"):
                weight.add_metric([*key, of], status.get("weight", {}).get(of, 0))
            current = status.get("step") if "canary" in status else None
            step.add_metric(key, current.get("index", 0) + 1 if current else 0)
            if current:
                progressed.add_metric(key, max(_seconds(current["startedAt"]), _seconds(current["progressedAt"])))
            for last in status.get("history", [])[:1]:
                ended.add_metric([*key, last["result"], last["version"]], _seconds(last["endedAt"]))
        yield from (phase, revision, weight, step, progressed, ended)


def _gates(releases: Iterable[tuple[Key, JSON]]) -> Iterator[Metric]:
    evidence = _gauge("serinus_gate_evidence", "Evidence against the canary", *_RELEASE, "gate")
    needed = _gauge("serinus_gate_evidence_needed", "Evidence at which the gate fails", *_RELEASE, "gate")
    undecided = _gauge(
        "serinus_release_undecided_since_seconds", "Unix time since which no gate passes or fails", *_RELEASE, "verdict"
    )
    for key, status in releases:
        for gate in status.get("gates", []):
            evidence.add_metric([*key, gate["name"]], float(gate.get("evidence", "nan")))
            needed.add_metric([*key, gate["name"]], float(gate.get("needed", "nan")))
        verdict = status.get("verdict", "")
        if "canary" in status and verdict in _UNDECIDED:
            for condition in status.get("conditions", []):
                if condition["type"] == "AnalysisPassing":
                    undecided.add_metric([*key, verdict], _seconds(condition["lastTransitionTime"]))
    yield from (evidence, needed, undecided)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _seconds(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()
