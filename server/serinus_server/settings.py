"""The server's settings, parsed once from the environment, frozen, passed in."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from serinus_contract import names
from serinus_server.encoders.choice import Backend


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
        default="auto", alias="SERINUS_BACKEND", description="onnx, torch, or auto: torch where there is a GPU"
    )
    threads: int = Field(
        default=0, ge=0, alias="SERINUS_THREADS", description="threads of one forward pass; 0: as many as cores"
    )
    max_text_characters: int = Field(default=32_768, gt=0, alias="SERINUS_MAX_TEXT_CHARACTERS")
    max_texts: int = Field(default=256, gt=0, alias="SERINUS_MAX_TEXTS", description="texts of one request")
    max_body_bytes: int = Field(default=2 * 1024 * 1024, gt=0, alias="SERINUS_MAX_BODY_BYTES")
    max_batch_tokens: int = Field(default=16_384, gt=0, alias="SERINUS_MAX_BATCH_TOKENS")
    queue_tokens: int = Field(
        default=262_144, gt=0, alias="SERINUS_QUEUE_TOKENS", description="admitted tokens; beyond them 429"
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
    connection_age_seconds: float = Field(default=60.0, gt=0, alias="SERINUS_CONNECTION_AGE_SECONDS")
