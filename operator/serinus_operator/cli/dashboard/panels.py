"""Which charts a release has, what each asks of Prometheus, and which limits it shows. Asks; decides and draws nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from serinus_contract.metrics import CONFIDENCE, DRIFT, REQUEST_DURATION_SECONDS, REQUESTS_TOTAL
from serinus_contract.names import RELEASE_SERIES_LABEL, REVISION_SERIES_LABEL
from serinus_operator.cli.dashboard.charts import Chart, Points
from serinus_operator.cli.dashboard.record import Record
from serinus_operator.cli.dashboard.source import Series, Source
from serinus_operator.errors import InvalidSpec, Unavailable
from serinus_operator.spec import ConfidenceGate, ErrorRateGate, LatencyGate
from serinus_operator.spec_parser import parse_spec

JSON: TypeAlias = dict[str, Any]

_LEAD: Final = timedelta(minutes=2)  # before the canary, for comparison
_AT_REST: Final = timedelta(hours=1)
_LONGEST: Final = timedelta(days=2)
_HIGH_DRIFT: Final = 0.25  # PSI, as docs/drift.md and the server's `serinus_drift_level` have it


@dataclass(frozen=True, slots=True)
class Panels:
    """What the page draws: the rollout's weight with each gate's evidence, and what is compared.

    `missing` says why something is not there.
    """

    rollout: Sequence[Chart]
    compared: Sequence[Chart]
    missing: str


def span(release: JSON, now: datetime) -> tuple[datetime, datetime]:
    """From a little before the canary to now; at rest the last hour, or the last rollout where that was within a day."""
    status = release.get("status") or {}
    began = (status.get("canary") or {}).get("startedAt")
    if (
        began is None
        and (history := status.get("history"))
        and now - _instant(history[0]["endedAt"]) < timedelta(days=1)
    ):
        began = history[0]["startedAt"]
    start = _instant(began) - _LEAD if began else now - _AT_REST
    return max(start, now - _LONGEST), now


def queries(release: JSON) -> dict[str, str]:
    """What is asked of Prometheus, by chart: canary against stable from the servers, weight and evidence from the operator."""
    return {chart.id: query for chart, query in _compared(release)} | _own(release)


def panels(release: JSON, record: Record, source: Source | None, start: datetime, end: datetime) -> Panels:
    """The release's charts between two instants. What Prometheus remembers of evidence and weights goes before what the page saw."""
    asked = _compared(release)
    told: Mapping[str, Sequence[Series]] = {}
    missing = ""
    if source is not None:
        wanted = queries(release)
        try:
            with ThreadPoolExecutor(4, "prometheus") as pool:
                answers = pool.map(lambda query: source.over_time(query, start, end), wanted.values())
                told = dict(zip(wanted, answers, strict=True))
        except Unavailable as error:
            missing = str(error)
        else:
            if not any(told[chart.id] for chart, _ in asked):
                missing = "Prometheus has no series of this release's pods; does it scrape them (podMonitor.enabled)?"
    compared = [replace(chart, lines=_by_role(told[chart.id], release)) for chart, _ in asked if told.get(chart.id)]
    return Panels(
        rollout=[
            _weight(release, record, told.get("weight", ())),
            *_evidence(release, record, told.get("evidence", ())),
        ],
        compared=compared,
        missing=missing,
    )


def _own(release: JSON) -> dict[str, str]:
    """What the operator itself exports: it remembers more than this page has seen."""
    metadata = release["metadata"]
    of = f'namespace="{metadata["namespace"]}",release="{metadata["name"]}"'
    return {
        "weight": f"max by (of) (serinus_release_weight_percent{{{of}}})",
        "evidence": f"max by (gate) (serinus_gate_evidence{{{of}}})",
    }


def _compared(release: JSON) -> list[tuple[Chart, str]]:
    """Charts of canary and stable, without their lines, each with its query; one series for a revision."""
    metadata, limits = release["metadata"], _limits(release)
    of = f'namespace="{metadata["namespace"]}",{RELEASE_SERIES_LABEL}="{metadata["name"]}"'

    def rate(series: str, more: str = "", by: str = "") -> str:
        return f"sum by ({by}{REVISION_SERIES_LABEL}) (rate({series}{{{of}{more}}}[1m]))"

    def mean(histogram: str) -> str:
        return f"{rate(f'{histogram}_sum')} / {rate(f'{histogram}_count')}"

    p95 = f"histogram_quantile(0.95, {rate(f'{REQUEST_DURATION_SECONDS}_bucket', by='le, ')})"
    failed = rate(REQUESTS_TOTAL, ',code=~"5.."')
    errors = f"({failed} or {rate(REQUESTS_TOTAL)} * 0) / {rate(REQUESTS_TOTAL)}"
    drift = f'max by ({REVISION_SERIES_LABEL}) ({DRIFT}{{{of},statistic="psi"}})'
    return [
        (
            Chart("latency", "Latency, mean", {}, "s", limits.get("latency"), from_zero=True),
            mean(REQUEST_DURATION_SECONDS),
        ),
        (Chart("p95", "Latency, 95th percentile", {}, "s", from_zero=True), p95),
        (Chart("confidence", "Confidence, mean", {}, "", limits.get("confidence")), mean(CONFIDENCE)),
        (Chart("errors", "Failed requests", {}, "share", limits.get("errors"), from_zero=True), errors),
        (Chart("requests", "Requests a second", {}, from_zero=True), rate(REQUESTS_TOTAL)),
        (Chart("drift", "Drift of the worst signal (PSI)", {}, "", _HIGH_DRIFT, "high from", from_zero=True), drift),
    ]


def _limits(release: JSON) -> dict[str, float]:
    """Absolute limits of the spec's gates, by chart: seconds, confidence, share. None where this plugin cannot read the spec."""
    try:
        gates = parse_spec(release["spec"]).analysis.gates
    except InvalidSpec:
        return {}
    found: dict[str, float] = {}
    for gate in gates:
        match gate.rule:
            case LatencyGate(max_mean=timedelta() as limit):
                found["latency"] = limit.total_seconds()
            case ConfidenceGate(min_mean=float(limit)):
                found["confidence"] = limit
            case ErrorRateGate(max_rate=float(limit)):
                found["errors"] = limit
            case _:
                pass
    return found


def _by_role(series: Sequence[Series], release: JSON) -> Mapping[str, Points]:
    """Lines by what the revisions are now; a canary that was just taken back is still shown as one."""
    status = release.get("status") or {}
    roles = {role: status[role]["revision"] for role in ("stable", "canary", "former") if status.get(role)}
    last = (status.get("history") or [{}])[0].get("revision")
    if last is not None and last not in roles.values():
        roles.setdefault("canary", last)
    by_revision = {labels.get(REVISION_SERIES_LABEL, ""): points for labels, points in series}
    return {role: by_revision[revision] for role, revision in roles.items() if revision in by_revision}


def _weight(release: JSON, record: Record, told: Sequence[Series]) -> Chart:
    desired, achieved = record.weights(_key(release))
    lines = {labels.get("of", ""): points for labels, points in told} or {"desired": desired, "achieved": achieved}
    shown: dict[str, Points] = {of: lines[of] for of in ("achieved", "desired") if of in lines}
    return Chart("weight", "Weight of the canary", shown, "%", stepped=True, range=(0, 100))


def _evidence(release: JSON, record: Record, told: Sequence[Series]) -> list[Chart]:
    """A chart for each gate whose evidence can fail it, against the evidence that it needs (1/α)."""
    status = release.get("status") or {}
    canary = status.get("canary") or {}
    began = _instant(canary["startedAt"]) if canary else None
    remembered = {labels.get("gate", ""): points for labels, points in told}
    charts = []
    for gate in status.get("gates") or []:
        name, needed = gate["name"], float(gate.get("needed", 0))
        if not needed > 0:
            continue
        points = [
            (at, value) for at, value in remembered.get(name, ()) if began is None or at >= began
        ] or record.evidence(_key(release), name, canary.get("revision", ""))  # fmt: skip
        chart = Chart(
            f"evidence-{name}",
            f"Evidence, {name}",
            {"evidence": points},
            "",
            needed,
            "fails at",
            log=True,
            stepped=True,
        )
        charts.append(chart)
    return charts


def _key(release: JSON) -> tuple[str, str]:
    return release["metadata"]["namespace"], release["metadata"]["name"]


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
