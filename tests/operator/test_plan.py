"""The promises of a release, as sentences."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.operator.world import World, challenged, released, spec

from serinus_contract.verification import CONFIDENCE_ODDS_RATIO
from serinus_operator.durations import format_duration, parse_duration
from serinus_operator.gates.judge import Verdict
from serinus_operator.rollout.actions import CreateDeployment, DeleteVerifyJob, SyncRegistry
from serinus_operator.rollout.model import Phase, Result
from serinus_operator.rollout.observed import Command, Resolved, Unresolved
from serinus_operator.rollout.plan import plan
from serinus_operator.status_codec import decode, encode


def test_first_release_is_verified_then_promoted() -> None:
    world = World().run(20)
    assert world.status.stable is not None
    assert (world.status.stable.version, world.status.stable.ready) == ("1", 4)
    assert world.status.phase is Phase.HEALTHY
    assert [entry.result for entry in world.status.history] == [Result.PROMOTED]
    assert world.registry.aliases == {"champion": "1"}
    assert not world.jobs


def test_good_version_walks_the_weights_and_is_promoted() -> None:
    world = challenged().run(80)
    assert world.status.stable is not None
    assert world.status.stable.version == "2"
    assert world.weights == [0, 25, 50, 100, 0] or world.weights == [25, 50, 100, 0]
    assert len(world.sides) == 1
    assert world.registry.aliases == {"champion": "2"}
    assert world.registry.withdrawn == {"canary": "2"}
    assert world.registry.stages == {"1": "Archived", "2": "Production"}
    assert world.registry.tags["2"]["serinus.result"] == "Promoted"
    assert world.fewest_ready >= 4


def test_registry_names_the_canary_from_its_first_weight_on() -> None:
    world = challenged()
    while world.status.weight.desired == 0:
        assert "canary" not in world.registry.aliases
        world.tick()
    world.tick()
    assert world.status.weight.desired == 25
    assert (world.registry.aliases["canary"], world.registry.stages["2"]) == ("2", "Staging")


def test_before_requests_are_counted_the_achieved_weight_is_that_of_ready_pods() -> None:
    world = World(spec=spec(replicas=10, strategy={"steps": [{"setWeight": 80}, {"pause": {}}]})).run(20)
    world.resolution = Resolved("2", "digest-2", "space-2")
    world.run(60)
    assert (world.status.weight.desired, world.status.weight.achieved) == (80, 80)


def test_verify_job_goes_only_after_its_verdict_is_stored() -> None:
    world, deletions = challenged(), 0
    while world.status.weight.desired == 0:
        before = world.status.canary
        if any(isinstance(action, DeleteVerifyJob) for action in world.tick().actions):
            deletions += 1
            assert before is not None
            assert before.verified
    assert deletions == 1


def test_at_rest_nothing_is_done_and_the_status_does_not_change() -> None:
    world = released()
    decided = world.decide()
    assert decided.actions == ()
    assert decided.events == ()
    assert decided.status == world.status


def test_failed_verify_rejects_the_version_before_any_traffic() -> None:
    world = challenged()
    world.verify_passes = False
    world.run(40)
    assert world.status.target is not None
    assert world.status.target.rejected
    assert "0.69" in world.status.target.reason
    assert set(world.weights) <= {0}
    assert world.status.phase is Phase.DEGRADED
    assert world.status.stable is not None
    assert world.status.stable.version == "1"
    assert "0.69" in world.registry.tags["2"]["serinus.rolled-back"]


def test_failed_gate_sends_all_traffic_back_to_stable_in_the_same_plan() -> None:
    world = challenged()
    while world.status.weight.desired == 0:
        world.tick()
    world.verdict = Verdict.FAIL
    assert world.tick().status.weight.desired == 0
    world.run(20)
    assert world.status.stable is not None
    assert (world.status.stable.version, world.status.stable.ready) == ("1", 4)
    assert world.status.history[0].result is Result.ROLLED_BACK
    assert "latency" in world.status.history[0].reason
    assert world.status.history[0].evidence == "latency Fail: 1 of 20, 500 requests"
    assert world.fewest_ready >= 4
    assert len(world.sides) == 1


def test_a_rejected_target_stays_rejected_until_retry() -> None:
    world = challenged()
    world.verify_passes = False
    world.run(40)
    world.verify_passes = True
    assert world.run(20).status.canary is None
    world.command = Command("1", "retry")
    world.run(80)
    assert world.status.stable is not None
    assert world.status.stable.version == "2"


@pytest.mark.parametrize("verdict", [Verdict.NO_DATA, Verdict.ERROR, Verdict.INCONCLUSIVE])
def test_without_a_verdict_nothing_is_promoted_and_nothing_fails(verdict: Verdict) -> None:
    world = challenged()
    world.verdict = verdict
    world.run(600)
    assert world.status.weight.desired == 25
    assert world.status.phase is Phase.PAUSED
    world.command = Command("1", "promote")
    world.verdict = Verdict.INCONCLUSIVE
    assert world.run(10).status.weight.desired == 50


def test_inconclusive_rolls_back_where_the_spec_says_so() -> None:
    world = challenged()
    world.spec = spec(analysis={"inconclusive": {"after": "1m", "action": "Rollback"}})
    world.verdict = Verdict.NO_DATA
    world.run(60)
    assert world.status.history[0].result is Result.ROLLED_BACK


def test_a_canary_that_never_becomes_ready_is_rolled_back_with_its_pods_own_reason() -> None:
    world = challenged()
    while world.status.weight.desired == 0:
        world.tick()
    assert world.status.canary is not None
    world.stuck.add(world.status.canary.revision)
    world.run(200)
    assert world.status.target is not None
    assert world.status.target.rejected
    assert world.status.target.reason == "ImagePull: no such image: not ready within progressDeadline 10m"
    assert world.fewest_ready >= 4


def test_another_target_in_the_middle_drains_the_old_canary_first() -> None:
    world = challenged().run(12)
    assert world.status.canary is not None
    first = world.status.canary.revision
    world.resolution = Resolved("3", "digest-3", "space-3")
    world.tick()
    assert world.status.canary is not None
    assert world.status.canary.revision == first
    world.run(100)
    assert world.status.stable is not None
    assert world.status.stable.version == "3"
    assert [entry.result for entry in world.status.history][:2] == [Result.PROMOTED, Result.SUPERSEDED]


def test_so_many_rollouts_as_the_spec_says_are_remembered_the_newest_first() -> None:
    world = World(spec=spec(history=2)).run(20)
    for version in ("2", "3"):
        world.resolution = Resolved(version, f"digest-{version}", f"space-{version}")
        world.run(120)
    assert [(entry.version, entry.result) for entry in world.status.history] == [
        ("3", Result.PROMOTED),
        ("2", Result.PROMOTED),
    ]
    assert all(entry.reason and entry.started_at < entry.ended_at for entry in world.status.history)


def test_return_to_the_stable_version_wins() -> None:
    world = challenged().run(12)
    world.resolution = Resolved("1", "digest-1", "space-1")
    assert world.tick().status.weight.desired == 0
    world.run(20)
    assert world.status.phase is Phase.HEALTHY
    assert len(world.sides) == 1


def test_paused_holds_the_weight_and_a_failed_gate_still_rolls_back() -> None:
    world = challenged()
    world.spec = replace(world.spec, paused=True)
    world.run(40)
    assert world.status.canary is not None
    assert world.status.weight.desired == 0
    world.verdict = Verdict.FAIL
    world.run(20)
    assert world.status.history[0].result is Result.ROLLED_BACK


def test_a_vanished_alias_keeps_what_serves() -> None:
    world = released()
    world.resolution = Unresolved("NotFound", "models:/m@challenger names no model version")
    world.run(10)
    assert world.status.stable is not None
    assert world.status.stable.ready == 4
    assert {c.type: c.status for c in world.status.conditions}["ModelResolved"] == "False"


def test_registry_is_written_only_once_the_status_holds_the_intent() -> None:
    world = challenged()
    for _ in range(80):
        stored = world.status.registry
        for action in world.tick().actions:
            if isinstance(action, SyncRegistry):
                assert action.intent == stored


def test_a_command_is_answered_once_and_refused_when_it_changes_nothing() -> None:
    world = released()
    world.command = Command("7", "promote")
    decided = world.tick()
    assert decided.status.command is not None
    assert decided.status.command.outcome == "refused: no rollout is in progress"
    assert [event.reason for event in decided.events] == ["Command"]
    assert world.tick().events == ()


def test_abort_withdraws_the_canary_and_rejects_the_target() -> None:
    world = challenged().run(12)
    world.command = Command("8", "abort")
    world.run(20)
    assert world.status.target is not None
    assert world.status.target.rejected
    assert world.status.history[0].result is Result.ABORTED


def test_an_edit_of_the_pods_rolls_out_and_moves_nothing_in_the_registry() -> None:
    world = released()
    before = world.registry
    world.spec = spec(serving={"resources": {"limits": {"cpu": "50m"}}})
    world.run(80)
    assert world.status.history[0].version == "1"
    assert len(world.status.history) == 2
    assert world.registry == before


def test_the_achieved_weight_is_the_measured_share_and_before_there_is_one_that_of_ready_pods() -> None:
    world = challenged()
    while world.status.weight.achieved == 0:
        world.tick()
    assert world.status.weight.achieved == 20  # one more ready pod than replicas: stable has not been lowered yet
    measured = replace(world.analysis(), achieved=9)
    weight = plan(world.spec, world.status, world.observed(), measured, world.now, "team/release").status.weight
    assert (weight.desired, weight.achieved) == (25, 9)


def test_scaling_in_the_middle_keeps_the_ratio() -> None:
    world = challenged()
    world.verdict = Verdict.INCONCLUSIVE
    world.run(30)
    world.spec = replace(world.spec, replicas=8)
    world.run(10)
    assert world.status.canary is not None
    assert world.sides[world.status.canary.revision].replicas == 2


def test_no_replicas_hold_the_rollout() -> None:
    world = challenged()
    world.spec = replace(world.spec, replicas=0)
    world.run(60)
    assert world.status.stable is not None
    assert world.status.stable.version == "1"


@pytest.mark.parametrize("ticks", range(0, 60, 3))
def test_a_status_survives_its_storage_at_every_point(ticks: int) -> None:
    world = challenged().run(ticks)
    assert decode(encode(world.status)) == world.status


def test_crash_before_the_status_is_stored_ends_the_same() -> None:
    world, crashed = challenged().run(80), challenged()
    for _ in range(120):
        for action in crashed.decide().actions:
            crashed.do(action)  # done, but the status is lost
        crashed.settle()
        crashed.tick()
    assert crashed.status.stable is not None
    assert world.status.stable is not None
    assert crashed.status.stable.revision == world.status.stable.revision
    assert set(crashed.sides) == set(world.sides)
    assert crashed.registry.stages == world.registry.stages
    assert crashed.now - world.now < timedelta(hours=1)


@given(st.integers(0, 10**9).map(lambda count: timedelta(milliseconds=count)))
def test_a_duration_reads_back_as_it_was_written(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration), "spec") == duration


def test_a_person_pauses_and_resumes_a_rollout() -> None:
    world = challenged().run(8)
    world.command = Command("1", "pause")
    world.run(60)
    assert world.status.phase is Phase.PAUSED
    assert world.status.canary is not None
    world.command = Command("2", "resume")
    world.run(80)
    assert world.status.stable is not None
    assert world.status.stable.version == "2"


def test_full_promotion_skips_what_is_left_but_never_verify() -> None:
    world = challenged().run(1)
    world.command = Command("1", "promote-full")
    world.run(1)
    assert world.status.command is not None
    assert "verify has not passed" in world.status.command.outcome
    world.run(8)
    world.verdict = Verdict.INCONCLUSIVE
    world.command = Command("2", "promote-full")
    world.run(30)
    assert world.status.stable is not None
    assert world.status.stable.version == "2"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (Command("1", "promote", revision="another"), "is not on trial"),
        (Command("1", "promote", step=9), "step 9 has passed"),
        (Command("1", "resume"), "no command has paused it"),
        (Command("1", "retry"), "has not been rejected"),
        (Command("1", "dance"), "the verbs are"),
    ],
)
def test_a_command_for_what_has_passed_is_refused_with_the_reason(command: Command, why: str) -> None:
    world = challenged().run(8)
    world.command = command
    assert world.status.canary is not None
    canary = world.status.canary
    world.run(1)
    assert world.status.command is not None
    assert world.status.command.outcome.startswith("refused: ")
    assert why in world.status.command.outcome
    assert world.status.canary == replace(canary, ready=world.status.canary.ready)
    assert world.status.step is not None
    assert not world.status.step.released


def test_undo_goes_back_through_the_steps_and_holds_until_the_target_changes() -> None:
    world = challenged().run(80)
    world.command = Command("1", "undo")
    world.run(80)
    assert world.status.stable is not None
    assert world.status.stable.version == "1"
    assert world.status.phase is Phase.HEALTHY
    assert [(entry.version, entry.result) for entry in world.status.history] == [
        ("1", Result.PROMOTED), ("2", Result.PROMOTED), ("1", Result.PROMOTED),
    ]  # fmt: skip
    world.resolution = Resolved("3", "digest-3", "space-3")
    world.run(80)
    assert world.status.stable.version == "3"
    assert world.status.undone is None


def test_undo_without_a_past_is_refused() -> None:
    world = released()
    world.command = Command("1", "undo")
    world.run(1)
    assert world.status.command is not None
    assert world.status.command.outcome == "refused: no earlier revision is among the rollouts that are remembered"


def test_the_runtime_that_verify_chose_is_every_pods_and_stays_with_the_revision() -> None:
    world = challenged()
    while not (world.status.canary and world.status.canary.verified):
        for revision, job in world.jobs.items():
            if job.report is not None:
                world.jobs[revision] = replace(job, report=replace(job.report, backend="openvino", dtype="bfloat16"))
        world.tick()
    verified = world.status.canary.revision
    plans = [world.tick() for _ in range(80)]
    assert world.status.stable is not None
    stable = world.status.stable
    assert (stable.revision, stable.backend, stable.dtype) == (verified, "openvino", "bfloat16")
    created = [action for plan in plans for action in plan.actions if isinstance(action, CreateDeployment)]
    assert [(action.backend, action.dtype) for action in created] == [("openvino", "bfloat16")]


def test_what_verify_measured_of_confidence_is_kept_for_the_gates() -> None:
    world = challenged()
    while not (world.status.canary and world.status.canary.verified):
        for revision, job in world.jobs.items():
            if job.report is not None:
                world.jobs[revision] = replace(job, report=replace(job.report, measured={CONFIDENCE_ODDS_RATIO: 1.7}))
        world.tick()
    assert world.status.canary.confidence_odds_ratio == 1.7
    world.run(3)
    assert world.status.canary is not None
    assert world.status.canary.confidence_odds_ratio == 1.7
