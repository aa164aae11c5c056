"""Raw counters from Prometheus: one query per metric and instant serves all releases under analysis.

Release and revision come from the scrape target's labels, which Prometheus attaches from the pod, not from what a pod claims.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import requests
from prometheus_api_client.exceptions import PrometheusApiClientException
from prometheus_api_client.prometheus_connect import PrometheusConnect
from urllib3.util.retry import Retry

from serinus_contract.metrics import (
    COMPARED_LATENCIES_SECONDS,
    CONFIDENCE,
    LOW_CONFIDENCE_TOTAL,
    READY_AT_SECONDS,
    REQUEST_DURATION_SECONDS,
    REQUESTS_TOTAL,
)
from serinus_contract.names import RELEASE_SERIES_LABEL, REVISION_SERIES_LABEL
from serinus_operator.errors import Unavailable
from serinus_operator.gates.windows import NO_BUCKETS, Counters, Reading, Sample

ReleaseKey: TypeAlias = tuple[str, str]  # namespace, release name
Snapshot: TypeAlias = Mapping[ReleaseKey, Reading]
_Pod: TypeAlias = tuple[ReleaseKey, tuple[str, str]]  # and revision, pod name

_LABELS: Final = f"namespace, pod, {RELEASE_SERIES_LABEL}, {REVISION_SERIES_LABEL}"
_BY: Final = f"by ({_LABELS})"
_BOUNDS: Final = tuple(bound for pair in COMPARED_LATENCIES_SECONDS for bound in pair)
_QUERIES: Final = {
    "requests": f"sum {_BY} ({REQUESTS_TOTAL})",
    "errors": f'sum {_BY} ({REQUESTS_TOTAL}{{code=~"5.."}})',
    "latency_seconds": f"sum {_BY} ({REQUEST_DURATION_SECONDS}_sum)",
    "latency_count": f"sum {_BY} ({REQUEST_DURATION_SECONDS}_count)",
    "confidence": f"sum {_BY} ({CONFIDENCE}_sum)",
    "confidence_count": f"sum {_BY} ({CONFIDENCE}_count)",
    "low_confidence": f"sum {_BY} ({LOW_CONFIDENCE_TOTAL})",
}
_BUCKETS: Final = f"sum by ({_LABELS}, le) ({REQUEST_DURATION_SECONDS}_bucket)"
_READY_AT: Final = f"min {_BY} ({READY_AT_SECONDS})"
_KEPT_SNAPSHOTS: Final = 6  # a thousand pods are a megabyte; an older instant is asked for again


class Prometheus:
    """Snapshots of every server's counters at aligned instants, kept for a while: two releases never ask twice."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._connection = PrometheusConnect(
            url, retry=Retry(total=0), timeout=int(timeout_seconds), session=_session()
        )
        self._snapshots: dict[datetime, Snapshot] = {}
        self._lock = asyncio.Lock()

    async def snapshot(self, at: datetime) -> Snapshot:
        """All counters at the instant `at`. Raises Unavailable when Prometheus does not answer whole and well."""
        async with self._lock:
            found = self._snapshots.pop(at, None)
            if found is None:
                found = await asyncio.to_thread(self._read, at)
            self._snapshots[at] = found
            while len(self._snapshots) > _KEPT_SNAPSHOTS:
                del self._snapshots[next(iter(self._snapshots))]  # the one that was asked for longest ago
            return found

    def _read(self, at: datetime) -> Snapshot:
        values: defaultdict[_Pod, dict[str, float]] = defaultdict(dict)
        for counter, query in _QUERIES.items():
            for pod, _, value in self._series(query, at):
                values[pod][counter] = value
        within: defaultdict[_Pod, list[float]] = defaultdict(lambda: list(NO_BUCKETS))
        for pod, labels, value in self._series(_BUCKETS, at):
            bound = float(labels.get("le", "nan"))
            if bound in _BOUNDS:
                within[pod][_BOUNDS.index(bound)] = value
        ready_at = {pod: datetime.fromtimestamp(value, UTC) for pod, _, value in self._series(_READY_AT, at) if value}
        snapshot: defaultdict[ReleaseKey, dict[tuple[str, str], Sample]] = defaultdict(dict)
        for pod, counters in values.items():
            release, revision_and_pod = pod
            sample = Sample(Counters(**counters, within=tuple(within[pod])), ready_at.get(pod))
            snapshot[release][revision_and_pod] = sample
        return dict(snapshot)

    def _series(self, query: str, at: datetime) -> Iterator[tuple[_Pod, Mapping[str, str], float]]:
        """Pod, labels and value of each series; what is not a count (NaN, negative) is left out."""
        for series in self._query(query, at):
            labels = series["metric"]
            release = (labels.get("namespace", ""), labels.get(RELEASE_SERIES_LABEL, ""))
            pod = (labels.get(REVISION_SERIES_LABEL, ""), labels.get("pod", ""))
            value = float(series["value"][1])
            if math.isfinite(value) and value >= 0:
                yield (release, pod), labels, value

    def _query(self, query: str, at: datetime) -> list[dict[str, Any]]:
        try:
            answer: list[dict[str, Any]] = self._connection.custom_query(query, params={"time": at.timestamp()})
        except (requests.RequestException, PrometheusApiClientException, ValueError, KeyError) as error:
            raise Unavailable(f"Prometheus: {type(error).__name__}: {str(error)[:200]}") from error
        return answer


def _session() -> requests.Session:
    """A session that sees what the client library drops: warnings, with which Prometheus marks answers that are not whole."""

    def refuse_warnings(response: requests.Response, **_: Any) -> None:
        if response.ok and b'"warnings"' in response.content and (warnings := response.json().get("warnings")):
            raise requests.RequestException("the answer is not whole: " + "; ".join(warnings))

    session = requests.Session()
    session.hooks["response"].append(refuse_warnings)
    return session
