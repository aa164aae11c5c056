"""What pods held is added up once, whatever is stored when, and moves nothing while nothing changes."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console
from tests.operator.world import START

from serinus_operator import status_codec
from serinus_operator.cache import Cache
from serinus_operator.cli import views
from serinus_operator.metrics import Metrics
from serinus_operator.observe import Children, pods_in_use, versions
from serinus_operator.pods import read_pod
from serinus_operator.rollout.cost import Cost, PodUse, Price, amount
from serinus_operator.rollout.model import Status
from serinus_operator.settings import read_settings


def at(seconds: float) -> Any:
    return START + timedelta(seconds=seconds)


def gpu(since: float) -> PodUse:
    return PodUse(at(since), 1)


def test_pods_that_come_and_go_are_paid_for_as_long_as_they_were_there() -> None:
    cost = Cost().accrued({"1": (gpu(0), gpu(0))}, at(1))
    cost = cost.accrued({"1": (gpu(0), gpu(0)), "2": (gpu(60),)}, at(60))
    cost = cost.accrued({"1": (gpu(0),), "2": (gpu(60), gpu(99))}, at(100))
    cost = cost.accrued({"2": (gpu(60), gpu(99))}, at(130))
    one, two = cost.as_of(at(190))
    assert (one.version, one.gpu_seconds) == ("1", pytest.approx(100 + 130))
    assert (two.version, two.gpu_seconds) == ("2", pytest.approx(130 + 91))
    assert cost.held == {"2": (2, 0)}


def test_while_as_much_is_held_nothing_changes_and_nothing_is_written() -> None:
    cost = Cost().accrued({"1": (gpu(0),)}, at(5))
    assert cost.accrued({"1": (gpu(0),)}, at(9_999)) is cost
    assert Cost().accrued({}, at(5)) == Cost()
    assert cost.as_of(at(3600))[0].gpu_seconds == pytest.approx(3600)


def test_an_operator_that_starts_again_counts_what_is_there_from_where_it_stopped() -> None:
    stored = status_codec.encode(Status(cost=Cost().accrued({"1": (gpu(0),)}, at(10))))
    again = status_codec.decode(stored).cost
    assert again.accrued({"1": (gpu(0), gpu(50))}, at(100)).as_of(at(100))[0].gpu_seconds == pytest.approx(100 + 50)


def test_pods_without_an_accelerator_are_counted_apart_and_slices_like_devices() -> None:
    def pod(name: str, scheduled: str = "True", phase: str = "Running", **spec: Any) -> dict[str, Any]:
        labels = {"serinus.dev/release": "r", "serinus.dev/revision": "rev"}
        metadata = {"name": name, "labels": labels, "annotations": {"serinus.dev/model-version": "7"}}
        bound = {"type": "PodScheduled", "status": scheduled, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        return {"metadata": metadata, "spec": spec, "status": {"phase": phase, "conditions": [bound]}}

    devices = [{"resources": {"limits": {"nvidia.com/mig-1g.10gb": "2"}}}]
    leaving = pod("leaving", containers=devices)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    pods = (
        pod("cpu"), leaving, pod("claims", resourceClaims=[{"name": "gpu"}]),
        pod("waits", scheduled="False", phase="Pending", containers=devices), pod("verified", phase="Succeeded", containers=devices),
    )  # fmt: skip
    children = Children(pods=tuple(read_pod(each) for each in pods))
    assert pods_in_use(children) == {"7": (PodUse(START, 0), PodUse(START, 2), PodUse(START, 1))}
    assert versions(children) == {"rev": "7"}
    (used,) = Cost().accrued(pods_in_use(children), at(10)).as_of(at(3600))
    assert (used.gpu_seconds, used.cpu_pod_seconds) == (pytest.approx(3 * 3600), pytest.approx(3600))
    assert amount(used, Price(per_gpu_hour=2.5, per_cpu_pod_hour=0.1)) == pytest.approx(7.6)
    assert amount(used, Price()) is None


def test_old_versions_are_dropped_and_none_that_holds_anything() -> None:
    cost, held = Cost(), {"0": (gpu(0),)}
    for version in range(1, 30):
        cost = cost.accrued({**held, str(version): (gpu(0),)}, at(version))
    kept = [used.version for used in cost.accrued(held, at(40)).versions]
    assert kept == ["0", *(str(version) for version in range(21, 30))]


def test_requests_and_tokens_are_added_to_their_version() -> None:
    cost = Cost().accrued({"1": (gpu(0),)}, at(1)).counted({"1": (10.0, 200.0), "": (5.0, 5.0)}, at(300))
    cost = cost.counted({"1": (1.0, 20.0)}, at(600))
    assert cost.counted_until == at(600)
    assert [(used.requests, used.tokens) for used in cost.versions] == [(11, 220)]


def test_people_and_prometheus_see_hours_amount_and_what_a_thousand_requests_cost() -> None:
    cost = (
        Cost(price=Price(2.0, 0.0, "EUR"))
        .accrued({"7": (gpu(0), gpu(0))}, at(1))
        .counted({"7": (4000, 80_000)}, at(300))
    )
    status = status_codec.encode(Status(cost=cost))
    release = {
        "metadata": {"namespace": "team", "name": "embedder", "resourceVersion": "1", "uid": "u"},
        "status": status,
    }
    shown = io.StringIO()
    Console(width=200, file=shown).print(views.tree(release, [], at(1800)))
    assert (
        "model version 7: 1.00 GPU hours, 2.00 EUR, 4,000 requests, 80,000 tokens, 0.5000 EUR a thousand requests"
        in shown.getvalue()
    )
    cache = Cache()
    cache.put_release(release)
    metrics, registry = Metrics(cache, lambda: at(1800)), CollectorRegistry()
    metrics.cost(("team", "embedder"), cost)
    registry.register(metrics)
    lines = generate_latest(registry).decode().splitlines()
    assert 'serinus_cost_gpu_seconds_total{namespace="team",release="embedder",version="7"} 3600.0' in lines
    assert 'serinus_cost_amount{currency="EUR",namespace="team",release="embedder",version="7"} 2.0' in lines
    assert 'serinus_cost_requests_total{namespace="team",release="embedder",version="7"} 4000.0' in lines


def test_the_price_is_a_setting_of_the_operator() -> None:
    needed = {
        "SERINUS_SERVER_IMAGE": "i",
        "SERINUS_PROMETHEUS_URL": "http://p",
        "SERINUS_REGISTRIES": '{"default": "http://m"}',
    }
    assert read_settings(needed).price == Price()
    priced = {"SERINUS_PRICE_PER_GPU_HOUR": "2.49", "SERINUS_PRICE_PER_CPU_POD_HOUR": "0.1", "SERINUS_CURRENCY": "EUR"}
    assert read_settings(needed | priced).price == Price(2.49, 0.1, "EUR")
    with pytest.raises(ValueError, match="SERINUS_PRICE_PER_GPU_HOUR is a number"):
        read_settings(needed | {"SERINUS_PRICE_PER_GPU_HOUR": "cheap"})
