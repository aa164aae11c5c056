"""The server's settings, parsed once from the environment, frozen, passed in."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from serinus_contract import names
from serinus_server.encoders.choice import AnyDtype, Backend


class Settings(BaseSettings):
    """What an administrator or the operator chooses. Every limit is on by default."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, extra="ignore")

    model_uri: str = Field(
        alias=names.MODEL_URI_ENV,
        description="models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/STAGE or a folder",
    )
    tracking_uri: str | None = Field(
        default=None, alias=names.TRACKING_URI_ENV, description="MLflow server of a models:/ URI"
    )
    digest: str | None = Field(default=None, alias=names.DIGEST_ENV, description="digest that the model must have")
    verify_against: str | None = Field(
        default=None, alias=names.VERIFY_AGAINST_ENV, description="stable model version to compare with"
    )
    release: str = Field(default="", alias=names.RELEASE_ENV)
    revision: str = Field(default="", alias=names.REVISION_ENV)
    namespace: str = Field(
        default="",
        alias=names.NAMESPACE_ENV,
        description="where the release's Services are; empty outside of a cluster",
    )
    drain_seconds: float = Field(
        default=15.0, ge=0, alias=names.DRAIN_SECONDS_ENV, description="how long SIGTERM goes on serving"
    )
    model_folder: Path = Field(default=Path("/tmp/model"), alias="SERINUS_MODEL_DIR")  # noqa: S108 - the pod's own emptyDir
    host: str = Field(default="0.0.0.0", alias="SERINUS_HOST")  # noqa: S104 - a pod serves its network
    port: int = Field(default=names.HTTP_PORT, alias="SERINUS_PORT")
    backend: Backend = Field(
        default="auto",
        alias=names.BACKEND_ENV,
        description="onnx, onnx-int8, openvino, torch, or auto: torch on a GPU, else the fastest of this machine (pinned in a cluster)",
    )
    dtype: AnyDtype = Field(
        default="auto",
        alias=names.DTYPE_ENV,
        description="float32, bfloat16, float16 or int8, where the runtime has it, or auto: the runtime's choice (pinned in a cluster)",
    )
    backend_reason: str = Field(
        default="", alias=names.BACKEND_REASON_ENV, description="why SERINUS_BACKEND is what it is; shown by /info"
    )
    least_cosine: float = Field(
        default=0.999, gt=0, le=1, alias="SERINUS_LEAST_COSINE",
        description="what auto's choice must keep to the golden probes' vectors",
    )  # fmt: skip
    threads: int = Field(
        default=0, ge=0, alias="SERINUS_THREADS", description="cores for encoding; 0: all that the container may use"
    )
    workers: int = Field(
        default=0, ge=0, le=64, alias="SERINUS_WORKERS",
        description="HTTP processes over one engine process; 1: one process does all, 0: by cores and device",
    )  # fmt: skip
    max_text_characters: int = Field(default=32_768, gt=0, alias="SERINUS_MAX_TEXT_CHARACTERS")
    max_texts: int = Field(default=256, gt=0, alias="SERINUS_MAX_TEXTS", description="texts of one request")
    max_body_bytes: int = Field(default=2 * 1024 * 1024, gt=0, alias="SERINUS_MAX_BODY_BYTES")
    max_batch_tokens: int = Field(default=16_384, gt=0, alias=names.MAX_BATCH_TOKENS_ENV)
    queue_tokens: int = Field(
        default=262_144, gt=0, alias=names.QUEUE_TOKENS_ENV, description="admitted tokens; beyond them 429"
    )
    queue_seconds: float = Field(
        default=10.0,
        gt=0,
        alias="SERINUS_QUEUE_SECONDS",
        description="expected wait at the measured throughput beyond which a request gets 429",
    )
    prediction_log: str | None = Field(
        default=None,
        alias=names.PREDICTION_LOG_ENV,
        description="chdb:FOLDER, clickhouse://USER:PASSWORD@HOST:PORT/DATABASE or jsonl:FILE; none: nothing is logged",
    )
    prediction_log_days: int = Field(
        default=30, gt=0, alias="SERINUS_PREDICTION_LOG_DAYS", description="how long chDB and ClickHouse keep rows"
    )
    prediction_log_queue_rows: int = Field(
        default=100_000,
        gt=0,
        alias="SERINUS_PREDICTION_LOG_QUEUE_ROWS",
        description="rows that wait; beyond them drops",
    )
    prediction_log_texts: bool = Field(
        default=False, alias="SERINUS_PREDICTION_LOG_TEXTS", description="store the texts: see docs/prediction-log.md"
    )
    prediction_log_embeddings: float = Field(
        default=0.0,
        ge=0,
        le=1,
        alias="SERINUS_PREDICTION_LOG_EMBEDDINGS",
        description="share of embeddings stored, as int8",
    )
    drift_half_life_seconds: float = Field(
        default=600.0,
        gt=0,
        alias="SERINUS_DRIFT_HALF_LIFE_SECONDS",
        description="after which a text weighs half in drift",
    )
    request_seconds: float = Field(
        default=30.0, gt=0, alias="SERINUS_REQUEST_SECONDS",
        description="the longest a request waits; x-request-timeout-ms may ask for less",
    )  # fmt: skip
    api_keys: tuple[SecretStr, ...] = Field(
        default=(),
        alias="SERINUS_API_KEYS",
        description="bearer tokens that are let in, as a JSON list; none: everybody is",
    )
    tls_certificate: Path | None = Field(
        default=None, alias="SERINUS_TLS_CERTIFICATE", description="PEM file; turns TLS on"
    )
    tls_key: Path | None = Field(default=None, alias="SERINUS_TLS_KEY", description="PEM file of the certificate's key")
    mirror_per_second: float = Field(
        default=50.0, gt=0, alias="SERINUS_MIRROR_PER_SECOND",
        description="copies of requests sent to a canary of another space at most (onSpaceChange: Pinned)",
    )  # fmt: skip
    connection_age_seconds: float = Field(default=60.0, gt=0, alias="SERINUS_CONNECTION_AGE_SECONDS")

    @model_validator(mode="after")
    def _key_with_certificate(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("SERINUS_TLS_CERTIFICATE and SERINUS_TLS_KEY are set together")
        return self
