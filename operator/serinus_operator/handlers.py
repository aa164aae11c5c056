"""kopf's part: watches feed the cache and the queue. Nothing is decided here.

Only `on.event` handlers: kopf's others store state in annotations and add finalizers.
"""

from __future__ import annotations

from typing import Any

import kopf

from serinus_contract.names import API_VERSION, GROUP, PLURAL
from serinus_operator.cache import Cache, Key
from serinus_operator.manifests import MANAGED_BY
from serinus_operator.work_queue import WorkQueue

_ROUTE = ("HTTPRoute", "gateway.networking.k8s.io", "v1", "httproutes")
_CHILDREN = (
    ("Deployment", "apps", "v1", "deployments"),
    ("Job", "batch", "v1", "jobs"),
    ("Pod", "", "v1", "pods"),
    ("Service", "", "v1", "services"),
)


def watch(registry: kopf.OperatorRegistry, cache: Cache, queue: WorkQueue[Key], *, routes: bool) -> None:
    """Registers the event handlers. `routes` tells whether the cluster has the Gateway API."""

    async def release_changed(type: str | None, body: kopf.Body, **_: Any) -> None:
        release = _plain(body)
        key = (release["metadata"]["namespace"], release["metadata"]["name"])
        if type == "DELETED":
            cache.drop_release(key)
        elif cache.put_release(release):
            await queue.add(key)

    for login in (kopf.login_with_service_account, kopf.login_with_kubeconfig):
        kopf.on.login(registry=registry)(login)
    kopf.on.event(GROUP, API_VERSION, PLURAL, registry=registry)(release_changed)
    for kind, group, version, plural in (*_CHILDREN, *([_ROUTE] if routes else [])):
        kopf.on.event(group, version, plural, registry=registry, id=plural)(_child_changed(kind, cache, queue))


def _child_changed(kind: str, cache: Cache, queue: WorkQueue[Key]) -> Any:
    async def child_changed(type: str | None, body: kopf.Body, **_: Any) -> None:
        thing = _plain(body)
        key = cache.drop(kind, thing) if type == "DELETED" else cache.put(kind, thing)
        if key is not None:
            await queue.add(key)

    return child_changed


def settings() -> kopf.OperatorSettings:
    """kopf as a watcher: selectors sent to the server, no events, no peering, errors retried soon."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.queueing.idle_timeout = 0.5  # else each pod's last event is held, whole, for five seconds
    chosen.scanning.disabled = True  # the kinds are known: no right to list CRDs and namespaces is asked for
    chosen.watching.server_timeout = 300
    chosen.watching.client_timeout = 330
    selector = ",".join(f"{name}={value}" for name, value in MANAGED_BY.items())
    for _, group, version, plural in (*_CHILDREN, _ROUTE):
        chosen.watching.label_selectors[group, version, plural] = selector
    return chosen


def _plain(body: kopf.Body) -> dict[str, Any]:
    plain: dict[str, Any] = dict(body)
    return plain
