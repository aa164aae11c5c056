"""A real server process with the real model."""

from __future__ import annotations

import base64
import contextlib
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.bench import server_soak
from tests.server.conftest import Served, start, stop

from serinus_contract import manifest as contract
from serinus_contract.manifest import Manifest

pytestmark = pytest.mark.model


def predict(served: Served, inputs: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{served.url}/predict", json={"inputs": inputs}, headers=headers, timeout=30)


def test_predict_returns_embeddings_confidence_and_model_version(served: Served, packaged: Path) -> None:
    manifest = Manifest.from_json((packaged / contract.PATH).read_text())
    answer = predict(
        served, ["An assert statement is a convenient way to insert debugging assertions.", "Boil the potatoes."]
    )
    assert answer.status_code == 200
    body = answer.json()
    vectors = np.array(body["embeddings"])
    assert vectors.shape == (2, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert body["confidence"][0] > 0.75 > body["confidence"][1]
    assert body["model"]["version"] == "folder"
    assert answer.headers["x-embedding-space"] == manifest.space
    assert answer.headers["x-request-id"] == body["request_id"]
    assert predict(served, "one text", **{"x-request-id": "mine"}).headers["x-request-id"] == "mine"


def test_outside_a_cluster_the_fastest_faithful_runtime_serves_and_info_says_why(served: Served) -> None:
    info = httpx.get(f"{served.url}/info", timeout=10).json()
    measured = info["backends_measured"]
    fit = {name: each["cpu_ms_per_text"] for name, each in measured.items() if each["lowest_cosine"] >= 0.999}
    assert info["backend"] == min(fit, key=lambda name: fit[name])
    assert info["dtype"] in ("float32", "bfloat16")
    assert "onnx-int8" in measured
    assert "onnx-int8" not in fit
    assert f'backend="{info["backend"]}"' in httpx.get(f"{served.url}/metrics", timeout=10).text


def test_openai_clients_get_floats_and_base64(served: Served) -> None:
    def ask(**extra: Any) -> httpx.Response:
        return httpx.post(f"{served.url}/v1/embeddings", json={"input": ["a text"], "model": "m", **extra}, timeout=30)

    floats = np.array(ask().json()["data"][0]["embedding"], dtype=np.float32)
    packed = np.frombuffer(base64.b64decode(ask(encoding_format="base64").json()["data"][0]["embedding"]), dtype="<f4")
    assert np.allclose(floats, packed, atol=1e-6)
    assert ask().json()["usage"]["total_tokens"] > 0
    assert ask(dimensions=128).status_code == 422


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"", 400, "JSON"),
        (b"[1]", 400, "object"),
        (b"{}", 422, "inputs is missing"),
        (b'{"inputs": 7}', 422, "not int"),
        (b'{"inputs": []}', 422, "at least one"),
        (b'{"inputs": ["a", 7]}', 422, "inputs[1]"),
        (b'{"inputs": "  "}', 422, "inputs[0] is empty"),
        (b'{"inputs": "' + b"a" * 40_000 + b'"}', 413, "inputs[0] has 40000"),
        (b'{"inputs": [' + b",".join([b'"a"'] * 300) + b"]}", 413, "300 texts"),
    ],
)
def test_bad_input_is_refused_with_the_fields_name(served: Served, body: bytes, status: int, named: str) -> None:
    answer = httpx.post(f"{served.url}/predict", content=body, timeout=30)
    assert answer.status_code == status
    assert named in answer.json()["error"]["message"]
    assert predict(served, "still alive").status_code == 200


def test_a_50_mb_body_is_refused_and_the_process_lives(served: Served) -> None:
    def stream() -> Any:
        for _ in range(50):
            yield b"x" * 1_000_000

    for content in (b"x" * 50_000_000, stream()):
        with contextlib.suppress(httpx.WriteError):  # the server may answer and close before all of it was sent
            assert httpx.post(f"{served.url}/predict", content=content, timeout=30).status_code == 413
    assert predict(served, "still alive").status_code == 200


def test_a_client_that_pins_another_space_is_never_answered(served: Served) -> None:
    refused = predict(served, "text", **{"x-embedding-space": "another"})
    assert refused.status_code == 409
    assert "embeddings" not in refused.json()


def test_every_answer_matches_its_text_under_concurrency(served: Served, corpus: list[str]) -> None:
    texts = corpus[:64]
    expected = np.array(predict(served, texts).json()["embeddings"])
    wrong: list[int] = []

    def ask(index: int) -> None:
        vector = np.array(predict(served, texts[index]).json()["embeddings"][0])
        if int((expected @ vector).argmax()) != index:
            wrong.append(index)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_metrics_have_the_contracts_names(served: Served) -> None:
    predict(served, "text")
    shown = httpx.get(f"{served.url}/metrics", timeout=10).text
    for name in (
        'serinus_requests_total{code="500",route="/predict"} 0.0',
        "serinus_request_duration_seconds_sum",
        "serinus_confidence_count",
        "serinus_drift_effective_texts",
        'serinus_drift{signal="embedding",statistic="shift"}',
        "serinus_input_out_of_band_total",
        "serinus_embedding_out_of_band_total",
    ):
        assert name in shown
    cosine = re.search(r"^serinus_probe_cosine (\S+)$", shown, re.MULTILINE)
    assert cosine is not None
    assert float(cosine[1]) == pytest.approx(1.0, abs=1e-4)


def test_under_load_with_clients_that_leave_no_request_fails_and_memory_is_read(served: Served) -> None:
    """The ten minutes of `make bench-soak` in three seconds; whether memory is flat is judged there."""
    port = int(served.url.rpartition(":")[2])
    found = server_soak.soak(port, served.process.pid, rate=40, seconds=3, part_seconds=1)
    assert found["answered"] > 60
    assert len(found["memory_mb"]) == 3
    assert all(megabytes > 50 for megabytes in found["memory_mb"])
    steady, growing = [100.0] * 12, [100.0 + number for number in range(12)]
    assert [grown <= allowed for grown, allowed in map(server_soak.growth_mb, (steady, [2 * x for x in growing]))] == [
        True,
        False,
    ]


def test_sigterm_drains_without_a_failed_request(packaged: Path, tmp_path: Path) -> None:
    served = start(packaged, tmp_path / "server.log", SERINUS_DRAIN_SECONDS="2")
    served.wait_ready()
    failures: list[str] = []
    closing: list[bool] = []
    ended = threading.Event()

    def client() -> None:
        with httpx.Client() as session:
            while not ended.is_set():
                try:
                    answer = session.post(f"{served.url}/predict", json={"inputs": "a text"}, timeout=10)
                    closing.append(answer.headers.get("connection") == "close")
                    if answer.status_code != 200:
                        failures.append(str(answer.status_code))
                except httpx.HTTPError as error:
                    failures.append(repr(error))

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    time.sleep(1)
    served.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert httpx.get(f"{served.url}/ready", timeout=5).status_code == 503
    time.sleep(0.7)
    ended.set()
    for thread in clients:
        thread.join(20)
    assert served.process.wait(20) == 0
    assert failures == []
    assert closing[-1]
    assert not closing[0]


def test_aged_connections_are_closed(packaged: Path, tmp_path: Path) -> None:
    served = start(packaged, tmp_path / "server.log", SERINUS_DRAIN_SECONDS="0", SERINUS_CONNECTION_AGE_SECONDS="0.5")
    served.wait_ready()
    with httpx.Client() as session:
        first = session.post(f"{served.url}/predict", json={"inputs": "a text"}, timeout=10)
        time.sleep(0.7)
        second = session.post(f"{served.url}/predict", json={"inputs": "a text"}, timeout=10)
    assert "connection" not in first.headers
    assert second.headers["connection"] == "close"
    assert stop(served) == 0


@pytest.mark.parametrize("limit", [{"SERINUS_QUEUE_TOKENS": "600"}, {"SERINUS_QUEUE_SECONDS": "0.05"}])
def test_full_or_slow_queue_answers_429_with_retry_after(
    limit: dict[str, str], packaged: Path, tmp_path: Path, corpus: list[str]
) -> None:
    served = start(packaged, tmp_path / "server.log", SERINUS_DRAIN_SECONDS="0", **limit)
    served.wait_ready()
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(predict(served, corpus[:40]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert stop(served) == 0
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)
