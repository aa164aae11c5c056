"""What the operator posts is what a real Alertmanager posts, field for field, with Slack's `text` beside it."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.cluster import debian
from tests.integration.surroundings import eventually, free_port, process

from serinus_operator.manifests import Release
from serinus_operator.notify import Notifier, payload
from serinus_operator.rollout.actions import Event

pytestmark = pytest.mark.integration

RELEASE = Release("team", "defect-embedder", "uid")
ROLLED_BACK = Event("Warning", "RolledBack", 'revision ab12: errors: canary 41/2310 (1.8 %), "worse than stable"')
PROMOTED = Event("Normal", "Promoted", "revision ab12 serves")


@contextlib.contextmanager
def receiver() -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    """A webhook; yields its address and what was posted to it."""
    posted: queue.Queue[dict[str, Any]] = queue.Queue()

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", posted
        server.shutdown()


@contextlib.contextmanager
def alertmanager(folder: Path, webhook: str) -> Iterator[str]:
    """Debian's Alertmanager, which posts at once to the webhook."""
    name = "prometheus-alertmanager"
    program = debian.program(name, name)
    # Debian's reads its templates from /usr/share; they are put there for it alone.
    templates = "/usr/share/prometheus/alertmanager"
    there = (
        f"mount -t tmpfs none /usr/share && mkdir -p {templates} && cp -r {program.parents[2]}{templates}/* {templates}"
    )
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c", f'{there} && exec "$@"', "sh"]
    route = {"receiver": "serinus", "group_wait": "10ms", "group_by": ["alertname", "namespace", "release"]}
    hooks = [{"name": "serinus", "webhook_configs": [{"url": webhook}]}]
    configuration, port = folder / "alertmanager.json", free_port()
    configuration.write_text(json.dumps({"route": route, "receivers": hooks}))
    url = f"http://127.0.0.1:{port}"
    command = [
        *alone, str(program), f"--config.file={configuration}", f"--storage.path={folder}", f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]  # fmt: skip
    with process(command, folder / "alertmanager.log"):
        eventually("Alertmanager is ready", lambda: _ready(url))
        yield url


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/-/ready", timeout=2).status_code == 200
    return False


def kinds(value: Any) -> Any:
    """The same structure with types for values."""
    if isinstance(value, dict):
        return {name: kinds(each) for name, each in value.items()}
    return [kinds(each) for each in value] if isinstance(value, list) else type(value).__name__


async def test_the_webhook_gets_what_alertmanager_posts_and_a_text_for_slack(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    with receiver() as (url, posted), alertmanager(tmp_path, url) as real:
        ours = payload(RELEASE, ROLLED_BACK, now)
        alert = {name: ours["alerts"][0][name] for name in ("labels", "annotations", "startsAt", "generatorURL")}
        async with httpx.AsyncClient() as client:
            (await client.post(f"{real}/api/v2/alerts", json=[alert])).raise_for_status()
        theirs = posted.get(timeout=20)
        notifier = Notifier(url)
        for event in (ROLLED_BACK, PROMOTED, Event("Normal", "WeightSet", "25 %")):
            notifier.tell(RELEASE, event, now)
        await notifier.settled()
        sent = [posted.get(timeout=20) for _ in range(2)]
        assert posted.empty()
    assert ours.pop("text") == f"team/defect-embedder: RolledBack: {ROLLED_BACK.message}"
    assert kinds(ours) == kinds(theirs)
    assert theirs.pop("externalURL").startswith("http")
    assert ours.pop("externalURL").startswith("https://")
    assert ours == theirs
    by_name = {each["commonLabels"]["alertname"]: each for each in sent}
    assert by_name["SerinusRolledBack"]["status"] == "firing"
    (over,) = by_name["SerinusPromoted"]["alerts"]
    assert (over["status"], over["endsAt"]) == ("resolved", over["startsAt"])
