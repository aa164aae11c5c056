"""Rows of the prediction log for the taint ledger: from a file, from ClickHouse over HTTP, or as `serinus-server log` reads them.

Also the rows that servers have dropped, as Prometheus has their counters: of what a process lost at its end no later row tells.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import click
import requests

from serinus_contract.metrics import PREDICTION_LOG_DROPPED_TOTAL
from serinus_contract.names import RELEASE_SERIES_LABEL, REVISION_SERIES_LABEL
from serinus_contract.prediction_log import TABLE
from serinus_operator.cli.taint import Row, read_rows

_COLUMNS: Final = "ts, instance, sequence, request, client_request_id, item, release, revision, document_id"
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_READ_SECONDS: Final = 300.0
_ASK_SECONDS: Final = 30.0
_LOOKBACK: Final = "30d"


def rows_of(source: str, release: str, revision: str) -> list[Row]:
    """What the log has of a revision. `source` is a file, - for standard input, or a sink as servers name it. Raises ClickException."""
    scheme = source.partition(":")[0]
    if scheme in ("clickhouse", "chdb", "jsonl"):
        statement = f"SELECT {_COLUMNS} FROM {{table}} WHERE release = '{_name(release)}' AND revision = '{_name(revision)}' ORDER BY ts"
        return _clickhouse(source, statement) if scheme == "clickhouse" else _by_server(source, statement)
    try:
        return read_rows(sys.stdin.read() if source == "-" else Path(source).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"the log cannot be read: {error}") from error


def dropped(prometheus: str, namespace: str, release: str, revision: str) -> int:
    """Rows that the revision's servers counted as dropped, each pod at its highest. Raises click.ClickException when nobody can tell."""
    labels = f'namespace="{namespace}",{RELEASE_SERIES_LABEL}="{release}",{REVISION_SERIES_LABEL}="{revision}"'
    query = f"sum(max_over_time({PREDICTION_LOG_DROPPED_TOTAL}{{{labels}}}[{_LOOKBACK}]))"
    try:
        asked = requests.get(f"{prometheus}/api/v1/query", params={"query": query}, timeout=_ASK_SECONDS)
        asked.raise_for_status()
        result = asked.json()["data"]["result"]
        if not result:
            raise click.ClickException(
                f"Prometheus has no counter of dropped rows for revision {revision} in {_LOOKBACK}"
            )
        return round(float(result[0]["value"][1]))
    except (requests.RequestException, ValueError, KeyError, TypeError, IndexError) as error:
        raise click.ClickException(
            f"Prometheus does not tell of dropped rows: {type(error).__name__}: {error}"
        ) from error


def _name(text: str) -> str:
    """Goes into SQL as it is."""
    if not _NAME.fullmatch(text):
        raise click.ClickException(f"{text!r} is no name of a release or revision")
    return text


def _clickhouse(source: str, statement: str) -> list[Row]:
    try:
        parts = urlsplit(source)
        secure = parse_qs(parts.query).get("secure", ["false"])[-1].lower() in ("1", "true")
        port = parts.port or (8443 if secure else 8123)
    except ValueError as error:
        raise click.ClickException("the log's address is not clickhouse://USER:PASSWORD@HOST:PORT/DATABASE") from error
    url = f"{'https' if secure else 'http'}://{parts.hostname}:{port}/"
    login = (unquote(parts.username or "default"), unquote(parts.password or ""))
    database = unquote(parts.path.strip("/")) or "default"
    body = f"{statement.format(table=TABLE)} FORMAT JSONEachRow".encode()
    try:
        answer = requests.post(url, params={"database": database}, data=body, auth=login, timeout=_READ_SECONDS)
    except requests.RequestException as error:
        raise click.ClickException(
            f"ClickHouse at {parts.hostname}:{port} does not answer: {type(error).__name__}"
        ) from error
    if not answer.ok:
        raise click.ClickException(
            f"ClickHouse refuses, {answer.status_code}: {answer.text.partition('Stack trace')[0][:300]}"
        )
    return [json.loads(line) for line in answer.content.splitlines()]


def _by_server(source: str, statement: str) -> list[Row]:
    """chDB cannot be opened by two processes: the server's own command asks the one that has it."""
    if find_spec("serinus_server") is None:
        raise click.ClickException(
            "chdb: and jsonl: are read by serinus-server, which is not installed here: pip install 'serinus[server,log]'"
        )
    command = [
        sys.executable,
        "-m",
        "serinus_server",
        "log",
        "query",
        "--json",
        "--prediction-log",
        source,
        "--sql",
        statement,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_READ_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise click.ClickException(f"the log was not read within {_READ_SECONDS:.0f} s") from error
    if done.returncode:
        raise click.ClickException(f"serinus-server log: {done.stderr.strip()[-300:]}")
    return read_rows(done.stdout)
