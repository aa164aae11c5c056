"""Watches what releases own: lists it in pages, then follows the changes, for ever. Feeds the cache and tells whose release changed.

kopf watches the ModelReleases themselves. Of a fleet's pods it would keep each object whole for a while and read a list of ten thousand at
once; and until everything owned has been listed no release may be looked at: what is missing then would be taken for gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from serinus_operator.cache import Cache, Key
from serinus_operator.errors import SerinusError
from serinus_operator.kube import Expired, Kube
from serinus_operator.manifests import MANAGED_BY

_RETRY_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.2
_SELECTOR: Final = ",".join(f"{name}={value}" for name, value in MANAGED_BY.items())

log = logging.getLogger(__name__)


class Watched:
    """One kind of object, in one namespace or (None) everywhere."""

    def __init__(self, kube: Kube, cache: Cache, kind: str, namespace: str | None) -> None:
        self._kube, self._cache, self._kind, self._namespace = kube, cache, kind, namespace
        self._version = ""  # what has been seen of the changes

    async def list(self) -> set[Key]:
        """Brings the cache up to date. Returns the keys of releases that changed by it. Raises SerinusError."""
        changed: set[Key | None] = set()
        present: set[tuple[str, str]] = set()
        async for page in self._kube.pages(self._kind, self._namespace, _SELECTOR):
            for thing in page["items"]:
                present.add((thing["metadata"]["namespace"], thing["metadata"]["name"]))
                changed.add(self._cache.put(self._kind, thing))
            self._version = page["metadata"]["resourceVersion"]
        changed |= self._cache.retain(self._kind, self._namespace, present, self._version)
        return {key for key in changed if key is not None}

    async def follow(self, tell: Callable[[Key], None]) -> None:
        """Follows the changes since the list, for ever; lists again where the API server has forgotten them."""
        while True:
            try:
                async for type_, thing in self._kube.changes(self._kind, self._namespace, _SELECTOR, self._version):
                    self._version = thing["metadata"]["resourceVersion"]
                    key = self._seen(type_, thing)
                    if key is not None:
                        tell(key)
                await asyncio.sleep(_PAUSE_SECONDS)  # the API server has closed it, as it does every few minutes
            except Expired:
                await self._list_again(tell)
            except SerinusError as error:
                log.warning("%ss cannot be watched now: %s", self._kind, error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _list_again(self, tell: Callable[[Key], None]) -> None:
        try:
            for key in await self.list():
                tell(key)
        except SerinusError as error:
            log.warning("%ss cannot be listed now: %s", self._kind, error)
            await asyncio.sleep(_RETRY_SECONDS)

    def _seen(self, type_: str, thing: dict[str, object]) -> Key | None:
        match type_:
            case "BOOKMARK":
                return None
            case "DELETED":
                return self._cache.drop(self._kind, thing)
            case _:
                return self._cache.put(self._kind, thing)
