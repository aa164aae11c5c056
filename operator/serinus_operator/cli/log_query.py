"""A prediction log in chDB or ClickHouse, asked by `serinus-server log query`: it knows how to reach them, also while a server writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import click

from serinus_contract.names import PREDICTION_LOG_ENV

_PROGRAM: Final = "serinus-server"
_QUERY_SECONDS: Final = 300


def is_database(source: str) -> bool:
    """Is it asked by SQL? All else is rows in a file, or on standard input."""
    return source.startswith(("chdb:", "clickhouse:"))


def query(target: str, sql: str) -> list[dict[str, Any]]:
    """The rows that a statement gives; `{table}` in it is the log. Raises click.ClickException with what the program said.

    The target may hold a password: it goes by the environment, and is not repeated.
    """
    beside = Path(sys.executable).with_name(_PROGRAM)
    program = str(beside) if beside.exists() else shutil.which(_PROGRAM)
    if program is None:
        raise click.ClickException(f"chDB and ClickHouse are read by {_PROGRAM}: pip install 'serinus[server,log]'")
    command = [program, "log", "query", "--json", "--sql", sql]
    environment = {**os.environ, PREDICTION_LOG_ENV: target}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_QUERY_SECONDS)
    except subprocess.TimeoutExpired:
        raise click.ClickException(f"{_PROGRAM} log query gave no answer within {_QUERY_SECONDS} s") from None
    if done.returncode != 0:
        raise click.ClickException(f"{_PROGRAM} log query: {done.stderr.strip()[-500:]}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows
