"""The rollouts of a soak: good ones, which change the model version, and five kinds of bad ones, each for another part to catch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow import MlflowClient
from tests.cluster.binaries import ClusterError
from tests.cluster.control_plane import ControlPlane
from tests.e2e.demo import NAME, rejected, serves
from tests.soak.faults import RELEASE

_DEADLINE_SECONDS = 600.0
_LOOK_SECONDS = 1.0
_MERGE = "application/merge-patch+json"

# Steps for a rollout in two minutes. Errors and confidence have limits alone: to compare them takes thousands of requests.
SPEC: Mapping[str, Any] = {
    "serving": {"resources": {"requests": {"cpu": "80m"}, "limits": {"cpu": None}}},
    "strategy": {
        "scaleDownDelay": "20s",
        "bake": "20s",
        "onSpaceChange": "Split",
        "steps": [
            {"verify": {}},
            {"setWeight": 25},
            {"analysis": {"duration": "20s"}},
            {"setWeight": 50},
            {"analysis": {"duration": "20s"}},
        ],
    },
    "analysis": {
        "interval": "5s",
        "falseRollbackProbability": "0.01",
        "gates": [
            {"name": "errors", "errorRate": {"max": "0.02", "compare": False}},
            {"name": "latency", "latency": {"maxMean": "250ms", "warmUp": "20s"}},
            {"name": "confidence", "confidence": {"minMean": "0.75", "compare": False}},
            {"name": "restarts", "restarts": {"max": 2}},
        ],
    },
}


@dataclass(frozen=True)
class Bad:
    """A release that must not come to serve: an edit of the spec, another model, or both; the status then says `because`."""

    kind: str
    because: str
    edit: Mapping[str, Any] = field(default_factory=dict)
    undone: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""


BAD = (
    Bad("damaged", "overlap", model="damaged"),
    Bad("slow", "latency", {"serving": {"resources": {"limits": {"cpu": "80m"}}}},
        {"serving": {"resources": {"limits": {"cpu": None}}}}),
    Bad("of a refused space", "onSpaceChange is Refuse", {"strategy": {"onSpaceChange": "Refuse"}},
        {"strategy": {"onSpaceChange": "Split"}}, model="other"),
    Bad("erring", "errors", model="erring"),
    Bad("unschedulable", "Insufficient", {"serving": {"resources": {"limits": {"nvidia.com/gpu": "100"}}}},
        {"serving": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}),
)  # fmt: skip


@dataclass(frozen=True)
class Rollout:
    """How one ended. `kept` is False when a bad one came to serve, or a good one did not."""

    kind: str
    version: str
    kept: bool
    seconds: float
    reason: str


@dataclass(frozen=True)
class Versions:
    """Model versions by what they are; `good` are two of different spaces."""

    good: tuple[str, str]
    damaged: str
    erring: str = ""


class Rollouts:
    """Begins rollouts of the one release and follows them to their end."""

    def __init__(
        self, plane: ControlPlane, registry: MlflowClient, versions: Versions, tell: Callable[[str], None]
    ) -> None:
        self._plane, self._registry, self._versions, self._tell = plane, registry, versions, tell
        self.done: list[Rollout] = []

    def prepare(self) -> None:
        """Gives the release the soak's steps and gates, and waits until it rests."""
        self._edit(SPEC)
        self._settle()

    def good(self) -> None:
        """The alias moves to the other good version, which must be promoted."""
        to, began = self._other(), time.monotonic()
        self._point(to)
        release = self._until(f"version {to}", lambda release: serves(release, to) or rejected(release, to))
        entry = release["status"]["history"][0]
        kept = serves(release, to) and (entry["version"], entry["result"]) == (to, "Promoted")
        reason = "" if kept else release["status"].get("message", "")
        self._note(Rollout("good", to, kept, time.monotonic() - began, reason))
        if not kept:
            self._point(self._stable(release)["version"])
            self._settle()

    def bad(self, bad: Bad) -> None:
        """It must be refused or taken back while stable goes on; then all is undone."""
        before, began = self._stable(self.release()), time.monotonic()
        models = {
            "damaged": self._versions.damaged,
            "erring": self._versions.erring,
            "other": self._other(),
            "": before["version"],
        }
        version = models[bad.model]
        if bad.edit:
            self._edit(bad.edit)
        self._point(version)

        def ended(release: dict[str, Any]) -> bool:
            status = release["status"]
            refused = not status.get("canary") and bad.because in status.get("message", "")
            return rejected(release, version) or refused or self._stable(release) != before

        release = self._until(f"the {bad.kind} release", ended)
        message = release["status"].get("message", "")
        kept = self._stable(release) == before and bad.because in message
        self._note(Rollout(bad.kind, version, kept, time.monotonic() - began, message))
        self._point(self._stable(release)["version"])
        if bad.undone:
            self._edit(bad.undone)
        self._settle()

    def release(self) -> dict[str, Any]:
        """As it is now. Raises OSError or ClusterError when the API server does not say."""
        code, answer = self._plane.call("GET", RELEASE)
        if code != 200:
            raise ClusterError(f"the release: {code} {answer}")
        return answer

    def _note(self, rollout: Rollout) -> None:
        self.done.append(rollout)
        kept = "as it should" if rollout.kept else "NOT AS IT SHOULD"
        self._tell(
            f"{rollout.kind} release of version {rollout.version} ended {kept} after {rollout.seconds:.0f} s {rollout.reason}"
        )

    def _other(self) -> str:
        one, another = self._versions.good
        return another if self._stable(self.release())["version"] == one else one

    def _stable(self, release: dict[str, Any]) -> dict[str, str]:
        stable = release["status"]["stable"]
        return {"version": stable["version"], "revision": stable["revision"]}

    def _point(self, version: str) -> None:
        self._registry.set_registered_model_alias(NAME, "challenger", version)

    def _edit(self, spec: Mapping[str, Any]) -> None:
        code, answer = self._plane.call("PATCH", RELEASE, {"spec": spec}, _MERGE)
        if code != 200:
            raise ClusterError(f"the edit was refused: {answer}")

    def _settle(self) -> None:
        """Until stable alone serves and is what is wanted."""

        def settled(release: dict[str, Any]) -> bool:
            status, version = release["status"], self._stable(release)["version"]
            current = status.get("observedGeneration") == release["metadata"]["generation"]
            return current and serves(release, version) and (status.get("target") or {}).get("version") == version

        self._until("rest", settled)

    def _until(self, what: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        ends_at = time.monotonic() + _DEADLINE_SECONDS
        shown = ""
        while time.monotonic() < ends_at:
            time.sleep(_LOOK_SECONDS)
            try:
                release = self.release()
            except (OSError, ClusterError):
                continue
            if (line := _line(release["status"])) != shown:
                shown = line
                self._tell(f"  {line}")
            if done(release):
                return release
        raise ClusterError(f"{what}: not at its end within {_DEADLINE_SECONDS:.0f} s: {shown}")


def _line(status: dict[str, Any]) -> str:
    stable, canary = status.get("stable") or {}, status.get("canary") or {}
    parts = [status.get("phase", ""), f"stable {stable.get('version')} ({stable.get('ready')} ready)"]
    if canary:
        parts.append(
            f"canary {canary.get('version')}, weight {(status.get('weight') or {}).get('desired')}, {status.get('message', '')}"
        )
    return ", ".join(parts)
