"""Leader election by a Lease, as client-go does it: the holder renews, others take over when its record stood still for the duration.

Clocks of two machines are never compared, only whether the record changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from serinus_operator.errors import Conflict, NotFound, SerinusError
from serinus_operator.kube import Kube

_DURATION_SECONDS: Final = 15
_RENEW_SECONDS: Final = 3
_RETRY_SECONDS: Final = (
    2  # another's Lease is taken over 18 s after its last renewal at the latest: duration, one look and a half
)
_GIVE_UP_SECONDS: Final = 10

log = logging.getLogger(__name__)


class Lease:
    """One candidate for one Lease."""

    def __init__(self, kube: Kube, namespace: str, name: str, identity: str, clock: Callable[[], datetime]) -> None:
        self._kube, self._namespace, self._name, self._identity, self._clock = kube, namespace, name, identity, clock
        self._seen: tuple[Any, ...] | None = None
        self._seen_at = 0.0
        self._held: dict[str, Any] | None = None  # as last written by us; renewed without reading it again

    async def acquire(self) -> None:
        """Returns once this candidate holds the Lease."""
        while not await self._try():  # noqa: ASYNC110 - another process's Lease sends no event here
            await asyncio.sleep(_RETRY_SECONDS)

    async def renew(self) -> None:
        """Renews for as long as it goes; returns when the Lease is lost or could not be renewed in time."""
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        while loop.time() - renewed_at < _GIVE_UP_SECONDS:
            await asyncio.sleep(_RENEW_SECONDS)
            started_at = loop.time()
            if await self._try():
                renewed_at = started_at

    async def release(self) -> None:
        """Gives the Lease up, so that the next candidate need not wait for it to expire."""
        try:
            lease = await self._kube.get("Lease", self._namespace, self._name)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._kube.replace(lease)
        except SerinusError as error:
            log.warning("the Lease was not given up and expires by itself: %s", error)

    async def _try(self) -> bool:
        """Takes or renews the Lease. False when another holds it or the API server did not answer."""
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS / 2):
                return await self._take()
        except Conflict:
            self._held = None
            return False
        except (SerinusError, TimeoutError) as error:
            log.warning("the Lease cannot be renewed now: %s", error)
            return False

    async def _take(self) -> bool:
        if self._held is not None:  # a Conflict tells if it is not ours any more
            self._held["spec"] = self._spec(self._held["spec"])
            self._held = await self._kube.replace(self._held)
            return True
        metadata = {"namespace": self._namespace, "name": self._name}
        try:
            lease = await self._kube.get("Lease", self._namespace, self._name)
        except NotFound:
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": metadata,
                "spec": self._spec({}),
            }
            self._held = await self._kube.create(lease)
            return True
        if not self._free(lease["spec"]):
            return False
        lease["spec"] = self._spec(lease["spec"])
        self._held = await self._kube.replace(lease)
        return True

    def _free(self, spec: dict[str, Any]) -> bool:
        """Ours, given up, or not renewed since we have watched it for its whole duration."""
        now = asyncio.get_running_loop().time()
        record = (spec.get("holderIdentity"), spec.get("renewTime"))
        if record != self._seen:
            self._seen, self._seen_at = record, now
        expired = now - self._seen_at > spec.get("leaseDurationSeconds", _DURATION_SECONDS)
        return record[0] in ("", None, self._identity) or expired

    def _spec(self, before: dict[str, Any]) -> dict[str, Any]:
        now = self._clock().isoformat(timespec="microseconds").replace("+00:00", "Z")
        ours = before.get("holderIdentity") == self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": _DURATION_SECONDS,
            "acquireTime": before.get("acquireTime", now) if ours else now,
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", 0) + (0 if ours else 1),
        }
