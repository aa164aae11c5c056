"""Tells people of promotions, rollbacks and alerts of gates: one POST to a webhook, in JSON that Slack and Alertmanager's receivers read.

Best effort: the durable record is the Event and the history. A webhook that does not answer delays nothing and is said in the log.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
import prometheus_client

from serinus_contract.names import API_VERSION, GROUP, PLURAL
from serinus_operator.manifests import Release
from serinus_operator.rollout.actions import Event
from serinus_operator.rollout.model import Result

_TIMEOUT_SECONDS: Final = 10.0
_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 2.0
_API_SERVER: Final = "https://kubernetes.default.svc"
_NO_END: Final = "0001-01-01T00:00:00Z"  # Go's zero time: it goes on
_FNV_OFFSET, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3
ANALYSIS_ALERT: Final = "AnalysisAlert"  # reason of an Event: inputs have drifted, stable breaks a limit too
_NOTIFIED: Final = frozenset((str(Result.PROMOTED), str(Result.ROLLED_BACK), ANALYSIS_ALERT))
_SENT: Final = prometheus_client.Counter("serinus_operator_notifications", "Notifications by outcome", ["outcome"])

log = logging.getLogger(__name__)


class Notifier:
    """Posts to one URL in the background; without a URL it does nothing."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, release: Release, event: Event, at: datetime) -> None:
        """Starts to send, if there is somebody to tell and the event is one of those."""
        if self._url is None or event.reason not in _NOTIFIED:
            return
        task = asyncio.create_task(self._send(self._url, payload(release, event, at)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Returns when everything that was begun has been sent, or given up."""
        await asyncio.gather(*self._tasks)

    async def _send(self, url: str, body: dict[str, Any]) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
                async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, json=body) as answer:
                    if answer.status < 300:
                        _SENT.labels("sent").inc()
                        return
                    why = f"status {answer.status}"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                why = type(error).__name__  # not its text, which may hold the URL, which is a secret
            if attempt < _ATTEMPTS:
                await asyncio.sleep(_PAUSE_SECONDS * attempt)
        _SENT.labels("failed").inc()
        log.warning("the notification webhook did not take %r: %s", body["text"], why)


def payload(release: Release, event: Event, at: datetime) -> dict[str, Any]:
    """`text` is what Slack shows; the rest is what Alertmanager posts to a webhook (its format of version 4) of a group of one alert.

    A rollback or an alert fires and is not resolved by us; a promotion is over when it is told. Links name the object in the API server.
    """
    bad = event.type == "Warning"
    labels = {
        "alertname": f"Serinus{event.reason}",
        "namespace": release.namespace,
        "release": release.name,
        "severity": "warning" if bad else "info",
    }
    annotations = {"summary": f"{release} {event.reason}", "description": event.message}
    grouped = {name: labels[name] for name in ("alertname", "namespace", "release")}
    instant = (
        at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    )  # Go leaves out zeros of a fraction
    alert = {
        "status": "firing" if bad else "resolved",
        "labels": labels,
        "annotations": annotations,
        "startsAt": instant,
        "endsAt": _NO_END if bad else instant,
        "generatorURL": f"{_API_SERVER}/apis/{GROUP}/{API_VERSION}/namespaces/{release.namespace}/{PLURAL}/{release.name}",
        "fingerprint": fingerprint(labels),
    }
    return {
        "text": f"{release}: {event.reason}: {event.message}",
        "version": "4",
        "groupKey": "{}:{" + ", ".join(f"{name}={json.dumps(value)}" for name, value in grouped.items()) + "}",
        "truncatedAlerts": 0,
        "receiver": "serinus",
        "status": alert["status"],
        "groupLabels": grouped,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": _API_SERVER,
        "alerts": [alert],
    }


def fingerprint(labels: Mapping[str, str]) -> str:
    """By which Alertmanager knows an alert: 64-bit FNV-1a of the sorted labels, names and values each ended by 0xFF (prometheus/common)."""
    value = _FNV_OFFSET
    for byte in b"".join(part.encode() + b"\xff" for label in sorted(labels.items()) for part in label):
        value = (value ^ byte) * _FNV_PRIME % 2**64
    return f"{value:016x}"
