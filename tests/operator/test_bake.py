"""After a promotion the former stable is kept for a while: warm for a way back, and judged against absolute limits."""

from tests.operator.world import World, challenged, spec

from serinus_operator.gates.judge import Verdict
from serinus_operator.rollout.model import Phase, Result
from serinus_operator.rollout.observed import Command, Resolved

KEPT = spec(strategy={"scaleDownDelay": "2m", "bake": "4m", "maxSurge": 2})


def promoted() -> World:
    """Version 2 has just been promoted; version 1 is kept."""
    world = challenged()
    world.spec = KEPT
    while world.status.former is None:
        world.tick()
    return world


def test_the_former_stable_stays_warm_and_out_of_the_service() -> None:
    world = promoted()
    former, stable = world.status.former, world.status.stable
    assert former is not None
    assert stable is not None
    world.tick()
    assert (former.version, stable.version) == ("1", "2")
    assert world.sides[former.revision].ready == 2
    assert world.serving is not None
    assert world.serving.alone == stable.revision
    assert world.status.phase is Phase.HEALTHY
    assert "baking until" in world.status.message
    world.run(24)
    assert former.revision not in world.sides
    assert world.status.former is not None  # still judged
    world.run(30)
    assert world.status.former is None
    assert world.decide().actions == ()
    assert world.fewest_ready >= 4


def test_a_limit_broken_while_baking_goes_back_to_the_former_and_says_so_in_the_registry() -> None:
    world = promoted().run(1)
    assert world.registry.aliases["champion"] == "2"
    world.verdict = Verdict.FAIL
    world.tick()
    world.verdict = Verdict.NO_DATA
    world.run(40)
    assert world.status.stable is not None
    assert (world.status.stable.version, world.status.stable.ready) == ("1", 4)
    assert world.status.target is not None
    assert world.status.target.rejected
    assert [(each.version, each.result) for each in world.status.history][:2] == [
        ("2", Result.ROLLED_BACK), ("2", Result.PROMOTED),
    ]  # fmt: skip
    assert world.status.history[0].reason.startswith("while baking: latency")
    assert world.registry.aliases["champion"] == "1"
    assert world.registry.stages == {"1": "Production", "2": "Archived"}
    assert world.registry.tags["2"]["serinus.result"] == "RolledBack"
    assert world.fewest_ready >= 4
    assert len(world.sides) == 1


def test_after_the_bake_a_bad_verdict_changes_nothing() -> None:
    world = promoted().run(60)
    world.verdict = Verdict.FAIL
    world.run(10)
    assert world.status.stable is not None
    assert world.status.stable.version == "2"


def test_undo_while_the_former_is_kept_needs_no_steps() -> None:
    world = promoted()
    world.command = Command("1", "undo")
    world.tick()
    assert world.status.stable is not None
    assert world.status.stable.version == "1"
    world.run(30)
    assert world.status.stable.version == "1"
    assert world.status.phase is Phase.HEALTHY
    assert world.status.history[0].reason == "undone by a person"
    world.resolution = Resolved("3", "digest-3", "space-3")
    world.run(100)
    assert world.status.stable.version == "3"


def test_an_alias_moved_back_while_the_former_is_kept_goes_back_at_once() -> None:
    world = promoted()
    world.resolution = Resolved("1", "digest-1", "space-1")
    world.run(30)
    assert world.status.stable is not None
    assert world.status.stable.version == "1"
    assert world.status.history[0].result is Result.SUPERSEDED
    assert world.fewest_ready >= 4


def test_another_target_ends_the_bake_and_lets_the_former_go() -> None:
    world = promoted()
    former = world.status.former
    assert former is not None
    world.resolution = Resolved("3", "digest-3", "space-3")
    world.run(4)
    assert world.status.former is None
    assert former.revision not in world.sides
    world.run(200)
    assert world.status.stable is not None
    assert world.status.stable.version == "3"


def test_a_first_release_has_nothing_to_go_back_to() -> None:
    world = World(spec=KEPT).run(20)
    assert world.status.stable is not None
    assert world.status.former is None
