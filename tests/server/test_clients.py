"""Clients that were not written by us, against a live server."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from tests.server.conftest import Served, start, stop

pytestmark = pytest.mark.model


def client(served: Served, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0, timeout=30)


def test_the_stock_openai_client_works_unchanged(served: Served) -> None:
    with client(served) as stock:
        texts = [
            "An assert statement inserts debugging assertions.",
            "Boil the potatoes.",
            "Cook the potatoes in water.",
        ]
        packed = stock.embeddings.create(model="any", input=texts)  # the client asks for base64 on its own
        plain = stock.embeddings.create(model="any", input=texts, encoding_format="float")
        vectors = np.array([each.embedding for each in packed.data])
        assert np.allclose(vectors, [each.embedding for each in plain.data], atol=1e-3)
        assert vectors[1] @ vectors[2] > 0.7 > vectors[0] @ vectors[1]
        assert packed.usage.prompt_tokens > 10
        assert [model.object for model in stock.models.list()] == ["model"]
        with pytest.raises(openai.UnprocessableEntityError, match="dimensions: this model has 384") as refused:
            stock.embeddings.create(model="any", input="a", dimensions=64)
        assert refused.value.param == "dimensions"


def test_the_openapi_holds_for_whatever_it_allows(served: Served, tmp_path: Path) -> None:
    """schemathesis sends what the OpenAPI allows and what it forbids; no answer may be outside of what is documented."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [
        Path(sys.executable).with_name("schemathesis"), "run", f"{served.url}/openapi.json", "--checks", checks, "--max-examples", "5",
        "--phases", "coverage,fuzzing", "--seed", "1", "--no-color", "--request-timeout", "30",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert run.returncode == 0, run.stdout[-3000:]


def test_tls_and_bearer_tokens(packaged: Path, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    served = start(
        packaged, tmp_path / "server.log", SERINUS_BACKEND="onnx", SERINUS_DRAIN_SECONDS="0", SERINUS_API_KEYS='["secret"]',
        SERINUS_TLS_KEY=str(key), SERINUS_TLS_CERTIFICATE=str(certificate),
    )  # fmt: skip
    served.url = served.url.replace("http:", "https:")
    trusted = ssl.create_default_context(cafile=certificate)
    served.wait_ready(verify=trusted)
    with httpx.Client(verify=trusted, base_url=served.url) as session:
        assert session.post("/predict", json={"inputs": "a"}).status_code == 401
        assert (
            session.post("/predict", json={"inputs": "a"}, headers={"authorization": "Bearer secret"}).status_code
            == 200
        )
    assert stop(served) == 0
