"""What the plan reads and returns, as frozen data: the status of a release, what was observed around it, and actions.

Field names follow `status` of the CRD (camelCase there, by `status_codec`). Instants are timezone-aware UTC.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from serinus_contract.verification import VerifyReport
from serinus_operator.gates.behaviour import Behaviour
from serinus_operator.gates.judge import Evidence, GateVerdict, Verdict
from serinus_operator.rollout.capacity import Side
from serinus_operator.rollout.cost import Cost, PodUse, Price
from serinus_operator.spec import Gateway

ModelVersion: TypeAlias = str


class Phase(StrEnum):
    """A summary of the conditions, for people."""

    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    HEALTHY = "Healthy"
    DEGRADED = "Degraded"


class Policy(StrEnum):
    """How this rollout makes room for another pod: beyond `replicas`, or by lowering one first."""

    SURGE = "Surge"
    SWAP = "Swap"


class Result(StrEnum):
    """How a rollout ended."""

    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    ABORTED = "Aborted"
    SUPERSEDED = "Superseded"


# --- status -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision and the model version in it. `space` names its embedding space."""

    revision: str
    version: ModelVersion
    digest: str
    space: str
    ready: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """What spec and registry name now. A rejected target stays so until another is named or a person says `retry`."""

    revision: str
    version: ModelVersion
    digest: str
    space: str
    rejected: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Canary:
    """The revision on trial. `ending` is set once it is being withdrawn, with the reason."""

    revision: str
    version: ModelVersion
    digest: str
    space: str
    started_at: datetime
    ready: int = 0
    verified: bool = False
    confidence_odds_ratio: float | None = None  # as verify measured it
    paused: bool = False  # by a person's command
    ending: Result | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Former:
    """What was stable before the last promotion, kept for a way back: with pods until `warm_until`, judged until `bake_until`."""

    revision: str
    version: ModelVersion
    digest: str
    space: str
    warm_until: datetime
    bake_until: datetime


@dataclass(frozen=True, slots=True)
class Capacity:
    """How this rollout makes room for pods; chosen anew for each rollout."""

    policy: Policy = Policy.SURGE


@dataclass(frozen=True, slots=True)
class StepState:
    """Where the rollout stands. `progressed_at` moves whenever a pod becomes ready; the progress deadline counts from it."""

    index: int
    hash: str
    started_at: datetime
    progressed_at: datetime
    ready: int = 0
    released: bool = False


@dataclass(frozen=True, slots=True)
class Weight:
    """The canary's share in percent: what is wanted, and what it got: of the last window's requests, else of ready replicas."""

    desired: int = 0
    achieved: int = 0


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One rollout that ended."""

    version: ModelVersion
    revision: str
    result: Result
    reason: str
    started_at: datetime
    ended_at: datetime
    digest: str = ""
    space: str = ""


@dataclass(frozen=True, slots=True)
class Undone:
    """A person went back to a version; that holds until spec or registry name another revision than `instead_of`."""

    instead_of: str
    version: ModelVersion
    digest: str
    space: str


@dataclass(frozen=True, slots=True)
class StepSummary:
    """How a version behaved in a step, and how the one beside it did: figures by name (`gates.behaviour`), counted in [since, until]."""

    release: str
    revision: str
    step: int  # from 1; after the last one: the bake
    label: str
    since: datetime
    until: datetime
    figures: Mapping[str, float]
    beside_version: ModelVersion = ""
    beside: Mapping[str, float] = field(default_factory=dict)

    def text(self) -> str:
        """As the model version's tag holds it: JSON."""
        said = {
            "release": self.release, "revision": self.revision, "step": self.label, "since": self.since.isoformat(),
            "until": self.until.isoformat(), **self.figures, "beside": {"version": self.beside_version, **self.beside},
        }  # fmt: skip
        return json.dumps(said, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class RegistryIntent:
    """What the registry should say; kept in the status until the registry was seen to say so.

    `aliases` name a version, `withdrawn` aliases no longer name that version (somebody else's move of them stands), `stages` by version,
    `summaries` by version and tag.
    """

    aliases: Mapping[str, ModelVersion] = field(default_factory=dict)
    withdrawn: Mapping[str, ModelVersion] = field(default_factory=dict)
    stages: Mapping[ModelVersion, str] = field(default_factory=dict)
    tags: Mapping[ModelVersion, Mapping[str, str]] = field(default_factory=dict)
    summaries: Mapping[ModelVersion, Mapping[str, StepSummary]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.aliases or self.withdrawn or self.stages or self.tags or self.summaries)

    def then(self, later: RegistryIntent) -> RegistryIntent:
        """Both wishes; where they differ the later one holds."""
        tags = {
            version: {**self.tags.get(version, {}), **later.tags.get(version, {})}
            for version in {**self.tags, **later.tags}
        }
        summaries = {
            version: {**self.summaries.get(version, {}), **later.summaries.get(version, {})}
            for version in {**self.summaries, **later.summaries}
        }
        return RegistryIntent(
            aliases={
                **{alias: v for alias, v in self.aliases.items() if alias not in later.withdrawn},
                **later.aliases,
            },
            withdrawn={
                **{alias: v for alias, v in self.withdrawn.items() if alias not in later.aliases},
                **later.withdrawn,
            },
            stages={**self.stages, **later.stages},
            tags=tags,
            summaries=summaries,
        )


@dataclass(frozen=True, slots=True)
class Condition:
    """A Kubernetes condition (KEP-1623). Named `type` there, `status` is True, False or Unknown."""

    type: str
    status: str
    reason: str
    message: str
    last_transition_time: datetime
    observed_generation: int


@dataclass(frozen=True, slots=True)
class CommandAnswer:
    """The answer to the last `serinus.dev/command` annotation."""

    id: str
    verb: str
    outcome: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a release, all of it: nothing that a decision rests on lives elsewhere."""

    observed_generation: int = 0
    phase: Phase = Phase.PROGRESSING
    message: str = ""
    verdict: str = ""
    step_label: str = ""
    replicas: int = 0
    selector: str = ""
    target: Target | None = None
    stable: Revision | None = None
    canary: Canary | None = None
    former: Former | None = None
    capacity: Capacity = Capacity()
    step: StepState | None = None
    weight: Weight = Weight()
    gates: tuple[GateVerdict, ...] = ()
    evidence: Evidence | None = None
    behaviour: Behaviour | None = None  # in the present step
    cost: Cost = field(default_factory=Cost)
    registry: RegistryIntent = RegistryIntent()
    command: CommandAnswer | None = None
    undone: Undone | None = None
    history: tuple[HistoryEntry, ...] = ()
    conditions: tuple[Condition, ...] = ()


# --- observed ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resolved:
    """The registry's answer: this version, packaged by `serinus-server register` (digest and space are its tags)."""

    version: ModelVersion
    digest: str
    space: str


@dataclass(frozen=True, slots=True)
class Unresolved:
    """No model version to roll out: why, as a condition reason and a sentence. What serves goes on serving.

    `passing` tells that the registry merely did not answer: the last known target stands, and a rollout to it goes on.
    """

    reason: str
    message: str
    passing: bool = False


Resolution: TypeAlias = Resolved | Unresolved


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a pod does not become ready: a reason and a sentence, in the words of the scheduler, the kubelet or a quota.

    `shortage` tells that another pod's end would make room; `since` is when this was first said, None where nobody says.
    """

    reason: str
    message: str
    shortage: bool = False
    since: datetime | None = None

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True, slots=True)
class Workload:
    """One revision's Deployment and pods. `problem` is why pods do not become ready."""

    side: Side
    problem: Problem | None = None
    restarts: int = 0  # of the pods' containers


class JobState(StrEnum):
    """The verify Job's state; Failed with no report means that it could not judge."""

    RUNNING = "Running"
    FINISHED = "Finished"


@dataclass(frozen=True, slots=True)
class VerifyJob:
    """The verify Job of one revision. `report` is None while it runs, or when it died without one: `message` then says how."""

    revision: str
    state: JobState
    report: VerifyReport | None = None
    message: str = ""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A person's wish, from the annotation. `revision` and `step` (from 1) say what the person was looking at, where they are given."""

    id: str
    verb: str
    revision: str | None = None
    step: int | None = None
    to: str | None = None  # the revision that `undo` goes back to


@dataclass(frozen=True, slots=True)
class Counted:
    """Requests and tokens by model version, until an instant."""

    until: datetime
    by_version: Mapping[ModelVersion, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything around the release at one moment."""

    generation: int
    resolution: Resolution
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    verify_jobs: Mapping[str, VerifyJob] = field(default_factory=dict)
    serving: ApplyServing | None = None
    registry_synced: bool | None = None  # does the registry say what status.registry wants? None: it did not answer
    registry_message: str = ""
    command: Command | None = None
    queue: str = ""  # why no rollout may start now; empty when one may
    pods: Mapping[ModelVersion, tuple[PodUse, ...]] = field(
        default_factory=dict
    )  # scheduled ones, verify Jobs' among them
    counted: Counted | None = None  # since the status' own `cost.counted_until`; None: nothing new
    price: Price = field(default_factory=Price)

    def workload(self, revision: str) -> Workload:
        """The revision's workload; none of it when there is no Deployment."""
        return self.workloads.get(revision, Workload(Side(0, 0, 0)))


@dataclass(frozen=True, slots=True)
class AnalysisResult:
    """What the gates say now, and the evidence that they rest on. `achieved` is the canary's share of the last window in percent."""

    verdict: Verdict = Verdict.NO_DATA
    gates: tuple[GateVerdict, ...] = ()
    evidence: Evidence | None = None
    achieved: int | None = None
    behaviour: Behaviour | None = None


# --- plan -------------------------------------------------------------------------------------------------------------------------


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
    """

    stable: str | None
    canary: str | None
    alone: str | None = None
    route: Route | None = None
    spaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateDeployment:
    """A Deployment for a revision that has none; exactly as rendered now, and afterwards only ever scaled."""

    revision: Target
    replicas: int


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
