"""One poll serves all releases, and a release hears only of its own model: against a real MLflow server."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from serinus_operator.cache import Cache, Key
from serinus_operator.errors import NotFound
from serinus_operator.metrics import Metrics
from serinus_operator.registry import Registry
from serinus_operator.registry_watch import RegistryWatch
from serinus_operator.settings import RegistrySettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlflow import MlflowClient

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]

POLL_SECONDS = 0.3


def following(models: list[str]) -> Cache:
    """Releases, named as the models that they follow."""
    cache = Cache()
    for model in models:
        metadata = {"namespace": "default", "name": model, "uid": model, "resourceVersion": "1"}
        cache.put_release({"metadata": metadata, "spec": {"model": {"name": model, "registry": "default"}}})
    return cache


async def soon(what: str, check: Callable[[], bool], deadline_seconds: float = 30) -> None:
    ends_at = time.monotonic() + deadline_seconds
    while not check():
        assert time.monotonic() < ends_at, what
        await asyncio.sleep(POLL_SECONDS / 3)


@pytest.mark.parametrize("count", [2, 12], ids=["read one by one", "seen in the search"])
async def test_only_the_follower_of_a_model_that_changed_is_told(mlflow_server: str, count: int) -> None:
    client = MlflowClient(tracking_uri=mlflow_server, registry_uri=mlflow_server)
    models = [f"watched-{count}-{number}" for number in range(count)]
    run = client.create_run("0").info
    for model in models:
        client.create_registered_model(model)
        client.create_model_version(model, f"{run.artifact_uri}/model", run_id=run.run_id, await_creation_for=0)
    registry = Registry(RegistrySettings(mlflow_server), 30)
    cache = following([*models, "never-registered"])
    watch = RegistryWatch({"default": registry}, cache, POLL_SECONDS, Metrics(cache, lambda: datetime.now(UTC)))
    told: list[Key] = []

    def tell(key: Key) -> None:
        told.append(key)

    async def changed_by(change: Callable[[], object]) -> set[Key]:
        told.clear()
        await asyncio.to_thread(change)
        await soon("somebody is told", lambda: bool(told))
        await asyncio.sleep(3 * POLL_SECONDS)
        return set(told)

    polling: Awaitable[None] = asyncio.ensure_future(watch.run(tell))
    try:
        await soon("all are seen", lambda: len(told) == count + 1)
        first = models[0]
        assert await changed_by(lambda: client.set_registered_model_alias(first, "champion", "1")) == {
            ("default", first)
        }
        assert (await watch.view(("default", first))).aliases == {"champion": "1"}
        assert await changed_by(lambda: client.transition_model_version_stage(models[1], "1", "Staging")) == {
            ("default", models[1])
        }
        with pytest.raises(NotFound):
            await watch.view(("default", "never-registered"))
    finally:
        asyncio.ensure_future(polling).cancel()
        await registry.close()
