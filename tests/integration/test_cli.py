"""`kubectl modelrelease` against a real API server and the operator's own process."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.cluster.control_plane import ControlPlane
from tests.integration import browser, showcase
from tests.integration.conftest import Kubelet, Metrics, Operator, eventually
from tests.integration.team import Team

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]


def plugin(plane: ControlPlane, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "COLUMNS": "200"}
    command = [sys.executable, "-m", "serinus_operator.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@contextmanager
def watching(plane: ControlPlane, name: str) -> Iterator[tuple[Path, Path]]:
    """`get NAME --watch` on a terminal and into a file, until Ctrl-C. Yields what each has drawn so far."""
    interruptible = [
        "env",
        "--default-signal=INT",
    ]  # tests that were begun in the background inherit that it is ignored
    command = [*interruptible, sys.executable, "-m", "serinus_operator.cli", "get", name, "--watch"]
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "COLUMNS": "200"}
    drawn = (plane.folder / "terminal", plane.folder / "file")
    started = []
    for path, more in zip(drawn, ({"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}, {}), strict=True):
        with path.open("wb") as stream:
            started.append(subprocess.Popen(command, stdout=stream, stderr=stream, env=environment | more))
    try:
        yield drawn
        for each in started:
            each.send_signal(signal.SIGINT)
        assert [each.wait(20) for each in started] == [0, 0]
    finally:
        for each in started:
            each.kill()
            each.wait(20)


def refusals(team: Team) -> list[int]:
    """How often each of the events that tell of a refused `pause` was seen."""
    selector = f"--field-selector=involvedObject.name={team.name},reason=Command"
    events = json.loads(team.plane.kubectl("get", "events", selector, "-o", "json").stdout)["items"]
    return [event["count"] for event in events if "paused already" in event["message"]]


def test_a_person_sees_and_steers_a_rollout(
    control_plane: ControlPlane, team: Team, operator: Operator, kubelet: Kubelet, metrics: Metrics, chromium: Browser,
    tmp_path: Path,
) -> None:  # fmt: skip
    team.register()
    steps = [{"verify": {}}, {"setWeight": 30}, {"pause": {}}]
    team.apply(strategy={"progressDeadline": "2m", "scaleDownDelay": "0s", "bake": "0s", "steps": steps})
    eventually("version 1 is stable", lambda: team.stable_version() == "1")
    nothing = plugin(control_plane, "promote", team.name)
    assert nothing.returncode == 1
    assert "no rollout is in progress" in nothing.stderr
    metrics.busy[team.status()["stable"]["revision"]] = 200.0  # idle connections that never meet the canary, say

    with watching(control_plane, team.name) as (on_terminal, in_file):
        team.register()
        eventually("it waits for a person", lambda: team.status().get("phase") == "Paused")
        for seen in (on_terminal, in_file):
            eventually("the pause is drawn", lambda seen=seen: "step 3/4 pause until promoted" in seen.read_text())
            assert "canary: model version 2" in seen.read_text()
    shown = plugin(control_plane, "get", team.name).stdout
    assert "stable: model version 1" in shown
    assert "canary: model version 2" in shown
    assert "step 3/4 pause until promoted" in shown
    assert shown.count("  ready") == 3
    waiting = plugin(control_plane, "status", team.name)
    assert (waiting.returncode, waiting.stdout[:7]) == (2, "Paused:")
    assert "is paused already" not in plugin(control_plane, "pause", team.name).stderr
    for _ in range(2):
        assert "is paused already" in plugin(control_plane, "pause", team.name).stderr
    eventually("what was said twice is one event", lambda: refusals(team) == [2])
    # One pod of three, and by the servers' own counters 50 of 450 requests a second.
    eventually("the achieved share is measured", lambda: team.status()["weight"] == {"desired": 30, "achieved": 11})
    assert "30 % wanted, 11 % achieved" in plugin(control_plane, "get", team.name).stdout
    assert "deadline" not in team.status()["step"]  # a person is waited for
    assert plugin(control_plane, "resume", team.name).returncode == 0
    assert "step 3 (pause until promoted) released" in plugin(control_plane, "promote", team.name).stdout
    assert plugin(control_plane, "status", team.name, "--wait", "--timeout", "60").returncode == 0
    assert plugin(control_plane, "history", team.name).stdout.count("Promoted") == 2
    assert team.name in plugin(control_plane, "get").stdout
    assert "back to model version 1" in plugin(control_plane, "undo", team.name).stdout
    eventually("it goes back through the steps", lambda: team.status().get("canary", {}).get("version") == "1")
    with browser.dashboard(control_plane, tmp_path) as address, browser.page(chromium, address) as page:
        page.get_by_role("link", name=team.name).click()
        expect(page.locator("#facts .phase")).to_have_text("Paused")
        press(page, "Promote")
        expect(page.locator("#said")).to_contain_text("step 3 (pause until promoted) released")
        expect(page.locator("#facts .phase")).to_have_text("Healthy")
        expect(page.locator("#facts")).to_contain_text("model version 1 serves with 3 ready replicas")
    stable, *earlier = [each["revision"] for each in team.status()["history"]]
    for revision in (stable, "nobody"):
        unknown = plugin(control_plane, "undo", team.name, "--to", revision)
        assert (unknown.returncode, f"no promoted revision {revision} is among" in unknown.stderr) == (1, True)
    assert "back to model version 2" in plugin(control_plane, "undo", team.name, "--to", earlier[0]).stdout
    eventually("it goes back through the steps", lambda: team.status().get("canary", {}).get("revision") == earlier[0])


def test_what_is_not_there_is_one_sentence(control_plane: ControlPlane) -> None:
    missing = plugin(control_plane, "get", "nobody")
    assert missing.returncode == 1
    assert missing.stderr.startswith("Error: modelrelease 'nobody' in namespace 'default' not found")
    unreachable = plugin(control_plane, "--context", "elsewhere", "get")
    assert unreachable.returncode == 1
    assert unreachable.stderr.startswith("Error: no cluster to talk to")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.chromium() as started:
        yield started


@pytest.fixture(scope="module")
def shown(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page of all namespaces, with a Prometheus that it found by itself."""
    now, folder = datetime.now(UTC), tmp_path_factory.mktemp("page")
    showcase.apply(control_plane, now)
    with showcase.prometheus(control_plane, folder, now), browser.dashboard(control_plane, folder, "-A") as address:
        yield address
    gone = control_plane.kubectl("delete", "namespace", showcase.NAMESPACE, "--timeout=50s")
    assert gone.returncode == 0, gone.stderr  # else the next test's operator finds releases in it that it cannot serve


def press(page: Page, verb: str) -> None:
    page.get_by_role("button", name=verb, exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name=verb, exact=True).click()


def obey(plane: ControlPlane, name: str, verb: str) -> dict[str, object]:
    """Answers the command on a release as the operator would. Returns the command."""
    command = eventually(
        f"{verb} is on {name}",
        lambda: found if (found := showcase.annotation(plane, name)).get("verb") == verb else None,
        20,
    )
    answer = {"id": command["id"], "verb": verb, "outcome": f"did {verb}", "at": "2026-01-01T00:00:00Z"}
    showcase.write(plane, name, {"command": answer})
    return dict(command)


def open_release(page: Page, name: str, charts: int) -> None:
    page.get_by_role("link", name=name).click()
    expect(page.locator("figure svg")).to_have_count(charts)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_releases_and_their_evidence(shown: str, chromium: Browser, scheme: str) -> None:
    with browser.page(chromium, shown, color_scheme=scheme) as page:
        rows = page.get_by_role("row")
        expect(rows.filter(has_text="defect-embedder")).to_contain_text("version 6 → version 7")
        expect(rows.filter(has_text="defect-embedder")).to_contain_text("6/7 analysis 15m")
        expect(rows.filter(has_text="ticket-embedder")).to_contain_text("model version 9 was rejected: latency")
        browser.accessible(page)
        browser.keep(page, f"releases-{scheme}")
        page.set_viewport_size({"width": 910, "height": 460})
        browser.fits(page)
        page.set_viewport_size({"width": 1180, "height": 460})
        open_release(page, "defect-embedder", charts=11)
        expect(page.locator("#latency")).to_have_attribute(
            "aria-label", "Latency, mean: stable 24.9 ms, canary 27.1 ms, limit 120 ms"
        )
        expect(page.locator("#evidence-latency figcaption")).to_contain_text("fails at 80")
        browser.accessible(page)
        browser.keep(page, f"release-{scheme}")


def test_the_page_fits_a_phone(shown: str, chromium: Browser) -> None:
    phone = {"viewport": {"width": 375, "height": 740}, "has_touch": True, "is_mobile": True}
    with browser.page(chromium, shown, **phone) as page:
        browser.fits(page)
        browser.accessible(page)
        browser.keep(page, "releases-phone")
        open_release(page, "defect-embedder", charts=11)
        browser.fits(page)
        browser.accessible(page)
        browser.keep(page, "release-phone")


def test_the_page_is_steered_by_keyboard(control_plane: ControlPlane, shown: str, chromium: Browser) -> None:
    with browser.page(chromium, shown) as page:
        for key in ("j", "j", "Enter"):
            page.keyboard.press(key)
        expect(page.get_by_role("heading", level=1)).to_have_text("defect-embedder")
        expect(page.locator("#back")).to_be_focused()
        for verb in ("promote", "pause", "abort"):
            page.keyboard.press("Tab")
            expect(page.locator(f"#{verb}")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_contain_text("Abort defect-embedder?")
        expect(page.locator("#confirm-no")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.locator("#abort")).to_be_focused()
        assert showcase.annotation(control_plane, "defect-embedder") == {}
        page.keyboard.press("p")
        for key in ("Tab", "Enter"):
            page.keyboard.press(key)
        command = obey(control_plane, "defect-embedder", "promote")
        assert (command["revision"], command["step"]) == ("r7c41d", 6)
        expect(page.locator("#said")).to_have_text("promote: did promote")

        expect(page.locator("#latency svg")).to_have_count(1)
        page.locator("#latency").focus()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#latency figcaption")).to_contain_text("UTC")
        page.keyboard.press("Escape")
        expect(page.get_by_role("link", name="defect-embedder")).to_be_focused()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_contain_text("next and previous release")
        browser.accessible(page)


def test_every_button_writes_its_command_and_the_page_follows(
    control_plane: ControlPlane, shown: str, chromium: Browser
) -> None:
    with browser.page(chromium, shown) as page:
        page.get_by_role("link", name="catalog-embedder").click()
        for verb in ("Promote", "Pause", "Abort"):
            press(page, verb)
            command = obey(control_plane, "catalog-embedder", verb.lower())
            assert (command["revision"], command["step"]) == ("r12c41d", 4)
            expect(page.locator("#said")).to_have_text(f"{verb.lower()}: did {verb.lower()}")
        showcase.write(control_plane, "catalog-embedder", {"canary": {"paused": True}, "weight": {"achieved": 13}})
        expect(page.get_by_role("button", name="Pause", exact=True)).to_have_count(0)
        press(page, "Resume")
        obey(control_plane, "catalog-embedder", "resume")
        page.get_by_role("link", name="all releases").click()
        page.get_by_role("link", name="ticket-embedder").click()
        expect(page.locator("#commands button")).to_have_text(["Retry"])
        press(page, "Retry")
        assert "revision" not in obey(control_plane, "ticket-embedder", "retry")


def test_without_prometheus_the_page_shows_what_the_statuses_said(
    control_plane: ControlPlane, shown: str, chromium: Browser, tmp_path: Path
) -> None:
    arguments = ("-n", showcase.NAMESPACE, "--prometheus", "http://127.0.0.1:9", "--read-only")
    with browser.dashboard(control_plane, tmp_path, *arguments) as address, browser.page(chromium, address) as page:
        expect(page.locator("#where")).to_have_text("namespace search · read only")
        open_release(page, "defect-embedder", charts=5)
        expect(page.locator("#missing")).to_contain_text("Prometheus at http://127.0.0.1:9 does not answer")
        assert page.locator("#commands").count() == 0
        gates = showcase.status(control_plane, "defect-embedder")["gates"]
        gates[1] |= {"evidence": "81.5", "verdict": "Fail"}
        showcase.write(control_plane, "defect-embedder", {"gates": gates, "verdict": "Fail"})
        expect(page.locator("#evidence-latency")).to_have_attribute(
            "aria-label", re.compile("evidence 81.5, fails at 80")
        )
        answer = asked(address, "POST", "/api/releases/search/defect-embedder/command", '{"verb": "abort"}')
        assert (answer[0], "--read-only" in answer[1]) == (403, True)


def asked(address: str, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str, dict[str, str]]:
    """What the page's server answers to a request with its token; `headers` go before."""
    host, token = re.fullmatch(r"http://([^/]+)/#token=(.*)", address).groups()  # type: ignore[union-attr]
    usual = {"Host": host, "Authorization": f"Bearer {token}"}
    with closing(http.client.HTTPConnection(host, timeout=10)) as connection:
        connection.request(
            method, path, body, usual | {name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.headers)


def test_the_page_answers_nobody_but_who_was_given_its_address(shown: str) -> None:
    assert asked(shown, "GET", "/api/releases")[0] == 200
    assert asked(shown, "GET", "/api/releases", Authorization="Bearer guessed")[0] == 401
    assert asked(shown, "GET", "/", Host="evil.example:8742")[0] == 421
    command = "/api/releases/search/defect-embedder/command"
    abort = '{"verb": "abort"}'
    assert asked(shown, "POST", command, abort, Origin="http://evil.example")[0] == 403
    assert asked(shown, "POST", command, abort, Sec_Fetch_Site="cross-site")[0] == 403
    assert asked(shown, "POST", command, '{"verb": "undo"}')[0] == 400
    assert asked(shown, "POST", command, "no JSON")[0] == 400
    assert asked(shown, "POST", "/api/releases/search/nobody/command", abort)[0] == 404
    status, text, headers = asked(shown, "GET", "/", Authorization="")
    assert (status, "token=" in text) == (200, False)
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert re.findall(r'(?:src|href)="(?!/|#)', text) == []


def test_the_page_ends_on_ctrl_c_and_says_when_its_port_is_taken(control_plane: ControlPlane, shown: str) -> None:
    port = shown.split(":")[2].split("/")[0]
    taken = plugin(control_plane, "dashboard", "--no-browser", "--port", port)
    assert taken.returncode == 1
    assert f"port {port} is taken" in taken.stderr
    assert "--port names another" in taken.stderr
    command = [sys.executable, "-m", "serinus_operator.cli", "dashboard", "--no-browser", "--port", "0"]
    environment = os.environ | {"KUBECONFIG": str(control_plane.kubeconfig), "PYTHONUNBUFFERED": "1"}
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    try:
        assert started.stdout is not None
        assert started.stdout.readline().startswith("http://127.0.0.1:")
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate(timeout=20)
    finally:
        started.kill()
        started.communicate()
    assert (started.returncode, errors.strip()) == (0, "the page is no longer served")
