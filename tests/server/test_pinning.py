"""A pin is kept: another space's own server answers, or nobody does. The neighbours are real HTTP servers; only the names are local."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serinus_contract.names import HOP_HEADER, SPACE_HEADER
from serinus_server.errors import NeighbourFailed, OtherSpace, Overloaded
from serinus_server.pinning import Forwarded, Neighbours

OURS, THEIRS, NOBODYS = "0" * 16, "1" * 16, "2" * 16


@dataclass
class Neighbour:
    """A server of one space, as far as a request that is passed on can see."""

    space: str
    url: str = ""
    seen: list[dict[str, str]] = field(default_factory=list)
    dies: bool = False


@pytest.fixture
def neighbour() -> Iterator[Neighbour]:
    shown = Neighbour(THEIRS)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            shown.seen.append({name.lower(): value for name, value in self.headers.items()})
            body = self.rfile.read(int(self.headers["content-length"]))
            if shown.dies:
                self.connection.close()
                return
            self._answer(json.dumps({"asked": body.decode(), "path": self.path}).encode())

        def do_GET(self) -> None:
            self._answer(b"ok")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            for name, value in (
                (SPACE_HEADER, shown.space),
                ("x-model-version", "7"),
                ("content-type", "application/json"),
            ):
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    shown.url = f"http://127.0.0.1:{server.server_port}"
    yield shown
    server.shutdown()
    server.server_close()


def in_this_cluster(neighbour: Neighbour) -> Callable[[str], str]:
    services = {f"r-space-{THEIRS}": neighbour.url, "r-canary": neighbour.url}
    return lambda service: services.get(service, "http://127.0.0.1:9")


def ask(neighbour: Neighbour, ask: Callable[[Neighbours], Awaitable[Forwarded]], *, alone: bool = False) -> Forwarded:
    async def asked() -> Forwarded:
        neighbours = Neighbours("r", OURS, None if alone else in_this_cluster(neighbour))
        try:
            return await ask(neighbours)
        finally:
            await neighbours.close()

    return asyncio.run(asked())


def pinned(space: str, **headers: str) -> Callable[[Neighbours], Awaitable[Forwarded]]:
    return lambda neighbours: neighbours.answer("/predict", b"a text", {SPACE_HEADER: space, **headers}, "id-1")


def test_the_pinned_space_answers_in_its_own_name(neighbour: Neighbour) -> None:
    given = ask(neighbour, pinned(THEIRS, **{"content-type": "application/json", "cookie": "secret"}))
    assert given.status == 200
    assert json.loads(given.body) == {"asked": "a text", "path": "/predict"}
    assert (given.headers[SPACE_HEADER], given.headers["x-model-version"]) == (THEIRS, "7")
    passed = neighbour.seen[0]
    assert (passed[HOP_HEADER], passed["x-request-id"], passed[SPACE_HEADER]) == (OURS, "id-1", THEIRS)
    assert "cookie" not in passed


def test_nobody_serves_it_is_a_refusal_with_the_live_spaces(neighbour: Neighbour) -> None:
    with pytest.raises(OtherSpace, match=f"'{NOBODYS}' is not served; these spaces are live: {OURS}, {THEIRS}"):
        ask(neighbour, pinned(NOBODYS))
    with pytest.raises(OtherSpace, match=f"these spaces are live: {OURS}$"):
        ask(neighbour, pinned(THEIRS), alone=True)


def test_an_answer_of_yet_another_space_is_never_passed_on(neighbour: Neighbour) -> None:
    neighbour.space = NOBODYS
    with pytest.raises(OtherSpace):
        ask(neighbour, pinned(THEIRS))


def test_a_request_is_passed_on_once(neighbour: Neighbour) -> None:
    with pytest.raises(OtherSpace):
        ask(neighbour, pinned(THEIRS, **{HOP_HEADER: NOBODYS}))
    assert neighbour.seen == []


@pytest.mark.parametrize("space", ["", "x", "../../etc", "evil.example.com/", "A" * 16, "0" * 17, "0" * 5000])
def test_what_is_no_space_reaches_no_address(neighbour: Neighbour, space: str) -> None:
    with pytest.raises(OtherSpace):
        ask(neighbour, pinned(space))
    assert neighbour.seen == []


def test_a_neighbour_that_dies_is_said_to_have_failed(neighbour: Neighbour) -> None:
    neighbour.dies = True
    with pytest.raises(NeighbourFailed, match="gave no answer"):
        ask(neighbour, pinned(THEIRS))


def test_only_so_many_requests_are_passed_on_at_once(neighbour: Neighbour) -> None:
    async def many(neighbours: Neighbours) -> Forwarded:
        asked = [neighbours.answer("/predict", b"", {SPACE_HEADER: THEIRS}, str(index)) for index in range(200)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers} == {Forwarded, Overloaded}
        return next(answer for answer in answers if isinstance(answer, Forwarded))

    assert ask(neighbour, many).status == 200


def test_no_answer_is_outside_its_pin_while_the_neighbours_space_comes_and_goes(neighbour: Neighbour) -> None:
    """Endpoints lag behind pods: an address may for a moment lead to a pod of another space, or to none."""
    rng = random.Random(4)

    async def mixed(neighbours: Neighbours) -> Forwarded:
        kept: Forwarded | None = None
        for _ in range(300):
            neighbour.space, neighbour.dies = rng.choice([THEIRS, THEIRS, OURS, NOBODYS]), rng.random() < 0.1
            space = rng.choice([THEIRS, NOBODYS])
            try:
                given = await neighbours.answer("/predict", b"", {SPACE_HEADER: space}, "id")
            except (OtherSpace, NeighbourFailed):
                continue
            assert given.headers[SPACE_HEADER] == space
            kept = given
        assert kept is not None
        return kept

    ask(neighbour, mixed)
