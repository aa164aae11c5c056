"""The page's server: on 127.0.0.1, for whoever has the token that is new at every start.

Nobody else is answered: not another user of this machine, not a web page that calls 127.0.0.1 (Origin, Sec-Fetch-Site), not a name
that was rebound to it (Host). The token travels in the address's fragment, which no browser sends, and then in a header: no cookie
that another port could read, nothing that a foreign form could use.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import signal
import webbrowser
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from typing import Any, Final, TypeAlias

import click
from aiohttp import web

from serinus_operator.cli.cluster import Cluster
from serinus_operator.cli.dashboard import source
from serinus_operator.cli.dashboard.charts import Chart, drawn
from serinus_operator.cli.dashboard.panels import panels, span
from serinus_operator.cli.dashboard.record import Record
from serinus_operator.cli.dashboard.shown import VERBS, shown
from serinus_operator.errors import Unavailable

JSON: TypeAlias = dict[str, Any]
_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LOOK_SECONDS = 2.0
_LOOK_FOR_PROMETHEUS_SECONDS = 30.0
_ANSWER_SECONDS = 20.0
_MOST_BYTES = 4096  # of a command
_PAGES: Final = {
    "index.html": "text/html",
    "page.css": "text/css",
    **dict.fromkeys(("page.js", "draw.js", "charts.js"), "text/javascript"),
    "icon.svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass
class Dashboard:
    """What is served: the releases as last listed, what was remembered of them, and where Prometheus is."""

    cluster: Cluster
    everywhere: bool
    prometheus: str | None
    read_only: bool
    clock: Callable[[], datetime]
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    releases: Sequence[JSON] = ()
    problem: str = ""
    record: Record = field(default_factory=Record)
    source: source.Source | None = None
    source_says: str = "looking for Prometheus"

    def application(self) -> web.Application:
        """Routes, guards and the two tasks that look at the cluster and for Prometheus while it runs."""
        app = web.Application(middlewares=[self._guard], client_max_size=_MOST_BYTES)
        app.on_response_prepare.append(_add_headers)
        app.cleanup_ctx.append(self._tasks)
        app.add_routes([web.get("/", self._page), *(web.get(f"/{name}", self._page) for name in _PAGES)])
        release = "/api/releases/{namespace}/{name}"
        app.add_routes([web.get("/api/releases", self._releases), web.get(f"{release}/charts", self._charts)])
        app.add_routes([web.post(f"{release}/command", self._command)])
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        here = {f"{host}:{_port(request)}" for host in ("127.0.0.1", "localhost")}
        if request.host not in here:
            return _refusal(421, f"this page is served as {' and '.join(sorted(here))} only")
        origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "none")
        if origin not in (None, f"http://{request.host}") or (
            request.path != "/" and site not in ("same-origin", "none")
        ):
            return _refusal(403, "another page may not ask this one")
        if request.path.startswith("/api/"):
            given = request.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
                return _refusal(
                    401, "open the address that `kubectl modelrelease dashboard` printed: it carries the token"
                )
        try:
            return await handler(request)
        except click.ClickException as error:
            return _refusal(409, error.message)

    async def _page(self, request: web.Request) -> web.Response:
        name = request.path.removeprefix("/") or "index.html"
        file = resources.files("serinus_operator").joinpath("cli", "dashboard", "page", name)
        return web.Response(text=file.read_text(encoding="utf-8"), content_type=_PAGES[name], charset="utf-8")

    async def _releases(self, request: web.Request) -> web.Response:
        now = self.clock()
        body = json.dumps(
            {
                "releases": [shown(release, now) for release in self.releases],
                "where": "all namespaces" if self.everywhere else f"namespace {self.cluster.namespace}",
                "problem": self.problem,
                "prometheus": self.source_says,
                "readOnly": self.read_only,
            }
        )
        tag = f'"{hashlib.sha256(body.encode()).hexdigest()[:16]}"'
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag})
        return web.Response(text=body, content_type="application/json", headers={"ETag": tag})

    async def _charts(self, request: web.Request) -> web.Response:
        release = self._named(request)
        width = request.query.get("width", "")
        start, end = span(release, self.clock())
        found = await asyncio.to_thread(panels, release, self.record, self.source, start, end)

        def draw(charts: Sequence[Chart]) -> list[JSON]:
            return [drawn(chart, start, end, int(width) if width.isdecimal() else 420) for chart in charts]

        told = {"rollout": found.rollout, "compared": found.compared}
        groups = await asyncio.to_thread(lambda: {name: draw(charts) for name, charts in told.items()})
        return web.json_response(groups | {"missing": found.missing or ("" if self.source else self.source_says)})

    async def _command(self, request: web.Request) -> web.Response:
        if self.read_only:
            return _refusal(403, "this page was started with --read-only")
        release, name = self._named(request), request.match_info["name"]
        try:
            wish = json.loads(await request.text())
            verb = wish["verb"]
            seen = {each: wish[each] for each in ("revision", "step") if wish.get(each)}
        except (ValueError, LookupError, TypeError, AttributeError):
            return _refusal(400, "a command is JSON with a verb")
        if verb not in VERBS:
            return _refusal(400, f"the verbs of this page are {', '.join(VERBS)}")
        cluster = self.cluster.within(release["metadata"]["namespace"])
        identity = await asyncio.to_thread(cluster.ask, name, {"verb": verb, **seen})
        for _ in range(round(_ANSWER_SECONDS)):
            await asyncio.sleep(1)
            if (outcome := await asyncio.to_thread(cluster.answer, name, identity)) is not None:
                await self._look()
                return web.json_response({"outcome": outcome})
        raise cluster.unanswered(_ANSWER_SECONDS)

    def _named(self, request: web.Request) -> JSON:
        key = (request.match_info["namespace"], request.match_info["name"])
        for release in self.releases:
            if (release["metadata"]["namespace"], release["metadata"]["name"]) == key:
                return release
        raise web.HTTPNotFound(
            text=json.dumps({"error": f"there is no release {'/'.join(key)}"}), content_type="application/json"
        )

    async def _tasks(self, _: web.Application) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(_repeat(self._look, _LOOK_SECONDS))]
        tasks.append(asyncio.create_task(_repeat(self._look_for_prometheus, _LOOK_FOR_PROMETHEUS_SECONDS)))
        yield
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _look(self) -> None:
        try:
            self.releases = await asyncio.to_thread(self.cluster.releases, self.everywhere)
        except click.ClickException as error:
            self.problem = error.message
        else:
            self.problem = ""
            self.record.see(self.releases, self.clock())

    async def _look_for_prometheus(self) -> None:
        if self.source is not None:
            return
        try:
            self.source = await asyncio.to_thread(source.find, self.cluster, self.prometheus)
            self.source_says = f"Prometheus: {self.source.where}"
        except Unavailable as error:
            self.source_says = f"only what the status says: {error}"


async def serve(dashboard: Dashboard, port: int, browse: bool) -> None:
    """Serves until SIGINT or SIGTERM. Raises click.ClickException when the port is taken."""
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # on Windows, where asyncio.run turns Ctrl-C into KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # a browser that goes away is no news
    runner = web.AppRunner(dashboard.application(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
        except OSError as error:
            raise click.ClickException(
                f"port {port} is taken ({error.strerror}); --port names another, 0 any free one"
            ) from error
        address = f"http://127.0.0.1:{runner.addresses[0][1]}/#token={dashboard.token}"
        click.echo(f"{address}\n(the address is the key: whoever has it can do what you can; Ctrl-C ends it)")
        if browse:
            await asyncio.to_thread(webbrowser.open, address)
        await ended.wait()
    finally:
        await runner.cleanup()


async def _repeat(look: Callable[[], Awaitable[None]], every_seconds: float) -> None:
    while True:
        await look()
        await asyncio.sleep(every_seconds)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _port(request: web.Request) -> int:
    assert request.transport is not None
    port: int = request.transport.get_extra_info("sockname")[1]
    return port


def _refusal(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
