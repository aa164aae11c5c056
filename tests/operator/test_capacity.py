"""How replicas move: the floor holds at every event, and the goal is reached."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serinus_operator.rollout.capacity import Side, Split, advance, floor, split


@pytest.mark.parametrize(
    ("replicas", "weight", "expected"),
    [
        (10, 10, Split(9, 1)),
        (10, 1, Split(9, 1)),
        (10, 99, Split(1, 9)),
        (4, 5, Split(3, 1)),
        (3, 50, Split(1, 2)),
        (100, 33, Split(67, 33)),
        (1, 50, Split(1, 1)),
        (2, 10, Split(1, 1)),
        (0, 50, Split(0, 0)),
        (10, 0, Split(10, 0)),
        (10, 100, Split(0, 10)),
        (1, 100, Split(0, 1)),
    ],
)
def test_weight_divides_replicas(replicas: int, weight: int, expected: Split) -> None:
    assert split(replicas, weight) == expected


def test_floor_rounds_up() -> None:
    assert [floor(10, 100), floor(10, 75), floor(3, 50), floor(0, 100)] == [10, 8, 2, 0]


def test_canary_is_raised_before_stable_is_lowered() -> None:
    goal, stable = split(4, 50), Side(4, 4, 4)
    first = advance(goal, stable, Side(0, 0, 0), replicas=4, floor_percent=100, max_surge=1)
    assert first == Split(stable=4, canary=1)
    waiting = advance(goal, stable, Side(1, 0, 1), replicas=4, floor_percent=100, max_surge=1)
    assert waiting == Split(stable=4, canary=1)
    ready = advance(goal, stable, Side(1, 1, 1), replicas=4, floor_percent=100, max_surge=1)
    assert ready == Split(stable=3, canary=1)


def test_without_surge_stable_is_lowered_before_the_canary_is_raised() -> None:
    goal, stable = split(4, 25), Side(4, 4, 4)
    first = advance(goal, stable, Side(0, 0, 0), replicas=4, floor_percent=75, max_surge=0)
    assert first == Split(stable=3, canary=0)
    terminating = advance(goal, Side(3, 3, 4), Side(0, 0, 0), replicas=4, floor_percent=75, max_surge=0)
    assert terminating == Split(stable=3, canary=0)
    gone = advance(goal, Side(3, 3, 3), Side(0, 0, 0), replicas=4, floor_percent=75, max_surge=0)
    assert gone == Split(stable=3, canary=1)


def test_a_verify_jobs_pod_holds_a_place() -> None:
    goal = split(4, 50)
    assert advance(goal, Side(4, 4, 4), Side(0, 0, 0), replicas=4, floor_percent=100, max_surge=1, guests=1).canary == 0


def test_a_terminating_pod_still_holds_its_gpu() -> None:
    goal = split(4, 50)
    terminating = Side(replicas=3, ready=3, pods=4)
    assert advance(goal, terminating, Side(1, 1, 1), replicas=4, floor_percent=100, max_surge=1) == Split(3, 1)


def test_a_deployment_that_has_not_acted_yet_is_not_lowered_further() -> None:
    unsettled = Side(replicas=3, ready=4, pods=4, settled=False)
    assert advance(Split(2, 2), unsettled, Side(2, 2, 2), replicas=4, floor_percent=100, max_surge=1).stable == 3


@given(
    replicas=st.integers(1, 40),
    weights=st.lists(st.integers(0, 100), min_size=1, max_size=4),
    floor_percent=st.integers(0, 100),
    max_surge=st.integers(0, 5),  # 0 swaps
    choose=st.randoms(use_true_random=False),
)
def test_ready_pods_never_fall_below_the_floor_and_every_goal_is_reached(
    replicas: int, weights: list[int], floor_percent: int, max_surge: int, choose: object
) -> None:
    assume(max_surge > 0 or floor(replicas, floor_percent) < replicas)
    stable, canary = Side(replicas, replicas, replicas), Side(0, 0, 0)
    for weight in weights:
        goal = split(replicas, weight)
        for _ in range(40 * replicas + 40):
            before = stable.pods + canary.pods
            asked = advance(goal, stable, canary, replicas=replicas, floor_percent=floor_percent, max_surge=max_surge)
            stable, canary = _ask(stable, asked.stable), _ask(canary, asked.canary)
            assert stable.ready + canary.ready >= floor(replicas, floor_percent)
            assert stable.pods + canary.pods <= max(before, replicas + max_surge, goal.stable + goal.canary)
            if stable.has(goal.stable) and canary.has(goal.canary):
                break
            stable, canary = _settle(stable, choose), _settle(canary, choose)
        assert stable.has(goal.stable)
        assert canary.has(goal.canary)


def _ask(side: Side, replicas: int) -> Side:
    """The Deployment controller at its fastest: pods that are too many leave the ready ones at once, not-ready ones first."""
    unready = side.replicas - min(side.ready, side.replicas)
    lost = max(0, side.replicas - replicas - unready)
    return Side(replicas, side.ready - lost, max(side.pods, replicas))


def _settle(side: Side, choose: object) -> Side:
    """One pod more becomes ready, or one terminating pod goes, or nothing happens yet."""
    if side.ready < side.replicas and choose.random() < 0.8:  # type: ignore[attr-defined]
        return Side(side.replicas, side.ready + 1, side.pods)
    if side.pods > side.replicas:
        return Side(side.replicas, side.ready, side.pods - 1)
    return side
