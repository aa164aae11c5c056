"""The operator's own loop on a cluster in memory, with watches that may be late, lose what passes by, or begin with an old list.

A `Fault` says what goes wrong, counted in changes of the cluster; the clock moves only between the steps of the play.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any, TypeAlias

from tests.faults.cluster import Cluster
from tests.faults.registry import Mlflow
from tests.integration.surroundings import Metrics as Measured

from serinus_operator import kube as wire
from serinus_operator.cache import KINDS, Cache, Key
from serinus_operator.errors import SerinusError, Unavailable
from serinus_operator.metrics import Metrics
from serinus_operator.notify import Notifier
from serinus_operator.prometheus import Prometheus
from serinus_operator.promql import Queries
from serinus_operator.reconcile import Reconciler, Surroundings
from serinus_operator.registry import Registry
from serinus_operator.registry_watch import RegistryWatch
from serinus_operator.settings import RegistrySettings, Settings
from serinus_operator.watching import Watched

JSON: TypeAlias = dict[str, Any]
KEY: Key = ("default", "release")
_LAG_STEPS = 6
_TURNS = 40


class Kind(Enum):
    """What goes wrong with what the operator sees."""

    NOTHING = "nothing"
    LATE = "all changes come late for a while"
    UNOBSERVED = "the changes of a while pass by; then the API server has forgotten them, and all is listed anew"
    OLD_LIST = "the operator starts again, and its first list of ModelReleases is old"


@dataclass(frozen=True)
class Fault:
    """`kind` befalls it once the cluster has seen `change` changes."""

    kind: Kind = Kind.NOTHING
    change: int = 0


class _Kube(wire.Kube):
    """The operator's calls, carried out in memory."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(1)
        self.cluster = cluster

    async def _call(self, method: str, path: str, *, body: JSON | None = None, query: dict[str, str] | None = None,
                    content_type: str = "") -> JSON:  # fmt: skip
        await asyncio.sleep(0)
        if self.cluster.away:
            raise Unavailable(f"{method} {path}: no answer")
        selector = (query or {}).get("labelSelector", "")
        status, answer = self.cluster.call(method, f"{path}?labelSelector={selector}", body, content_type)
        if status >= 400:
            raise wire._translate(status, f"{method} {path}", json.dumps(answer).encode())
        return answer


class _Registry(Registry):
    def __init__(self, mlflow: Mlflow) -> None:
        super().__init__(RegistrySettings("http://mlflow"), 1)
        self.mlflow = mlflow

    async def _call(self, method: str, path: str, arguments: Any) -> JSON:
        if self.mlflow.refusal is not None:
            raise self.mlflow.refusal
        return self.mlflow.call(method, path, arguments)


class _Prometheus(Prometheus):
    def __init__(self, measured: Measured) -> None:
        super().__init__("http://prometheus", 1)
        self.measured = measured

    def _query(self, query: str, at: Any) -> list[JSON]:
        if self.measured.down:
            raise Unavailable("Prometheus: 503")
        return self.measured.answer(query, at.timestamp())


class Operator:
    """One life of the operator: from its first lists to its end."""

    def __init__(self, play: Play, view: int | None) -> None:
        cluster, clock = play.cluster, lambda: play.cluster.now + play.skew
        self.cache, self.kube = Cache(), _Kube(cluster)
        self._view = view
        metrics = Metrics(self.cache, clock)
        settings = Settings("server:1", "IfNotPresent", {"default": RegistrySettings("http://mlflow")},
                            "http://p", "off", (), "default", "me", max_concurrent_rollouts=play.limit)  # fmt: skip
        self.registries = RegistryWatch({"default": _Registry(play.mlflow)}, self.cache, 0.0, metrics)
        self.reconciler = Reconciler(
            Surroundings(self.kube, self.cache, self.registries, _Prometheus(play.measured), Queries("off"),
                         settings, Notifier(None), metrics, clock)
        )  # fmt: skip
        self.owned = {kind: Watched(self.kube, self.cache, kind, None) for kind in KINDS if kind != "HTTPRoute"}
        self.due = cluster.now
        self._play = play

    async def start(self) -> None:
        """Lists everything and follows the changes from there."""
        await self.list()

    async def list(self) -> None:
        """What a start, or a watch whose past is forgotten, does.

        What is owned is listed without a resourceVersion, which no API server may answer from an old cache; the ModelReleases, which
        kopf lists, are shown as of `view`.
        """
        cluster, view = self._play.cluster, self._view
        self.heard, self._view = len(cluster.log) if view is None else view, None
        for watched in self.owned.values():
            if await watched.list():
                self._wake()
        for name, thing in cluster.at(self.heard).items():
            if name[0] == "modelreleases" and self.cache.put_release(thing):
                self._wake()

    def hear(self, until: int) -> None:
        """The watches hand out the changes up to number `until`."""
        for change in self._play.cluster.log[self.heard : until]:
            if change.kind == "ModelRelease":
                told = KEY if self.cache.put_release(change.thing) else None
            elif change.kind in self.owned:
                told = self.owned[change.kind]._seen(change.type, change.thing)
            else:
                continue
            if told is not None:
                self._wake()
        self.heard = max(self.heard, until)

    async def look(self) -> None:
        """Reconciles as often as it is due now."""
        cluster = self._play.cluster
        models = list(self.registries._followers())
        if await self.registries._changed(self.registries._registries["default"], models):
            self._wake()
        for _ in range(_TURNS):
            if cluster.now < self.due:
                return
            self.due = cluster.now + timedelta(days=1)
            try:
                again = await self.reconciler.reconcile(KEY)
            except SerinusError as error:
                self._play.errors.append(str(error))
                again = 5.0
            if again is not None:
                self.due = min(self.due, cluster.now + timedelta(seconds=again if again > 0.2 else 0))
            if not self._play.blind:
                self.hear(len(cluster.log))

    def _wake(self) -> None:
        self.due = self._play.cluster.now


@dataclass
class Play:
    """One release's story under one fault."""

    fault: Fault = field(default_factory=Fault)
    cluster: Cluster = field(default_factory=Cluster)
    mlflow: Mlflow = field(default_factory=Mlflow)
    errors: list[str] = field(default_factory=list)
    blind: bool = False  # the watches show nothing now
    skew: timedelta = timedelta()  # of the operator's clock
    limit: int = 0  # of rollouts at one time
    _blind_steps: int = 0
    _befallen: bool = False

    def __post_init__(self) -> None:
        self.measured = Measured(self.cluster)  # type: ignore[arg-type]
        self.operator = Operator(self, None)

    async def step(self, seconds: float = 5.0) -> None:
        """The operator looks, the cluster moves, time passes."""
        await self._befall()
        if not self.blind:
            self.operator.hear(len(self.cluster.log))
        await self.operator.look()
        self.cluster.settle()
        self.cluster.now += timedelta(seconds=seconds)

    async def _befall(self) -> None:
        if self.blind:
            self._blind_steps += 1
            if self._blind_steps == _LAG_STEPS:
                self.blind = False
                if self.fault.kind is Kind.UNOBSERVED:
                    await self.operator.list()
        elif not self._befallen and self.fault.kind is not Kind.NOTHING and len(self.cluster.log) >= self.fault.change:
            self._befallen = self.blind = True
            if self.fault.kind is Kind.OLD_LIST:
                self.operator = Operator(self, max(1, self.fault.change - 30))
                await self.operator.start()
