"""What was observed around a release, as frozen data: registry, workloads, verify Jobs, commands, verdicts. The plan reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from serinus_contract.verification import VerifyReport
from serinus_operator.gates.behaviour import Behaviour
from serinus_operator.gates.judge import Evidence, GateVerdict, Verdict
from serinus_operator.rollout.actions import ApplyServing
from serinus_operator.rollout.capacity import Side
from serinus_operator.rollout.cost import PodUse, Price
from serinus_operator.rollout.model import ModelVersion


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


class Pinning(StrEnum):
    """Has a request pinned a space in some time? Unknown is no answer."""

    SEEN = "Seen"
    NONE = "None"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Pins:
    """What counters say of a retained revision's space, from `Retained.seen_until` to `until`."""

    until: datetime
    pinning: Pinning


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything around the release at one moment."""

    generation: int
    resolution: Resolution
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    verify_jobs: Mapping[str, VerifyJob] = field(default_factory=dict)
    serving: ApplyServing | None = None
    registry_synced: bool | None = None  # does the registry say what status.registry wants? None: it did not answer
    registry_reason: str = ""  # of a registry that cannot be read or does not take what it is told
    registry_message: str = ""
    command: Command | None = None
    queue: str = ""  # why no rollout may start now; empty when one may
    pods: Mapping[ModelVersion, tuple[PodUse, ...]] = field(
        default_factory=dict
    )  # scheduled ones, verify Jobs' among them
    counted: Counted | None = None  # since the status' own `cost.counted_until`; None: nothing new
    price: Price = field(default_factory=Price)
    pins: Mapping[str, Pins] = field(default_factory=dict)  # by retained revision; none where it is not time to look

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
