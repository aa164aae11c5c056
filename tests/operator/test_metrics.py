"""What Prometheus is told follows from the stored status, and only from releases that exist."""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from tests.operator.world import START, World, challenged, released

from serinus_operator import status_codec
from serinus_operator.cache import Cache
from serinus_operator.gates.judge import Verdict
from serinus_operator.metrics import Metrics

KEY = ("team", "embedder")
VERSIONS = count(1)


def shown(world: World, metrics: Metrics | None = None) -> set[str]:
    cache = metrics._cache if metrics else Cache()
    metadata = {"namespace": KEY[0], "name": KEY[1], "uid": "u", "resourceVersion": str(next(VERSIONS))}
    release: dict[str, Any] = {"metadata": metadata, "status": status_codec.encode(world.status)}
    cache.put_release(release)
    registry = CollectorRegistry()
    registry.register(metrics or Metrics(cache, lambda: START))
    return set(generate_latest(registry).decode().replace('namespace="team",', "").splitlines())


def test_a_release_at_rest_is_healthy_and_has_no_step() -> None:
    lines = shown(released())
    assert 'serinus_release_phase{phase="Healthy",release="embedder"} 1.0' in lines
    assert 'serinus_release_step{release="embedder"} 0.0' in lines
    assert not [line for line in lines if line.startswith("serinus_release_progressed_at_seconds{")]
    assert [
        line
        for line in lines
        if line.startswith('serinus_release_ended_at_seconds{release="embedder",result="Promoted"')
    ]


def test_a_rollout_shows_its_weight_its_gates_and_since_when_they_are_undecided() -> None:
    world = challenged()
    world.verdict = Verdict.INCONCLUSIVE
    world.run(20)
    lines = shown(world)
    assert 'serinus_release_weight_percent{of="desired",release="embedder"} 25.0' in lines
    assert 'serinus_gate_evidence_needed{gate="latency",release="embedder"} 20.0' in lines
    (since,) = [line for line in lines if line.startswith("serinus_release_undecided_since_seconds{")]
    assert 'verdict="Inconclusive"' in since
    at = float(since.split()[-1])
    assert START.timestamp() < at < world.now.timestamp()
    roles = [line for line in lines if line.startswith("serinus_release_revision_info{")]
    assert len(roles) == 2


def test_ends_are_counted_and_start_at_zero() -> None:
    metrics = Metrics(Cache(), lambda: START)
    line = 'serinus_rollouts_ended_total{{release="embedder",result="RolledBack"}} {}'
    assert line.format("0.0") in shown(released(), metrics)
    metrics.rollout_ended(KEY, "RolledBack")
    metrics.rollout_ended(KEY, "WeightChanged")
    assert line.format("1.0") in shown(released(), metrics)


def test_a_registry_fails_since_its_first_failure_until_it_answers() -> None:
    minutes = iter(START + timedelta(minutes=each) for each in range(5))
    metrics = Metrics(Cache(), lambda: next(minutes))
    metrics.registry_answered("default")
    for _ in range(3):
        metrics.registry_failed("default")
    failing = 'serinus_registry_failing_since_seconds{registry="default"} '
    (line,) = [each for each in shown(released(), metrics) if each.startswith(failing)]
    assert float(line.split()[-1]) == (START + timedelta(minutes=1)).timestamp()
    metrics.registry_answered("default")
    assert failing + "0.0" in shown(released(), metrics)
