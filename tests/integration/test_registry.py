"""The registry's border against a real MLflow server, with a stand-in at the wire that fails as servers and proxies do."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.message import Message
from enum import Enum
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pytest
from tests.operator.world import World, spec

from serinus_contract.names import DIGEST_TAG, SPACE_TAG
from serinus_operator.errors import NotFound, SerinusError, Unavailable
from serinus_operator.gates.judge import Verdict
from serinus_operator.registry import ModelView, Registry, lost, resolve, says, unresolved
from serinus_operator.rollout.actions import SyncRegistry
from serinus_operator.rollout.model import RegistryIntent, Revision
from serinus_operator.rollout.observed import Resolved, Unresolved
from serinus_operator.settings import RegistrySettings, read_settings
from serinus_operator.spec import Follow, ModelRef

pytestmark = pytest.mark.integration

_T = TypeVar("_T")
REF = ModelRef("m", "default", Follow.ALIAS, "challenger")


class Ending(Enum):
    """How the rollout of version 2 ends."""

    PROMOTED = "promotion"
    ROLLED_BACK = "rollback"
    TAKEN_BACK = "rollback while baking"


@pytest.fixture
def mlflow(mlflow_server: str) -> str:
    return mlflow_server


def call(server: str | RegistrySettings, ask: Callable[[Registry], Coroutine[Any, Any, _T]], seconds: float = 15) -> _T:
    """One run of an operator: a registry of its own, closed at the end."""

    async def asked() -> _T:
        settings = RegistrySettings(server) if isinstance(server, str) else server
        registry = Registry(settings, seconds)
        try:
            return await ask(registry)
        finally:
            await registry.close()

    return asyncio.run(asked())


def make_model(url: str, versions: int = 2) -> str:
    """A registered model with packaged versions, the last one named by the followed alias."""
    name = f"m-{uuid.uuid4().hex[:8]}"

    async def make(registry: Registry) -> None:
        await registry._call("POST", "registered-models/create", {"name": name})
        for version in range(1, versions + 1):
            tags = [{"key": DIGEST_TAG, "value": f"digest-{version}"}, {"key": SPACE_TAG, "value": "space"}]
            run = (await registry._call("POST", "runs/create", {"experiment_id": "0"}))["run"]["info"]["run_id"]
            made = {"name": name, "source": f"s3://models/{version}", "tags": tags, "run_id": run}
            await registry._call("POST", "model-versions/create", made)
        alias = {"name": name, "alias": "challenger", "version": str(versions)}
        await registry._call("POST", "registered-models/alias", alias)

    call(url, make)
    return name


def intents(ending: Ending) -> list[RegistryIntent]:
    """What a whole rollout of version 2 wants of the registry, in the order in which it wants it."""
    kept = {"scaleDownDelay": "5m", "bake": "5m"} if ending is Ending.TAKEN_BACK else {}
    world = World(spec=spec(strategy=kept)).run(20)
    world.resolution = Resolved("2", "digest-2", "space-1")
    wanted = []
    for _ in range(60):
        late = (
            world.status.former if ending is Ending.TAKEN_BACK else any(weight >= 25 for weight in world.weights[-1:])
        )
        if late and ending is not Ending.PROMOTED:
            world.verdict = Verdict.FAIL
        wanted += [action.intent for action in world.tick().actions if isinstance(action, SyncRegistry)]
    wanted = [intent for intent, later in zip(wanted, [*wanted[1:], None], strict=True) if intent != later]
    assert any(intent.summaries for intent in wanted)
    return wanted


@contextmanager
def cut_after(url: str, writes: int) -> Iterator[tuple[str, list[str]]]:
    """MLflow behind a line that is cut in the middle: the n-th write arrives, its answer and everything later do not."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if len(seen) >= writes:
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {"content-type": "application/json"}
            asked = urllib.request.Request(url + self.path, body or None, headers, method=self.command)
            with urllib.request.urlopen(asked, timeout=60) as answer:
                given = answer.read()
            if self.command != "GET":
                seen.append(self.path)
                if len(seen) >= writes:
                    self.close_connection = True
                    return
            self.send_response(200)
            self.send_header("content-length", str(len(given)))
            self.end_headers()
            self.wfile.write(given)

        def do_POST(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # so soon it hears of its end
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def sync_all(url: str, name: str, wanted: list[RegistryIntent]) -> int:
    """Syncs one after the other, as far as the line holds. Returns how many were seen done."""
    for index, intent in enumerate(wanted):
        try:
            assert says(intent, call(url, partial(Registry.sync, name=name, intent=intent)))
        except Unavailable:
            return index
    return len(wanted)


Points: TypeAlias = list[tuple[int, int, float]]


def logged(url: str, name: str, metric: str) -> Points:
    """Step, milliseconds and value of every point of a metric on version 2's run."""

    async def ask(registry: Registry) -> Points:
        run = (await registry.view(name)).versions["2"].run_id
        found = await registry._call("GET", "metrics/get-history", {"run_id": run, "metric_key": metric})
        return [(int(each["step"]), int(each["timestamp"]), each["value"]) for each in found.get("metrics", [])]

    return call(url, ask)


def end_state(url: str, name: str) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, str]]]:
    """Aliases, stages and tags as the registry shows them."""
    model = call(url, partial(Registry.view, name=name))
    versions = model.versions.values()
    return dict(model.aliases), {v.version: v.stage for v in versions}, {v.version: dict(v.tags) for v in versions}


@pytest.mark.parametrize("ending", Ending, ids=lambda ending: ending.value)
def test_killed_after_every_call_the_registry_ends_with_one_alias_one_stage_and_one_set_of_tags(
    mlflow: str, ending: Ending
) -> None:
    """Each life of the operator dies with its first write that is new, and the next one goes on from what the status holds."""
    wanted = intents(ending)
    undisturbed = make_model(mlflow)
    with cut_after(mlflow, 10_000) as (line, writes):
        assert sync_all(line, undisturbed, wanted) == len(wanted)
    expected = end_state(mlflow, undisturbed)
    aliases, stages, tags = expected
    points = logged(mlflow, undisturbed, "serinus.latency_mean_ms")
    if ending is not Ending.TAKEN_BACK:
        assert [step for step, _, _ in points] == ([2, 3, 4, 5, 6] if ending is Ending.PROMOTED else [2])
    assert json.loads(tags["2"]["serinus.step.2"])["latency_mean_ms"] == points[0][2]
    stable = {Ending.PROMOTED: {"champion": "2"}, Ending.ROLLED_BACK: {}, Ending.TAKEN_BACK: {"champion": "1"}}
    assert aliases == {"challenger": "2"} | stable[ending]
    standing = {
        Ending.PROMOTED: ("Archived", "Production"),
        Ending.ROLLED_BACK: ("None", "Staging"),
        Ending.TAKEN_BACK: ("Production", "Archived"),
    }
    assert (stages["1"], stages["2"]) == standing[ending]
    assert tags["2"]["serinus.result"] == ("Promoted" if ending is Ending.PROMOTED else "RolledBack")
    assert len(writes) > 10
    name, done, last_words = make_model(mlflow), 0, list[str]()
    while done < len(wanted):
        again = bool(last_words) and last_words[-1].endswith("log-batch")  # only the tag after it says that it is done
        with cut_after(mlflow, 2 if again else 1) as (line, arrived):
            done += sync_all(line, name, wanted[done:])
        last_words += arrived[-1:]
        assert len(last_words) <= len(writes), "a call was made twice"
    assert last_words == writes
    assert end_state(mlflow, name) == expected
    assert logged(mlflow, name, "serinus.latency_mean_ms") == points


def test_a_run_that_is_gone_leaves_the_tags_to_tell_how_the_version_behaved(mlflow: str) -> None:
    name, wanted = make_model(mlflow), intents(Ending.PROMOTED)

    async def sync_without_run(registry: Registry) -> ModelView:
        run = (await registry.view(name)).versions["2"].run_id
        await registry._call("POST", "runs/delete", {"run_id": run})
        return await registry.sync(name, wanted[-1])

    assert says(wanted[-1], call(mlflow, sync_without_run))


def test_a_sync_that_has_nothing_to_say_writes_nothing(mlflow: str) -> None:
    name, intent = make_model(mlflow), intents(Ending.PROMOTED)[-1]
    call(mlflow, lambda registry: registry.sync(name, intent))
    with cut_after(mlflow, 10_000) as (line, writes):
        call(line, lambda registry: registry.sync(name, intent))
    assert writes == []


def test_an_alias_that_somebody_else_moved_is_not_taken_away(mlflow: str) -> None:
    name = make_model(mlflow, versions=3)
    call(mlflow, lambda registry: registry.sync(name, RegistryIntent(aliases={"canary": "3"})))
    model = call(mlflow, lambda registry: registry.sync(name, RegistryIntent(withdrawn={"canary": "2"})))
    assert model.aliases["canary"] == "3"


def test_a_vanished_alias_and_a_deleted_version_are_sentences_that_say_what_to_do(mlflow: str) -> None:
    name = make_model(mlflow)
    stable = Revision("rev", "1", "digest-1", "space")
    release = replace(World().spec, model=replace(REF, name=name))
    assert isinstance(resolve(release, call(mlflow, lambda registry: registry.view(name)), stable), Resolved)

    async def vanish(registry: Registry) -> ModelView:
        await registry._call("DELETE", "registered-models/alias", {"name": name, "alias": "challenger"})
        await registry._call("DELETE", "model-versions/delete", {"name": name, "version": "1"})
        return await registry.view(name)

    model = call(mlflow, vanish)
    gone = resolve(release, model, stable)
    assert isinstance(gone, Unresolved)
    assert "names no model version" in gone.message
    assert "Set it there or change spec.model; what serves goes on serving" in gone.message
    assert "model version 1, which serves, was deleted from the registry" in lost(stable, model)
    assert says(RegistryIntent(aliases={"champion": "1"}, tags={"1": {"a": "b"}}), model)


def test_a_renamed_model_is_a_sentence_that_says_what_to_do(mlflow: str) -> None:
    name = make_model(mlflow)

    async def rename(registry: Registry) -> None:
        await registry._call("POST", "registered-models/rename", {"name": name, "new_name": f"{name}-new"})

    call(mlflow, rename)
    with pytest.raises(NotFound) as error:
        call(mlflow, lambda registry: registry.view(name))
    assert "was it renamed? Then apply a release of its new name" in unresolved(REF, error.value).message


def test_mlflows_own_host_check_is_told_from_missing_rights(
    tmp_path_factory: pytest.TempPathFactory, mlflow: str
) -> None:
    """MLflow's refusal of a foreign Host header, as it words it, passed through the stand-in."""
    asked = urllib.request.Request(
        f"{mlflow}/api/2.0/mlflow/registered-models/search", headers={"host": "evil.example.com"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=30)
    body = refused.value.read()
    with answering(refused.value.code, body) as (url, _):
        said = refusal(url)
    assert said.reason == "RegistryForbidden"
    assert "--allowed-hosts" in said.message


@pytest.mark.parametrize(
    ("status", "body", "reason", "named"),
    [
        (401, b"You are not authenticated.", "RegistryUnauthorized", "correct the registry's Secret"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}', "RegistryForbidden", "give that user EDIT"),
        (403, b"Invalid Host header - possible DNS rebinding attack detected", "RegistryForbidden", "--allowed-hosts"),
        (404, b"<html>nginx</html>", "RegistryRefused", "no MLflow behind the registry's trackingUri"),
        (500, b'{"error_code": "INTERNAL_ERROR", "message": "database is locked"}', "RegistryUnavailable", "database is locked"),
        (502, b"<html>Bad Gateway</html>", "RegistryUnavailable", "its log says why"),
        (200, b"<html>a login page</html>", "RegistryUnavailable", "trackingUri right"),
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "alias"}', "RegistryRefused", "refused the call: alias"),
    ],
)  # fmt: skip
def test_every_refusal_is_a_condition_with_a_sentence_that_says_what_to_do(
    status: int, body: bytes, reason: str, named: str
) -> None:
    with answering(status, body) as (url, _):
        said = refusal(url)
    assert said.reason == reason
    assert named in said.message
    assert said.message.endswith("what serves goes on serving")
    assert said.passing == (reason == "RegistryUnavailable")


def test_a_server_that_does_not_answer_is_given_up_in_time() -> None:
    with answering(200, b"{}", after_seconds=3) as (url, _):
        said = refusal(url, seconds=0.5)
    assert "did not answer within 0.5 s" in said.message
    assert said.passing


def test_nobody_listening_is_told_from_a_slow_server() -> None:
    assert "cannot be reached" in refusal("http://127.0.0.1:9").message


def test_each_registry_has_its_own_credentials_and_the_environments_are_never_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login stray password stray-secret\n")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "stray")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    caplog.set_level("DEBUG")
    with answering(500, b"{}") as (url, asked):
        environment = {
            "SERINUS_SERVER_IMAGE": "i", "SERINUS_PROMETHEUS_URL": "p",
            "SERINUS_REGISTRIES": json.dumps({"basic": url, "team-2": url, "open": url}),
            "SERINUS_REGISTRY_BASIC_USERNAME": "me", "SERINUS_REGISTRY_BASIC_PASSWORD": "secret-1",
            "SERINUS_REGISTRY_TEAM_2_TOKEN": "secret-2",
        }  # fmt: skip
        settings = read_settings(environment)
        for registry in settings.registries.values():
            with pytest.raises(Unavailable):
                call(registry, lambda registry: registry.view("m"))
    basic = "Basic " + base64.b64encode(b"me:secret-1").decode()
    assert [headers.get("authorization") for headers in asked] == [basic, "Bearer secret-2", None]
    assert "secret" not in caplog.text + repr(settings)


def test_a_proxy_of_the_environment_is_used_where_it_is_meant_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200, b"{}") as (url, _), answering(500, b"{}") as (proxy, asked):
        monkeypatch.setenv("http_proxy", proxy.replace("http://", "http://user:pass@"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(Unavailable):
            call("http://mlflow.invalid", lambda registry: registry.view("m"))
        assert [headers["host"] for headers in asked] == ["mlflow.invalid"]
        assert asked[0]["proxy-authorization"].startswith("Basic ")
        with pytest.raises(KeyError):  # answered with {}
            call(url, lambda registry: registry.view("m"))
        assert len(asked) == 1


def refusal(url: str, seconds: float = 15) -> Unresolved:
    with pytest.raises(SerinusError) as error:
        call(url, lambda registry: registry.view("m"), seconds)
    return unresolved(REF, error.value)


@contextmanager
def answering(status: int, body: bytes, after_seconds: float = 0) -> Iterator[tuple[str, list[Message]]]:
    """A server that says the same to everybody, and the headers that it was sent."""
    ended, asked = threading.Event(), list[Message]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ended.wait(after_seconds)
            asked.append(self.headers)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # so soon it hears of its end
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
