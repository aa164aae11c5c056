"""The operator's settings, read once from the environment at start. Registries are named here, never by a tenant's object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from serinus_operator.rollout.cost import Price


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """One MLflow server. Credentials come from the operator's own environment, per registry."""

    tracking_uri: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that an administrator chooses."""

    server_image: str
    image_pull_policy: str
    registries: Mapping[str, RegistrySettings]
    prometheus_url: str
    promql_url: str  # where users' own queries go: a proxy that keeps them to their namespace, say; "off" answers none
    namespaces: tuple[str, ...]  # empty: the whole cluster
    own_namespace: str
    identity: str
    scrape_lag: timedelta = timedelta(seconds=10)
    registry_poll: timedelta = timedelta(seconds=5)
    call_timeout_seconds: float = 15.0
    metrics_port: int = 8080
    max_concurrent_rollouts: int = 0  # 0: no limit
    price: Price = field(default_factory=Price)
    admission_policy: str = ""  # guards what of a ModelRelease only a pod's creator may choose; empty: that is refused
    notify_url: str | None = None  # a secret: who knows it may post there


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Reads the settings. Raises ValueError with the name of the variable that is missing or malformed."""
    return Settings(
        server_image=_required(environment, "SERINUS_SERVER_IMAGE"),
        image_pull_policy=environment.get("SERINUS_IMAGE_PULL_POLICY", "IfNotPresent"),
        registries=_registries(environment),
        prometheus_url=_required(environment, "SERINUS_PROMETHEUS_URL").rstrip("/"),
        promql_url=(environment.get("SERINUS_PROMQL_URL") or _required(environment, "SERINUS_PROMETHEUS_URL")).rstrip(
            "/"
        ),
        namespaces=tuple(name for name in environment.get("SERINUS_NAMESPACES", "").split(",") if name),
        own_namespace=environment.get("POD_NAMESPACE", "default"),
        identity=environment.get("POD_NAME", "serinus-operator"),
        scrape_lag=timedelta(seconds=_number(environment, "SERINUS_SCRAPE_LAG_SECONDS", 10)),
        registry_poll=timedelta(seconds=_number(environment, "SERINUS_REGISTRY_POLL_SECONDS", 5)),
        admission_policy=environment.get("SERINUS_ADMISSION_POLICY", ""),
        notify_url=environment.get("SERINUS_NOTIFY_URL") or None,
        max_concurrent_rollouts=int(_number(environment, "SERINUS_MAX_CONCURRENT_ROLLOUTS", 0)),
        price=Price(
            _number(environment, "SERINUS_PRICE_PER_GPU_HOUR", 0),
            _number(environment, "SERINUS_PRICE_PER_CPU_POD_HOUR", 0),
            environment.get("SERINUS_CURRENCY", ""),
        ),
        metrics_port=int(_number(environment, "SERINUS_METRICS_PORT", 8080)),
    )


def _required(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise ValueError(f"set {name}")
    return environment[name]


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(environment.get(name, default))
    except ValueError:
        raise ValueError(f"{name} is a number, not {environment[name]!r}") from None


def _registries(environment: Mapping[str, str]) -> dict[str, RegistrySettings]:
    """SERINUS_REGISTRIES is JSON {name: uri}; credentials of NAME are in SERINUS_REGISTRY_NAME_{USERNAME,PASSWORD,TOKEN}."""
    try:
        uris: dict[str, str] = json.loads(_required(environment, "SERINUS_REGISTRIES"))
        entries = dict(uris.items())
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f'SERINUS_REGISTRIES is JSON such as {{"default": "http://mlflow:5000"}}: {error}') from error
    return {name: _registry(environment, name, uri) for name, uri in entries.items()}


def _registry(environment: Mapping[str, str], name: str, uri: str) -> RegistrySettings:
    prefix = f"SERINUS_REGISTRY_{name.upper().replace('-', '_')}_"
    return RegistrySettings(
        uri.rstrip("/"),
        environment.get(prefix + "USERNAME"),
        environment.get(prefix + "PASSWORD"),
        environment.get(prefix + "TOKEN"),
    )
