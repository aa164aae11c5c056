"""Rows of the prediction log for the taint ledger.

Also the rows that servers have dropped, as Prometheus has their counters: of what a process lost at its end no later row tells.
"""

from __future__ import annotations

import re
from typing import Final

import click
import requests

from serinus_contract.metrics import PREDICTION_LOG_DROPPED_TOTAL
from serinus_contract.names import RELEASE_SERIES_LABEL, REVISION_SERIES_LABEL
from serinus_operator.cli.log_query import is_database, query
from serinus_operator.cli.taint import Row, read_rows

_COLUMNS: Final = "ts, instance, sequence, request, client_request_id, item, release, revision, document_id"
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_ASK_SECONDS: Final = 30.0
_LOOKBACK: Final = "30d"


def rows_of(source: str, release: str, revision: str) -> list[Row]:
    """What the log has of a revision. `source` is a file, - for standard input, or a sink as servers name it. Raises ClickException."""
    if is_database(source):
        of = f"release = '{_name(release)}' AND revision = '{_name(revision)}'"
        return list(query(source, f"SELECT {_COLUMNS} FROM {{table}} WHERE {of} ORDER BY ts"))
    path = source.removeprefix("jsonl:")
    try:
        with click.open_file(path, encoding="utf-8") as lines:
            return read_rows(lines.read())
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
