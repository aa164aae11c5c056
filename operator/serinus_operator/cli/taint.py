"""The taint ledger: which requests a revision that was taken back has answered, from the prediction log, and how many may be missing.

Reads rows of the log (contract: `prediction_log.COLUMNS`) as a JSON array or as JSON lines, as `serinus-server log query --json` prints and
`jsonl:` writes them. A server process serves one revision all its life, so that the gaps in its sequence are that revision's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import click

Row: TypeAlias = Mapping[str, Any]

_TAKEN_BACK = ("RolledBack", "Aborted")


@dataclass(frozen=True, slots=True)
class Tainted:
    """A text that the revision answered. `document_id` is empty where the client sent none."""

    request_id: str
    item: int
    document_id: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """`missing` rows were taken by the revision's processes and are not in the log, as far as later rows tell."""

    texts: tuple[Tainted, ...]
    first: str
    last: str
    processes: int
    missing: int

    @property
    def requests(self) -> int:
        """How many requests the texts are of."""
        return len({text.request_id for text in self.texts})


def revision_of(release: Row, revision: str | None) -> tuple[str, str, str]:
    """Revision, model version and reason of the rollout that was taken back last, or of `revision`. Raises click.ClickException."""
    history = (release.get("status") or {}).get("history") or []
    for entry in history:
        if entry["revision"] == revision or (revision is None and entry["result"] in _TAKEN_BACK):
            return entry["revision"], entry["version"], f"{entry['result']}: {entry.get('reason', '')}"
    known = ", ".join(dict.fromkeys(entry["revision"] for entry in history)) or "none"
    wanted = f"revision {revision}" if revision else "a rollout that was rolled back or aborted"
    raise click.ClickException(f"{wanted} is not among the rollouts that are remembered; their revisions: {known}")


def read_rows(text: str) -> list[Row]:
    """A JSON array of rows, or a row a line. Raises click.ClickException naming the line."""
    if text.lstrip().startswith("["):
        try:
            rows: list[Row] = json.loads(text)
        except ValueError as error:
            raise click.ClickException(f"the log is no JSON: {error}") from error
        return rows
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise click.ClickException(f"line {number} of the log is no JSON: {error}") from error
    return found


def ledger(rows: Iterable[Row], release: str, revision: str) -> Ledger:
    """What the revision of the release answered. Raises click.ClickException for rows that lack a column."""
    batches: dict[str, dict[int, int]] = {}
    texts, times = {}, []
    for row in rows:
        try:
            if row["release"] != release or row["revision"] != revision:
                continue
            text, instance, sequence = _tainted(row), str(row["instance"]), int(row["sequence"])
            times.append(str(row["ts"]))
        except KeyError as error:
            raise click.ClickException(f"the log's rows have no {error}; SELECT * has all that is needed") from error
        if (instance, text.request_id, text.item) not in texts:  # a batch may be in JSON lines twice
            texts[instance, text.request_id, text.item] = text
            of_process = batches.setdefault(instance, {})
            of_process[sequence] = of_process.get(sequence, 0) + 1
    missing = sum(_missing(of_process) for of_process in batches.values())
    return Ledger(tuple(texts.values()), min(times, default=""), max(times, default=""), len(batches), missing)


def _tainted(row: Row) -> Tainted:
    own = f"{row['instance']}-{row['request']}"
    return Tainted(str(row.get("client_request_id") or own), int(row.get("item", 0)), str(row.get("document_id") or ""))


def _missing(batches: Mapping[int, int]) -> int:
    """Rows between what the batches hold and what the process had taken before the next one; before the first one, all of them."""
    known, missing = 0, 0
    for sequence, rows in sorted(batches.items()):
        missing += max(0, sequence - known)
        known = max(known, sequence + rows)
    return missing
