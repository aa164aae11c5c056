"""The taint ledger names what a revision answered before it was taken back, and never pretends to be whole."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest

from serinus_operator.cli.taint import Tainted, ledger, read_rows, revision_of

RELEASE = {
    "status": {
        "history": [
            {"revision": "good", "version": "3", "result": "Promoted", "reason": "all steps finished"},
            {"revision": "bad", "version": "2", "result": "RolledBack", "reason": "errors"},
            {"revision": "worse", "version": "1", "result": "Aborted", "reason": "aborted by a person"},
        ]
    }
}


def row(request: int, sequence: int, revision: str = "bad", instance: str = "p1", **changes: Any) -> dict[str, Any]:
    return {
        "ts": f"2026-01-01 00:00:{request:02d}.000", "instance": instance, "sequence": str(sequence), "request": request, "item": 0,
        "client_request_id": "", "document_id": "", "release": "embedder", "revision": revision,
    } | changes  # fmt: skip


def test_texts_of_the_revision_are_listed_with_the_clients_own_names() -> None:
    rows = [
        row(1, 0, client_request_id="mine", document_id="doc-7"),
        row(2, 0),
        row(3, 0, revision="good", instance="p2"),
        row(4, 0, release="another"),
    ]
    found = ledger(rows, "embedder", "bad")
    assert found.texts == (Tainted("mine", 0, "doc-7"), Tainted("p1-2", 0, ""))
    assert (found.requests, found.processes, found.missing) == (2, 1, 0)
    assert (found.first, found.last) == ("2026-01-01 00:00:01.000", "2026-01-01 00:00:02.000")


def test_rows_that_were_dropped_are_counted_by_the_gaps_in_each_process() -> None:
    rows = [row(1, 0), row(2, 0), row(9, 7), row(10, 8), row(1, 3, instance="p2")]
    assert ledger(rows, "embedder", "bad").missing == 5 + 3


def test_a_batch_that_was_written_twice_counts_once() -> None:
    rows = [row(1, 0), row(2, 0), row(1, 0), row(2, 0), row(3, 2)]
    found = ledger(rows, "embedder", "bad")
    assert (len(found.texts), found.missing) == (3, 0)


def test_the_last_rollout_that_was_taken_back_is_meant_unless_another_is_named() -> None:
    assert revision_of(RELEASE, None)[:2] == ("bad", "2")
    assert revision_of(RELEASE, "worse")[:2] == ("worse", "1")
    assert revision_of(RELEASE, "good")[2].startswith("Promoted")


def test_an_unknown_revision_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(click.ClickException, match=r"revision x is not among .* revisions: good, bad, worse"):
        revision_of(RELEASE, "x")
    with pytest.raises(click.ClickException, match="rolled back or aborted"):
        revision_of({"status": {}}, None)


def test_arrays_and_lines_are_read_and_anything_else_is_named() -> None:
    rows = [row(1, 0), row(2, 0)]
    assert read_rows(json.dumps(rows)) == read_rows("\n".join(map(json.dumps, rows))) == rows
    with pytest.raises(click.ClickException, match="line 2 of the log is no JSON"):
        read_rows(json.dumps(rows[0]) + "\nnonsense")
    with pytest.raises(click.ClickException, match="have no 'revision'; SELECT"):
        ledger([{"release": "embedder"}], "embedder", "bad")
