"""A sample of the shared requests goes on to a canary of another space, after their answers have left: so its gates have data.

That is so only while the release has the two headless Services that the operator makes for such a trial: `<release>-mirror-from` lists
stable's ready pods, `<release>-mirror-to` the canary's. A server that finds itself among the former passes on as large a share of its
requests as there are pods of the canary for each one of stable's: every pod then has about the same load. What a copy is answered is
thrown away. Nothing here delays or fails a request: copies wait in a bounded queue, and what does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import httpx

from serinus_contract.names import HOP_HEADER, HTTP_PORT, MIRROR_HEADER, mirror_services
from serinus_server.telemetry import Books

Find: TypeAlias = Callable[[str], Awaitable[Collection[str]]]  # the addresses of the pods behind a headless Service

_LOOK_SECONDS: Final = 10.0  # between two questions to the DNS, and none at all while no request comes
_LOOK_SPREAD: Final = 0.2
_LOOKUP_SECONDS: Final = 5.0
_COPY_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 2.0
_AT_ONCE: Final = 8
_MOST_WAITING: Final = 256
_MOST_WAITING_BYTES: Final = 4 * 1024 * 1024
_TAKEN_ALONG: Final = (b"content-type", b"authorization")
_NEVER: Final = frozenset(
    (401, 413, 429, 499)
)  # a canary could not answer these, or would get what stable had no room for
_MIRRORED: Final = MIRROR_HEADER.encode()
_HOP: Final = HOP_HEADER.encode()


@dataclass(frozen=True, slots=True)
class _Copy:
    path: str
    body: bytes
    headers: dict[bytes, bytes]


class Mirror:
    """The copies of one server's requests. `is_own` tells whether an address is its own; it sends `most_per_second` at most."""

    def __init__(
        self, release: str, space: str, find: Find | None, is_own: Callable[[str], bool], telemetry: Books,
        most_per_second: float, look_seconds: float = _LOOK_SECONDS,
    ) -> None:  # fmt: skip
        self._source, self._target = mirror_services(release)
        self._find, self._is_own, self._telemetry = find, is_own, telemetry
        self._look_seconds = look_seconds
        self._mark = {_MIRRORED: space.encode()}
        self._targets: tuple[str, ...] = ()
        self._share = 0.0
        self._asked = False
        self._most_per_second, self._allowed, self._allowed_at = most_per_second, most_per_second, time.monotonic()
        self._waiting: asyncio.Queue[_Copy] = asyncio.Queue(_MOST_WAITING)
        self._waiting_bytes = 0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Looks for a trial from now on; where there are no Services, never."""
        if self._find is not None:
            self._tasks = [asyncio.create_task(self._look(self._find))]

    async def stop(self) -> None:
        """What waits is dropped: nobody waits for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def offer(self, path: str, body: bytes, headers: Mapping[bytes, bytes], status: int) -> None:
        """A request of a hot route has been answered here, with `status`. Takes a copy of it, or does not. Microseconds."""
        self._asked = True
        if not self._targets or status in _NEVER or _MIRRORED in headers or _HOP in headers:
            return
        if random.random() >= self._share:  # noqa: S311 - a sample, no secret
            return
        if not self._may_send() or self._waiting.full() or self._waiting_bytes + len(body) > _MOST_WAITING_BYTES:
            self._telemetry.mirrored("dropped")
            return
        taken = {name: headers[name] for name in _TAKEN_ALONG if name in headers}
        self._waiting_bytes += len(body)
        self._waiting.put_nowait(_Copy(path, body, taken | self._mark))

    def _may_send(self) -> bool:
        """At most so many in a second: a copy costs this server a request's worth of HTTP."""
        now = time.monotonic()
        self._allowed = min(self._most_per_second, self._allowed + (now - self._allowed_at) * self._most_per_second)
        self._allowed_at = now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True

    async def _look(self, find: Find) -> None:
        while True:
            if self._asked or self._targets:
                self._asked = False
                targets = tuple(sorted(await find(self._target)))
                sources = await find(self._source) if targets else ()
                mine = any(self._is_own(address) for address in sources)
                self._share = len(targets) / len(sources) if mine else 0.0
                self._targets = targets if mine else ()
                if mine and len(self._tasks) == 1:
                    self._tasks += [asyncio.create_task(self._send()) for _ in range(_AT_ONCE)]
            spread = random.uniform(1 - _LOOK_SPREAD, 1 + _LOOK_SPREAD)  # noqa: S311 - spreads load, hides nothing
            await asyncio.sleep(self._look_seconds * spread)

    async def _send(self) -> None:
        """One copy after another, each to a pod of the canary by chance."""
        timeout = httpx.Timeout(_COPY_SECONDS, connect=_CONNECT_SECONDS)
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
            while True:
                copy = await self._waiting.get()
                self._waiting_bytes -= len(copy.body)
                if not self._targets:  # the trial is over
                    self._telemetry.mirrored("dropped")
                    continue
                url = _url(random.choice(self._targets)) + copy.path  # noqa: S311 - spreads load, hides nothing
                try:
                    await client.post(url, content=copy.body, headers=list(copy.headers.items()))
                except httpx.HTTPError:
                    self._telemetry.mirrored("failed")
                else:
                    self._telemetry.mirrored("sent")


def by_dns(namespace: str) -> Find | None:
    """The pods behind a headless Service by the cluster's DNS, none where there is no such Service; None outside of a cluster."""

    async def find(service: str) -> Collection[str]:
        try:
            async with asyncio.timeout(_LOOKUP_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(
                    f"{service}.{namespace}.svc", HTTP_PORT, type=socket.SOCK_STREAM
                )
        except (OSError, TimeoutError):
            return ()
        return {str(address[0]) for *_, address in found}

    return find if namespace else None


def is_local(listening_on: str) -> Callable[[str], bool]:
    """Is an address this server's own? The one that it listens on, or where that is all of them, one that can be bound."""

    def own(address: str) -> bool:
        if listening_on not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            return address == listening_on
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((address, 0))
        except OSError:
            return False
        return True

    return own


def _url(address: str) -> str:
    return f"http://[{address}]:{HTTP_PORT}" if ":" in address else f"http://{address}:{HTTP_PORT}"
