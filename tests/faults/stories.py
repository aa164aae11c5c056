"""What happens to a release in a play, how far it has come, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.cluster import pods
from tests.faults.views import Fault, Play
from tests.operator.world import defaulted

REPLICAS = 4
STRATEGY = {
    "scaleDownDelay": "0s",
    "bake": "0s",
    "steps": [{"verify": {}}, {"setWeight": 25}, {"analysis": {"duration": "1m"}}, {"setWeight": 50}, {"pause": {"duration": "10s"}}],
}  # fmt: skip


@dataclass(frozen=True)
class Story:
    """What happens to a release whose first version serves: the first thing once it rests, the second once the canary has traffic."""

    then: Sequence[Callable[[Play], Any]]
    strategy: dict[str, Any] = field(default_factory=dict)


def register(play: Play) -> None:
    play.mlflow.register("challenger")


def register_damaged(play: Play) -> None:
    play.cluster.verify_passes = False
    register(play)


def slow(play: Play) -> None:
    canary = status(play)["canary"]["revision"]
    play.measured.latency_seconds[canary] = 0.9


def back(play: Play) -> None:
    play.mlflow.aliases["challenger"] = "1"


def scale(play: Play) -> None:
    release = play.cluster.of("modelreleases")[0]
    play.cluster.put(NAME, release | {"spec": release["spec"] | {"replicas": 6}})


STORIES = {
    "a promotion": Story([register]),
    "a version that verify refuses": Story([register_damaged]),
    "a slow canary": Story([register, slow]),
    "another target in the middle": Story([register, register]),
    "a return to stable": Story([register, back]),
    "a scaling in the middle": Story([register, scale]),
}
_LASTING = ("serinus.release", "serinus.result", "serinus.reason", "serinus.by", "serinus.rolled-back")
NAME = ("modelreleases", "default", "release")


def status(play: Play) -> dict[str, Any]:
    found: dict[str, Any] = play.cluster.of("modelreleases")[0].get("status", {})
    return found


def rests(play: Play) -> bool:
    return status(play).get("phase") == "Healthy" and not status(play).get("canary")


def rolls(play: Play) -> bool:
    return bool((status(play).get("canary") or {}).get("ready") and status(play)["weight"]["desired"])


async def begun(story: Story, fault: Fault) -> tuple[Play, list[tuple[Callable[[Play], bool], Callable[[Play], Any]]]]:
    """A play whose release follows the first version, and what is to happen in it once which state is reached."""
    play = Play(fault)
    register(play)
    spec = {"model": {"name": "m", "alias": "challenger"}, "replicas": REPLICAS, "strategy": STRATEGY | story.strategy}
    release = {"apiVersion": "serinus.dev/v1alpha1", "kind": "ModelRelease", "metadata": {}, "spec": defaulted(spec)}
    play.cluster.put(NAME, release)
    await play.operator.start()
    return play, list(zip((rests, rolls), story.then, strict=False))


def end(play: Play) -> dict[str, Any]:
    """Objects, registry and history, without instants and figures."""
    kinds = ("deployments", "jobs", "services", "poddisruptionbudgets")
    objects = {(kind, each["metadata"]["name"]): each["spec"] for kind in kinds for each in play.cluster.of(kind)}
    told = {
        version: {name: _gate(value) for name, value in tags.items() if name.startswith(_LASTING)}
        for version, tags in play.mlflow.tags.items()
    }
    now = status(play)
    return {
        "objects": objects, "pods": len(pods(play.cluster, ready=True)), "aliases": play.mlflow.aliases, "stages": play.mlflow.stages,
        "tags": told, "stable": now["stable"]["version"], "phase": now["phase"],
        "history": [(each["version"], each["result"], _gate(each["reason"])) for each in now["history"]],
    }  # fmt: skip


def _gate(reason: str) -> str:
    """What a reason begins with: the gate, whose figures depend on the moment."""
    return reason.partition(":")[0]
