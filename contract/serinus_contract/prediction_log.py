"""The prediction log's schema, once, as SQL for chDB and ClickHouse: typed columns with codecs, retention, a rollup a minute.

Written by `serinus-server serve --prediction-log`, read by `serinus-server log query` and by whoever writes SQL. One row a text.

Rows lie in the order of model version and minute, then pod, then request. Within a pod times rise by little and requests by one, which
takes 1.4 bytes a row less than the plain order of (model_version, ts), where rows of pods alternate. A range of time is found as fast.
"""

from dataclasses import dataclass
from typing import Final

TABLE: Final = "predictions"
ROLLUP: Final = "predictions_by_minute"
CONFIDENCE_SCALE: Final = 65535  # confidence in [0, 1] is stored as a UInt16
EMBEDDING_SCALE: Final = 127  # a sampled embedding's components in [-1, 1] are stored as Int8


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a row: the same name in JSON lines and in SQL."""

    name: str
    type: str
    codec: str
    meaning: str

    @property
    def definition(self) -> str:
        """The column in a CREATE TABLE."""
        codec = f" CODEC({self.codec})" if self.codec else ""
        return f"`{self.name}` {self.type}{codec} COMMENT '{self.meaning}'"


COLUMNS: Final = (
    Column("ts", "DateTime64(3, 'UTC')", "Delta, ZSTD", "when the answer had left, UTC"),
    Column("instance", "LowCardinality(String)", "", "the server process that answered, new at every start"),
    Column("sequence", "UInt64", "DoubleDelta, ZSTD", "rows that the process had taken before the batch of this row"),
    Column("request", "UInt64", "DoubleDelta, ZSTD", "number of the request in its process; with the instance its id"),
    Column("client_request_id", "String", "ZSTD", "the id that the client gave, where it gave one"),
    Column("item", "UInt16", "T64, ZSTD", "place of the text in its request"),
    Column("release", "LowCardinality(String)", "", "ModelRelease"),
    Column("revision", "LowCardinality(String)", "", "revision of the release"),
    Column("model_version", "LowCardinality(String)", "", "version in the model registry"),
    Column("space", "LowCardinality(String)", "", "embedding space"),
    Column("characters", "UInt32", "T64, ZSTD", "length of the text"),
    Column("tokens", "UInt16", "T64, ZSTD", "tokens of the text, special ones included"),
    Column("latency_us", "UInt32", "T64, ZSTD", "microseconds from the first byte in to the last byte out"),
    Column("confidence", "Nullable(UInt16)", "ZSTD", "nearness to the reference profile times 65535"),
    Column("document_id", "String", "ZSTD", "from the header x-document-ids, where it was sent"),
    Column("text", "String", "ZSTD", "the text, only where storing texts is switched on"),
    Column("embedding", "Array(Int8)", "ZSTD", "a sampled embedding times 127, only where sampling is switched on"),
)
REQUEST_ID: Final = "if(client_request_id = '', concat(instance, '-', toString(request)), client_request_id)"
STRUCTURE: Final = ", ".join(f"{column.name} {column.type}" for column in COLUMNS)


def create_statements(retention_days: int) -> tuple[str, ...]:
    """What makes table and rollup where they are missing. Rows and rollups older than `retention_days` go by themselves."""
    columns = ",\n  ".join(column.definition for column in COLUMNS)
    # A batch that is sent again because its answer was lost is recognised by its token, for the last thousand batches.
    deduplicated = "non_replicated_deduplication_window = 1000"
    return (
        f"""CREATE TABLE IF NOT EXISTS {TABLE} (
  {columns},
  `request_id` String ALIAS {REQUEST_ID}
) ENGINE = MergeTree PARTITION BY toYYYYMMDD(ts)
PRIMARY KEY (model_version, toStartOfMinute(ts)) ORDER BY (model_version, toStartOfMinute(ts), instance, request, item)
TTL toDateTime(ts) + INTERVAL {retention_days} DAY SETTINGS ttl_only_drop_parts = 1, {deduplicated}""",
        f"""CREATE TABLE IF NOT EXISTS {ROLLUP} (
  `minute` DateTime('UTC') CODEC(DoubleDelta, ZSTD),
  `release` LowCardinality(String), `model_version` LowCardinality(String), `space` LowCardinality(String),
  `texts` SimpleAggregateFunction(sum, UInt64), `requests` SimpleAggregateFunction(sum, UInt64),
  `characters_sum` SimpleAggregateFunction(sum, UInt64), `tokens_sum` SimpleAggregateFunction(sum, UInt64),
  `confidence_sum` SimpleAggregateFunction(sum, UInt64), `with_confidence` SimpleAggregateFunction(sum, UInt64),
  `latency_us_sum` SimpleAggregateFunction(sum, UInt64), `slowest_us` SimpleAggregateFunction(max, UInt32),
  `latency_quantiles_us` AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), UInt32)
) ENGINE = AggregatingMergeTree PARTITION BY toYYYYMM(minute) ORDER BY (release, model_version, space, minute)
TTL minute + INTERVAL {retention_days} DAY SETTINGS {deduplicated}""",
        f"""CREATE MATERIALIZED VIEW IF NOT EXISTS {ROLLUP}_view TO {ROLLUP} AS SELECT
  toStartOfMinute(toDateTime(ts)) AS minute, release, model_version, space,
  count() AS texts, countIf(item = 0) AS requests, sum(characters) AS characters_sum, sum(tokens) AS tokens_sum,
  sum(ifNull(confidence, 0)) AS confidence_sum, count(confidence) AS with_confidence,
  sum(latency_us) AS latency_us_sum, max(latency_us) AS slowest_us,
  quantilesTDigestState(0.5, 0.95, 0.99)(latency_us) AS latency_quantiles_us
FROM {TABLE} GROUP BY minute, release, model_version, space""",
    )
