"""The promises of a release as a watch over one decision after another, and a state machine that does to a world all that may happen to it.

Each promise is checked on what the plan was given and what came of it, never on how the plan got there.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.operator.world import World, spec

from serinus_operator.gates.judge import Verdict
from serinus_operator.rollout.actions import DeleteDeployment, Plan, Scale, SyncRegistry
from serinus_operator.rollout.capacity import floor
from serinus_operator.rollout.commands import VERBS
from serinus_operator.rollout.draft import effective_steps
from serinus_operator.rollout.model import Phase, Result, Status, StepState
from serinus_operator.rollout.observed import Command, Resolved, Unresolved
from serinus_operator.rollout.stages import Stage, stage_of
from serinus_operator.spec import Analysis, OnFailure, OnSpaceChange, Pause, Step

STEPS: tuple[list[dict[str, Any]], ...] = (
    [{"verify": {}}, {"setWeight": 25}, {"analysis": {"duration": "1m"}}, {"setWeight": 50}, {"pause": {"duration": "1m"}}],
    [{"setWeight": 10}, {"pause": {}}],
    [{"verify": {}}, {"setWeight": 50}, {"analysis": {"duration": "30s"}}],
    [{"verify": {}}],
)  # fmt: skip


class Watch:
    """Looks at every decision. `asked` remembers a person's promote for the canary that it was said to."""

    def __init__(self) -> None:
        self.reasons_to_rise = 0

    def check(self, world: World, before: Status, decided: Plan, ready_before: int) -> None:
        """All promises that one decision can break. Raises AssertionError."""
        after = decided.status
        self._rises_only_with_a_reason(world, before, after)
        _failed_gate_takes_all_weight_back(world, before, after)
        _rejection_stays(world, before, after)
        _floor_holds(world, before, after, ready_before)
        _without_data_nothing_fails(world, before, after)
        _registry_follows_the_stored_intent(before, decided)
        _evidence_is_never_reset(before, after)
        _every_wait_ends(world, before, decided)
        _spaces_are_kept_apart(world, before, after)
        _a_pinned_space_stays(world, before, decided)
        _conditions_are_documented(after)

    def _rises_only_with_a_reason(self, world: World, before: Status, after: Status) -> None:
        """Promise 1. A rise needs an analysis passed, a pause ended, or a person, since the last one."""
        same = (
            before.canary is not None and after.canary is not None and before.canary.revision == after.canary.revision
        )
        if not same or before.step is None or after.step is None or before.step.hash != after.step.hash:
            self.reasons_to_rise = 0  # a rollout that starts, or whose steps were edited: its first weight needs none
            return
        steps = effective_steps(world.spec.strategy.steps, first=before.stable is None)
        said = _said_now(before, after)
        for index in range(before.step.index, after.step.index):
            waits = isinstance(steps[index], Analysis | Pause)
            released = said or (before.step.released and index == before.step.index)
            assert not waits or released or _has_a_reason(steps[index], before.step, world), f"{steps[index]} was left"
            self.reasons_to_rise += waits or said
        if after.weight.desired > before.weight.desired > 0:
            assert self.reasons_to_rise > 0, f"{before.weight.desired} → {after.weight.desired} without an analysis"
            self.reasons_to_rise = 0


def _conditions_are_documented(after: Status) -> None:
    """Of the reference page, which is written from the code's text: whatever is decided has its row there, and its reason."""
    for condition in after.conditions:
        assert condition.reason in _DOCUMENTED.get(condition.type, ()), f"{condition.type}: {condition.reason}"


def _documented() -> dict[str, set[str]]:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "conditions.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.+) \|$", page, re.MULTILINE)
    return {kind: set(re.findall(r"`(\w+)`", reasons)) for kind, reasons in rows}


_DOCUMENTED = _documented()


def _has_a_reason(step: Step, state: StepState, world: World) -> bool:
    match step:
        case Analysis(duration):
            return world.verdict is Verdict.PASS and world.now >= state.started_at + duration
        case Pause(duration):
            return duration is not None and world.now >= state.started_at + duration
        case _:
            return False


def _said_now(before: Status, after: Status) -> bool:
    """Did a person's promote take effect in this very decision?"""
    new = after.command is not None and after.command != before.command
    return new and after.command is not None and after.command.verb in ("promote", "promote-full")


def _failed_gate_takes_all_weight_back(world: World, before: Status, after: Status) -> None:
    """Promise 2, first half."""
    if stage_of(before) is Stage.ROLL and before.stable is not None and world.verdict is Verdict.FAIL:
        assert after.weight.desired == 0
        assert after.canary is None or after.canary.revision != before.canary.revision or after.canary.ending  # type: ignore[union-attr]


def _rejection_stays(world: World, before: Status, after: Status) -> None:
    """Promise 2, second half, and 9: a refusal names its reason."""
    retried = after.command != before.command and after.command is not None and after.command.verb == "retry"
    if before.target is not None and before.target.rejected and after.target is not None and not retried:
        assert after.target.rejected or after.target.revision != before.target.revision
    if after.target is not None and after.target.rejected:
        assert after.target.reason
    if after.command is not None and after.command.outcome.startswith("refused"):
        assert len(after.command.outcome) > len("refused: ")


def _floor_holds(world: World, before: Status, after: Status, ready_before: int) -> None:
    """Promise 3. Pods of stable and canary; those of a failed canary that has left the Service at once are no capacity."""
    leaves = after.canary is not None and after.canary.ending is not None
    if leaves and world.spec.strategy.on_failure is OnFailure.IMMEDIATE:
        return
    least = floor(world.spec.replicas, world.spec.strategy.capacity_floor_percent) if before.stable is not None else 0
    assert ready(world, after) >= min(least, ready_before), f"{ready_before} → {ready(world, after)}, floor {least}"


def ready(world: World, status: Status) -> int:
    """Ready pods of stable and canary."""
    live = {each.revision for each in (status.stable, status.canary) if each is not None}
    return sum(side.ready for revision, side in world.sides.items() if revision in live)


def _without_data_nothing_fails(world: World, before: Status, after: Status) -> None:
    """Promise 4: only a verdict of Fail rolls back by a gate."""
    fresh = (
        before.canary is not None and before.canary.ending is None and after.canary is not None and after.canary.ending
    )
    if fresh and after.canary is not None and world.verdict is not Verdict.FAIL:
        assert not after.canary.reason.startswith("latency: canary judged")


def _registry_follows_the_stored_intent(before: Status, decided: Plan) -> None:
    """Promise 5: a call only for what was stored before it, so that a crash between repeats it and changes nothing."""
    for action in decided.actions:
        if isinstance(action, SyncRegistry):
            assert action.intent == before.registry


def _evidence_is_never_reset(before: Status, after: Status) -> None:
    """Promise 7: from the first canary traffic to the promotion."""
    rolls = stage_of(before) is Stage.ROLL and stage_of(after) is Stage.ROLL
    same = (
        before.canary is not None and after.canary is not None and before.canary.started_at == after.canary.started_at
    )
    if rolls and same and before.evidence is not None:
        assert after.evidence is not None
        assert after.evidence.requests >= before.evidence.requests


def _every_wait_ends(world: World, before: Status, decided: Plan) -> None:
    """Promise 9: the machine's waits have an end; a person's wait shows as Paused."""
    after = decided.status
    held = world.spec.replicas == 0 or isinstance(world.resolution, Unresolved)
    if (
        stage_of(after) is Stage.ROLL
        and stage_of(before) is Stage.ROLL
        and not held
        and after.phase is not Phase.PAUSED
    ):
        assert decided.check_at is not None, f"{after.step_label} waits for ever"


def _spaces_are_kept_apart(world: World, before: Status, after: Status) -> None:
    """Promise 8, what the operator does for it: under Pinned no shared request meets the other space, and it has ready pods to meet."""
    stable, canary, serving = after.stable, after.canary, world.serving
    if world.spec.strategy.on_space_change is not OnSpaceChange.PINNED or stable is None or serving is None:
        return
    if canary is None or canary.space == stable.space:
        return
    assert serving.alone in (stable.revision, canary.revision), "the shared Service has pods of two spaces"
    assert canary.ending or serving.alone == stable.revision, "a canary of another space has the shared requests"
    assert {stable.space, canary.space, *(each.space for each in after.retained)} <= set(serving.spaces)
    if before.stable == stable and canary.ending is None and stable.revision in world.sides:
        assert world.sides[stable.revision].replicas >= min(world.spec.replicas, before.stable.ready)


def _a_pinned_space_stays(world: World, before: Status, decided: Plan) -> None:
    """Promise 8: a space that clients pin is served, and that nobody counts its pins is no sign that there are none."""
    after, retention = decided.status, world.spec.strategy.space_retention
    kept = {each.revision for each in after.retained}
    for action in decided.actions:
        if isinstance(action, Scale | DeleteDeployment) and action.revision in kept:
            assert isinstance(action, Scale)
            assert action.replicas >= world.replicas_before.get(action.revision, 0), (
                f"{action} takes pods of a pinned space"
            )
    for gone in (each for each in before.retained if each.revision not in kept):
        again = after.stable is not None and after.stable.space == gone.space
        on_trial = after.canary is not None and after.canary.revision == gone.revision
        if again or on_trial or world.replicas_before.get(gone.revision) == 0:
            continue
        assert world.counted, f"space {gone.space} was let go unseen"
        assert world.now - world.pinned_at.get(gone.space, gone.since) >= retention, (
            f"space {gone.space} is still pinned"
        )


class Release(RuleBasedStateMachine):
    """A release to which everything happens. In the end it is left alone, and must come to rest where spec and registry point."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.watch = Watch()
        self.commands = 0

    @initialize(
        steps=st.sampled_from(STEPS), replicas=st.integers(1, 6), surge=st.sampled_from(["Auto", "Surge", "Swap"]),
        floor_percent=st.sampled_from(["0%", "50%", "75%"]), failure=st.sampled_from(["KeepFloor", "Immediate"]),
        kept=st.sampled_from(["0s", "1m"]), max_surge=st.integers(1, 3), spaces=st.sampled_from(["Split", "Pinned"]), counted=st.booleans(),
    )  # fmt: skip
    def release(self, steps: list[dict[str, Any]], replicas: int, surge: str, floor_percent: str, failure: str, kept: str,
                max_surge: int, spaces: str, counted: bool) -> None:  # fmt: skip
        self.strategy: dict[str, Any] = {
            "steps": steps, "surge": surge, "capacityFloor": floor_percent, "onFailure": failure, "scaleDownDelay": kept,
            "bake": kept, "maxSurge": max_surge, "onSpaceChange": spaces, "spaceRetention": "1m",
        }  # fmt: skip
        self.replicas, self.world.counted = replicas, counted
        self.edit()

    def edit(self, **changes: Any) -> None:
        self.world.spec = spec(replicas=self.replicas, strategy=self.strategy, **changes)

    @rule(times=st.integers(1, 12), seconds=st.sampled_from([1, 5, 10, 30]))
    def time_passes(self, times: int, seconds: int) -> None:
        for _ in range(times):
            self.tick(seconds)

    @rule(version=st.integers(1, 4))
    def alias_moves(self, version: int) -> None:
        self.world.resolution = Resolved(str(version), f"digest-{version}", f"space-{version}")
        self.tick()

    @rule(passing=st.booleans())
    def registry_is_away(self, passing: bool) -> None:
        self.world.resolution = Unresolved(
            "RegistryUnavailable" if passing else "NotFound", "no answer", passing=passing
        )
        self.tick()

    @rule(verdict=st.sampled_from(Verdict))
    def gates_say(self, verdict: Verdict) -> None:
        self.world.verdict = verdict
        self.tick()

    @rule(passes=st.booleans())
    def verify_says(self, passes: bool) -> None:
        self.world.verify_passes = passes

    @rule(verb=st.sampled_from([*VERBS, "dance"]), knows=st.booleans(), step=st.one_of(st.none(), st.integers(1, 6)))
    def a_person_says(self, verb: str, knows: bool, step: int | None) -> None:
        self.commands += 1
        canary = self.world.status.canary
        self.world.command = Command(str(self.commands), verb, canary.revision if canary and knows else None, step)
        self.tick()

    @rule(replicas=st.integers(0, 7))
    def somebody_scales(self, replicas: int) -> None:
        self.replicas = replicas
        self.edit()
        self.tick()

    @rule(steps=st.sampled_from(STEPS), paused=st.booleans())
    def somebody_edits_the_steps(self, steps: list[dict[str, Any]], paused: bool) -> None:
        self.strategy["steps"] = steps
        self.edit(paused=paused)
        self.tick()

    @rule(cpu=st.sampled_from(["1", "2"]))
    def somebody_edits_the_pods(self, cpu: str) -> None:
        self.edit(serving={"resources": {"limits": {"cpu": cpu}}})
        self.tick()

    @rule(spare=st.integers(0, 3))
    def gpus_come_and_go(self, spare: int) -> None:
        self.world.gpus = self.replicas + spare
        self.tick()

    @precondition(lambda self: self.world.sides)
    @rule(data=st.data())
    def a_pod_dies(self, data: st.DataObject) -> None:
        revision = data.draw(st.sampled_from(sorted(self.world.sides)))
        side = self.world.sides[revision]
        self.world.sides[revision] = replace(side, ready=max(0, side.ready - 1))
        self.tick()

    @precondition(lambda self: self.world.sides)
    @rule(data=st.data(), stuck=st.booleans())
    def pods_never_become_ready(self, data: st.DataObject, stuck: bool) -> None:
        revision = data.draw(st.sampled_from(sorted(self.world.sides)))
        (self.world.stuck.add if stuck else self.world.stuck.discard)(revision)
        self.tick()

    @rule(done=st.integers(0, 4))
    def the_operator_is_killed(self, done: int) -> None:
        """After some of its API calls, and before its status was stored; then it starts again."""
        for action in self.world.decide().actions[:done]:
            self.world.do(action)
        self.tick()

    @rule(space=st.integers(1, 4), pin=st.booleans())
    def clients_pin(self, space: int, pin: bool) -> None:
        (self.world.pinned.add if pin else self.world.pinned.discard)(f"space-{space}")
        self.tick()

    @rule(counted=st.booleans())
    def pins_are_counted(self, counted: bool) -> None:
        self.world.counted = counted
        self.tick()

    @rule(hours=st.integers(1, 12))
    def the_clock_jumps(self, hours: int) -> None:
        self.world.now += timedelta(hours=hours)
        self.tick()

    def tick(self, seconds: float = 5) -> None:
        world = self.world
        before, ready_before = world.status, ready(world, world.status)
        decided = world.decide()
        world.replicas_before = {revision: side.replicas for revision, side in world.sides.items()}
        for action in decided.actions:
            world.do(action)
        world.status = decided.status
        self.watch.check(world, before, decided, ready_before)
        world.settle()
        world.now += timedelta(seconds=seconds)

    def teardown(self) -> None:
        """Promises 5 and 6: left alone, with everything in order, it comes to rest, and at rest nothing is written."""
        world = self.world
        world.stuck.clear()
        world.pinned.clear()
        world.counted = True
        world.gpus, world.verdict, world.verify_passes, world.command = 10**9, Verdict.PASS, True, None
        if isinstance(world.resolution, Unresolved):
            world.resolution = Resolved("1", "digest-1", "space-1")
        self.replicas = max(1, self.replicas)
        self.strategy = self.strategy | {"steps": STEPS[0]} if hasattr(self, "strategy") else {"steps": STEPS[0]}
        self.edit()
        if world.status.canary is not None and world.status.canary.paused:
            world.command = Command("resumed in the end", "resume")
        for _ in range(400):
            self.tick()
            decided = world.decide()
            if stage_of(world.status) is Stage.REST and not decided.actions and decided.status == world.status:
                break
        status = world.status
        assert status.target is not None
        assert stage_of(status) is Stage.REST, f"{stage_of(status)}: {status.message}"
        if not status.target.rejected:
            assert status.stable is not None
            assert status.stable.revision == status.target.revision
        assert (decided.actions, decided.events) == ((), ())
        assert decided.status == status
        assert len(world.sides) == (status.stable is not None)
        assert not world.jobs
        promoted = [entry for entry in status.history if entry.result is Result.PROMOTED]
        if promoted and status.stable is not None:
            assert world.registry.aliases.get("champion") == status.stable.version
            assert world.registry.stages.get(status.stable.version, "Production") == "Production"
