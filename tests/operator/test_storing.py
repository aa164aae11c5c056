"""Decisions are stored at once, figures when they are worth a write."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from serinus_operator.gates.judge import Evidence, GateVerdict, Verdict
from serinus_operator.rollout.cost import Cost, PodUse, Price
from serinus_operator.rollout.model import Canary, Phase, RegistryIntent, Result, Revision, Status, Weight
from serinus_operator.storing import patience

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CANARY = Canary("c", "2", "digest", "space", NOW)
GATE = GateVerdict("errors", Verdict.INCONCLUSIVE, 100, 1.0, 60.0, "100 requests")
ROLLING = Status(
    phase=Phase.PROGRESSING,
    stable=Revision("s", "1", "digest", "space", ready=3),
    canary=CANARY,
    weight=Weight(30, 0),
    gates=(GATE,),
    evidence=Evidence("c", NOW),
)


def test_what_is_stored_is_not_stored_again() -> None:
    assert patience(ROLLING, ROLLING) is None


def test_ready_pods_wait_a_little_and_evidence_a_little_longer() -> None:
    counted = patience(ROLLING, replace(ROLLING, canary=replace(CANARY, ready=1), message="one more"))
    judged = patience(
        ROLLING, replace(ROLLING, gates=(replace(GATE, requests=200),), evidence=Evidence("c", NOW, requests=9))
    )
    assert counted == timedelta(seconds=15)
    assert judged == timedelta(seconds=30)


def test_a_verdict_and_the_first_window_are_figures_until_something_is_decided_by_them() -> None:
    passing = replace(GATE, verdict=Verdict.PASS)
    assert patience(ROLLING, replace(ROLLING, gates=(passing,), verdict="Pass")) == timedelta(seconds=15)
    fresh = replace(ROLLING, gates=(), evidence=None)
    assert patience(fresh, ROLLING) == timedelta(seconds=15)


def test_a_wish_seen_done_by_the_registry_may_be_forgotten_later() -> None:
    wished = replace(ROLLING, registry=RegistryIntent(aliases={"canary": "2"}))
    assert patience(wished, ROLLING) == timedelta(seconds=30)


def test_a_decision_never_waits() -> None:
    for decided in (
        replace(ROLLING, weight=Weight(50, 0)),
        replace(ROLLING, canary=replace(CANARY, verified=True)),
        replace(ROLLING, canary=replace(CANARY, ending=Result.ROLLED_BACK)),
        replace(ROLLING, evidence=None),
        replace(ROLLING, registry=RegistryIntent(aliases={"canary": "2"})),
        replace(ROLLING, phase=Phase.PAUSED),
    ):
        assert patience(ROLLING, decided) == timedelta()


def test_what_a_release_costs_is_no_write_of_its_own_until_pods_come_or_go() -> None:
    holding = replace(ROLLING, cost=Cost().accrued({"1": (PodUse(NOW, 1),)}, NOW))
    counted = replace(holding, cost=holding.cost.counted({"1": (9.0, 90.0)}, NOW + timedelta(minutes=5)))
    assert patience(holding, counted) is None
    assert patience(holding, replace(holding, cost=replace(holding.cost, price=Price(9.0)))) is None
    more = replace(holding, cost=holding.cost.accrued({"1": (PodUse(NOW, 1),) * 2}, NOW + timedelta(seconds=9)))
    assert patience(holding, more) == timedelta(seconds=60)
    assert patience(holding, replace(more, weight=Weight(50, 0))) == timedelta()
