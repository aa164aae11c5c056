"""A proxy between the operator and a real API server, or MLflow: at the n-th write of a release, the Lease excepted, a plan befalls it.

The faults that Sieve injects (Sun and others, OSDI 2022): the operator is killed before or after a write, sees changes late or never, or
begins with an old list. Many releases under one operator hold many plans; what befalls one of them, all have to stand.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import aiohttp
from aiohttp import web

RELEASE = re.compile(rb"plan-\d+")
_RELEASES = "/apis/serinus.dev/v1alpha1/modelreleases"
_TOGETHER_SECONDS = 0.1  # plans that come due within it share one death
_BLIND_SECONDS = 3.0
_OLD_WRITES = 5  # an old list is from so many writes ago
_LONGEST_LINE = 2**21
_HOP = {"host", "connection", "transfer-encoding", "content-length", "content-encoding"}
_FORGOTTEN = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "reason": "Expired",
    "code": 410,
    "message": "too old",
}


class Kind(Enum):
    """What happens at the n-th write."""

    BEFORE = "the operator is killed before the write is sent"
    AFTER = "the operator is killed after the write is committed, before it is answered"
    OLD_LIST = "the operator is killed after it, and begins again with a list of ModelReleases from five writes ago"
    LATE = "what watches tell of the release comes three seconds late"
    UNOBSERVED = "what watches tell of the release for three seconds is lost; then their past is forgotten, and all is listed anew"


DEADLY = (Kind.BEFORE, Kind.AFTER, Kind.OLD_LIST)


@dataclass(frozen=True)
class Plan:
    """`kind` befalls `release` at its write number `write`, the first being 1."""

    release: str
    kind: Kind
    write: int


@dataclass
class Proxy:
    """Serves plain HTTP at `url`, in a thread of its own; `restart` kills the operator and begins another life of it."""

    upstream: str
    tls: ssl.SSLContext | bool
    restart: Callable[[], None]
    plans: dict[str, Plan] = field(default_factory=dict)
    befallen: list[Plan] = field(default_factory=list)
    writes: Counter[str] = field(default_factory=Counter)
    deaths: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self._blind: dict[bytes, tuple[Kind, float]] = {}
        self._old_lists: dict[str, bytes] = {}
        self._next_list: bytes | None = None
        self._death: asyncio.Task[None] | None = None

    def arm(self, plans: Sequence[Plan]) -> None:
        """From now on these plans hold; one for each release at most."""
        self.plans = {plan.release: plan for plan in plans}

    def kubeconfig(self, path: Path) -> Path:
        """Writes the operator's kubeconfig: the proxy has the credentials."""
        user = {"name": "operator", "user": {"token": "the-proxy-has-its-own"}}
        cluster = {"name": "proxied", "cluster": {"server": self.url}}
        context = {"name": "proxied", "context": {"cluster": "proxied", "user": "operator"}}
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "proxied", "clusters": [cluster],
                                    "users": [user], "contexts": [context]}))  # fmt: skip
        return path

    @contextmanager
    def serve(self) -> Iterator[Proxy]:
        """Answers for as long as the block."""
        loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

        async def run() -> None:
            connector = aiohttp.TCPConnector(ssl=self.tls, limit=0)
            async with aiohttp.ClientSession(connector=connector) as self._session:
                app = web.Application(client_max_size=_LONGEST_LINE)
                app.router.add_route("*", "/{path:.*}", self._answer)
                runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
                await runner.setup()
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
                self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
                started.set()
                await stop.wait()
                await runner.cleanup()
                left = asyncio.all_tasks() - {asyncio.current_task()}  # watches whose readers are dead
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
            await asyncio.sleep(0.25)  # TLS ends after its session is closed (aiohttp, "Graceful Shutdown")

        thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
        thread.start()
        assert started.wait(20)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(20)
            loop.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.query.get("watch") == "true":
            return await self._watch(request)
        if request.method == "GET":
            if request.path == _RELEASES and self._next_list is not None:
                old, self._next_list = self._next_list, None
                return web.Response(body=old, content_type="application/json")
            return await self._forward(request, body)
        named = RELEASE.search(request.path.encode() + b" " + body)
        return await self._forward(request, body) if named is None else await self._write(request, body, named.group())

    async def _write(self, request: web.Request, body: bytes, release: bytes) -> web.StreamResponse:
        name = release.decode()
        self.writes[name] += 1
        plan = self.plans.get(name)
        if plan is not None and plan.kind is Kind.OLD_LIST and self.writes[name] == max(1, plan.write - _OLD_WRITES):
            self._old_lists[name] = await self._fetch(_RELEASES)
        if plan is None or self.writes[name] < plan.write:
            return await self._forward(request, body)
        del self.plans[name]
        self.befallen.append(plan)
        if plan.kind in DEADLY:
            answer = None if plan.kind is Kind.BEFORE else await self._forward(request, body)
            await self._die(self._old_lists.get(name))
            return answer or web.Response(status=503)
        self._blind[release] = plan.kind, time.monotonic() + _BLIND_SECONDS
        return await self._forward(request, body)

    async def _die(self, old_list: bytes | None) -> None:
        async def soon() -> None:
            await asyncio.sleep(_TOGETHER_SECONDS)
            self._death, self.deaths = None, self.deaths + 1
            await asyncio.to_thread(self.restart)

        self._next_list = old_list or self._next_list
        if self._death is None:
            self._death = asyncio.create_task(soon())
        await asyncio.shield(self._death)

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        try:
            async with self._session.request(request.method, f"{self.upstream}{request.raw_path}", data=body or None,
                                             headers=_passed(request.headers)) as answer:  # fmt: skip
                return web.Response(status=answer.status, body=await answer.read(), headers=_passed(answer.headers))
        except (aiohttp.ClientError, TimeoutError) as error:
            return web.Response(status=502, text=str(error))

    async def _fetch(self, path: str) -> bytes:
        async with self._session.get(f"{self.upstream}{path}") as answer:
            return await answer.read()

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        timeout = aiohttp.ClientTimeout(total=None)
        url = f"{self.upstream}{request.raw_path}"
        async with self._session.get(
            url, headers=_passed(request.headers), timeout=timeout, read_bufsize=_LONGEST_LINE
        ) as answer:
            response = web.StreamResponse(status=answer.status, headers=_passed(answer.headers))
            await response.prepare(request)
            reading = asyncio.ensure_future(answer.content.readline())
            try:
                await self._tell(response, answer, reading)
            except (ConnectionError, aiohttp.ClientError):
                pass  # its reader is dead
            finally:
                reading.cancel()
        return response

    async def _tell(
        self, response: web.StreamResponse, answer: aiohttp.ClientResponse, reading: asyncio.Future[bytes]
    ) -> None:
        """Passes a watch's lines on, except those that its reader is not to see now."""
        held: dict[bytes, list[bytes]] = {}
        lost: set[bytes] = set()
        while True:
            await asyncio.wait({reading}, timeout=0.3 if held or lost else 2.0)
            for release in [each for each in (*held, *lost) if self._sees(each)]:
                await response.write(b"".join(held.pop(release, [])))
                if release in lost:
                    await response.write(json.dumps({"type": "ERROR", "object": _FORGOTTEN}).encode() + b"\n")
                    return
            if response._req is None or response._req.transport is None:  # type: ignore[attr-defined]
                return
            if not reading.done():
                continue
            line = reading.result()
            if not line:
                return
            reading = asyncio.ensure_future(answer.content.readline())
            named = RELEASE.search(line)
            if named is None or self._sees(named.group()):
                await response.write(line)
            elif self._blind[named.group()][0] is Kind.LATE:
                held.setdefault(named.group(), []).append(line)
            else:
                lost.add(named.group())

    def _sees(self, release: bytes) -> bool:
        return release not in self._blind or time.monotonic() > self._blind[release][1]


def _passed(headers: object) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP | {"authorization"}}  # type: ignore[attr-defined]
