"""The HTTP surface over a runtime that takes no time: protocols, refusals, headers, tokens."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.metrics_core import Metric
from tests.server.toy import POISON, ToyEncoder, alive, vector_of

from serinus_contract.manifest import Manifest
from serinus_server.app import build
from serinus_server.edge import EdgeState
from serinus_server.encoders.choice import Choice
from serinus_server.loading import Model
from serinus_server.observing import Observer, Prediction
from serinus_server.package import Reference
from serinus_server.profile import make_profile
from serinus_server.settings import Settings


class Keeping:
    def __init__(self) -> None:
        self.kept: list[Prediction] = []
        self.closed = False

    def observe(self, predictions: Sequence[Prediction]) -> None:
        self.kept += predictions

    def collect(self) -> Iterator[Metric]:
        yield from ()

    async def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def serving(
    encoder: ToyEncoder | None = None,
    observers: Sequence[Observer] = (),
    dimensions: tuple[int, ...] = (),
    own_domain: bool = True,
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    encoder = encoder or ToyEncoder()
    model = Model("toy", "7", Path("/nowhere"), Manifest("space1", 4, 64, "mean", True, {}, dimensions=dimensions))
    rng = np.random.default_rng(1)
    profile = replace(make_profile(rng.random((60, 4), dtype=np.float32), [3] * 60), built_in=not own_domain)
    golden = np.stack([vector_of(encoder.tokenize(["probe"])[0])])
    reference = Reference(("probe",), golden, np.zeros((1, 10), dtype=np.int32), profile)
    parsed = Settings(MLFLOW_MODEL_URI="toy", **settings)
    app = build(parsed, model, Choice(encoder, "a test"), reference, EdgeState(), observers)
    async with alive(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://toy") as client:  # type: ignore[arg-type]
        yield client


async def shows(client: httpx.AsyncClient, path: str, status: int) -> None:
    async with asyncio.timeout(5):
        while (await client.get(path)).status_code != status:  # noqa: ASYNC110 - another process would poll as well
            await asyncio.sleep(0.01)


async def test_openai_answers_texts_and_token_lists_alike() -> None:
    async with serving() as client:
        ids = [0, *map(ord, "hello")]
        vectors = []
        for given in ("hello", ["hello"], ids, [ids]):
            answer = await client.post("/v1/embeddings", json={"input": given, "encoding_format": "base64"})
            body = answer.json()
            assert body["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
            vectors.append(np.frombuffer(base64.b64decode(body["data"][0]["embedding"]), dtype="<f4"))
        assert all(np.array_equal(vector, vector_of(ids)) for vector in vectors)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"input": [1, -1]}, 422, "input"),
        ({"input": [True]}, 422, "input"),
        ({"input": [[1], "a"]}, 422, "input"),
        ({"input": [[]]}, 422, "input"),
        ({"input": [1] * 65}, 413, "input"),
        ({"input": "a", "dimensions": 2}, 422, "dimensions"),
        ({"input": "a", "dimensions": True}, 422, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, 422, "encoding_format"),
        ({}, 422, "input"),
    ],
)
async def test_refusals_come_in_openais_envelope_and_name_the_field(body: Any, status: int, field: str) -> None:
    async with serving() as client:
        answer = await client.post("/v1/embeddings", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (status, field, "invalid_request_error")
    assert set(error) == {"message", "type", "param", "code"}


async def test_vectors_are_cut_where_the_model_was_trained_for_it_and_are_a_space_of_their_own() -> None:
    async with serving(dimensions=(3, 2)) as client:
        whole = vector_of([0, *map(ord, "hello")])

        async def asked(path: str, body: Any, pin: str = "") -> httpx.Response:
            return await client.post(path, json=body, headers={"x-embedding-space": pin} if pin else {})

        for pin in ("", "space1;d=2"):
            answer = await asked("/v1/embeddings", {"input": "hello", "dimensions": 2}, pin)
            assert answer.headers.get_list("x-embedding-space") == ["space1;d=2"]
            assert np.allclose(answer.json()["data"][0]["embedding"], whole[:2] / np.linalg.norm(whole[:2]))
        by_pin = await asked("/predict", {"inputs": ["hello", "you"]}, "space1;d=3")
        assert by_pin.json()["model"]["space"] == by_pin.headers["x-embedding-space"] == "space1;d=3"
        assert [len(each) for each in by_pin.json()["embeddings"]] == [3, 3]
        own = await asked("/v1/embeddings", {"input": "hello", "dimensions": 4}, "space1")
        assert own.headers["x-embedding-space"] == "space1"
        assert (await asked("/v1/embeddings", {"input": "hello", "dimensions": 2}, "space1")).status_code == 409
        assert (await asked("/v1/embeddings", {"input": "hello", "dimensions": 4}, "space1;d=2")).status_code == 409
        assert (await asked("/predict", {"inputs": "hello"}, "space1;d=1")).status_code == 409
        refused = await asked("/v1/embeddings", {"input": "hello", "dimensions": 1})
        assert (refused.status_code, "may be cut to 3, 2" in refused.json()["error"]["message"]) == (422, True)


async def test_the_open_inference_protocol_is_spoken() -> None:
    async with serving() as client:
        tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a", "bc"]}
        answer = (await client.post("/v2/models/toy/infer", json={"id": "mine", "inputs": [tensor]})).json()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("toy", "7", "mine")
        embedding, confidence = answer["outputs"]
        assert (embedding["name"], embedding["datatype"], embedding["shape"], len(embedding["data"])) == (
            "embedding",
            "FP32",
            [2, 4],
            8,
        )
        assert confidence["shape"] == [2]
        assert np.allclose(embedding["data"][4:], vector_of([0, *map(ord, "bc")]))
        for wrong in ({**tensor, "shape": [3]}, {**tensor, "datatype": "FP32"}, {**tensor, "data": "a"}):
            refused = await client.post("/v2/models/toy/infer", json={"inputs": [wrong]})
            assert refused.status_code == 422
            assert "inputs[0]" in refused.json()["error"]
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/toy", "/v2/models/toy/ready"):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.post("/v2/models/other/infer", json={"inputs": [tensor]})).status_code == 404


async def test_every_answer_names_request_model_space_and_trace_and_where_its_time_went() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serving() as client:
        for path, body in (("/predict", {"inputs": "a"}), ("/v1/embeddings", {"input": "a"}), ("/predict", {})):
            answer = await client.post(path, json=body, headers={"traceparent": trace, "x-request-id": "mine"})
            assert answer.headers["x-request-id"] == "mine"
            assert answer.headers["x-model-version"] == "7"
            assert answer.headers["x-embedding-space"] == "space1"
            assert answer.headers["traceparent"] == trace
            if answer.status_code == 200:
                assert {each.split(";")[0] for each in answer.headers["server-timing"].split(", ")} == {
                    "tokenize",
                    "queue",
                    "encode",
                }
        assert (await client.get("/predict")).status_code == 405
        assert (await client.get("/info", headers={"traceparent": trace})).headers["traceparent"] == trace


async def test_a_pin_to_another_space_is_refused_and_is_no_fault_of_this_revision() -> None:
    async with serving() as client:
        refused = await client.post("/predict", json={"inputs": "a"}, headers={"x-embedding-space": "0" * 16})
        shown = (await client.get("/metrics")).text
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "other_space")
    assert "embeddings" not in refused.json()
    assert 'serinus_forwarded_total{code="409"} 1.0' in shown
    assert 'code="409",route="/predict"' not in shown


async def test_a_deadline_is_kept_and_one_that_cannot_be_read_is_refused() -> None:
    encoder = ToyEncoder(lanes=1)
    async with serving(encoder) as client:
        encoder.may_go_on.clear()
        late = await client.post("/predict", json={"inputs": "a"}, headers={"x-request-timeout-ms": "50"})
        encoder.may_go_on.set()
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        for wrong in ("soon", "0", "-5", "1.5"):
            assert (
                await client.post("/predict", json={"inputs": "a"}, headers={"x-request-timeout-ms": wrong})
            ).status_code == 400
        assert (
            await client.post("/predict", json={"inputs": "a"}, headers={"x-request-timeout-ms": "5000"})
        ).status_code == 200


async def test_with_keys_set_only_bearers_are_let_in_and_probes_stay_open() -> None:
    async with serving(SERINUS_API_KEYS=("old", "new")) as client:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic new"},
            {"authorization": "Bearer"},
        ):
            refused = await client.post("/predict", json={"inputs": "a"}, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert (await client.get("/info", headers=headers)).status_code == 401
        for key in ("old", "new"):
            answer = await client.post("/predict", json={"inputs": "a"}, headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == 200
        for path in ("/livez", "/readyz", "/ready", "/metrics", "/v2/health/ready"):
            assert (await client.get(path)).status_code == 200, path


async def test_readiness_and_liveness_follow_the_encoder() -> None:
    encoder = ToyEncoder()
    async with serving(encoder) as client:
        encoder.raises = MemoryError()
        assert (await client.post("/predict", json={"inputs": "a"})).status_code == 500
        await shows(client, "/readyz", 503)
        assert (await client.get("/livez")).status_code == 200
        encoder.raises = None
        await shows(client, "/readyz", 200)


async def test_observers_learn_of_each_text_of_answered_requests_and_are_closed() -> None:
    keeping = Keeping()
    async with serving(observers=[keeping]) as client:
        await client.post("/predict", json={"inputs": ["ab", "c"]}, headers={"x-request-id": "r"})
        await client.post("/predict", json={"inputs": chr(POISON)})
        await client.post("/v1/embeddings", json={"input": [0, 97]})
        kept = [(each.index, each.tokens, each.characters, each.text, each.space) for each in keeping.kept]
        assert kept == [(0, 3, 2, "ab", "space1"), (1, 2, 1, "c", "space1"), (0, 2, 0, None, "space1")]
        assert all(0 <= (each.confidence or 0) <= 1 and each.latency_seconds > 0 for each in keeping.kept)
        assert keeping.kept[0].request_id == "r"
    assert keeping.closed


async def test_metrics_tell_where_time_and_padding_went() -> None:
    async with serving() as client:
        await client.post("/predict", json={"inputs": ["a", "bcd"]})
        await client.post("/predict", json={})
        shown = (await client.get("/metrics")).text
    for line in (
        'serinus_requests_total{code="200",route="/predict"} 1.0',
        'serinus_requests_total{code="422",route="/predict"} 1.0',
        "serinus_queue_seconds_count",
        "serinus_tokenize_seconds_count",
        "serinus_padding_tokens_total",
        "serinus_confidence_count",
    ):
        assert line in shown


async def test_of_built_in_reference_texts_only_the_answer_knows() -> None:
    """No limit, gate, alert or log row may rest on what says nothing of the user's own domain."""
    keeping = Keeping()
    async with serving(observers=[keeping], own_domain=False) as client:
        answer = (await client.post("/predict", json={"inputs": ["a", "bcd"]})).json()
        shown = (await client.get("/metrics")).text
    assert all(0 <= each <= 1 for each in answer["confidence"])
    assert "serinus_confidence_count 0.0" in shown
    assert [each.confidence for each in keeping.kept] == [None, None]


def test_a_key_without_its_certificate_is_refused() -> None:
    with pytest.raises(ValueError, match="SERINUS_TLS_KEY are set together"):
        Settings(MLFLOW_MODEL_URI="m", SERINUS_TLS_KEY="/key.pem")
