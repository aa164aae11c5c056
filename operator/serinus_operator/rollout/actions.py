"""What the plan decides, as frozen data: actions for `apply`, Events, the status to store, and when to look again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from serinus_operator.rollout.model import ModelVersion, RegistryIntent, Status, Target
from serinus_operator.spec import Gateway


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTPRoute: `weight` percent of the requests go to the canary's Service, the others to stable's.

    A request that names the model version or the space of one of `stable` and `canary` goes straight there; without a ready canary
    all are divided alike.
    """

    gateway: Gateway
    weight: int
    stable: tuple[ModelVersion, str] | None = None  # and its space
    canary: tuple[ModelVersion, str] | None = None


@dataclass(frozen=True, slots=True)
class ApplyServing:
    """Services and disruption budget of the release select these revisions; None selects no pod.

    The shared Service selects every pod of the release, or those of the revision `alone`. Each of `spaces`, sorted, has one of its own.
    `mirror` are the revisions whose pods send copies of their requests, and get them.
    """

    stable: str | None
    canary: str | None
    alone: str | None = None
    route: Route | None = None
    spaces: tuple[str, ...] = ()
    mirror: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class CreateDeployment:
    """A Deployment for a revision that has none; exactly as rendered now, and afterwards only ever scaled."""

    revision: Target
    replicas: int
    backend: str = ""  # that verify chose
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """The revision's Deployment is to have this many replicas."""

    revision: str
    replicas: int


@dataclass(frozen=True, slots=True)
class DeleteDeployment:
    """The revision's Deployment, which has no pods left, goes."""

    revision: str


@dataclass(frozen=True, slots=True)
class CreateVerifyJob:
    """A verify Job for a revision that has none; `against` is the stable model version, None for a first release."""

    revision: Target
    against: ModelVersion | None


@dataclass(frozen=True, slots=True)
class DeleteVerifyJob:
    """The revision's verify Job and its pod go."""

    revision: str


@dataclass(frozen=True, slots=True)
class SyncRegistry:
    """The registry is made to say what the status, as stored, wants."""

    intent: RegistryIntent


Action: TypeAlias = (
    ApplyServing | CreateDeployment | Scale | DeleteDeployment | CreateVerifyJob | DeleteVerifyJob | SyncRegistry
)


@dataclass(frozen=True, slots=True)
class Event:
    """A transition, for `kubectl describe` and `kubectl get events`."""

    type: str  # Normal or Warning
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, the status to store, and when to look again at the latest (None: when something happens)."""

    actions: tuple[Action, ...]
    status: Status
    check_at: datetime | None
    events: tuple[Event, ...] = ()
