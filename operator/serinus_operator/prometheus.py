"""Raw counters from Prometheus: one query per metric and instant serves all releases under analysis.

Release and revision come from the scrape target's labels, which Prometheus attaches from the pod, not from what a pod claims.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

import requests
from prometheus_api_client.exceptions import PrometheusApiClientException
from prometheus_api_client.prometheus_connect import PrometheusConnect
from urllib3.util.retry import Retry

from serinus_contract.metrics import CONFIDENCE, REQUEST_DURATION_SECONDS, REQUESTS_TOTAL
from serinus_contract.names import RELEASE_SERIES_LABEL, REVISION_SERIES_LABEL
from serinus_operator.errors import Unavailable
from serinus_operator.gates.windows import Counters, Reading

ReleaseKey: TypeAlias = tuple[str, str]  # namespace, release name
Snapshot: TypeAlias = Mapping[ReleaseKey, Reading]

_BY: Final = f"by (namespace, pod, {RELEASE_SERIES_LABEL}, {REVISION_SERIES_LABEL})"
_QUERIES: Final = {
    "requests": f"sum {_BY} ({REQUESTS_TOTAL})",
    "errors": f'sum {_BY} ({REQUESTS_TOTAL}{{code=~"5.."}})',
    "latency_seconds": f"sum {_BY} ({REQUEST_DURATION_SECONDS}_sum)",
    "latency_count": f"sum {_BY} ({REQUEST_DURATION_SECONDS}_count)",
    "confidence": f"sum {_BY} ({CONFIDENCE}_sum)",
    "confidence_count": f"sum {_BY} ({CONFIDENCE}_count)",
}
_KEPT_SNAPSHOTS: Final = 64


class Prometheus:
    """Snapshots of every server's counters at aligned instants, kept for a while: two releases never ask twice."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._connection = PrometheusConnect(url, retry=Retry(total=0), timeout=int(timeout_seconds))
        self._snapshots: dict[datetime, Snapshot] = {}
        self._lock = asyncio.Lock()

    async def snapshot(self, at: datetime) -> Snapshot:
        """All counters at the instant `at`. Raises Unavailable when Prometheus does not answer whole and well."""
        async with self._lock:
            if at not in self._snapshots:
                self._snapshots[at] = await asyncio.to_thread(self._read, at)
                for old in sorted(self._snapshots)[:-_KEPT_SNAPSHOTS]:
                    del self._snapshots[old]
            return self._snapshots[at]

    def _read(self, at: datetime) -> Snapshot:
        values: defaultdict[tuple[ReleaseKey, tuple[str, str]], dict[str, float]] = defaultdict(dict)
        for counter, query in _QUERIES.items():
            for series in self._query(query, at):
                labels = series["metric"]
                release = (labels.get("namespace", ""), labels.get(RELEASE_SERIES_LABEL, ""))
                pod = (labels.get(REVISION_SERIES_LABEL, ""), labels.get("pod", ""))
                value = float(series["value"][1])
                if math.isfinite(value) and value >= 0:
                    values[release, pod][counter] = value
        snapshot: defaultdict[ReleaseKey, dict[tuple[str, str], Counters]] = defaultdict(dict)
        for (release, pod), counters in values.items():
            snapshot[release][pod] = Counters(**counters)
        return dict(snapshot)

    def _query(self, query: str, at: datetime) -> list[dict[str, Any]]:
        try:
            answer: list[dict[str, Any]] = self._connection.custom_query(query, params={"time": at.timestamp()})
        except (requests.RequestException, PrometheusApiClientException, ValueError, KeyError) as error:
            raise Unavailable(f"Prometheus: {type(error).__name__}: {str(error)[:200]}") from error
        return answer
