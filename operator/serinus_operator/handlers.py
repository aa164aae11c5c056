"""kopf's part: its watch of ModelReleases feeds the cache and the queue. Nothing is decided here; what releases own `watching` watches.

Only `on.event` handlers: kopf's others store state in annotations and add finalizers.
"""

from __future__ import annotations

from typing import Any

import kopf

from serinus_contract.names import API_VERSION, GROUP, PLURAL
from serinus_operator.cache import Cache, Key
from serinus_operator.work_queue import WorkQueue


def watch(registry: kopf.OperatorRegistry, cache: Cache, queue: WorkQueue[Key]) -> None:
    """Registers the event handler."""

    async def release_changed(type: str | None, body: kopf.Body, **_: Any) -> None:
        release = _plain(body)
        key = (release["metadata"]["namespace"], release["metadata"]["name"])
        if type == "DELETED":
            cache.drop_release(key)
        elif cache.put_release(release):
            queue.add(key)

    for login in (kopf.login_with_service_account, kopf.login_with_kubeconfig):
        kopf.on.login(registry=registry)(login)
    kopf.on.event(GROUP, API_VERSION, PLURAL, registry=registry)(release_changed)


def settings() -> kopf.OperatorSettings:
    """kopf as a watcher: no events, no peering, errors retried soon."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.scanning.disabled = True  # the kinds are known: no right to list CRDs and namespaces is asked for
    chosen.watching.server_timeout = 300
    chosen.watching.client_timeout = 330
    return chosen


def _plain(body: kopf.Body) -> dict[str, Any]:
    plain: dict[str, Any] = dict(body)
    return plain
