"""`serinus-operator`: reads settings, takes the Lease, then watches and reconciles until the Lease is lost or a signal comes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime

import kopf
import prometheus_client

from serinus_operator import handlers
from serinus_operator.cache import KINDS, Cache, Key
from serinus_operator.errors import Conflict, SerinusError
from serinus_operator.kube import Kube
from serinus_operator.lease import Lease
from serinus_operator.metrics import Metrics
from serinus_operator.notify import Notifier
from serinus_operator.prometheus import Prometheus
from serinus_operator.promql import Queries
from serinus_operator.reconcile import Reconciler, Surroundings
from serinus_operator.registry import Registry
from serinus_operator.registry_watch import RegistryWatch
from serinus_operator.settings import Settings, read_settings
from serinus_operator.watching import Watched
from serinus_operator.work_queue import WorkQueue

_WORKERS = 32  # a turn may wait for a slow registry, and holds up no other release meanwhile
_REST_SECONDS = 0.5  # a release's turns are at least so far apart
_RECONCILES = prometheus_client.Counter("serinus_operator_reconciles", "Reconciles by outcome", ["outcome"])
for _outcome in ("done", "conflict", "error"):
    _RECONCILES.labels(_outcome)

log = logging.getLogger("serinus_operator")


def main() -> None:
    """Runs the operator. Exit status 0 after a signal, 1 when the Lease was lost, 2 when a setting is missing."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("kopf").setLevel(logging.WARNING)
    try:
        settings = read_settings(os.environ)
    except ValueError as error:
        sys.stderr.write(f"serinus-operator: {error}\n")
        sys.exit(2)
    sys.exit(asyncio.run(run(settings)))


async def run(settings: Settings) -> int:
    """Leads until a signal (returns 0) or until the Lease is lost (returns 1); a new process is then the cleanest start."""
    prometheus_client.start_http_server(settings.metrics_port)
    kube = Kube(settings.call_timeout_seconds)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    lease = Lease(kube, settings.own_namespace, "serinus-operator", settings.identity, _now)
    cache = Cache()
    metrics = Metrics(cache, _now)
    prometheus_client.REGISTRY.register(metrics)
    registries = {name: Registry(each, settings.call_timeout_seconds) for name, each in settings.registries.items()}
    around = Surroundings(
        kube,
        cache,
        RegistryWatch(registries, cache, settings.registry_poll.total_seconds(), metrics),
        Prometheus(settings.prometheus_url, settings.call_timeout_seconds),
        Queries(settings.promql_url),
        settings,
        Notifier(settings.notify_url),
        metrics,
        _now,
    )
    tasks = [asyncio.create_task(task) for task in (stop.wait(), _hold(lease, _lead(settings, around, stop)))]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            log.error("the operator cannot go on", exc_info=outcome)
    if stop.is_set():
        await lease.release()
    for registry in registries.values():
        await registry.close()
    await kube.close()
    return 0 if stop.is_set() else 1


async def _hold(lease: Lease, work: Coroutine[None, None, None]) -> None:
    """Works for as long as the Lease is held. Returns when it is lost, raises what the work raised."""
    try:
        await lease.acquire()
    except BaseException:
        work.close()
        raise
    tasks = [asyncio.create_task(lease.renew()), asyncio.create_task(work)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if tasks[0] in done:
            log.error("the Lease is lost; a new process is the cleanest start")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _now() -> datetime:
    """The border where time comes in."""
    return datetime.now(UTC)  # noqa: TID251


async def _lead(settings: Settings, around: Surroundings, stop: asyncio.Event) -> None:
    """Watches and works. Any end of it is the end of the process."""
    log.info("leading; watching %s", ", ".join(settings.namespaces) or "all namespaces")
    queue: WorkQueue[Key] = WorkQueue(_REST_SECONDS)
    registry = kopf.OperatorRegistry()
    handlers.watch(registry, around.cache, queue)
    reconciler = Reconciler(around)
    routes = await around.kube.serves("HTTPRoute")
    kinds = (kind for kind in KINDS if routes or kind != "HTTPRoute")
    places = settings.namespaces or (None,)
    owned = [Watched(around.kube, around.cache, kind, namespace) for kind in kinds for namespace in places]
    for each in owned:
        await each.list()

    async def reconcile(key: Key) -> float | None:
        due = await reconciler.reconcile(key)
        _RECONCILES.labels("done").inc()
        return due

    watching = kopf.operator(
        registry=registry,
        settings=handlers.settings(),
        standalone=True,
        # else kopf asks for the user's name, which a pod's user has not; its type for this is private
        identity=settings.identity,  # type: ignore[arg-type]
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
    followed = (each.follow(queue.add) for each in owned)
    tasks = [asyncio.create_task(each) for each in (watching, around.registries.run(queue.add), *followed)]
    tasks += [asyncio.create_task(queue.work(reconcile, _report)) for _ in range(_WORKERS)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        stop.set()  # kopf takes the signals over while it watches, and returns when one has come
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _report(key: Key, error: Exception) -> None:
    if isinstance(error, Conflict):
        _RECONCILES.labels("conflict").inc()
        return
    _RECONCILES.labels("error").inc()
    if isinstance(error, SerinusError):
        log.warning("%s/%s: %s", *key, error)
    else:
        log.error("%s/%s", *key, exc_info=error)


if __name__ == "__main__":
    main()
