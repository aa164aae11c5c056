"""Compares the cache with the API server's lists now and then: a watch that was cut may have missed a deletion.

Lists are of metadata, for all releases at once; only what was missed is read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from serinus_operator.cache import Cache, Key
from serinus_operator.errors import NotFound, SerinusError
from serinus_operator.kube import Kube
from serinus_operator.manifests import MANAGED_BY

_EVERY_SECONDS: Final = 300.0
_SELECTOR: Final = ",".join(f"{name}={value}" for name, value in MANAGED_BY.items())

log = logging.getLogger(__name__)


async def resync(
    kube: Kube,
    cache: Cache,
    kinds: tuple[str, ...],
    namespaces: tuple[str, ...],
    changed: Callable[[Key], Awaitable[None]],
) -> None:
    """Compares for ever and tells the keys of releases of which something was missed."""
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        for kind in kinds:
            try:
                for key in await compare(kube, cache, kind, namespaces):
                    await changed(key)
            except SerinusError as error:
                log.warning("%ss cannot be listed now: %s", kind, error)


async def compare(kube: Kube, cache: Cache, kind: str, namespaces: tuple[str, ...]) -> set[Key]:
    """Brings the cache up to date with the lists of a kind. Returns the keys of releases that changed by it."""
    changed: set[Key] = set()
    for namespace in namespaces or (None,):
        listed, listed_at = await kube.list_metadata(kind, namespace, _SELECTOR)
        missed, lost = cache.differing(kind, namespace, listed, listed_at)
        changed.update(lost)
        for thing in missed:
            try:
                key = cache.put(kind, await kube.get(kind, thing["metadata"]["namespace"], thing["metadata"]["name"]))
            except NotFound:
                continue
            if key is not None:
                changed.add(key)
    return changed
