"""Specs with anything changed: refused with a message, or converged; then the good spec ends where it would have without them.

`SERINUS_MUTANTS` says how many (`make test-mutants` runs 5 000); the API server's part is played by the CRD's own schema and CEL rules.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from tests.faults.cluster import pods
from tests.faults.mutants import good, mutants
from tests.faults.stories import NAME, register, rests, status
from tests.faults.views import Play
from tests.operator.world import defaulted

from serinus_operator.cli.schema import refusals

pytestmark = pytest.mark.long

MUTANTS = int(os.environ.get("SERINUS_MUTANTS", "250"))
_STEPS = 40
_OF_NOW = (
    "Ready",
    "Reconciling",
    "Stalled",
    "Progressing",
    "ModelResolved",
    "RegistrySynced",
)  # others tell of the last rollout
_METADATA: dict[str, Any] = {"name": "release", "namespace": "default"}


def released(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "serinus.dev/v1alpha1", "kind": "ModelRelease", "metadata": _METADATA, "spec": spec}


async def serving() -> Play:
    """A release that serves its first version by the good spec."""
    play = Play()
    register(play)
    play.cluster.put(NAME, released(defaulted(good("m"))))
    await play.operator.start()
    await until_rest(play)
    return play


async def until_rest(play: Play) -> None:
    for _ in range(_STEPS):
        await play.step()
        if (
            rests(play)
            and status(play)["observedGeneration"] == play.cluster.of("modelreleases")[0]["metadata"]["generation"]
        ):
            break
    for _ in range(3):
        await play.step()


def edit(play: Play, spec: dict[str, Any]) -> None:
    release = play.cluster.of("modelreleases")[0]
    play.cluster.put(NAME, release | {"spec": defaulted(spec)})


def state(play: Play) -> dict[str, Any]:
    """What is there; the registry and history keep what mutants did."""
    kinds = ("deployments", "jobs", "services", "poddisruptionbudgets")
    objects = {(kind, each["metadata"]["name"]): each["spec"] for kind in kinds for each in play.cluster.of(kind)}
    now = status(play)
    conditions = {each["type"]: each["status"] for each in now["conditions"] if each["type"] in _OF_NOW}
    return {"objects": objects, "pods": len(pods(play.cluster, ready=True)), "stable": now["stable"]["version"],
            "phase": now["phase"], "conditions": conditions}  # fmt: skip


async def mutated(play: Play, spec: dict[str, Any]) -> str:
    """The mutant, then the good spec again. Returns how the mutant went."""
    edit(play, spec)
    await until_rest(play)
    now = status(play)
    generation = play.cluster.of("modelreleases")[0]["metadata"]["generation"]
    assert now["observedGeneration"] == generation
    outcome = "converged" if rests(play) else f"said why not ({now.get('phase')})"
    assert rests(play) or now.get("message"), f"neither converged nor a word: {now}"
    edit(play, good("m"))
    await until_rest(play)
    return outcome


def test_a_mutant_is_refused_or_converges_and_the_good_spec_ends_as_a_fresh_one() -> None:
    outcomes: Counter[str] = Counter()
    with asyncio.Runner() as runner:
        fresh = state(runner.run(serving()))
        plays: list[Play] = []  # one release lives through all mutants, until one harms it

        @settings(
            max_examples=MUTANTS,
            deadline=None,
            database=None,
            derandomize=MUTANTS < 1000,
            suppress_health_check=list(HealthCheck),
        )
        @given(mutants("m"))
        def one(spec: dict[str, Any]) -> None:
            said = refusals(released(spec))
            if said:
                assert all(each.partition(":")[2].strip() for each in said), said
                outcomes["refused"] += 1
                return
            play = plays.pop() if plays else runner.run(serving())
            outcome = runner.run(mutated(play, spec))
            assert state(play) == fresh
            outcomes[outcome] += 1
            plays.append(play)

        one()
    print(dict(outcomes))
    assert outcomes.total() >= MUTANTS
    assert outcomes["converged"] > MUTANTS / 20
