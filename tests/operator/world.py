"""A cluster, a registry and a verify Job in memory, at the border of the plan: actions change it, `observed` shows it.

Pods become ready one tick after they were asked for and are gone one tick after they were dropped, unless told otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from serinus_contract.verification import Check, VerifyReport
from serinus_operator.gates.behaviour import Behaviour
from serinus_operator.gates.judge import Evidence, GateVerdict, Verdict
from serinus_operator.gates.windows import Counters, Window
from serinus_operator.rollout.actions import (
    Action,
    ApplyServing,
    CreateDeployment,
    CreateVerifyJob,
    DeleteDeployment,
    DeleteVerifyJob,
    Plan,
    Scale,
    SyncRegistry,
)
from serinus_operator.rollout.capacity import Side
from serinus_operator.rollout.model import RegistryIntent, Retained, Status
from serinus_operator.rollout.observed import (
    AnalysisResult,
    Command,
    JobState,
    Observed,
    Pinning,
    Pins,
    Problem,
    Resolution,
    Resolved,
    VerifyJob,
    Workload,
)
from serinus_operator.rollout.plan import plan
from serinus_operator.spec import Spec
from serinus_operator.spec_parser import parse_spec

START = datetime(2026, 1, 1, tzinfo=UTC)
CRD = Path(__file__).parents[2] / "crds" / "modelreleases.yaml"


def defaulted(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec as the API server would store it: defaults from the CRD's own schema."""
    filled: dict[str, Any] = _fill(_schema(), spec)
    return filled


@lru_cache
def _schema() -> dict[str, Any]:
    crd = yaml.safe_load(CRD.read_text())
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def _fill(schema: dict[str, Any], value: Any) -> Any:
    if isinstance(value, dict):
        filled = dict(value)
        for name, field_schema in schema.get("properties", {}).items():
            if name not in filled and "default" in field_schema:
                filled[name] = field_schema["default"]
            if name in filled:
                filled[name] = _fill(field_schema, filled[name])
        return filled
    if isinstance(value, list):
        return [_fill(schema["items"], item) for item in value]
    return value


def spec(**changes: Any) -> Spec:
    base = {
        "model": {"name": "m", "alias": "challenger"},
        "replicas": 4,
        "strategy": {
            "scaleDownDelay": "0s",
            "bake": "0s",
            "steps": [
                {"verify": {}},
                {"setWeight": 25},
                {"analysis": {"duration": "1m"}},
                {"setWeight": 50},
                {"pause": {"duration": "1m"}},
            ],
        }
        | changes.pop("strategy", {}),
        "registry": {
            "onCanary": {"alias": "canary", "stage": "Staging"},
            "onPromote": {"alias": "champion", "stage": "Production", "archivePrevious": True},
            "onRollback": {"tag": {"serinus.rolled-back": "{{ reason }}"}},
        },
    }
    return parse_spec(defaulted(base | changes))


def report(digest: str, *, passed: bool = True) -> VerifyReport:
    check = Check(
        "neighbours",
        passed,
        "top-10 neighbour overlap 0.95" if passed else "top-10 neighbour overlap 0.69, 0.80 needed",
    )
    return VerifyReport((check,), {}, "1", digest, "space")


@dataclass
class World:
    spec: Spec = field(default_factory=spec)
    status: Status = field(default_factory=Status)
    now: datetime = START
    resolution: Resolution = field(default_factory=lambda: Resolved("1", "digest-1", "space-1"))
    sides: dict[str, Side] = field(default_factory=dict)
    jobs: dict[str, VerifyJob] = field(default_factory=dict)
    registry: RegistryIntent = field(default_factory=RegistryIntent)
    serving: ApplyServing | None = None
    command: Command | None = None
    queue: str = ""
    verdict: Verdict = Verdict.PASS
    verify_passes: bool = True
    stuck: set[str] = field(default_factory=set)  # revisions whose pods never become ready
    pinned: set[str] = field(default_factory=set)  # spaces that clients pin
    pinned_at: dict[str, datetime] = field(default_factory=dict)
    counted: bool = True  # do the servers' counters of pins reach the operator?
    gpus: int = 10**9  # one for each pod, a verify Job's among them
    scheduled: dict[str, int] = field(default_factory=dict)
    short_since: dict[str, datetime] = field(default_factory=dict)
    replicas_before: dict[str, int] = field(default_factory=dict)  # the last decision
    weights: list[int] = field(default_factory=list)
    fewest_ready: int = 10**9
    last: Plan | None = None

    def observed(self) -> Observed:
        return Observed(
            generation=1,
            resolution=self.resolution,
            workloads={rev: Workload(side, self.problem(rev)) for rev, side in self.sides.items()},
            verify_jobs=dict(self.jobs),
            serving=self.serving,
            registry_synced=self.registry.then(self.status.registry) == self.registry,
            command=self.command,
            queue=self.queue,
            pins={each.revision: Pins(self.now, self.pinning(each)) for each in self.status.retained},
        )

    def pinning(self, retained: Retained) -> Pinning:
        """What counters say since they were read last; they go on counting while nobody reads them."""
        if not self.counted:
            return Pinning.UNKNOWN
        seen = self.pinned_at.get(retained.space, START) >= retained.seen_until
        return Pinning.SEEN if seen and retained.space in self.pinned_at else Pinning.NONE

    def problem(self, revision: str) -> Problem | None:
        if revision in self.short_since:
            message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
            return Problem("InsufficientGPU", message, shortage=True, since=self.short_since[revision])
        return Problem("ImagePull", "no such image") if revision in self.stuck else None

    def analysis(self) -> AnalysisResult:
        canary, stable, former = self.status.canary, self.status.stable, self.status.former
        judged = canary or (stable if former is not None else None)
        if judged is None or stable is None or (canary is not None and canary.ending is not None):
            return AnalysisResult()
        message = f"latency: canary judged {self.verdict}"
        before = self.status.evidence
        known = before is not None and before.canary_revision == judged.revision
        evidence = before if known and before is not None else Evidence(judged.revision, self.now)
        evidence = replace(evidence, window_end=self.now, requests=evidence.requests + 1)
        gates = (GateVerdict("latency", self.verdict, 500, 1.0, 20.0, message),)
        return AnalysisResult(self.verdict, gates, evidence, behaviour=self.behaviour(judged.revision))

    def behaviour(self, revision: str) -> Behaviour | None:
        """Fifty requests a tick once it has a ready pod, one of them an error."""
        known = self.status.behaviour
        if revision not in self.sides or not self.sides[revision].ready:
            return known
        if known is None or known.revision != revision:
            known = Behaviour(revision, self.now - timedelta(seconds=5), self.now)
        counted = Counters(requests=50, errors=1, latency_seconds=1.0, latency_count=49, tokens=1000)
        return known.add(Window(known.until, self.now, {revision: counted, "beside": counted}), "beside")

    def decide(self) -> Plan:
        return plan(self.spec, self.status, self.observed(), self.analysis(), self.now, "team/release")

    def tick(self, seconds: float = 5) -> Plan:
        """One reconcile: everything in the plan is done and stored, then the cluster and the clock move on."""
        decided = self.last = self.decide()
        for action in decided.actions:
            self.do(action)
        self.status = decided.status
        if self.status.weight.desired not in self.weights[-1:]:
            self.weights.append(self.status.weight.desired)
        self.settle()
        self.now += timedelta(seconds=seconds)
        return decided

    def run(self, ticks: int = 60) -> World:
        for _ in range(ticks):
            self.tick()
        return self

    def do(self, action: Action) -> None:
        match action:
            case ApplyServing():
                self.serving = action
            case CreateDeployment(revision, replicas):
                self.sides.setdefault(revision.revision, Side(replicas, 0, replicas))
            case Scale(revision, replicas):
                side = self.sides[revision]
                ready = min(side.ready, replicas)
                self.sides[revision] = Side(replicas, ready, max(side.pods, replicas))
            case DeleteDeployment(revision):
                self.sides.pop(revision, None)
            case CreateVerifyJob(revision):
                self.jobs.setdefault(revision.revision, VerifyJob(revision.revision, JobState.RUNNING))
                self.digest_of_job = revision.digest
            case DeleteVerifyJob(revision):
                self.jobs.pop(revision, None)
            case SyncRegistry(intent):
                self.registry = self.registry.then(intent)
        ready = sum(side.ready for side in self.sides.values())
        if self.status.stable is not None and self.status.stable.ready == self.spec.replicas:
            self.fewest_ready = min(self.fewest_ready, ready)

    def settle(self) -> None:
        """Pods that were to go are gone, those that find a GPU are ready, and verify Jobs that found one have finished."""
        self.pinned_at |= dict.fromkeys(self.pinned, self.now)
        held = {revision: min(side.replicas, self.scheduled.get(revision, 0)) for revision, side in self.sides.items()}
        running = {revision for revision, job in self.jobs.items() if job.state is JobState.FINISHED}
        for revision in self.jobs:
            if revision not in running and sum(held.values()) + len(running) < self.gpus:
                running.add(revision)
        for revision, side in self.sides.items():
            free = self.gpus - len(running) - sum(held.values())
            held[revision] += max(0, min(free, side.replicas - held[revision]))
            ready = min(side.ready, held[revision]) if revision in self.stuck else held[revision]
            self.sides[revision] = Side(side.replicas, ready, side.replicas)
        self.scheduled = held
        waiting = {revision for revision, side in self.sides.items() if held[revision] < side.replicas}
        waiting |= set(self.jobs) - running
        self.short_since = {revision: self.short_since.get(revision, self.now) for revision in waiting}
        for revision, job in self.jobs.items():
            self.jobs[revision] = job = replace(job, problem=self.problem(revision))
            if job.state is JobState.RUNNING and revision in running:
                verdict = report(self.digest_of_job, passed=self.verify_passes)
                self.jobs[revision] = replace(job, state=JobState.FINISHED, report=verdict)


def released() -> World:
    """A world at rest with model version 1 stable."""
    world = World().run(20)
    assert world.status.stable is not None
    world.weights.clear()
    return world


def challenged() -> World:
    """Version 1 is stable and the alias has just moved to version 2."""
    world = released()
    world.resolution = Resolved("2", "digest-2", "space-2")
    return world
