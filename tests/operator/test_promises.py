"""The promises over thousands of random histories, and each promise's watch seen catching a planted fault.

Promise 8 (a vector never reaches a client that pinned another space) is kept by the server (tests/server/test_pinning.py, and both together
in tests/integration/test_spaces.py); here is what the operator does for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import invariant, run_state_machine_as_test
from tests.operator.promises import STEPS, Release

from serinus_operator.gates.judge import Verdict
from serinus_operator.rollout import movement, plan, retention, steps
from serinus_operator.rollout.actions import SyncRegistry
from serinus_operator.rollout.capacity import Split
from serinus_operator.rollout.draft import Draft
from serinus_operator.rollout.model import Retained, StepState
from serinus_operator.rollout.observed import Pinning

QUICK = settings(
    max_examples=40, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # a failing history is short enough as it was found; making it shorter takes minutes
)  # fmt: skip


def test_no_history_breaks_a_promise() -> None:
    run_state_machine_as_test(Release, settings=QUICK)


class Counted(Release):
    """Counts histories, and the steps in them: what happens after a release was made."""

    histories = steps = 0

    def __init__(self) -> None:
        super().__init__()
        Counted.histories += 1
        Counted.steps -= 1  # its making is looked at, too

    @invariant()
    def a_step_was_taken(self) -> None:
        Counted.steps += 1


@pytest.mark.long
def test_no_long_history_breaks_a_promise() -> None:
    """At least 20 000 steps, each of them one or more decisions; `pytest -s` prints how many it were."""
    run_state_machine_as_test(Counted, settings=settings(QUICK, max_examples=620, stateful_step_count=40))
    print(f"\n{Counted.steps} steps in {Counted.histories} histories")
    assert Counted.steps >= 20_000


def _overlooks_failure(end_is_due: Callable[[Draft], bool]) -> Callable[[Draft], bool]:
    def faulty(draft: Draft) -> bool:
        draft.analysis = replace(draft.analysis, verdict=Verdict.PASS)
        return end_is_due(draft)

    return faulty


def _takes_missing_data_for_failure(end_is_due: Callable[[Draft], bool]) -> Callable[[Draft], bool]:
    def faulty(draft: Draft) -> bool:
        if draft.analysis.verdict is Verdict.NO_DATA:
            failed = tuple(replace(gate, verdict=Verdict.FAIL) for gate in draft.analysis.gates)
            draft.analysis = replace(draft.analysis, verdict=Verdict.FAIL, gates=failed)
        return end_is_due(draft)

    return faulty


def _forgets_rejections(adopt_target: Callable[[Draft], None]) -> Callable[[Draft], None]:
    def faulty(draft: Draft) -> None:
        adopt_target(draft)
        if draft.status.target is not None:
            draft.update(target=replace(draft.status.target, rejected=False, reason=""))

    return faulty


def _moves_at_once(_: Any) -> Callable[..., Split]:
    return lambda goal, *_, **__: goal


def _calls_before_it_stores(_: Any) -> Callable[[Draft], None]:
    return lambda draft: draft.do(SyncRegistry(draft.status.registry)) if draft.status.registry else None


def _writes_at_rest(summarise: Callable[[Draft], None]) -> Callable[[Draft], None]:
    def faulty(draft: Draft) -> None:
        summarise(draft)
        draft.update(message=f"seen at {draft.now}")

    return faulty


def _resets_evidence(fresh_step: Callable[..., StepState]) -> Callable[..., StepState]:
    def faulty(draft: Draft, *arguments: Any) -> StepState:
        draft.update(evidence=None)
        return fresh_step(draft, *arguments)

    return faulty


def _takes_what_is_pinned(remove_leftovers: Callable[[Draft], None]) -> Callable[[Draft], None]:
    def faulty(draft: Draft) -> None:
        kept = draft.status.retained
        draft.update(retained=())
        remove_leftovers(draft)
        draft.update(retained=kept)

    return faulty


def _takes_missing_counts_for_nobody(
    seen: Callable[[Retained, Draft], Retained],
) -> Callable[[Retained, Draft], Retained]:
    def faulty(each: Retained, draft: Draft) -> Retained:
        pins = draft.observed.pins.get(each.revision)
        if pins is not None and pins.pinning is Pinning.UNKNOWN:
            pins = replace(pins, pinning=Pinning.NONE)
            draft.observed = replace(draft.observed, pins={**draft.observed.pins, each.revision: pins})
        return seen(each, draft)

    return faulty


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "name", "fault"),
    [
        pytest.param(steps, "_analysed", lambda _: lambda *_: True, id="1-an-analysis-passes-at-once"),
        pytest.param(plan, "end_is_due", _overlooks_failure, id="2-a-failed-gate-is-overlooked"),
        pytest.param(plan, "adopt_target", _forgets_rejections, id="2-a-rejection-is-forgotten"),
        pytest.param(movement, "advance", _moves_at_once, id="3-replicas-move-at-once"),
        pytest.param(plan, "end_is_due", _takes_missing_data_for_failure, id="4-missing-data-fails"),
        pytest.param(plan, "sync_registry", _calls_before_it_stores, id="5-the-registry-is-called-before-the-intent-is-stored"),
        pytest.param(plan, "summarise", _writes_at_rest, id="6-the-status-changes-at-rest"),
        pytest.param(plan, "fresh_step", _resets_evidence, id="7-evidence-is-reset-between-steps"),
        pytest.param(plan, "_alone", lambda _: lambda *_: None, id="8-two-spaces-share-the-service"),
        pytest.param(steps, "_watch_deadline", lambda _: lambda *_: None, id="9-pods-may-take-for-ever"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_caught(
    module: ModuleType, name: str, fault: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, fault(getattr(module, name)))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Release, settings=settings(QUICK, max_examples=300))


@pytest.fixture
def pinned() -> Release:
    """Promise 8, where random histories come too seldom: a promotion to another space, whose former one is pinned."""
    history = Release()
    history.release(
        steps=STEPS[3], replicas=2, surge="Surge", floor_percent="75%", failure="KeepFloor", kept="0s", max_surge=1,
        spaces="Pinned", counted=False,
    )  # fmt: skip
    _both_versions(history)
    assert [each.space for each in history.world.status.retained] == ["space-1"]
    history.teardown()
    return history


def _both_versions(history: Release) -> None:
    for version in (1, 2):
        history.alias_moves(version)
        history.time_passes(12, 30)


def test_a_space_that_is_let_go_unseen_is_caught(pinned: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_seen", _takes_missing_counts_for_nobody(retention._seen))
    pinned.world.counted = False
    with pytest.raises(AssertionError, match="was let go unseen"):
        _both_versions(pinned)


def test_a_pinned_space_that_is_taken_for_a_leftover_is_caught(
    pinned: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "remove_leftovers", _takes_what_is_pinned(plan.remove_leftovers))
    with pytest.raises(AssertionError, match="takes pods of a pinned space"):
        _both_versions(pinned)
