"""The usual questions about what was predicted, as SQL that chDB and ClickHouse both run, over a table or over a file of JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from serinus_contract.prediction_log import CONFIDENCE_SCALE, REQUEST_ID

_CONFIDENCE: Final = f"confidence / {CONFIDENCE_SCALE}"


@dataclass(frozen=True, slots=True)
class Question:
    """`sql` has {table}, {since_seconds}, {every_seconds} and {limit} to be filled in; `title` heads the table."""

    title: str
    sql: str

    def fill(self, table: str, since_seconds: int, every_seconds: int, limit: int) -> str:
        """The SQL that is sent."""
        recent = f"(SELECT * FROM {table} WHERE ts >= now() - {since_seconds})"
        return self.sql.format(table=recent, every=every_seconds, limit=limit)


_BY_TIME: Final = (
    "SELECT toStartOfInterval(ts, INTERVAL {{every}} SECOND) AS time, model_version, count() AS texts, {columns} "
    "FROM {{table}} GROUP BY time, model_version ORDER BY time DESC, model_version LIMIT {{limit}}"
)
_ROWS: Final = (
    f"SELECT ts, {REQUEST_ID} AS request_id, item, model_version, document_id, characters, tokens, "
    f"round(latency_us / 1000, 2) AS latency_ms, round({_CONFIDENCE}, 3) AS confidence_of_1 "
    "FROM {{table}} {order} LIMIT {{limit}}"
)
QUESTIONS: Final[Mapping[str, Question]] = {
    "versions": Question(
        "What answered, by release and version",
        "SELECT release, revision, model_version, space, uniqExact(instance) AS processes, min(ts) AS first, max(ts) AS last, "
        "count() AS texts, countIf(item = 0) AS requests, sum(tokens) AS tokens_read FROM {table} "
        "GROUP BY release, revision, model_version, space ORDER BY last DESC LIMIT {limit}",
    ),
    "latency": Question(
        "Latency in milliseconds, by version over time",
        _BY_TIME.format(
            columns="round(avg(latency_us) / 1000, 2) AS mean, round(quantile(0.5)(latency_us) / 1000, 2) AS p50, "
            "round(quantile(0.95)(latency_us) / 1000, 2) AS p95, round(quantile(0.99)(latency_us) / 1000, 2) AS p99, "
            "round(max(latency_us) / 1000, 2) AS slowest"
        ),
    ),
    "confidence": Question(
        "Confidence, by version over time",
        _BY_TIME.format(
            columns=f"round(avg({_CONFIDENCE}), 3) AS mean, round(quantile(0.1)({_CONFIDENCE}), 3) AS lowest_tenth, "
            f"round(quantile(0.5)({_CONFIDENCE}), 3) AS median, round(avg({_CONFIDENCE} < 0.75), 3) AS share_below_075"
        ),
    ),
    "lengths": Question(
        "Input lengths, by version over time",
        _BY_TIME.format(
            columns="round(avg(characters), 1) AS characters_mean, round(avg(tokens), 1) AS tokens_mean, "
            "round(quantile(0.1)(tokens), 0) AS tokens_p10, round(quantile(0.5)(tokens), 0) AS tokens_p50, "
            "round(quantile(0.9)(tokens), 0) AS tokens_p90, max(tokens) AS tokens_max"
        ),
    ),
    "slowest": Question("Slowest texts", _ROWS.format(order="ORDER BY latency_us DESC")),
    "low-confidence": Question(
        "Texts farthest from the reference profile",
        _ROWS.format(order="WHERE confidence IS NOT NULL ORDER BY confidence"),
    ),
    "gaps": Question(
        "Rows that were dropped or lost between two batches of a process",
        "SELECT instance, from_sequence, rows, next_sequence - from_sequence - rows AS missing, last AS after FROM ("
        "SELECT instance, sequence AS from_sequence, count() AS rows, max(ts) AS last, "
        "leadInFrame(sequence, 1, sequence + count()) OVER (PARTITION BY instance ORDER BY sequence "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS next_sequence "
        "FROM {table} GROUP BY instance, sequence) WHERE missing != 0 ORDER BY last DESC LIMIT {limit}",
    ),
}
