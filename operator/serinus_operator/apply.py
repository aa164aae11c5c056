"""The only writer: one idempotent API call per action, in the plan's order. What a call returns goes into the cache at once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import assert_never

from serinus_contract.names import API_VERSION, GROUP, KIND, mirror_services, space_service
from serinus_operator import manifests
from serinus_operator.cache import Cache
from serinus_operator.errors import Conflict, SerinusError
from serinus_operator.guard import Guard
from serinus_operator.kube import Kube
from serinus_operator.manifests import Release
from serinus_operator.pod_template import Defaults
from serinus_operator.registry import says
from serinus_operator.registry_watch import RegistryWatch
from serinus_operator.rollout.actions import (
    Action,
    ApplyServing,
    CreateDeployment,
    CreateVerifyJob,
    DeleteDeployment,
    DeleteVerifyJob,
    Event,
    Scale,
    SyncRegistry,
)
from serinus_operator.rollout.model import RegistryIntent
from serinus_operator.spec import Spec

log = logging.getLogger(__name__)


class Writer:
    """Carries out plans for one release."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        registry: RegistryWatch,
        guard: Guard,
        release: Release,
        spec: Spec,
        defaults: Defaults,
    ) -> None:
        self._kube, self._cache, self._registry, self._guard = kube, cache, registry, guard
        self._release, self._spec, self._defaults = release, spec, defaults
        self.synced: RegistryIntent | None = None  # what the registry was seen to say after it was told
        self.registry_error: SerinusError | None = None  # what it answered instead

    async def carry_out(self, actions: Sequence[Action]) -> None:
        """Does the actions in order. An error stops it; whoever observes again plans again. A registry's error stops nothing."""
        for action in actions:
            await self._do(action)

    async def _do(self, action: Action) -> None:
        release, spec = self._release, self._spec
        match action:
            case ApplyServing():
                await self._serve(action)
            case CreateDeployment(revision, replicas, backend, dtype):
                await self._guard.check(spec.serving)
                rendered = manifests.deployment(release, spec, revision, replicas, self._defaults, backend, dtype)
                await self._create(rendered)
            case Scale(revision, replicas):
                name = manifests.deployment_name(release, revision)
                self._cache.put("Deployment", await self._kube.scale(release.namespace, name, replicas))
            case DeleteDeployment(revision):
                await self._kube.delete("Deployment", release.namespace, manifests.deployment_name(release, revision))
            case CreateVerifyJob(revision, against):
                await self._guard.check(spec.serving)
                if spec.serving.template:  # CEL cannot see all of it: a pod that could never be made is told of first
                    await self._kube.try_out(manifests.deployment(release, spec, revision, 1, self._defaults))
                await self._create(manifests.verify_job(release, spec, revision, against, self._defaults))
            case DeleteVerifyJob(revision):
                await self._kube.delete("Job", release.namespace, manifests.verify_job_name(release, revision))
            case SyncRegistry(intent):
                try:
                    view = await self._registry.sync((spec.model.registry, spec.model.name), intent)
                except SerinusError as error:
                    self.registry_error = error
                    log.warning("%s: the registry is not told: %s", release, error)
                else:
                    self.synced = intent if says(intent, view) else None
            case _:
                assert_never(action)

    async def _serve(self, live: ApplyServing) -> None:
        """Applies what is not as wanted already."""
        release, key = self._release, (self._release.namespace, self._release.name)
        for manifest in manifests.serving(release, live):
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            if not _stands(manifest, self._cache.child(key, kind, name), live):
                self._cache.put(kind, await self._kube.apply(manifest))
        for name in list(self._cache.children(key).services):
            prefix = space_service(release.name, "")
            nobodys = name.startswith(prefix) and name.removeprefix(prefix) not in live.spaces
            if nobodys or (live.mirror is None and name in mirror_services(release.name)):
                await self._kube.delete("Service", release.namespace, name)
                self._cache.forget(key, "Service", name)
        if live.route is None and self._cache.child(key, "HTTPRoute", release.name) is not None:
            await self._kube.delete("HTTPRoute", release.namespace, release.name)
            self._cache.forget(key, "HTTPRoute", release.name)

    async def _create(self, manifest: manifests.JSON) -> None:
        """One that exists already is what an earlier run of the same plan made: read it."""
        try:
            created = await self._kube.create(manifest)
        except Conflict:
            metadata = manifest["metadata"]
            created = await self._kube.get(manifest["kind"], metadata["namespace"], metadata["name"])
        self._cache.put(manifest["kind"], created)

    async def report(self, events: Sequence[Event], now: datetime) -> None:
        """Posts the plan's events on the ModelRelease. One that says what an earlier one said is counted there."""
        for event in events:
            manifest = self._event(event, now)
            try:
                await self._kube.create(manifest)
            except Conflict:
                namespace, name = self._release.namespace, manifest["metadata"]["name"]
                count = int((await self._kube.get("Event", namespace, name)).get("count") or 1)
                again = {"count": count + 1, "lastTimestamp": manifest["lastTimestamp"]}
                await self._kube.merge("Event", namespace, name, again)

    def _event(self, event: Event, now: datetime) -> manifests.JSON:
        release, at = self._release, now.isoformat(timespec="seconds").replace("+00:00", "Z")
        said = "\n".join((release.uid, event.type, event.reason, event.message))
        identity = hashlib.sha256(said.encode()).hexdigest()[:16]
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": release.namespace, "name": f"{release.name}.{identity}"},
            "involvedObject": {
                "apiVersion": f"{GROUP}/{API_VERSION}",
                "kind": KIND,
                "namespace": release.namespace,
                "name": release.name,
                "uid": release.uid,
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1000],
            "source": {"component": "serinus-operator"},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }


def _stands(manifest: manifests.JSON, held: manifests.JSON | None, live: ApplyServing) -> bool:
    if held is None:
        return False
    match manifest["kind"]:
        case "Service":
            return bool(held["spec"].get("selector") == manifest["spec"]["selector"])
        case "HTTPRoute":
            return manifests.route_of(held) == live.route
        case _:
            return True  # the disruption budget never changes
