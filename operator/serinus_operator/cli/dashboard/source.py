"""Prometheus, as the page asks it: at an address, or through the API server's proxy of a Service, which needs no route of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import click
import requests

from serinus_operator.cli.cluster import Cluster
from serinus_operator.errors import Unavailable

JSON: TypeAlias = dict[str, Any]
Series: TypeAlias = tuple[Mapping[str, str], Sequence[tuple[datetime, float]]]

_SECONDS: Final = 5.0
_STEPS: Final = 120
# As the charts of the Prometheus community label the Service.
_SELECTORS: Final = (
    "app.kubernetes.io/name=prometheus",
    "operated-prometheus=true",
    "app=kube-prometheus-stack-prometheus",
)
_PORTS: Final = ("web", "http-web", "http", "prometheus")
_HINT: Final = "name one with --prometheus URL or --prometheus NAMESPACE/SERVICE:PORT"


@dataclass(frozen=True, slots=True)
class Source:
    """A Prometheus that was found. `where` is for people."""

    where: str
    ask: Callable[[str, Mapping[str, str]], bytes]

    def over_time(self, query: str, start: datetime, end: datetime) -> list[Series]:
        """The query's series between two instants. Raises Unavailable with a sentence."""
        step = max(1.0, (end - start).total_seconds() / _STEPS)
        span = {"start": str(start.timestamp()), "end": str(end.timestamp()), "step": str(step)}
        try:
            answer = json.loads(self.ask("query_range", {"query": query, "timeout": f"{_SECONDS:.0f}s", **span}))
            if answer["status"] != "success":
                raise Unavailable(f"Prometheus at {self.where}: {answer.get('error', 'refused')}")
            return [
                (
                    series["metric"],
                    [(datetime.fromtimestamp(seconds, UTC), float(value)) for seconds, value in series["values"]],
                )
                for series in answer["data"]["result"]
            ]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise Unavailable(f"what answers at {self.where} is no Prometheus; {_HINT}") from error


def find(cluster: Cluster, named: str | None) -> Source:
    """The Prometheus that `named` names (an address, or NAMESPACE/SERVICE:PORT), else the one that the cluster's labels tell of.

    It has answered a query. Raises Unavailable with a sentence that says what to do.
    """
    if named is None:
        return _labelled(cluster)
    if named.startswith(("http://", "https://")):
        return _answering(at(named))
    namespace, slash, service = named.partition("/")
    if not (slash and service.rpartition(":")[2].isdigit()):
        raise Unavailable(f"{named!r} is neither an address nor NAMESPACE/SERVICE:PORT")
    return _answering(_proxied(cluster, namespace, service))


def _answering(found: Source) -> Source:
    instant = datetime.fromtimestamp(0, UTC)
    found.over_time("vector(1)", instant, instant)
    return found


def _labelled(cluster: Cluster) -> Source:
    """The first that answers; the error of the last where none does."""
    silent = Unavailable(f"no Service in the cluster carries a label of Prometheus; {_HINT}")
    for selector in _SELECTORS:
        try:
            services = cluster.services(selector)
        except click.ClickException as error:
            raise Unavailable(f"Prometheus was not looked for ({error.message}); {_HINT}") from error
        for service in services:
            metadata, ports = service["metadata"], service["spec"].get("ports") or []
            for port in sorted(ports, key=lambda each: each.get("name") not in _PORTS):
                try:
                    return _answering(_proxied(cluster, metadata["namespace"], f"{metadata['name']}:{port['port']}"))
                except Unavailable as error:
                    silent = error
    raise silent


def at(url: str) -> Source:
    """The one at an address; it has not been asked yet."""
    api = f"{url.rstrip('/')}/api/v1"

    def ask(what: str, parameters: Mapping[str, str]) -> bytes:
        try:
            return requests.get(f"{api}/{what}", params=dict(parameters), timeout=_SECONDS).content
        except requests.RequestException as error:
            raise Unavailable(f"Prometheus at {url} does not answer ({type(error).__name__}); {_HINT}") from error

    return Source(url, ask)


def _proxied(cluster: Cluster, namespace: str, service: str) -> Source:
    where = f"Service {namespace}/{service}"

    def ask(what: str, parameters: Mapping[str, str]) -> bytes:
        path = f"/api/v1/namespaces/{namespace}/services/{service}/proxy/api/v1/{what}"
        try:
            return cluster.raw(path, parameters, _SECONDS)
        except click.ClickException as error:
            raise Unavailable(f"{where}, through the API server: {error.message}; {_HINT}") from error

    return Source(where, ask)
