"""Room for pods: surge while there is some, swap within the floor when there is none, and say what is missing when neither works."""

from datetime import timedelta
from typing import Any

import pytest
from tests.operator.world import START, World, challenged, spec

from serinus_operator.gates.judge import Verdict
from serinus_operator.rollout.model import Policy, Result
from serinus_operator.rollout.observed import Problem, Resolved

POLICIES = ("Auto", "Surge", "Swap")


def on(gpus: int, replicas: int, **strategy: Any) -> World:
    """Version 1 is stable on `gpus` GPUs, and the alias has just moved to version 2."""
    world = World(spec=spec(replicas=replicas, strategy=strategy), gpus=gpus).run(20)
    world.fewest_ready = 10**9
    world.resolution = Resolved("2", "digest-2", "space-2")
    return world


@pytest.mark.parametrize("spare", [1, 2])
@pytest.mark.parametrize("replicas", [1, 2, 3, 10, 100])
def test_with_a_spare_gpu_auto_surges_and_keeps_every_replica(replicas: int, spare: int) -> None:
    world = on(replicas + spare, replicas).run(100 + 12 * replicas)
    assert world.status.stable is not None
    assert world.status.stable.version == "2"
    assert world.fewest_ready >= replicas


@pytest.mark.parametrize("replicas", [2, 3, 10, 100])
def test_without_a_spare_gpu_auto_swaps_within_the_floor(replicas: int) -> None:
    world = on(replicas, replicas, capacityFloor="50%").run(100 + 12 * replicas)
    assert world.status.stable is not None
    assert world.status.stable.version == "2"
    assert replicas > world.fewest_ready >= -(-replicas // 2)
    assert world.status.capacity.policy is Policy.SURGE  # the next rollout finds out anew


def test_that_there_is_no_room_is_told_while_it_is_so() -> None:
    world = on(3, 3)
    world.run(4)
    assert world.status.capacity.free == 0
    world.gpus += 1
    assert world.run(2).status.capacity.free is None


@pytest.mark.parametrize("replicas", [1, 3])
def test_where_the_floor_lets_nothing_go_the_reason_names_it(replicas: int) -> None:
    world = on(replicas, replicas).run(60)
    assert world.status.target is not None
    assert world.status.target.rejected
    assert world.status.target.reason.startswith("InsufficientGPU: 0/3 nodes")
    assert f"capacityFloor 100% of {replicas} replicas" in world.status.target.reason
    assert world.fewest_ready >= replicas


@pytest.mark.parametrize(("seconds", "borne"), [(1, 30), (7, 35)])
def test_shortage_is_borne_for_thirty_seconds(seconds: int, borne: int) -> None:
    world = on(3, 3)
    while not world.short_since:
        world.tick(seconds)
    (since,) = world.short_since.values()
    assert world.decide().check_at == since + timedelta(seconds=30)
    while not (world.status.target and world.status.target.rejected):
        decided_at = world.now
        world.tick(seconds)
    assert (decided_at - since).total_seconds() == borne


def test_swapping_is_said_once_and_with_it_that_nothing_is_free() -> None:
    world = on(4, 4, capacityFloor="50%")
    plans = [world.tick() for _ in range(100)]
    said = [decided for decided in plans if any(event.reason == "Swapping" for event in decided.events)]
    assert [decided.status.capacity.free for decided in said] == [0]


def test_surge_never_swaps() -> None:
    world = on(4, 4, surge="Surge", capacityFloor="50%").run(20)
    assert world.status.capacity.policy is Policy.SURGE


class Unpullable(World):
    """No canary's image can be pulled, since the beginning of time."""

    def problem(self, revision: str) -> Problem | None:
        stable = self.status.stable
        return Problem("ImagePull", "no such image", since=START) if stable and revision != stable.revision else None


def test_what_is_no_lack_of_room_frees_none() -> None:
    world = Unpullable(spec=spec(strategy={"capacityFloor": "50%"})).run(20)
    world.resolution = Resolved("2", "digest-2", "space-2")
    world.run(3)
    assert world.status.canary is not None
    assert world.status.capacity.policy is Policy.SURGE


def test_swap_frees_a_place_for_the_verify_job_first() -> None:
    world = on(4, 4, surge="Swap", capacityFloor="75%")
    while not any(job.report for job in world.jobs.values()):
        world.tick()
    assert sum(side.replicas for side in world.sides.values()) == 3
    assert world.run(100).status.stable is not None
    assert world.status.stable is not None
    assert (world.status.stable.version, world.fewest_ready) == ("2", 3)


def test_a_shortage_that_passes_within_30_s_swaps_nothing() -> None:
    world = on(4, 4, capacityFloor="50%")
    for _ in range(4):
        world.tick()
    assert world.short_since
    world.gpus = 6
    world.run(100)
    assert world.status.stable is not None
    assert (world.status.stable.version, world.fewest_ready) == ("2", 4)


def test_surge_never_swaps_and_ends_at_the_progress_deadline() -> None:
    world = on(4, 4, surge="Surge", capacityFloor="50%", progressDeadline="2m").run(60)
    assert world.status.target is not None
    assert world.status.target.reason.startswith("InsufficientGPU")
    assert "progressDeadline 2m" in world.status.target.reason
    assert world.fewest_ready >= 4


def test_a_failed_canary_goes_pod_by_pod_and_is_kept_where_the_floor_says_so() -> None:
    world = on(5, 4)
    while world.status.weight.desired < 50 or world.short_since:
        world.tick()
    world.run(4)
    world.gpus = 4  # somebody else took the spare one
    world.verdict = Verdict.FAIL
    world.run(40)
    assert world.status.canary is not None
    assert world.fewest_ready >= 4
    assert "InsufficientGPU" in world.status.message
    world.gpus = 5
    world.run(40)
    assert world.status.canary is None
    assert world.status.history[0].result is Result.ROLLED_BACK
    assert world.fewest_ready >= 4


def test_immediate_takes_a_failed_canary_out_of_the_service_at_once() -> None:
    world = challenged()
    world.spec = spec(strategy={"onFailure": "Immediate"})
    while world.status.weight.desired == 0 or world.status.canary is None or not world.status.canary.ready:
        world.tick()
    assert world.serving is not None
    assert world.serving.alone is None
    world.verdict = Verdict.FAIL
    world.tick()
    assert world.status.stable is not None
    assert world.serving.alone == world.status.stable.revision
    assert world.sides[world.status.canary.revision].replicas == 0
    world.run(10)
    assert world.status.stable.ready == 4


@pytest.mark.parametrize("surge", POLICIES)
def test_no_replicas_hold_the_rollout(surge: str) -> None:
    world = on(10, 0, surge=surge, capacityFloor="50%").run(30)
    assert world.status.weight.desired == 0
    assert world.status.stable is None
    world.spec = spec(replicas=2, strategy={"surge": surge, "capacityFloor": "50%"})
    world.run(60)
    assert world.status.stable is not None
    assert world.status.stable.version == "2"


def test_a_rollout_that_has_to_queue_says_so_and_starts_when_it_may() -> None:
    world = challenged()
    world.queue = "waits for one of 2 rollouts that are in progress (limit 2)"
    world.run(20)
    assert world.status.canary is None
    assert "model version 2: waits for one of 2" in world.status.message
    world.queue = ""
    world.run(80)
    assert world.status.stable is not None
    assert world.status.stable.version == "2"
