"""The `spec` of a ModelRelease as frozen data; `spec_parser` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, TypeAlias

MOST_COMPARED_LATENCIES: Final = 4  # gates; the CRD says so too


class Follow(StrEnum):
    """How a release names its model version."""

    ALIAS = "alias"
    STAGE = "stage"
    VERSION = "version"


class InconclusiveAction(StrEnum):
    """What happens when an analysis has not reached a verdict in time. Promotion is not among the answers."""

    PAUSE = "Pause"
    ROLLBACK = "Rollback"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which registered model, and which version of it: the one an alias or a stage names now, or a fixed one."""

    name: str
    registry: str
    follow: Follow
    selector: str

    def __str__(self) -> str:
        sign = {Follow.ALIAS: "@", Follow.STAGE: "/", Follow.VERSION: "/"}[self.follow]
        return f"models:/{self.name}{sign}{self.selector}"


@dataclass(frozen=True, slots=True)
class Engine:
    """How texts are encoded; None is the server's own choice."""

    backend: str | None = None
    max_batch_tokens: int | None = None
    queue_tokens: int | None = None
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """What the user chose of the pods; part of the revision. `image` None means the operator's setting.

    `template` is a PodTemplateSpec that is laid over the operator's own: where pods run, and what is in them beside the server.
    """

    image: str | None
    resources: Mapping[str, Any]
    drain: timedelta
    template: Mapping[str, Any] = field(default_factory=dict)
    engine: Engine = Engine()


@dataclass(frozen=True, slots=True)
class Verify:
    """Run the verify Job: nothing of the canary has met a user yet."""


@dataclass(frozen=True, slots=True)
class SetWeight:
    """Give the canary `percent` (1..100) of the replicas; 100 promotes."""

    percent: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for `duration`, or for a person's `promote` when it is None."""

    duration: timedelta | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """Wait for `duration` at least and until every gate passes."""

    duration: timedelta


Step: TypeAlias = Verify | SetWeight | Pause | Analysis


@dataclass(frozen=True, slots=True)
class LatencyGate:
    """Successful requests are not slower than stable's; `max_mean` limits their mean. A pod's first `warm_up` is not compared."""

    max_mean: timedelta | None = None
    compare: bool = True
    warm_up: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class ConfidenceGate:
    """Texts are not less like their model's reference than stable's are; `min_mean`, in (0, 1), limits the mean confidence.

    `tolerance` is the odds ratio of a text below the lowest reference decile, canary to stable, that is still good; None stands for
    what verify measured. With `only_with_reference` a model without a reference profile is not judged.
    """

    min_mean: float | None = None
    compare: bool = True
    tolerance: float | None = None
    only_with_reference: bool = False


@dataclass(frozen=True, slots=True)
class DriftGate:
    """Embeddings are not more often outside their own model's reference band than stable's; `tolerance` is an odds ratio.

    Inputs are the same for both versions: a share of texts above `input_alert` outside the reference's lengths alerts, and never fails.
    """

    compare: bool = True
    tolerance: float = 2.0
    input_alert: float = 0.4
    only_with_reference: bool = False


@dataclass(frozen=True, slots=True)
class ErrorRateGate:
    """5xx answers are not more frequent than stable's; `max_rate`, in (0, 1), limits their share. `tolerance` is an odds ratio."""

    max_rate: float | None = None
    compare: bool = True
    tolerance: float = 1.25


@dataclass(frozen=True, slots=True)
class RestartsGate:
    """Containers of the canary restart at most `max_restarts` times: a crash leaves no 5xx behind."""

    max_restarts: int = 2


@dataclass(frozen=True, slots=True)
class PromQLGate:
    """The user's own query gives a number from `least` to `most`; more than `failure_limit` looks outside fail the canary."""

    query: str
    least: float | None
    most: float | None
    failure_limit: int = 2


CountedRule: TypeAlias = LatencyGate | ConfidenceGate | ErrorRateGate | DriftGate
GateRule: TypeAlias = CountedRule | RestartsGate | PromQLGate


@dataclass(frozen=True, slots=True)
class Gate:
    """A named rule; `dry_run` judges and reports without consequence."""

    name: str
    rule: GateRule
    dry_run: bool


@dataclass(frozen=True, slots=True)
class AnalysisSpec:
    """How canaries are judged."""

    interval: timedelta
    false_rollback_probability: float
    min_requests: int
    inconclusive_after: timedelta
    inconclusive_action: InconclusiveAction
    gates: tuple[Gate, ...]


class Surge(StrEnum):
    """Where the room for another pod comes from: beyond `replicas`, from a pod lowered before, or as the scheduler says."""

    AUTO = "Auto"
    SURGE = "Surge"
    SWAP = "Swap"


class OnFailure(StrEnum):
    """A failed canary's pods: each goes when its stable replacement is Ready, or all leave the Service at once."""

    KEEP_FLOOR = "KeepFloor"
    IMMEDIATE = "Immediate"


@dataclass(frozen=True, slots=True)
class Gateway:
    """An HTTPRoute of the Gateway API carries the weights: attached to these Gateways (as in the API), for these hosts."""

    parent_refs: tuple[Mapping[str, Any], ...]
    hostnames: tuple[str, ...] = ()


class OnSpaceChange(StrEnum):
    """A target whose vectors are of another space than stable's: traffic is split, spaces are kept apart, or it does not start."""

    SPLIT = "Split"
    PINNED = "Pinned"
    REFUSE = "Refuse"


@dataclass(frozen=True, slots=True)
class Strategy:
    """How replicas move. After a promotion the former stable is kept warm for `scale_down_delay`, and gates go on for `bake`.

    Without a gateway the ratio of replicas is the share of requests.
    """

    surge: Surge
    max_surge: int
    capacity_floor_percent: int
    on_failure: OnFailure
    on_space_change: OnSpaceChange
    space_retention: timedelta  # without a request that pins it, until a space that was stable's goes
    progress_deadline: timedelta
    scale_down_delay: timedelta
    bake: timedelta
    gateway: Gateway | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class RegistryMoves:
    """What is written to the registry at a transition; None or empty means nothing."""

    alias: str | None = None
    stage: str | None = None
    archive_previous: bool = False
    tags: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """A whole ModelRelease spec."""

    model: ModelRef
    replicas: int
    paused: bool
    serving: Serving
    strategy: Strategy
    analysis: AnalysisSpec
    on_canary: RegistryMoves
    on_promote: RegistryMoves
    on_rollback: RegistryMoves
    history: int
