"""What reads bytes from outside, each as a function that returns or raises what its reader is said to raise; anything else is a find."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import requests
from tests.operator.world import defaulted

from serinus_contract import manifest
from serinus_contract.verification import VerifyReport
from serinus_operator import prometheus, promql, status_codec
from serinus_operator.cli.schema import refusals
from serinus_operator.errors import InvalidSpec, Unavailable
from serinus_operator.spec_parser import parse_spec
from serinus_server import schemas
from serinus_server.errors import ServerError
from serinus_server.package import check_files, read_manifest
from serinus_server.settings import Settings


def _told(error: Exception) -> None:
    if not str(error):
        raise AssertionError("a refusal without a word") from error


_AT = datetime(2026, 1, 1, tzinfo=UTC)


@cache
def _limits() -> schemas.Limits:
    return schemas.Limits(Settings(MLFLOW_MODEL_URI="models:/m/1"), dim=384, max_tokens=256, vocabulary=30522)


def request(data: bytes) -> None:
    """The server's three request bodies."""
    for parse in (schemas.parse_predict, schemas.parse_openai, schemas.parse_infer):
        try:
            parse(data, _limits())
        except ServerError as error:
            _told(error)


def spec(data: bytes) -> None:
    """A ModelRelease's spec: what the CRD's schema and rules let through, and what they would not."""
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(given, dict):
        return
    release = {"apiVersion": "serinus.dev/v1alpha1", "kind": "ModelRelease", "metadata": {"name": "r"}, "spec": given}
    accepted = not refusals(release)
    try:
        parse_spec(defaulted(given) if accepted else given)
    except InvalidSpec as error:
        _told(error)


class _Wire(requests.adapters.BaseAdapter):
    """Answers every request with the same bytes."""

    body = b""

    def send(self, request: requests.PreparedRequest, **_: object) -> requests.Response:  # type: ignore[override]
        response = requests.Response()
        response.status_code, response._content, response.request = 200, self.body, request
        response.url, response.encoding = str(request.url), "utf-8"
        return response

    def close(self) -> None:
        pass


@cache
def _prometheus() -> tuple[prometheus.Prometheus, _Wire]:
    reader, wire = prometheus.Prometheus("http://prometheus", 5), _Wire()
    reader._connection._session.mount("http://prometheus", wire)
    return reader, wire


def metrics(data: bytes) -> None:
    """Prometheus' answers: to the operator's own queries, and to a user's."""
    reader, wire = _prometheus()
    wire.body = data
    try:
        reader._read(_AT)
    except Unavailable as error:
        _told(error)
    assert promql.read(data, 200) is not None


def model(data: bytes) -> None:
    """A packaged model's manifest, and the check of the files that it names."""
    with _folder() as folder:
        (folder / manifest.PATH).write_bytes(data)
        try:
            check_files(folder, read_manifest(folder), None)
        except ServerError as error:
            _told(error)


def report(data: bytes) -> None:
    """A verify pod's last words, which the operator reads."""
    text = data.decode(errors="replace")
    try:
        VerifyReport.from_json(text)
    except ValueError as error:
        _told(error)


def status(data: bytes) -> None:
    """A status that another version of the operator wrote, or a person."""
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(given, dict):
        try:
            status_codec.encode(status_codec.decode(given))
        except InvalidSpec as error:
            _told(error)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / manifest.PATH).parent.mkdir()
        (folder / "config.json").write_text("{}")
        yield folder


TARGETS: dict[str, Callable[[bytes], None]] = {
    "request": request,
    "spec": spec,
    "metrics": metrics,
    "model": model,
    "report": report,
    "status": status,
}

__all__ = ["TARGETS"]
