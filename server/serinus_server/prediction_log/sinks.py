"""Where the rows go: chDB in a folder, a ClickHouse server, or a file of JSON lines. All take the same bytes: one JSON object a line.

A sink is opened by the writer's process or by `log query`, never by the serving process: chDB takes up to 1.3 GB.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from serinus_contract.prediction_log import COLUMNS, STRUCTURE, TABLE, create_statements
from serinus_server.errors import LogUnavailable

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

Row: TypeAlias = dict[str, Any]

SOCKET: Final = "query.sock"  # in chDB's folder: the writer answers queries there while it holds the folder
_LONGEST_SOCKET_PATH: Final = 100  # bytes; Linux allows 107
_QUERY_TIMEOUT_SECONDS: Final = 300.0
_INSERT_TIMEOUT_SECONDS: Final = 5
_NAMES: Final = ", ".join(column.name for column in COLUMNS)
_ERRORS: Final = "SELECT sum(value) AS count FROM system.errors"
_FORMS: Final = "chdb:FOLDER, clickhouse://USER:PASSWORD@HOST:PORT/DATABASE or jsonl:FILE"


class Sink(Protocol):
    """An open prediction log. Raises LogUnavailable with the reason."""

    table: str  # what a query selects FROM

    def insert(self, rows: bytes, token: str) -> None:
        """Writes the rows, all or none; those of a token that was written before are not written again, where the sink can tell."""

    def query(self, sql: str) -> list[Row]:
        """The rows of a SELECT."""

    def close(self) -> None:
        """Ends the connection."""


@dataclass(frozen=True, slots=True)
class ChdbTarget:
    """chDB in a folder, which one process holds at a time."""

    folder: Path


@dataclass(frozen=True, slots=True)
class ClickHouseTarget:
    """A ClickHouse server, by its HTTP interface."""

    host: str
    port: int
    database: str
    username: str
    password: str
    secure: bool


@dataclass(frozen=True, slots=True)
class JsonLinesTarget:
    """A file that rows are appended to."""

    file: Path


Target: TypeAlias = ChdbTarget | ClickHouseTarget | JsonLinesTarget


def parse_target(text: str) -> Target:
    """Reads chdb:FOLDER, clickhouse://… or jsonl:FILE. Raises ValueError that says what is wrong; nothing is opened."""
    scheme, colon, rest = text.partition(":")
    if colon and rest:
        match scheme:
            case "chdb":
                folder = Path(rest).absolute()
                if len(os.fsencode(folder / SOCKET)) > _LONGEST_SOCKET_PATH:
                    raise ValueError(
                        f"prediction log: {folder} is too long a path for a socket in it; choose a shorter one"
                    )
                _needs("chdb")
                return ChdbTarget(folder)
            case "clickhouse":
                _needs("clickhouse_connect")
                return _clickhouse(text)
            case "jsonl":
                return JsonLinesTarget(Path(rest).absolute())
    raise ValueError(f"the prediction log is {_FORMS}, not {_without_password(text)!r}")


def open_sink(target: Target, retention_days: int | None) -> Sink:
    """Opens it; makes the tables unless `retention_days` is None, which is for reading. Raises LogUnavailable."""
    match target:
        case ChdbTarget(folder):
            return Chdb(folder, retention_days)
        case ClickHouseTarget():
            return ClickHouse(target, retention_days)
        case JsonLinesTarget(file):
            return JsonLines(file)


class Chdb:
    """ClickHouse's engine inside this process."""

    def __init__(self, folder: Path, retention_days: int | None) -> None:
        from chdb.session import Session

        self.table = TABLE
        if retention_days is None and not folder.is_dir():
            raise LogUnavailable(f"{folder} is no folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._session = Session(str(folder))
            if retention_days is not None:
                for statement in create_statements(retention_days):
                    self._session.query(statement)
        except (RuntimeError, OSError) as error:
            raise LogUnavailable(f"chDB in {folder}: {_first_sentence(error)}") from error

    def insert(self, rows: bytes, token: str) -> None:
        """See Sink. `finish` of chDB 4.4 reports rows as written that a full disk did not take, so that the engine's errors are counted.

        A merge's error at that moment makes the batch be sent again, which its token makes harmless.
        """
        statement = f"INSERT INTO {TABLE} ({_NAMES}) SETTINGS insert_deduplication_token = '{token}'"
        before = self.query(_ERRORS)
        try:
            with self._session.send_insert(statement, "JSONEachRow") as stream:
                stream.append(rows)
                stream.finish()
            if self.query(_ERRORS) != before:
                last = "SELECT last_error_message AS said FROM system.errors ORDER BY last_error_time DESC LIMIT 1"
                raise LogUnavailable(f"chDB: {self.query(last)[0]['said'][:300]}")
        except RuntimeError as error:
            raise LogUnavailable(f"chDB: {_first_sentence(error)}") from error

    def query(self, sql: str) -> list[Row]:
        """See Sink."""
        try:
            return _rows(str(self._session.query(sql, "JSONEachRow")))
        except RuntimeError as error:
            raise LogUnavailable(f"chDB: {_first_sentence(error)}") from error

    def close(self) -> None:
        """See Sink."""
        self._session.close()


class ClickHouse:
    """A server; rows are inserted asynchronously there, so that many pods with small batches are one insert."""

    def __init__(self, target: ClickHouseTarget, retention_days: int | None) -> None:
        self.table = TABLE
        self._client: Client = self._translated(lambda: _connect(target))
        if retention_days is not None:
            for statement in create_statements(retention_days):
                self._translated(partial(self._client.command, statement))

    def insert(self, rows: bytes, token: str) -> None:
        """See Sink."""
        settings = {"async_insert": 1, "wait_for_async_insert": 1, "insert_deduplication_token": token}
        names = [column.name for column in COLUMNS]
        self._translated(lambda: self._client.raw_insert(TABLE, names, rows, settings=settings, fmt="JSONEachRow"))

    def query(self, sql: str) -> list[Row]:
        """See Sink."""
        answer: bytes = self._translated(lambda: self._client.raw_query(sql, fmt="JSONEachRow"))
        return _rows(answer.decode())

    def close(self) -> None:
        """See Sink."""
        self._client.close()

    @staticmethod
    def _translated(call: Callable[[], Any]) -> Any:
        from clickhouse_connect.driver.exceptions import ClickHouseError
        from urllib3.exceptions import HTTPError

        try:
            return call()
        except (ClickHouseError, HTTPError, OSError) as error:
            raise LogUnavailable(f"ClickHouse: {_first_sentence(error)}") from error


class JsonLines:
    """A file. Written plainly; read with chDB, so that the questions are the same SQL."""

    def __init__(self, file: Path) -> None:
        quoted = str(file).replace("\\", "\\\\").replace("'", "\\'")
        structure = STRUCTURE.replace("'", "\\'")
        self.table = f"file('{quoted}', JSONEachRow, '{structure}')"
        self._file = file

    def insert(self, rows: bytes, token: str) -> None:
        """See Sink. Half a batch, which a full disk leaves, is taken back."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            try:
                self._append(descriptor, rows)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise LogUnavailable(f"{self._file}: {error.strerror}") from error

    @staticmethod
    def _append(descriptor: int, rows: bytes) -> None:
        before = os.fstat(descriptor).st_size
        left = memoryview(rows)
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)
            raise

    def query(self, sql: str) -> list[Row]:
        """See Sink."""
        if not self._file.is_file():
            raise LogUnavailable(f"{self._file} is no file")
        _needs("chdb")
        import chdb

        try:
            return _rows(str(chdb.query(sql, "JSONEachRow")))
        except RuntimeError as error:
            raise LogUnavailable(f"{self._file}: {_first_sentence(error)}") from error

    def close(self) -> None:
        """See Sink."""


class Asked:
    """chDB's folder while a writer holds it: the writer is asked, by its socket."""

    def __init__(self, folder: Path) -> None:
        self.table = TABLE
        self._path = str(folder / SOCKET)

    def insert(self, rows: bytes, token: str) -> None:
        """See Sink; rows come from the writer's own server only."""
        raise LogUnavailable("another process writes this log")

    def query(self, sql: str) -> list[Row]:
        """See Sink."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_QUERY_TIMEOUT_SECONDS)
                connection.connect(self._path)
                connection.sendall(json.dumps(sql).encode() + b"\n")
                answer = json.loads(connection.makefile("rb").read())
        except (OSError, ValueError) as error:
            raise LogUnavailable(f"{self._path}: {error}") from error
        if "error" in answer:
            raise LogUnavailable(answer["error"])
        rows: list[Row] = answer["rows"]
        return rows

    def close(self) -> None:
        """See Sink."""


def open_for_reading(target: Target) -> Sink:
    """The sink, or the writer that holds it. Raises LogUnavailable."""
    if isinstance(target, ChdbTarget) and listens(target.folder / SOCKET):
        return Asked(target.folder)
    return open_sink(target, None)


def listens(path: Path) -> bool:
    """Does a writer answer queries on this socket?"""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


def _clickhouse(text: str) -> ClickHouseTarget:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"prediction log: {_without_password(text)!r}: {error}") from None
    if not parts.hostname:
        raise ValueError(f"prediction log: {_without_password(text)!r} names no host; it is {_FORMS}")
    secure = parse_qs(parts.query).get("secure", ["false"])[-1].lower() in ("1", "true")
    return ClickHouseTarget(
        parts.hostname,
        port or (8443 if secure else 8123),
        unquote(parts.path.strip("/")) or "default",
        unquote(parts.username or "default"),
        unquote(parts.password or ""),
        secure,
    )


def _connect(target: ClickHouseTarget) -> Client:
    import clickhouse_connect

    return clickhouse_connect.get_client(
        host=target.host, port=target.port, database=target.database, username=target.username, password=target.password,
        secure=target.secure, connect_timeout=_INSERT_TIMEOUT_SECONDS, send_receive_timeout=_INSERT_TIMEOUT_SECONDS,
        query_retries=0, autogenerate_session_id=False,
    )  # fmt: skip


def _needs(package: str) -> None:
    if find_spec(package) is None:
        raise ValueError(f"the prediction log needs {package}, which is not installed: pip install 'serinus[log]'")


def _rows(lines: str) -> list[Row]:
    return [json.loads(line) for line in lines.splitlines()]


def _first_sentence(error: BaseException) -> str:
    """ClickHouse's errors without version and stack."""
    return re.sub(r"\s+", " ", str(error).partition("Stack trace")[0])[:300].strip() or type(error).__name__


def _without_password(text: str) -> str:
    return re.sub(r"://[^@/]*@", "://…@", text)
