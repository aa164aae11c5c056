"""Watches the model registries, which send no events that can be relied on: one poll for all releases, and a release is queued only
when its model has changed.

registry poll → views → queue. Says nothing about what a change means; `registry.resolve` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from serinus_operator.cache import Cache, Key
from serinus_operator.errors import SerinusError, Unavailable
from serinus_operator.metrics import Metrics
from serinus_operator.registry import ModelView, Registry
from serinus_operator.rollout.model import RegistryIntent

Model: TypeAlias = tuple[str, str]  # registry, registered model

_FEW: Final = 10  # up to so many models are read one by one; the search would show every model of a large registry
_READ_AGAIN_SECONDS: Final = 60.0  # the search does not show every tag, nor older versions of a stage
_AT_ONCE: Final = 8


@dataclass(slots=True)
class _Seen:
    """What was last read of a model: a view or an error, and how the search showed it at that time."""

    found: ModelView | SerinusError
    read_at: float
    mark: Any = None


class RegistryWatch:
    """The last view of each model that a release names."""

    def __init__(self, registries: Mapping[str, Registry], cache: Cache, poll_seconds: float, metrics: Metrics) -> None:
        self._registries, self._cache, self._poll_seconds, self._metrics = registries, cache, poll_seconds, metrics
        self._seen: dict[Model, _Seen] = {}
        self._locks: dict[Model, asyncio.Lock] = {}
        self._writing: dict[Model, asyncio.Lock] = {}

    async def view(self, model: Model) -> ModelView:
        """The model as last seen; read now when it never was. Raises SerinusError as the last reading did."""
        async with self._locks.setdefault(model, asyncio.Lock()):
            if model not in self._seen:
                await self._read(model)
        found = self._seen[model].found
        if isinstance(found, SerinusError):
            raise found
        return found

    async def sync(self, model: Model, intent: RegistryIntent) -> ModelView:
        """Makes the registry say what is wanted. Returns what it says then. Raises SerinusError.

        One at a time: two releases of a model that tag one version would each read back the other's tags, and never be done.
        """
        async with self._writing.setdefault(model, asyncio.Lock()):
            view = await self._registries[model[0]].sync(model[1], intent)
        self._seen[model] = _Seen(view, asyncio.get_running_loop().time())
        self._metrics.registry_answered(model[0])
        return view

    async def run(self, changed: Callable[[Key], None]) -> None:
        """Polls for ever and tells the keys of releases whose model has changed."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            followers = self._followers()
            for gone in self._seen.keys() - followers.keys():
                del self._seen[gone]
            for name, registry in self._registries.items():
                models = [model for model in followers if model[0] == name]
                for model in await self._changed(registry, models):
                    for key in followers[model]:
                        changed(key)

    async def _changed(self, registry: Registry, models: list[Model]) -> list[Model]:
        marks: dict[str, Any] = {}
        if len(models) > _FEW:
            try:
                marks = await registry.overview()
                self._metrics.registry_answered(models[0][0])
            except SerinusError as error:
                return [model for model in models if self._keep(model, error)]
        limit = asyncio.Semaphore(_AT_ONCE)

        async def look(model: Model) -> bool:
            mark = marks.get(model[1])
            if not self._due(model, mark):
                return False
            async with limit:
                return await self._read(model, mark)

        looked = await asyncio.gather(*(look(model) for model in models))
        return [model for model, differs in zip(models, looked, strict=True) if differs]

    def _due(self, model: Model, mark: Any) -> bool:
        seen = self._seen.get(model)
        if seen is None or mark is None or mark != seen.mark or isinstance(seen.found, SerinusError):
            return True
        return asyncio.get_running_loop().time() - seen.read_at > _READ_AGAIN_SECONDS

    async def _read(self, model: Model, mark: Any = None) -> bool:
        """Reads the model. Returns whether it says something else than before."""
        found: ModelView | SerinusError
        try:
            found = await self._registries[model[0]].view(model[1])
        except SerinusError as error:
            found = error
        return self._keep(model, found, mark)

    def _keep(self, model: Model, found: ModelView | SerinusError, mark: Any = None) -> bool:
        """Remembers what was read. Returns whether it says something else than before."""
        before = self._seen.get(model)
        answered = not isinstance(found, Unavailable)
        (self._metrics.registry_answered if answered else self._metrics.registry_failed)(model[0])
        self._seen[model] = _Seen(found, asyncio.get_running_loop().time(), mark)
        return before is None or _says(before.found) != _says(found)

    def _followers(self) -> dict[Model, list[Key]]:
        followers: dict[Model, list[Key]] = {}
        for key, release in self._cache.releases.items():
            if release.model[0] in self._registries:
                followers.setdefault(release.model, []).append(key)
        return followers


def _says(found: ModelView | SerinusError) -> Any:
    return (type(found), str(found)) if isinstance(found, SerinusError) else found
