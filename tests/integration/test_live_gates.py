"""The judge on real data: real servers with the real model, a real Prometheus that scrapes them, the operator's own reading and judging.

Twenty identical canaries: five servers take turns, one as the canary of the other four, in four spans of time. Three bad ones are judged
beside them: a model that fails on some texts (5xx), a good one behind a slow wire, one with damaged weights. Targets are static.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from examples.sentences import sentences
from onnx import numpy_helper
from tests.cluster import binaries
from tests.integration.surroundings import eventually, free_port, process
from tests.server.conftest import Served, minilm, packaged, start, stop

from serinus_contract import manifest as contract
from serinus_contract.manifest import Manifest
from serinus_contract.metrics import REQUESTS_TOTAL
from serinus_contract.names import RELEASE_SERIES_LABEL, REVISION_SERIES_LABEL
from serinus_operator.gates.judge import Evidence, GateVerdict, Verdict, judge, overall, verdicts
from serinus_operator.gates.queries import Said
from serinus_operator.gates.windows import Reading, subtract
from serinus_operator.prometheus import Prometheus
from serinus_operator.promql import Queries
from serinus_operator.spec import (
    AnalysisSpec,
    ConfidenceGate,
    DriftGate,
    ErrorRateGate,
    Gate,
    InconclusiveAction,
    LatencyGate,
)
from serinus_server.encoders.tokens import Tokenizing
from serinus_server.package import read_manifest, read_reference, sha256

pytestmark = [pytest.mark.integration, pytest.mark.model]
__all__ = ["minilm", "packaged"]

RELEASE = ("default", "embedder")
GOOD, SPANS, LOOKS = 5, 4, 12
INTERVAL, SCRAPE_LAG = timedelta(seconds=1), timedelta(seconds=1)
REQUESTS_PER_SECOND, SENDERS = 5.0, 2  # to each server
WIRE_SECONDS = 0.4
GATES = (
    Gate("errors", ErrorRateGate(), dry_run=False),
    Gate("latency", LatencyGate(warm_up=timedelta()), dry_run=False),
    Gate("confidence", ConfidenceGate(), dry_run=False),
    Gate("drift", DriftGate(), dry_run=True),
)
ANALYSIS = AnalysisSpec(INTERVAL, 0.05, 50, timedelta(minutes=30), InconclusiveAction.PAUSE, GATES)


@pytest.fixture(scope="module")
def packages(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model as it should be; with a short table of positions, so that long texts fail; with noise on its weights."""
    folder = tmp_path_factory.mktemp("packages")
    return {
        "good": packaged,
        "errors": _short_of_positions(packaged, folder / "errors"),
        "confidence": _damaged(packaged, folder / "bad"),
    }


def _short_of_positions(good: Path, target: Path) -> Path:
    """Loses the positions that only the longest half of the texts needs (and none of the texts to warm up with): they cannot be encoded."""

    def shorten(model: onnx.ModelProto) -> None:
        tokenize = Tokenizing(good, read_manifest(good))
        lengths = sorted(map(len, tokenize(sentences())))
        needed = max(map(len, tokenize(read_reference(good).probes[:8])))
        positions = next(each for each in model.graph.initializer if "position_embeddings" in each.name)
        rows = max(needed, lengths[len(lengths) // 2])
        positions.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(positions)[:rows], positions.name))

    return _changed(good, target, shorten)


def _damaged(good: Path, target: Path) -> Path:
    """Noise of one standard deviation on every weight matrix; the reference profile stays the trusted one."""

    def damage(model: onnx.ModelProto) -> None:
        rng = np.random.default_rng(0)
        for weights in model.graph.initializer:
            values = numpy_helper.to_array(weights)
            if values.ndim == 2 and values.dtype == np.float32:
                noise = rng.normal(0, values.std(), values.shape).astype(np.float32)
                weights.CopyFrom(numpy_helper.from_array(values + noise, weights.name))

    return _changed(good, target, damage)


def _changed(good: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    shutil.copytree(good, target)
    path = target / contract.ONNX_PATH
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path))
    manifest = Manifest.from_json((target / contract.PATH).read_text())
    files = {name: sha256(target / name) for name in manifest.files}
    (target / contract.PATH).write_text(replace(manifest, files=files).to_json())
    return target


@pytest.fixture(scope="module")
def servers(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    """Five good servers, then one of each bad kind; "latency" is a good one, of which the wire is slow."""
    folder = tmp_path_factory.mktemp("servers")
    wanted = {
        **{f"good-{index}": "good" for index in range(GOOD)},
        "errors": "errors",
        "latency": "good",
        "confidence": "confidence",
    }
    running = {
        name: start(packages[kind], folder / f"{name}.log", SERINUS_THREADS="1", SERINUS_DRAIN_SECONDS="0", SERINUS_BACKEND="onnx")
        for name, kind in wanted.items()
    }  # fmt: skip
    try:
        for served in running.values():
            served.wait_ready(120)
        yield running
    finally:
        for served in running.values():
            stop(served)


@pytest.fixture(scope="module")
def prometheus_url(servers: dict[str, Served], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prometheus; what its discovery of pods would attach are labels of static targets here."""

    def labels(name: str) -> dict[str, str]:
        return {"namespace": RELEASE[0], "pod": name, "serinus_dev_release": RELEASE[1], "serinus_dev_revision": name}

    hosts = {name: served.url.removeprefix("http://") for name, served in servers.items()}
    targets = [{"targets": [host], "labels": labels(name)} for name, host in hosts.items()]
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), targets) as url:
        eventually("every target is up", lambda: _up(url) == len(servers))
        yield url


@contextlib.contextmanager
def running_prometheus(folder: Path, targets: list[dict[str, Any]]) -> Iterator[str]:
    """Scrapes these targets twice a second."""
    port, configuration = free_port(), folder / "prometheus.json"
    jobs = [{"job_name": "serinus", "static_configs": targets}]
    configuration.write_text(
        json.dumps({"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"}, "scrape_configs": jobs})
    )
    command = [
        str(binaries.prometheus()), f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with process(command, folder / "prometheus.log"):
        eventually("Prometheus is ready", lambda: _answers(f"{url}/-/ready"))
        yield url


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=2).status_code == 200
    return False


def _up(url: str) -> int:
    result = httpx.get(f"{url}/api/v1/query", params={"query": "sum(up)"}, timeout=5).json()["data"]["result"]
    return int(result[0]["value"][1]) if result else 0


@contextlib.asynccontextmanager
async def slow_wire(url: str, seconds: float) -> AsyncIterator[str]:
    """A proxy that holds every request's body back for so long after its head: the server waits for its client."""
    host, _, port = url.removeprefix("http://").partition(":")

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, hold: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                head, end, body = data.partition(b"\r\n\r\n")
                writer.write(head + end)
                if hold and end:
                    await writer.drain()
                    await asyncio.sleep(seconds)
                writer.write(body)
                await writer.drain()
        writer.close()

    connections: set[asyncio.Task[None] | None] = set()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())
        their_reader, their_writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(pass_on(reader, their_writer, hold=True), pass_on(their_reader, writer, hold=False))
        finally:
            writer.close()
            their_writer.close()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        open_ones = [each for each in connections if each is not None and not each.done()]
        for each in open_ones:
            each.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)
        await asyncio.sleep(0)  # the closed transports' last call


async def traffic(url: str, texts: Sequence[str], rng: random.Random) -> None:
    """Single texts until cancelled, at the rate or as fast as answers come: a busy machine must not build up queues."""

    async def send_on(client: httpx.AsyncClient) -> None:
        await asyncio.sleep(rng.random() * SENDERS / REQUESTS_PER_SECOND)
        while True:
            due = time.monotonic() + SENDERS / REQUESTS_PER_SECOND
            with contextlib.suppress(httpx.HTTPError):
                await client.post(f"{url}/predict", json={"inputs": rng.choice(texts)})
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async with httpx.AsyncClient(timeout=10) as client, asyncio.TaskGroup() as tasks:
        for _ in range(SENDERS):
            tasks.create_task(send_on(client))


@dataclass
class Trial:
    """One canary among these pods, judged like a release from `began` on, until a gate fails it."""

    canary: str
    stable: frozenset[str]
    evidence: Evidence
    gates: tuple[GateVerdict, ...] = ()
    failed: list[GateVerdict] = field(default_factory=list)
    looks: int = 0

    def look(self, start: datetime, before: Reading, end: datetime, now: Reading) -> None:
        """One more window."""
        if self.failed:
            return
        self.looks += 1
        window = subtract(start, self._mine(before), end, self._mine(now))
        self.evidence = judge(ANALYSIS, self.evidence, window, "stable")
        self.gates = verdicts(ANALYSIS, self.evidence)
        self.failed = [gate for gate in self.gates if gate.verdict is Verdict.FAIL and not gate.dry_run]

    def _mine(self, reading: Reading) -> Reading:
        roles = dict.fromkeys(self.stable, "stable") | {self.canary: "canary"}
        return {(roles[pod], pod): sample for (_, pod), sample in reading.items() if pod in roles}


async def watch(prometheus: Prometheus, good: frozenset[str], bad: Sequence[str]) -> tuple[list[Trial], list[Trial]]:
    """Looks at each window a scrape after its end. Good canaries are tried anew in every span, bad ones from the first to the last look."""
    end = datetime.fromtimestamp(int(time.time()), UTC) - SCRAPE_LAG
    before = (await prometheus.snapshot(end))[RELEASE]
    identical: list[Trial] = []
    worse = [Trial(each, good, Evidence("canary", end)) for each in bad]
    for look in range(SPANS * LOOKS):
        if look % LOOKS == 0:
            identical += (trials := [Trial(each, good - {each}, Evidence("canary", end)) for each in sorted(good)])
        start, end = end, end + INTERVAL
        await asyncio.sleep(max(0.0, (end + SCRAPE_LAG - datetime.now(UTC)).total_seconds()))
        now = (await prometheus.snapshot(end))[RELEASE]
        for trial in (*trials, *worse):
            trial.look(start, before, end, now)
        before = now
    return identical, worse


async def test_identical_canaries_stay_and_bad_ones_are_failed_by_the_right_gate(
    servers: dict[str, Served], prometheus_url: str
) -> None:
    good, bad = frozenset(f"good-{index}" for index in range(GOOD)), ("errors", "latency", "confidence")
    async with slow_wire(servers["latency"].url, WIRE_SECONDS) as slow:
        urls = {name: slow if name == "latency" else served.url for name, served in servers.items()}
        texts = sentences()[400:]
        senders = [asyncio.create_task(traffic(url, texts, random.Random(name))) for name, url in urls.items()]
        await asyncio.sleep(6)  # the first requests pay for connections
        identical, worse = await watch(Prometheus(prometheus_url, 10), good, bad)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
    for trial in (*identical, *worse):
        print(
            f"{trial.canary}: {trial.looks} looks",
            *(gate.message for gate in trial.failed or trial.gates),
            sep="\n    ",
        )
    assert len(identical) == 20
    assert min(trial.evidence.requests for trial in identical) >= 20
    assert sum(bool(trial.failed) for trial in identical) <= 1
    for trial in worse:
        assert overall(trial.gates) is Verdict.FAIL, trial.gates
        assert [gate.name for gate in trial.failed] == [trial.canary], trial.gates


QUERIES = {
    "sum(up)": (Said.NUMBER, ""),
    "42": (Said.NUMBER, ""),
    "nothing_of_this_name": (Said.NOTHING, "no series"),
    "vector(0) / vector(0)": (Said.NOTHING, "NaN"),
    "vector(1) / vector(0)": (Said.INFINITE, "division by zero"),
    "up": (Said.UNREADABLE, "several series"),
    '"words"': (Said.UNREADABLE, "string"),
    "up[1m]": (Said.UNREADABLE, "matrix"),
    "sum(up": (Said.UNREADABLE, "parse error"),
    "up * on(job) up": (Said.UNREADABLE, "refuses the query"),
}


CLAIMS = f"""
{REQUESTS_TOTAL}{{namespace="victim",{RELEASE_SERIES_LABEL}="theirs",{REVISION_SERIES_LABEL}="c",pod="pod-c",code="500"}} 9000
{REQUESTS_TOTAL}{{code="200"}} 5
"""


@contextlib.contextmanager
def liar() -> Iterator[str]:
    """Serves metrics of a pod that speaks for another namespace's canary. Yields its host."""

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(CLAIMS.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


async def test_a_real_prometheus_names_its_answers_and_believes_its_targets_labels_alone(tmp_path: Path) -> None:
    labels = {"namespace": RELEASE[0], "pod": "p", RELEASE_SERIES_LABEL: RELEASE[1], REVISION_SERIES_LABEL: "r"}
    absent = {"targets": ["127.0.0.1:9"]}
    with liar() as host, running_prometheus(tmp_path, [absent, {"targets": [host], "labels": labels}]) as url:
        asked = {"query": f"count(up) + count({REQUESTS_TOTAL})"}
        eventually("both targets were tried", lambda: '"4"' in httpx.get(f"{url}/api/v1/query", params=asked).text)
        snapshot = await Prometheus(url, 10).snapshot(datetime.now(UTC))
        assert list(snapshot) == [RELEASE]
        assert {key: sample.counters.requests for key, sample in snapshot[RELEASE].items()} == {("r", "p"): 9005}
        for query, (said, problem) in QUERIES.items():
            measured = await Queries(url).measure(query, RELEASE[0], datetime.now(UTC))
            assert measured.said is said, (query, measured)
            assert problem in measured.problem
