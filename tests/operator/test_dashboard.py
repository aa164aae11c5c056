"""What the page of releases is made of, without a browser: statuses shown and remembered, charts, answers of Prometheus at the wire."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from serinus_operator.cli.dashboard import panels, source
from serinus_operator.cli.dashboard.charts import Chart, drawn, written
from serinus_operator.cli.dashboard.record import Record
from serinus_operator.cli.dashboard.shown import shown
from serinus_operator.cli.schema import schema, with_defaults
from serinus_operator.errors import Unavailable

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def release(**status: Any) -> dict[str, Any]:
    gates = [{"name": "latency", "latency": {"maxMean": "120ms"}}, {"name": "restarts", "restarts": {}}]
    found: dict[str, Any] = {
        "apiVersion": "serinus.dev/v1alpha1",
        "kind": "ModelRelease",
        "metadata": {"namespace": "search", "name": "faq"},
        "spec": {"model": {"name": "faq", "alias": "challenger"}, "analysis": {"gates": gates}},
        "status": status,
    }
    with_steps = with_defaults(found, schema())
    with_steps["spec"]["strategy"]["steps"] = [{"verify": {}}, {"setWeight": 10}, {"pause": {}}]
    return dict(with_steps)


def rolling(evidence: str = "2.5", **canary: Any) -> dict[str, Any]:
    return release(
        stable={"version": "1", "revision": "aa"},
        canary={"version": "2", "revision": "bb", "startedAt": "2026-03-01T11:50:00Z", **canary},
        step={"index": 2, "startedAt": "2026-03-01T11:55:00Z", "progressedAt": "2026-03-01T11:56:00Z"},
        weight={"desired": 10, "achieved": 9},
        gates=[
            {"name": "latency", "verdict": "Pass", "evidence": evidence, "needed": "80.0"},
            {"name": "restarts", "verdict": "Pass", "evidence": "0.0", "needed": "0.0"},
        ],
    )


@pytest.mark.parametrize(
    ("seen", "verbs"),
    [
        (release(), []),
        (rolling(), ["promote", "pause", "abort"]),
        (rolling(paused=True), ["promote", "resume", "abort"]),
        (rolling(ending="RolledBack"), []),
        (release(target={"rejected": True}), ["retry"]),
    ],
)
def test_the_page_offers_what_the_operator_would_obey(seen: dict[str, Any], verbs: list[str]) -> None:
    assert shown(seen, NOW)["verbs"] == verbs


def test_steps_are_told_as_the_operator_tells_them() -> None:
    steps = shown(rolling(), NOW)["steps"]
    assert [(step["label"], step["state"]) for step in steps] == [
        ("verify", "done"), ("setWeight 10", "done"), ("pause until promoted", "now"), ("setWeight 100", "todo"),
    ]  # fmt: skip
    assert [step["label"] for step in shown(release(), NOW)["steps"]] == ["verify", "setWeight 100"]


def test_a_release_of_another_version_of_the_operator_is_shown_as_far_as_it_can_be_read() -> None:
    strange = rolling()
    strange["spec"]["strategy"]["steps"].append({"teleport": {}})
    assert shown(strange, NOW)["steps"] == []
    assert shown(strange, NOW)["canary"]["version"] == "2"
    assert panels.panels(strange, Record(), None, NOW, NOW).rollout[0].title == "Weight of the canary"


def test_what_versions_cost_is_told_until_now() -> None:
    used = {"version": "2", "gpus": 2, "gpuSeconds": "3600.0", "requests": 9000, "tokens": 100}
    price = {"perGpuHour": "3.0", "currency": "EUR"}
    cost = {"until": "2026-03-01T11:00:00Z", "price": price, "versions": [used]}
    told = shown(release(cost=cost), NOW)["cost"]
    assert told["currency"] == "EUR"
    assert told["versions"] == [
        {
            "version": "2",
            "gpuHours": 3.0,
            "cpuPodHours": 0.0,
            "price": 9.0,
            "perThousand": 1.0,
            "requests": 9000,
            "tokens": 100,
        }
    ]
    assert shown(release(), NOW)["cost"]["versions"] == []


def test_evidence_beyond_all_numbers_is_still_json() -> None:
    for evidence in ("inf", "nan", "-inf"):
        json.dumps(shown(rolling(evidence), NOW), allow_nan=False)


def test_the_record_remembers_changes_and_forgets_what_is_gone() -> None:
    record = Record()
    for second, evidence in enumerate(["1.0", "1.0", "2.0", "2.0"]):
        record.see([rolling(evidence)], NOW + timedelta(seconds=second))
    key = ("search", "faq")
    assert [value for _, value in record.evidence(key, "latency", "bb")] == [1.0, 2.0]
    assert record.evidence(key, "latency", "an earlier canary") == []
    record.see([rolling("2.0")], NOW + timedelta(seconds=40))
    assert len(record.weights(key)[0]) == 3
    record.see([], NOW + timedelta(seconds=41))
    assert record.weights(key) == ([], [])


def test_a_chart_carries_no_style_and_no_script_but_its_limit_and_roles() -> None:
    points = [(NOW + timedelta(seconds=10 * each), 0.02 + each / 10000) for each in range(500)]
    chart = Chart("latency", "Latency", {"stable": points, "canary": []}, "s", limit=0.12)
    told = drawn(chart, NOW, NOW + timedelta(seconds=5000), 400)
    assert told["says"] == "Latency: stable 69.9 ms, limit 120 ms"
    svg = ElementTree.fromstring(told["svg"])
    tags = {element.tag.rpartition("}")[2] for element in svg.iter()}
    assert not tags & {"style", "script", "defs", "title"}
    assert not any("style" in element.attrib or "id" in element.attrib for element in svg.iter())
    classes = [element.get("class", "") for element in svg.iter()]
    assert {"series stable", "series limit"} <= set(classes)
    assert 100 < sum("dot" in each.split() for each in classes) <= 121


def test_a_chart_survives_what_metrics_may_say() -> None:
    points = [(NOW, float("nan")), (NOW, float("inf")), (NOW, 0.0)]
    for log in (False, True):
        told = drawn(Chart("x", "X", {"evidence": points}, limit=0.0, log=log), NOW, NOW + timedelta(hours=1), 10_000)
        assert told["svg"].startswith("<svg")
    assert drawn(Chart("x", "X", {"evidence": points[:2]}), NOW, NOW, 1)["says"] == "X: no data"


def test_a_value_that_holds_is_drawn_from_the_edge() -> None:
    chart = Chart("w", "Weight", {"desired": [(NOW - timedelta(hours=3), 10.0)]}, "%", stepped=True)
    assert 'class="line' in drawn(chart, NOW, NOW + timedelta(hours=1), 400)["svg"]
    assert drawn(chart, NOW, NOW + timedelta(hours=1), 400)["says"] == "Weight: desired 10 %"


def test_values_are_written_short() -> None:
    said = [
        written(0.0271, "s"),
        written(0.0123, "share"),
        written(0.5, "share"),
        written(49.6, "%"),
        written(12345, ""),
    ]
    assert said == ["27.1 ms", "1.23%", "50.0%", "50 %", "12,345"]


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def matrix(**labels: str) -> str:
    values = [[NOW.timestamp() - 60, "1.5"], [NOW.timestamp(), "2"]]
    return json.dumps({"status": "success", "data": {"result": [{"metric": labels, "values": values}]}})


def test_what_prometheus_remembers_goes_before_what_the_page_saw() -> None:
    record = Record()
    record.see([rolling("9.0")], NOW)
    with answering(200, matrix(gate="latency", of="desired", serinus_dev_revision="bb")) as url:
        found = source.find(None, url)  # type: ignore[arg-type]  # an address needs no cluster
        told = panels.panels(rolling(), record, found, *panels.span(rolling(), NOW))
    assert told.missing == ""
    weight, evidence = told.rollout
    assert [value for _, value in weight.lines["desired"]] == [1.5, 2.0]
    assert (evidence.id, [value for _, value in evidence.lines["evidence"]]) == ("evidence-latency", [1.5, 2.0])
    limits: Mapping[str, float | None] = {chart.id: chart.limit for chart in told.compared}
    assert limits == {"latency": 0.12, "p95": None, "confidence": None, "errors": None, "requests": None, "drift": 0.25}
    assert all(list(chart.lines) == ["canary"] for chart in told.compared)


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, "<html>", "is no Prometheus"),
        (200, "[]", "is no Prometheus"),
        (422, '{"status": "error", "error": "query timed out"}', "query timed out"),
    ],
)
def test_a_prometheus_that_cannot_be_read_is_one_sentence(status: int, body: str, says: str) -> None:
    with answering(status, body) as url, pytest.raises(Unavailable, match=says):
        source.find(None, url)  # type: ignore[arg-type]


def test_a_prometheus_that_cannot_be_named_so_is_told_how() -> None:
    for named in ("prometheus", "monitoring/prometheus", "monitoring/prometheus:web"):
        with pytest.raises(Unavailable, match="NAMESPACE/SERVICE:PORT"):
            source.find(None, named)  # type: ignore[arg-type]


def test_the_wheel_carries_the_page(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        carried = {Path(name).name for name in wheel.namelist() if "dashboard/page/" in name}
    assert carried == {"index.html", "page.css", "page.js", "draw.js", "charts.js", "icon.svg"}
