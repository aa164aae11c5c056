"""Two spaces that no metric tells apart, kept apart through a whole release: real operator, API server, MLflow, Prometheus, and servers.

all-MiniLM-L6-v2 is one space, the same model followed by an orthogonal Dense layer the other. Pods are processes, and are killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from examples.sentences import sentences
from tests.cluster import binaries
from tests.cluster.binaries import tail
from tests.cluster.control_plane import ControlPlane
from tests.integration.conftest import Operator, eventually
from tests.integration.nodes import Node
from tests.integration.surroundings import free_port, operator_environment, process
from tests.integration.team import MlflowClient, Team
from tests.server.conftest import minilm, packaged, rotated

from serinus_contract import manifest as contract
from serinus_contract.manifest import Manifest
from serinus_contract.metrics import MIRRORED_TOTAL
from serinus_contract.names import DIGEST_TAG, HTTP_PORT, SPACE_HEADER, SPACE_TAG, space_service
from serinus_server.encoders.choice import load_encoder
from serinus_server.package import read_manifest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.model,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
__all__ = ["minilm", "packaged", "rotated"]

REQUESTS = int(os.environ.get("SERINUS_SPACES_REQUESTS", "1500"))
CLIENTS = 4
TEXTS = sentences()[:12]


@dataclass
class Seen:
    """What clients got. `outside` are answers that break a pin, or whose vector is not of the space that they name."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    asked: int = 0
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)  # by what was pinned and what came
    outside: list[str] = field(default_factory=list)
    shared: list[tuple[float, str]] = field(default_factory=list)  # when, and the space of an answer without a pin


@dataclass
class Clients:
    """Sends mixed requests until told to stop: without a pin, with one to either space, through the shared Service and a space's own."""

    node: Node
    spaces: tuple[str, str]
    vectors: dict[str, np.ndarray]  # by space, (texts, dim)
    seen: Seen = field(default_factory=Seen)
    pins_first: bool = True
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Clients:
        self.threads = [threading.Thread(target=self._run, args=(seed,), daemon=True) for seed in range(CLIENTS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(40)

    def _run(self, seed: int) -> None:
        rng = random.Random(seed)
        with httpx.Client(timeout=20, limits=httpx.Limits(max_keepalive_connections=4)) as client:
            while not self.stop.is_set():
                pin = rng.choice(["", self.spaces[0] if self.pins_first else "", self.spaces[1]])
                own = pin and rng.random() < 0.3
                service = space_service(self.node.release, pin) if own else self.node.release
                addresses = self.node.addresses(service)
                if not addresses:
                    time.sleep(0.05)
                    continue
                self._ask(client, rng.choice(addresses), pin, rng.randrange(len(TEXTS)))
                time.sleep(
                    0.01 if self.seen.asked < REQUESTS else 0.1
                )  # then only until the release has come to its end

    def _ask(self, client: httpx.Client, address: str, pin: str, text: int) -> None:
        headers = {SPACE_HEADER: pin} if pin else {}
        try:
            answer = client.post(f"http://{address}:{HTTP_PORT}/predict", json={"inputs": TEXTS[text]}, headers=headers)
        except httpx.HTTPError as error:
            came, wrong = type(error).__name__, ""
        else:
            came, wrong = self._judge(answer, pin, text)
        with self.seen.lock:
            self.seen.asked += 1
            self.seen.answers[pin and str(1 + self.spaces.index(pin)), came] += 1
            if wrong:
                self.seen.outside.append(wrong)
            if not pin and came in ("1", "2"):
                self.seen.shared.append((time.monotonic(), came))

    def _judge(self, answer: httpx.Response, pin: str, text: int) -> tuple[str, str]:
        if answer.status_code != 200:
            return str(answer.status_code), "vectors in a refusal" if "embeddings" in answer.text else ""
        space = answer.headers[SPACE_HEADER]
        vector = np.array(answer.json()["embeddings"][0])
        if pin and space != pin:
            return space, f"{space} for a pin to {pin}"
        if float(vector @ self.vectors[space][text]) < 0.999:
            return space, f"the vector is not of {space}"
        return str(1 + self.spaces.index(space)), ""


def register(team: Team, folder: Path) -> str:
    """A version whose tags say what the folder is; the alias moves when all of them are there."""
    manifest = Manifest.from_json((folder / contract.PATH).read_text())
    run = team.registry.create_run("0").info
    version = str(
        team.registry.create_model_version(team.model, f"{run.artifact_uri}/model", run_id=run.run_id).version
    )
    team.registry.set_model_version_tag(team.model, version, DIGEST_TAG, manifest.digest)
    team.registry.set_model_version_tag(team.model, version, SPACE_TAG, manifest.space)
    team.registry.set_registered_model_alias(team.model, "challenger", version)
    return version


def copies_sent(node: Node) -> float:
    """By the servers that run now."""
    sent = 0.0
    for container in list(node.containers.values()):
        with contextlib.suppress(httpx.HTTPError):
            shown = httpx.get(f"http://{container.address}:{HTTP_PORT}/metrics", timeout=5).text
            values = re.findall(rf'^{MIRRORED_TOTAL}{{outcome="sent"}} (\S+)$', shown, re.MULTILINE)
            sent += sum(map(float, values))
    return sent


def vectors_of(folder: Path) -> np.ndarray:
    encoder = load_encoder("onnx", folder, read_manifest(folder), 1)
    return encoder.encode(encoder.tokenize(TEXTS))


@pytest.fixture
def node(control_plane: ControlPlane, packaged: Path, rotated: Path, tmp_path: Path) -> Iterator[Node]:
    with Node(control_plane, "spaces", tmp_path / "node", {"1": packaged, "2": rotated}) as running:
        yield running
    assert running.errors == []


@pytest.fixture
def prometheus(node: Node, tmp_path: Path) -> Iterator[str]:
    port, configuration, data = free_port(), tmp_path / "prometheus.json", tmp_path / "prometheus"
    jobs = [{"job_name": "serinus", "file_sd_configs": [{"files": [str(node.targets)], "refresh_interval": "1s"}]}]
    scraping = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    configuration.write_text(json.dumps({"global": scraping, "scrape_configs": jobs}))
    command = [str(binaries.prometheus()), f"--config.file={configuration}", f"--storage.tsdb.path={data}",
               f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    with process(command, tmp_path / "prometheus.log"):
        url = f"http://127.0.0.1:{port}"
        eventually("Prometheus is ready", lambda: _ready(url))
        yield url


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/-/ready", timeout=2).status_code == 200
    return False


@pytest.fixture
def releasing(control_plane: ControlPlane, mlflow_server: str, prometheus: str, tmp_path: Path) -> Iterator[Operator]:
    environment = operator_environment(control_plane.kubeconfig, mlflow_server, prometheus)
    quick = {"SERINUS_SCRAPE_LAG_SECONDS": "2", "SERINUS_REGISTRY_POLL_SECONDS": "1"}
    started = Operator(environment | quick, tmp_path / "operator.log")
    started.start()
    yield started
    started.stop()
    assert "Traceback" not in started.log.read_text(), tail(started.log, 60)


def test_no_answer_is_outside_its_pin_in_a_whole_release_with_pods_killed(
    control_plane: ControlPlane, mlflow_server: str, node: Node, releasing: Operator, packaged: Path, rotated: Path,
) -> None:  # fmt: skip
    team = Team(control_plane, MlflowClient(tracking_uri=mlflow_server, registry_uri=mlflow_server), "spaces")
    spaces = tuple(Manifest.from_json((each / contract.PATH).read_text()).space for each in (packaged, rotated))
    first, second = spaces
    assert first != second
    known = dict(zip(spaces, map(vectors_of, (packaged, rotated)), strict=True))
    assert float(np.abs((known[first] * known[second]).sum(axis=1)).max()) < 0.5  # equal shape, and nothing to compare
    register(team, packaged)
    team.apply(
        replicas=2,
        serving={"drain": "1s"},
        strategy={
            "onSpaceChange": "Pinned", "spaceRetention": "10s", "progressDeadline": "2m", "scaleDownDelay": "0s", "bake": "0s",
            "steps": [{"setWeight": 50}, {"analysis": {"duration": "10s"}}],
        },
        analysis={"interval": "2s", "minRequests": 30, "gates": [{"name": "errors", "errorRate": {}}]},
    )  # fmt: skip
    eventually("version 1 is stable", lambda: team.stable_version() == "1", 120, team.status)
    rng = random.Random(4)
    with Clients(node, (first, second), known) as clients:
        seen = clients.seen
        register(team, rotated)
        canary = eventually("a canary is on trial", lambda: team.status().get("weight", {}).get("desired"), 60)
        assert canary
        node.kill_one(rng)
        eventually("stable's servers send copies", lambda: copies_sent(node) >= 30, 90, team.status)
        assert {space for _, space in seen.shared} == {"1"}  # of the shared requests the canary gets copies alone
        node.kill_one(rng)
        eventually(
            "version 2 is stable", lambda: team.status().get("stable", {}).get("version") == "2", 240, team.status
        )
        promoted_at = time.monotonic()
        node.kill_one(rng)
        assert [each["space"] for each in team.status()["retained"]] == [first]
        eventually("requests enough", lambda: seen.asked >= REQUESTS, 900, lambda: seen.answers)
        eventually("its time of retention has passed", lambda: time.monotonic() > promoted_at + 15)
        assert len(team.kinds("deployments")) == 2  # for longer than its retention: clients pin it
        clients.pins_first = False
        eventually("the first space has gone", lambda: not team.status().get("retained"), 120, team.status)
        eventually("one Deployment is left", lambda: len(team.kinds("deployments")) == 1, 60)
        eventually("its pods too", lambda: len(node.containers) == 2, 60)
        (address, *_) = node.addresses("spaces")
        refused = httpx.post(
            f"http://{address}:{HTTP_PORT}/predict", json={"inputs": "a"}, headers={SPACE_HEADER: first}, timeout=20
        )
    print(
        f"{seen.asked} requests, {node.killed} pods killed, {node.begun} begun; by pin and answer: {dict(sorted(seen.answers.items()))}"
    )
    assert seen.outside == []
    assert node.killed == 3
    assert (refused.status_code, second in refused.json()["error"]["message"]) == (409, True)
    order = [space for _, space in sorted(seen.shared)]
    switched = order.index("2")
    late = [at for at, space in sorted(seen.shared)[switched:] if space == "1"]
    assert not late or max(late) < sorted(seen.shared)[switched][0] + 5  # connections under way, endpoints that lag
    for pin in ("1", "2"):
        assert seen.answers[pin, pin] > REQUESTS / 20
