"""What a prediction log knows of the traffic: its rate, how long answers took, how confident they were. For `plan --from-log`.

Of JSON lines every row is read here. chDB and ClickHouse are asked by `serinus-server log query`, which knows how to reach them, also while
a server writes. The log holds requests that were answered with vectors, a row a text: it knows nothing of errors.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from serinus_contract.prediction_log import CONFIDENCE_SCALE
from serinus_operator.cli.log_query import is_database, query
from serinus_operator.rehearsal import BOUNDS, Latencies, Traffic

_MICROSECONDS: Final = 1_000_000


@dataclass(slots=True)
class LoggedTraffic:
    """What one release's rows add up to. `within` are requests by the first of BOUNDS (in seconds) that they kept, slower ones left out."""

    requests: int = 0
    texts: int = 0
    first: float = float("inf")  # seconds since the epoch
    last: float = float("-inf")
    timed: int = 0
    within: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))
    latency_seconds: float = 0.0
    latency_squares: float = 0.0
    confident_texts: int = 0
    confidence: float = 0.0  # their sum

    @property
    def seconds(self) -> float:
        """Between the first request and the last."""
        return self.last - self.first

    @property
    def traffic(self) -> Traffic:
        """What is simulated."""
        latencies = None
        if self.timed:
            mean = self.latency_seconds / self.timed
            variance = max(0.0, self.latency_squares / self.timed - mean**2)
            shares = tuple(sum(self.within[: place + 1]) / self.timed for place in range(len(BOUNDS)))
            latencies = Latencies(shares, mean, variance**0.5)
        confidence = self.confidence / self.confident_texts if self.confident_texts else None
        return Traffic(self.requests / self.seconds, latencies, self.texts / self.requests, confidence)

    def describe(self) -> str:
        """In one line."""
        traffic = self.traffic
        parts = [f"{traffic.rate:.3g} requests/s: {self.requests} in {self.seconds:.0f} s of the log"]
        if traffic.latencies is not None:
            parts.append(f"{1000 * traffic.latencies.mean:.1f} ms on the mean")
        if traffic.confidence is not None:
            parts.append(f"confidence {traffic.confidence:.3f}")
        return ", ".join(parts)

    def add(self, row: Mapping[str, Any], number: int) -> None:
        """One row of JSON lines. Raises click.ClickException for what is no row."""
        at = _seconds(row.get("ts"), number)
        self.first, self.last = min(self.first, at), max(self.last, at)
        self.texts += 1
        try:
            if row.get("confidence") is not None:
                self.confident_texts += 1
                self.confidence += float(row["confidence"]) / CONFIDENCE_SCALE
            if row.get("item", 0) != 0:  # a request's further texts are rows of their own
                return
            self.requests += 1
            if row.get("latency_us") is not None:
                self._time(float(row["latency_us"]) / _MICROSECONDS)
        except (TypeError, ValueError) as error:
            raise click.ClickException(f"line {number} of the log has a field that is no number: {error}") from None

    def _time(self, seconds: float) -> None:
        self.timed += 1
        self.latency_seconds += seconds
        self.latency_squares += seconds**2
        place = bisect_left(BOUNDS, seconds)
        if place < len(BOUNDS):
            self.within[place] += 1


def read_log(source: str, release: str | None) -> LoggedTraffic:
    """Reads FILE, jsonl:FILE, - (standard input), chdb:FOLDER, a folder of chDB, or clickhouse://…

    Raises click.ClickException for what is no log, or of several releases, or says too little.
    """
    if is_database(source):
        return _asked(source, release)
    path = source.removeprefix("jsonl:")
    if path != "-" and Path(path).is_dir():
        return _asked(f"chdb:{path}", release)
    try:
        with click.open_file(path, encoding="utf-8") as lines:
            return read_traffic(lines, release)
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def read_traffic(lines: Iterable[str], release: str | None) -> LoggedTraffic:
    """Counts the rows of one release in JSON lines. Raises as `read_log`."""
    found: dict[str, LoggedTraffic] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _row(line, number)
        found.setdefault(str(row.get("release", "")), LoggedTraffic()).add(row, number)
    return _of_one(found, release)


def _asked(target: str, release: str | None) -> LoggedTraffic:
    """The same sums, by SQL."""
    return _of_one({str(row["release"]): _summed(row) for row in query(target, sql())}, release)


def sql() -> str:
    """A row a release, with what LoggedTraffic adds up."""
    edges = [round(bound * _MICROSECONDS) for bound in BOUNDS]
    counted = [
        f"countIf(item = 0 AND latency_us > {below} AND latency_us <= {edge})"
        for below, edge in zip([-1, *edges], edges, strict=False)
    ]
    seconds = f"latency_us / {_MICROSECONDS}"
    return (
        "SELECT release, countIf(item = 0) AS requests, count() AS texts, toUnixTimestamp64Milli(min(ts)) / 1000 AS first, "
        f"toUnixTimestamp64Milli(max(ts)) / 1000 AS last, [{', '.join(counted)}] AS within, "
        f"sumIf({seconds}, item = 0) AS latency_seconds, sumIf(pow({seconds}, 2), item = 0) AS latency_squares, "
        f"count(confidence) AS confident_texts, ifNull(sum(confidence), 0) / {CONFIDENCE_SCALE} AS confidence_sum "
        "FROM {table} GROUP BY release ORDER BY release"
    )


def _summed(row: Mapping[str, Any]) -> LoggedTraffic:
    requests = int(row["requests"])
    return LoggedTraffic(
        requests,
        int(row["texts"]),
        float(row["first"]),
        float(row["last"]),
        requests,
        [int(each) for each in row["within"]],
        float(row["latency_seconds"]),
        float(row["latency_squares"]),
        int(row["confident_texts"]),
        float(row["confidence_sum"]),
    )


def _of_one(found: Mapping[str, LoggedTraffic], release: str | None) -> LoggedTraffic:
    if release is None and len(found) > 1:
        raise click.ClickException(
            f"the log is of several releases ({', '.join(sorted(found))}); name one with --release"
        )
    chosen = LoggedTraffic() if not found else found.get(release or next(iter(found)), LoggedTraffic())
    if chosen.requests < 2 or chosen.seconds <= 0:
        of = f" of release {release}" if release else ""
        raise click.ClickException(
            f"the log has {chosen.requests} requests{of}; two at different times are needed to tell a rate"
        )
    return chosen


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
