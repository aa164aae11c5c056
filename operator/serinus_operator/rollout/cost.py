"""What each model version has used: seconds of accelerators (or of pods without one), requests, tokens. Pure.

Time is the integral of what pods hold, which moves only when pods come or go: while nothing changes, nothing is to be stored, and whoever
reads it adds the time since `until`. A pod holds its accelerators from being scheduled until it is gone, a terminating one too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeAlias

ModelVersion: TypeAlias = str

_KEPT_VERSIONS: Final = 10
_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class PodUse:
    """A pod that has been scheduled, and how many accelerators it holds (a slice of one counts as one)."""

    since: datetime
    accelerators: int


@dataclass(frozen=True, slots=True)
class Price:
    """The administrator's, for an hour; 0 where there is none. `currency` is shown as it is."""

    per_gpu_hour: float = 0.0
    per_cpu_pod_hour: float = 0.0
    currency: str = ""


@dataclass(frozen=True, slots=True)
class Used:
    """What one model version held until `Cost.until`, and holds since then. CPU pods are those without an accelerator."""

    version: ModelVersion
    gpus: int = 0
    cpu_pods: int = 0
    gpu_seconds: float = 0.0
    cpu_pod_seconds: float = 0.0
    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What the versions of a release have used; requests and tokens are counted up to `counted_until`. Oldest version first."""

    until: datetime | None = None
    counted_until: datetime | None = None
    price: Price = Price()
    versions: tuple[Used, ...] = ()

    @property
    def held(self) -> Mapping[ModelVersion, tuple[int, int]]:
        """Accelerators and CPU pods that each version holds, of those that hold any."""
        return {used.version: (used.gpus, used.cpu_pods) for used in self.versions if used.gpus or used.cpu_pods}

    def accrued(self, pods: Mapping[ModelVersion, Sequence[PodUse]], now: datetime) -> Cost:
        """The same while as much is held as before; else with the time until now added, and what is held from now on.

        What vanished was held until now: the caller looks when a pod goes.
        """
        held = {version: _held(each) for version, each in pods.items() if each}
        if held == dict(self.held):
            return self
        known = {used.version: used for used in self.versions}
        versions = [
            self._advanced(known.get(version, Used(version)), pods.get(version, ()), now)
            for version in (*known, *sorted(pods.keys() - known.keys()))
        ]
        return replace(self, until=now, versions=_newest(versions))

    def counted(self, counts: Mapping[ModelVersion, tuple[float, float]], until: datetime) -> Cost:
        """With requests and tokens of the time until `until` added to the versions that are known."""
        versions = []
        for used in self.versions:
            requests, tokens = counts.get(used.version, (0.0, 0.0))
            versions.append(replace(used, requests=used.requests + round(requests), tokens=used.tokens + round(tokens)))
        return replace(self, counted_until=until, versions=tuple(versions))

    def as_of(self, now: datetime) -> tuple[Used, ...]:
        """The versions with the time since `until`, during which each held what it holds."""
        since = 0.0 if self.until is None else max(0.0, (now - self.until).total_seconds())
        return tuple(
            replace(
                used,
                gpu_seconds=used.gpu_seconds + used.gpus * since,
                cpu_pod_seconds=used.cpu_pod_seconds + used.cpu_pods * since,
            )
            for used in self.versions
        )

    def _advanced(self, used: Used, pods: Sequence[PodUse], now: datetime) -> Used:
        gpus, cpu_pods = _held(pods)
        return replace(
            used,
            gpus=gpus,
            cpu_pods=cpu_pods,
            gpu_seconds=used.gpu_seconds
            + self._seconds(used.gpus, [(pod.since, pod.accelerators) for pod in pods], now),
            cpu_pod_seconds=used.cpu_pod_seconds
            + self._seconds(used.cpu_pods, [(pod.since, int(not pod.accelerators)) for pod in pods], now),
        )

    def _seconds(self, before: int, pods: Sequence[tuple[datetime, int]], now: datetime) -> float:
        """What was held since the last change: what is there from before it or has vanished since, and newcomers since they came."""
        until = self.until
        kept = 0 if until is None else sum(units for since, units in pods if since <= until)
        newcomers = sum(
            units * max(0.0, (now - since).total_seconds()) for since, units in pods if until is None or since > until
        )
        whole = 0.0 if until is None else max(0.0, (now - until).total_seconds())
        return max(before, kept) * whole + newcomers


def amount(used: Used, price: Price) -> float | None:
    """In the administrator's currency; None without a price."""
    if not (price.per_gpu_hour or price.per_cpu_pod_hour):
        return None
    return (used.gpu_seconds * price.per_gpu_hour + used.cpu_pod_seconds * price.per_cpu_pod_hour) / _HOUR


def _held(pods: Sequence[PodUse]) -> tuple[int, int]:
    return sum(pod.accelerators for pod in pods), sum(not pod.accelerators for pod in pods)


def _newest(versions: Sequence[Used]) -> tuple[Used, ...]:
    """As many as are kept; one that still holds something is never dropped."""
    spare = len(versions) - _KEPT_VERSIONS
    kept = []
    for used in versions:
        if spare > 0 and not (used.gpus or used.cpu_pods):
            spare -= 1
        else:
            kept.append(used)
    return tuple(kept)
