"""The rate of requests, as a prediction log in JSON lines tells it. Reads what `serinus-server serve --prediction-log jsonl:FILE` wrote.

The log holds requests that were answered with vectors, a row a text: it knows the rate, and nothing of errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class LoggedTraffic:
    """Requests between the first and the last of them."""

    requests: int
    seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def read_traffic(lines: Iterable[str], release: str | None) -> LoggedTraffic:
    """Counts the requests of one release. Raises click.ClickException for what is no log, and for one that says too little."""
    requests, first, last, releases = 0, float("inf"), float("-inf"), set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _row(line, number)
        if release is not None and row.get("release") != release:
            continue
        releases.add(str(row.get("release", "")))
        at = _seconds(row.get("ts"), number)
        first, last = min(first, at), max(last, at)
        requests += row.get("item", 0) == 0  # a request's further texts are rows of their own
    if len(releases) > 1:
        raise click.ClickException(
            f"the log is of several releases ({', '.join(sorted(releases))}); name one with --release"
        )
    if requests < 2 or last <= first:
        of = f" of release {release}" if release else ""
        raise click.ClickException(
            f"the log has {requests} requests{of}; two at different times are needed to tell a rate"
        )
    return LoggedTraffic(requests, last - first)


def _row(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise click.ClickException(f"line {number} of the log is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise click.ClickException(f"line {number} of the log is no row, but a {type(row).__name__}")
    return row


def _seconds(at: object, number: int) -> float:
    """Since the epoch: numbers are that already (milliseconds are told by their size), texts are UTC unless they say otherwise."""
    try:
        if isinstance(at, int | float) and not isinstance(at, bool):
            return at / 1000 if at > 1e11 else float(at)
        instant = datetime.fromisoformat(str(at))
        return instant.replace(tzinfo=instant.tzinfo or UTC).timestamp()
    except ValueError:
        raise click.ClickException(f"line {number} of the log has no time in ts: {at!r}") from None
