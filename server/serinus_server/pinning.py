"""A client that pins another vector space is answered through that space's own Service, or told which spaces there are. Never mixed.

One hop: a request that was forwarded and meets yet another space (endpoints lag behind pods for a moment) is refused, not sent on. What a
neighbour answers is passed on only when it names the space that was asked for.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import httpx

from serinus_contract.names import (
    DOCUMENT_IDS_HEADER,
    HOP_HEADER,
    HTTP_PORT,
    REQUEST_ID_HEADER,
    SPACE_HEADER,
    space_service,
)
from serinus_server.errors import NeighbourFailed, OtherSpace, Overloaded
from serinus_server.matryoshka import full_space

_SPACE: Final = re.compile(r"[0-9a-f]{16}(;d=[0-9]{1,5})?")
_MOST_AT_ONCE: Final = 64
_CONNECT_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 30.0
_ASK_SECONDS: Final = 1.0
_KNOWN_FOR_SECONDS: Final = 5.0
_TAKEN_ALONG: Final = ("content-type", "authorization", DOCUMENT_IDS_HEADER)
_PASSED_ON: Final = ("content-type", "retry-after", "x-model-version", SPACE_HEADER)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A neighbour's answer, to be passed on as it is."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Neighbours:
    """The other spaces of the same release. `address` turns the name of a Service into its URL; None: there are no Services here."""

    def __init__(self, release: str, space: str, address: Callable[[str], str] | None) -> None:
        self._release, self._space, self._address = release, space, address
        limits = httpx.Limits(max_connections=_MOST_AT_ONCE, keepalive_expiry=20)
        timeout = httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
        self._client = httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False)
        self._forwarding = 0
        self._live: tuple[float, tuple[str, ...]] = (0.0, ())

    async def answer(self, path: str, body: bytes, headers: Mapping[str, str], request_id: str) -> Forwarded:
        """What the pinned space answers. `headers` are the request's, in lower case.

        Raises OtherSpace when nobody serves that space, NeighbourFailed when somebody does and gave no answer, Overloaded when too many
        requests are being forwarded already.
        """
        pinned = headers[SPACE_HEADER]
        if self._address is None or HOP_HEADER in headers or not _SPACE.fullmatch(pinned):
            raise await self._refusal(pinned)
        if self._forwarding >= _MOST_AT_ONCE:
            raise Overloaded(1)
        passed = {name: headers[name] for name in _TAKEN_ALONG if name in headers}
        passed |= {SPACE_HEADER: pinned, HOP_HEADER: self._space, REQUEST_ID_HEADER: request_id}
        url = self._address(space_service(self._release, full_space(pinned))) + path
        self._forwarding += 1
        try:
            answer = await self._client.post(url, content=body, headers=passed)
        except (httpx.ConnectError, httpx.ConnectTimeout):  # no such Service, or no pod behind it
            raise await self._refusal(pinned) from None
        except httpx.HTTPError as error:
            raise NeighbourFailed(f"space {pinned} gave no answer ({type(error).__name__}); try again") from error
        finally:
            self._forwarding -= 1
        if answer.headers.get(SPACE_HEADER) != pinned:
            raise await self._refusal(pinned)
        kept = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
        return Forwarded(answer.status_code, kept, answer.content)

    async def close(self) -> None:
        """No connection stays open."""
        await self._client.aclose()

    async def _refusal(self, pinned: str) -> OtherSpace:
        spaces = ", ".join(await self._live_spaces())
        return OtherSpace(f"space {pinned[:64]!r} is not served; these spaces are live: {spaces}")

    async def _live_spaces(self) -> tuple[str, ...]:
        """This one and those that the release's role Services answer for, asked at most every five seconds."""
        known_at, spaces = self._live
        if not spaces or time.monotonic() - known_at > _KNOWN_FOR_SECONDS:
            roles = (f"{self._release}-stable", f"{self._release}-canary")
            found = await asyncio.gather(*(self._space_of(role) for role in roles)) if self._address else []
            spaces = tuple(sorted({self._space, *(space for space in found if space)}))
            self._live = (time.monotonic(), spaces)
        return spaces

    async def _space_of(self, service: str) -> str | None:
        assert self._address is not None
        try:
            answer = await self._client.get(f"{self._address(service)}/livez", timeout=_ASK_SECONDS)
        except httpx.HTTPError:
            return None
        return answer.headers.get(SPACE_HEADER)


def in_cluster(namespace: str) -> Callable[[str], str] | None:
    """The URLs of Services by the cluster's DNS; None outside of one."""
    return (lambda service: f"http://{service}.{namespace}.svc:{HTTP_PORT}") if namespace else None
