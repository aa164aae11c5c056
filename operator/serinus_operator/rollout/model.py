"""The status of a release, as frozen data: what the plan reads, and returns changed.

Field names follow `status` of the CRD (camelCase there, by `status_codec`). Instants are timezone-aware UTC.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from serinus_operator.gates.behaviour import Behaviour
from serinus_operator.gates.judge import Evidence, GateVerdict
from serinus_operator.rollout.cost import Cost

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


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision and the model version in it. `space` names its embedding space."""

    revision: str
    version: ModelVersion
    digest: str
    space: str
    ready: int = 0
    backend: str = ""  # the runtime that verify chose for all of its pods; empty: each pod's rule
    dtype: str = ""  # and the numbers that it multiplies


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
    backend: str = ""
    dtype: str = ""
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
    backend: str = ""
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Retained:
    """What was stable, kept for clients that pin its space. Nobody has since `quiet_since`, as far as counters tell: until `seen_until`."""

    revision: str
    version: ModelVersion
    digest: str
    space: str
    since: datetime
    quiet_since: datetime
    seen_until: datetime
    told: bool = False  # a person was told that this takes long
    backend: str = ""
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How this rollout makes room for pods; chosen anew for each rollout.

    `free` is 0 while a pod of this release finds no room. How much there is otherwise nobody tells (nodes are not read): None.
    """

    policy: Policy = Policy.SURGE
    free: int | None = None


@dataclass(frozen=True, slots=True)
class StepState:
    """Where the rollout stands. `progressed_at` moves whenever a pod becomes ready; the progress deadline counts from it.

    `deadline` is until when the machine waits here; None where it waits for a person.
    """

    index: int
    hash: str
    started_at: datetime
    progressed_at: datetime
    ready: int = 0
    released: bool = False
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class Weight:
    """The canary's share in percent: what is wanted, and what it got: of the last window's requests, else of ready replicas."""

    desired: int = 0
    achieved: int = 0


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One rollout that ended. `evidence` is what each gate had when it did."""

    version: ModelVersion
    revision: str
    result: Result
    reason: str
    started_at: datetime
    ended_at: datetime
    digest: str = ""
    space: str = ""
    evidence: str = ""


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
    retained: tuple[Retained, ...] = ()
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
