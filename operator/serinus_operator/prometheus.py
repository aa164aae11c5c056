"""Raw counters from Prometheus: one query per metric and instant serves all releases under analysis.

Release and revision come from the scrape target's labels, which Prometheus attaches from the pod, not from what a pod claims.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final, TypeAlias

import requests
from prometheus_api_client.exceptions import PrometheusApiClientException
from prometheus_api_client.prometheus_connect import PrometheusConnect
from urllib3.util.retry import Retry

from serinus_contract.metrics import (
    CONFIDENCE,
    EMBEDDING_OUT_OF_BAND_TOTAL,
    INPUT_OUT_OF_BAND_TOTAL,
    INPUT_TOKENS,
    LOW_CONFIDENCE_TOTAL,
    PINNED_TOTAL,
    READY_AT_SECONDS,
    REQUEST_DURATION_SECONDS,
    REQUESTS_TOTAL,
    SUMMARISED_LATENCIES_SECONDS,
)
from serinus_contract.names import RELEASE_SERIES_LABEL, REVISION_SERIES_LABEL
from serinus_operator.deadlined import DeadlinedAdapter
from serinus_operator.errors import Unavailable
from serinus_operator.snapshots import BOUNDS, READY_AT, Pod, ReleaseKey, Snapshot, named, series_of

PinnedBy: TypeAlias = Mapping[ReleaseKey, Mapping[Pod, float]]  # by revision and pod

_LABELS: Final = f"namespace, pod, {RELEASE_SERIES_LABEL}, {REVISION_SERIES_LABEL}"
_BY: Final = f"by ({_LABELS})"
_ASKED: Final = (*BOUNDS, *SUMMARISED_LATENCIES_SECONDS)
# The last sample of these minutes, also after a scrape that failed: a pod must not vanish and come back with all that it ever counted.
_LAST: Final = "last_over_time({}[5m])"
_COUNTERS: Final = {
    "requests": REQUESTS_TOTAL,
    "tokens": f"{INPUT_TOKENS}_sum",
    "errors": f'{REQUESTS_TOTAL}{{code=~"5.."}}',
    "latency_seconds": f"{REQUEST_DURATION_SECONDS}_sum",
    "latency_count": f"{REQUEST_DURATION_SECONDS}_count",
    "confidence": f"{CONFIDENCE}_sum",
    "confidence_count": f"{CONFIDENCE}_count",
    "low_confidence": LOW_CONFIDENCE_TOTAL,
    "input_out_of_band": INPUT_OUT_OF_BAND_TOTAL,
    "embedding_out_of_band": EMBEDDING_OUT_OF_BAND_TOTAL,
}
_QUERIES: Final = {counter: f"sum {_BY} ({_LAST.format(series)})" for counter, series in _COUNTERS.items()}
_BUCKET: Final = f"{REQUEST_DURATION_SECONDS}_bucket"
# Two bounds at a time: all of a thousand pods at once were 20 MB of the operator's memory.
_BUCKETS: Final = tuple(
    f"sum by ({_LABELS}, le) ({_LAST.format(_BUCKET + bounds)})"
    for bounds in (f'{{le=~"{"|".join(map(str, _ASKED[first : first + 2]))}"}}' for first in range(0, len(_ASKED), 2))
)
_READY_AT: Final = f"min {_BY} ({_LAST.format(READY_AT_SECONDS)})"
_PINNED: Final = f"sum {_BY} ({_LAST.format(PINNED_TOTAL)})"
_KEPT_SNAPSHOTS: Final = 3  # ten thousand pods are 5 MB; an older instant is asked for again
_MOST_COUNTED: Final = 2.0**53  # beyond it a counter no longer counts one by one


class Prometheus:
    """Snapshots of every server's counters at aligned instants, kept for a while: two releases never ask twice.

    A snapshot takes at most `timeout_seconds`, all its queries together and however slowly they are answered.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        session = _session()
        self._seconds, self._adapter = timeout_seconds, DeadlinedAdapter()
        self._connection = PrometheusConnect(
            url, retry=Retry(total=0), timeout=math.ceil(timeout_seconds), session=session
        )
        session.mount(url, self._adapter)  # in place of the one that the client library has just mounted
        self._snapshots: dict[datetime, Snapshot] = {}
        self._pinned: dict[datetime, PinnedBy] = {}
        self._changed = asyncio.Condition()
        self._wanted: Counter[datetime] = Counter()  # by those who wait
        self._reading = False
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "prometheus")  # always the same one: each would keep a heap of its own

    async def snapshot(self, at: datetime) -> Snapshot:
        """All counters at the instant `at`. Raises Unavailable when Prometheus does not answer whole and well.

        Of the instants that are waited for the oldest is read first. Releases that are behind, as after a restart, so fall into step with
        the others; else each reads its own instants, more than one in the time of one window, and no backlog ever ends.
        """
        async with self._changed:
            self._wanted[at] += 1
            try:
                await self._changed.wait_for(
                    lambda: at in self._snapshots or (not self._reading and at == min(self._wanted))
                )
            finally:
                self._wanted -= Counter([at])
                self._changed.notify_all()
            if at in self._snapshots:
                found = self._snapshots[at] = self._snapshots.pop(at)
                return found
            self._reading = True
        try:
            while len(self._snapshots) >= _KEPT_SNAPSHOTS:
                del self._snapshots[next(iter(self._snapshots))]  # the one that was asked for longest ago
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._read_in_time, at)
            self._snapshots[at] = found
        finally:
            self._reading = False
            async with self._changed:
                self._changed.notify_all()
        return found

    async def pinned(self, at: datetime) -> PinnedBy:
        """The requests that have pinned each pod's space until `at`: a query that only retained spaces need. Raises Unavailable."""
        async with self._lock:
            found = self._pinned.pop(at, None)
            if found is None:
                while len(self._pinned) >= _KEPT_SNAPSHOTS:
                    del self._pinned[next(iter(self._pinned))]
                found = await asyncio.get_running_loop().run_in_executor(self._thread, self._read_pinned, at)
            self._pinned[at] = found
            return found

    def _read_pinned(self, at: datetime) -> PinnedBy:
        found: defaultdict[ReleaseKey, dict[Pod, float]] = defaultdict(dict)
        with self._adapter.within(self._seconds):
            for release, revision_and_pod, _, value in self._series(_PINNED, at):
                found[release][revision_and_pod] = value
        return dict(found)

    def _read_in_time(self, at: datetime) -> Snapshot:
        with self._adapter.within(self._seconds):
            return self._read(at)

    def _read(self, at: datetime) -> Snapshot:
        snapshot = Snapshot(tuple(_QUERIES))
        for counter, query in _QUERIES.items():
            for release, pod, _, value in self._series(query, at):
                snapshot.add(counter, release, pod, value)
        for query in _BUCKETS:
            for release, pod, labels, value in self._series(query, at):
                snapshot.add(_number(labels.get("le")), release, pod, value)
        for release, pod, _, value in self._series(_READY_AT, at):
            snapshot.add(READY_AT, release, pod, value)
        return snapshot

    def _series(self, query: str, at: datetime) -> Iterator[tuple[ReleaseKey, Pod, Mapping[str, str], float]]:
        """Pod, labels and value of each series; what is no count (NaN, negative, beyond counting) is left out: a pod may claim anything."""
        for series in self._query(query, at):
            labels, value = series["metric"], _number(series["value"][1])
            if 0 <= value <= _MOST_COUNTED:
                namespace, release, revision, pod = named(
                    labels, "namespace", RELEASE_SERIES_LABEL, REVISION_SERIES_LABEL, "pod"
                )
                yield (namespace, release), (revision, pod), labels, value

    def _query(self, query: str, at: datetime) -> Iterable[dict[str, Any]]:
        parameters = {"time": at.timestamp(), "timeout": f"{self._seconds:g}s"}
        try:
            for series in self._connection.custom_query(query, params=parameters):
                if not isinstance(series["metric"], dict) or len(series["value"]) != 2:
                    raise ValueError("the answer is no vector")
                yield series
        except (
            requests.RequestException,
            PrometheusApiClientException,
            LookupError,
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            said = f"{type(error).__name__}: {str(error)[:200]}"
            why = f"no whole answer within {self._seconds:g} s" if self._adapter.over else said
            raise Unavailable(f"Prometheus: {why}") from error


def _number(text: object) -> float:
    """NaN for what is none."""
    try:
        return float(str(text))
    except ValueError:
        return math.nan


class _Answer(requests.Response):
    """An answer that the client library reads a part at a time."""

    def json(self, **_: Any) -> Any:
        return {"data": {"result": series_of(self.content)}}


def _session() -> requests.Session:
    """A session that sees what the client library drops: warnings, with which Prometheus marks answers that are not whole."""

    def whole(response: requests.Response, **_: Any) -> requests.Response:
        if response.ok and b'"warnings"' in response.content and (warnings := response.json().get("warnings")):
            raise requests.RequestException("the answer is not whole: " + "; ".join(warnings))
        answer = _Answer()
        vars(answer).update(vars(response))
        return answer

    session = requests.Session()
    session.hooks["response"].append(whole)
    return session
