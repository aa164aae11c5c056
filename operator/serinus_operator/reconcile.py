"""One loop for one release: observe → plan → apply → status. The decisions are the plan's; this module only carries things to and fro.

CR event / owned object event / check_at due  →  Reconciler.reconcile(key)  →  seconds until the next look
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from serinus_operator import observe, pins, status_codec, storing
from serinus_operator.apply import Writer
from serinus_operator.cache import Cache, Key, StoredRelease
from serinus_operator.errors import Conflict, InvalidSpec, Rejected, SerinusError, Unavailable
from serinus_operator.gates.judge import new_alerts
from serinus_operator.gates.windows import subtract
from serinus_operator.guard import Guard
from serinus_operator.judging import EPOCH, Judging, aligned
from serinus_operator.kube import Kube
from serinus_operator.manifests import Release, served_revisions
from serinus_operator.metrics import Metrics
from serinus_operator.notify import ANALYSIS_ALERT, Notifier
from serinus_operator.pod_template import Defaults
from serinus_operator.prometheus import Prometheus
from serinus_operator.promql import Queries
from serinus_operator.registry import resolve, unresolved
from serinus_operator.registry_told import RegistryTold
from serinus_operator.registry_watch import RegistryWatch
from serinus_operator.rollout.actions import DeleteDeployment, DeleteVerifyJob, Event, Plan, SyncRegistry
from serinus_operator.rollout.model import Condition, Phase, Status
from serinus_operator.rollout.observed import AnalysisResult, Counted, Observed
from serinus_operator.rollout.plan import plan
from serinus_operator.settings import Settings
from serinus_operator.spec import Spec
from serinus_operator.spec_parser import parse_spec

JSON: TypeAlias = dict[str, Any]
Clock: TypeAlias = Callable[[], datetime]

_LOOK_AGAIN_SECONDS: Final = {True: 5.0, False: 300.0}  # while rolling, at rest; events and check_at come sooner
_SOON_SECONDS: Final = 0.1
_COUNTED: Final = timedelta(minutes=5)  # between two counts of requests and tokens, at rest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The systems around the operator."""

    kube: Kube
    cache: Cache
    registries: RegistryWatch
    prometheus: Prometheus
    queries: Queries
    settings: Settings
    notifier: Notifier
    metrics: Metrics
    clock: Clock


@dataclass(slots=True)
class _Known:
    """A release as stored, read once. `status` may be ahead of `saved`, the stored one, by figures that can wait."""

    stored: StoredRelease
    saved: Status
    status: Status
    saved_at: datetime = EPOCH
    spec: Spec | None = None


class Reconciler:
    """Reconciles releases by key. Keeps no state that a restart would miss."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._judging = Judging(around.prometheus, around.queries, around.settings.scrape_lag)
        self._known: dict[Key, _Known] = {}
        self._told = RegistryTold()
        self._rolling: set[Key] = set()  # decided here, perhaps not yet stored
        self._confirmed: set[Key] = set()  # read once by name, not only from a list
        self._counts_again_at = EPOCH

    async def reconcile(self, key: Key) -> float | None:
        """Brings one release a step further. Returns the seconds until it wants another look."""
        around = self._around
        stored = around.cache.releases.get(key)
        release_json = {} if stored is None else stored.json()
        if stored is None or release_json["metadata"].get("deletionTimestamp"):
            self._known.pop(key, None)
            self._told.forget(key)
            self._confirmed.discard(key)
            return None
        now = around.clock()
        release = Release(key[0], key[1], release_json["metadata"]["uid"])
        known = self._known.get(key)
        if known is None or known.stored is not stored:
            saved = status_codec.decode(release_json.get("status"))
            known = self._known[key] = _Known(stored, saved, saved)
        status = known.status
        try:
            spec = known.spec = known.spec or self._spec(release_json)
        except InvalidSpec as error:
            await self._store_status(release_json, _stalled(status, "InvalidSpec", str(error), release_json, now))
            return None
        observed = await self._observe(spec, status, release_json)
        analysis, next_window = await self._judging.look(spec.analysis, status, observed, release, now)
        observed = replace(observed, counted=await self._count(status, analysis, key, now))
        if status.retained:
            retention, latest = spec.strategy.space_retention, now - around.settings.scrape_lag
            pinned = await pins.look(around.prometheus, status, observed.workloads, key, retention, latest)
            observed = replace(observed, pins=pinned)
        decided = plan(spec, status, replace(observed, queue=self._queue(key)), analysis, now, str(release))
        alerting = new_alerts(status.gates, decided.status.gates)
        alerts = [Event("Warning", ANALYSIS_ALERT, f"{gate.name}: {gate.alert}") for gate in alerting]
        decided = replace(decided, events=(*decided.events, *alerts), actions=self._told.due(key, decided.actions, now))
        (self._rolling.discard if decided.status.canary is None else self._rolling.add)(key)
        store_at = await self._carry_out(release_json, spec, release, decided, known, now)
        tell_at = self._told.again_at(key, now)
        waits = (DeleteDeployment, DeleteVerifyJob, *((SyncRegistry,) if tell_at is not None else ()))
        done = any(not isinstance(action, waits) for action in decided.actions)
        if done or storing.patience(status, decided.status) == timedelta():
            return _SOON_SECONDS  # it may allow the next thing at once; watches tell of others' changes and of what is gone
        due = [at for at in (decided.check_at, next_window, store_at, tell_at) if at is not None]
        unsettled = decided.status.canary is not None or decided.status.phase is not Phase.HEALTHY
        if not unsettled and key in self._known:
            self._known[key].spec = None  # of those at rest there are many
        return min([*(max(0.05, (at - now).total_seconds()) for at in due), _LOOK_AGAIN_SECONDS[unsettled]])

    def _spec(self, release_json: JSON) -> Spec:
        spec, registries = parse_spec(release_json["spec"]), self._around.settings.registries
        if spec.model.registry not in registries:
            known = ", ".join(registries)
            raise InvalidSpec("spec.model.registry", f"{spec.model.registry!r} is unknown; this operator has: {known}")
        return spec

    def _queue(self, key: Key) -> str:
        """Why this release may not start a rollout now: an operator-wide limit. Empty when it may."""
        limit, releases = self._around.settings.max_concurrent_rollouts, self._around.cache.releases
        if not limit:
            return ""
        rolling = {each for each in self._rolling if each in releases}
        rolling |= {each for each, release in releases.items() if release.rolling}
        others = len(rolling - {key})
        if others < limit:
            return ""
        return f"waits for one of {others} rollouts that are in progress to end (the operator's limit is {limit})"

    async def _carry_out(
        self, stored: JSON, spec: Spec, release: Release, decided: Plan, known: _Known, now: datetime
    ) -> datetime | None:
        """Does what was decided. Returns when the status is to be stored, if it changed and can wait until then."""
        around, settings, status = self._around, self._around.settings, known.status
        key = (release.namespace, release.name)
        defaults = Defaults(
            settings.server_image, settings.image_pull_policy, settings.registries[spec.model.registry].tracking_uri
        )
        if decided.actions:
            await self._confirm(stored)
        guard = Guard(around.kube, settings.admission_policy)
        writer = Writer(around.kube, around.cache, around.registries, guard, release, spec, defaults)
        for action in decided.actions:
            log.info("%s: %s", release, action)
        try:
            await writer.carry_out(decided.actions)
        except Rejected as refusal:  # by the API server or an admission policy: said where the user looks
            refused = _stalled(status, "Refused", str(refusal), stored, around.clock())
            if refused.conditions != status.conditions:
                await self._store_status(stored, refused)
                await writer.report([Event("Warning", "Refused", str(refusal))], around.clock())
            raise
        self._told.remember(key, decided.actions, writer, now)
        around.metrics.cost(key, decided.status.cost)
        wait = storing.patience(known.saved, decided.status)
        if wait is None or (now < known.saved_at + wait and not decided.events):
            known.status = decided.status
            return None if wait is None else known.saved_at + wait
        await self._store_status(stored, decided.status)
        for event in decided.events:
            around.notifier.tell(release, event, around.clock())
            around.metrics.rollout_ended(key, event.reason)
        await writer.report(decided.events, around.clock())
        return None

    async def _confirm(self, stored: JSON) -> None:
        """A list may be old when this process begins: a release is read by name before anything is done for it. Raises Conflict if so."""
        metadata, around = stored["metadata"], self._around
        key = (metadata["namespace"], metadata["name"])
        if key in self._confirmed:
            return
        newest = await around.kube.get("ModelRelease", *key)
        self._confirmed.add(key)
        if newest["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            around.cache.put_release(newest)
            raise Conflict(f"ModelRelease {key[0]}/{key[1]} was listed as it had been")

    async def _observe(self, spec: Spec, status: Status, release_json: JSON) -> Observed:
        name = release_json["metadata"]["name"]
        key = (release_json["metadata"]["namespace"], name)
        children = self._around.cache.children(key)
        synced: bool | None
        try:
            model = await self._around.registries.view((spec.model.registry, spec.model.name))
            resolution = resolve(spec, model, status.stable)
            standing = self._told.standing(key, spec.model, status, model)
            synced, reason, message = standing.synced, standing.reason, standing.message
        except SerinusError as error:
            resolution = unresolved(spec.model, error)
            synced, reason, message = None, resolution.reason, resolution.message
        return Observed(
            generation=int(release_json["metadata"]["generation"]),
            resolution=resolution,
            workloads=observe.workloads(children),
            verify_jobs=observe.verify_jobs(children),
            serving=served_revisions(name, children.services, children.route) if children.budgeted else None,
            registry_synced=synced,
            registry_reason=reason,
            registry_message=message,
            command=observe.command(release_json),
            pods=observe.pods_in_use(children),
            price=self._around.settings.price,
        )

    async def _count(self, status: Status, analysis: AnalysisResult, key: Key, now: datetime) -> Counted | None:
        """Requests and tokens since they were last counted: with each judged window, else every 5 minutes, at instants that all share."""
        since = status.cost.counted_until
        latest = aligned(now - self._around.settings.scrape_lag, _COUNTED)
        if analysis.evidence is not None:
            latest = max(latest, analysis.evidence.window_end)
        if (since is not None and latest <= since) or now < self._counts_again_at:
            return None
        snapshot = self._around.prometheus.snapshot
        try:
            before = {} if since is None else (await snapshot(since)).get(key, {})
            window = subtract(since or EPOCH, before, latest, (await snapshot(latest)).get(key, {}))
        except Unavailable:
            self._counts_again_at = now + _COUNTED  # for all: a Prometheus that hangs is not asked for each of them
            return None
        versions = _versions(status) | observe.versions(self._around.cache.children(key))
        counts: dict[str, tuple[float, float]] = {}
        for revision, counted in window.by_revision.items():
            version = versions.get(revision, "")
            requests, tokens = counts.get(version, (0.0, 0.0))
            counts[version] = requests + counted.requests, tokens + counted.tokens
        return Counted(latest, counts)

    async def _store_status(self, stored: JSON, status: Status) -> None:
        around, encoded = self._around, status_codec.encode(status)
        if stored.get("status") == encoded:
            return
        key = (stored["metadata"]["namespace"], stored["metadata"]["name"])
        try:
            around.cache.put_release(await around.kube.replace_status({**stored, "status": encoded}))
            known = _Known(around.cache.releases[key], status, status, around.clock(), self._known[key].spec)
            self._known[key] = known
        except Conflict:
            around.cache.put_release(await around.kube.get("ModelRelease", *key))
            raise


def _versions(status: Status) -> dict[str, str]:
    """The model version of each revision that the status knows."""
    known = (*status.history, *status.retained, status.former, status.stable, status.canary)
    return {each.revision: each.version for each in known if each is not None}


def _stalled(status: Status, reason: str, message: str, release_json: JSON, now: datetime) -> Status:
    """A spec that cannot be acted on: said in conditions; what serves goes on serving."""
    generation = int(release_json["metadata"]["generation"])
    before = {condition.type: condition for condition in status.conditions}
    kept = tuple(condition for kind, condition in before.items() if kind not in ("Ready", "Stalled"))
    wanted = []
    for kind, value in (("Ready", "False"), ("Stalled", "True")):
        known = before.get(kind)
        since = known.last_transition_time if known and known.status == value else now
        wanted.append(Condition(kind, value, reason, message, since, generation))
    return replace(
        status,
        observed_generation=generation,
        phase=Phase.DEGRADED,
        message=message,
        conditions=(*wanted, *kept),
    )
