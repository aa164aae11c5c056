"""Rules, dashboard, page of releases: what promtool says of their queries, and whether real servers and operators export their metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from tests.cluster import binaries, debian
from tests.operator.world import challenged
from tests.server.conftest import start, stop

from serinus_operator import __main__ as operator
from serinus_operator import status_codec
from serinus_operator.cache import Cache
from serinus_operator.cli.dashboard import panels
from serinus_operator.gates.judge import Verdict
from serinus_operator.metrics import Metrics
from serinus_operator.rollout.cost import Cost, PodUse, Price

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "serinus"
RULES = CHART / "files" / "alerts.yaml"
CASES = ROOT / "tests" / "alerts" / "rules_test.yaml"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def queries() -> dict[str, str]:
    """Every query of the dashboard by its place, with Grafana's variables filled in, and of the page of releases."""
    board = json.loads((CHART / "files" / "dashboard.json").read_text())
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", [])
    }
    found |= {annotation["name"]: annotation["expr"] for annotation in board["annotations"]["list"]}
    filled = {"$__rate_interval": "5m", "$namespace": ".*", "$release": ".*"}
    for name, value in filled.items():
        found = {place: query.replace(name, value) for place, query in found.items()}
    release = {"metadata": {"namespace": "team", "name": "embedder"}, "spec": {}}
    return found | {f"page: {chart}": query for chart, query in panels.queries(release).items()}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binaries.promtool(), *arguments], capture_output=True, text=True, timeout=120)


def test_every_alert_has_a_runbook_and_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    names = [rule["alert"] for rule in rules()]
    assert sorted(sections) == sorted(names)
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    for rule in rules():
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
        assert {bool(case["exp_alerts"]) for case in cases if case["alertname"] == rule["alert"]} == {True, False}


@pytest.mark.integration
def test_alerts_fire_when_they_should_and_not_beside_that(tmp_path: Path) -> None:
    for source in (RULES, CASES):
        (tmp_path / source.name).write_text(source.read_text())
    done = promtool("test", "rules", tmp_path / CASES.name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.integration
def test_amtool_accepts_the_example_and_routes_alerts_as_its_comments_say() -> None:
    amtool = shutil.which("amtool") or debian.program("prometheus-alertmanager", "amtool")
    example = ROOT / "examples" / "alertmanager.yaml"
    checked = subprocess.run([amtool, "check-config", example], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for rule in rules():
        labels = [f"alertname={rule['alert']}", f"severity={rule['labels']['severity']}"]
        command = [amtool, "config", "routes", "test", f"--config.file={example}", *labels]
        routed = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert routed.stdout.strip() == ("on-call" if rule["labels"]["severity"] == "critical" else "team"), rule[
            "alert"
        ]


@pytest.mark.integration
def test_promtool_parses_every_query(tmp_path: Path) -> None:
    recorded = [{"record": f"query_{number}", "expr": expr} for number, expr in enumerate(queries().values())]
    assert len(recorded) > 40
    file = tmp_path / "queries.json"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.integration
def test_the_charts_rule_holds_the_same_alerts_and_its_dashboard_the_same_panels() -> None:
    values = [
        "images.operator=o",
        "images.server=s",
        "registries.default.trackingUri=http://m",
        "prometheus.url=http://p",
    ]
    values += ["prometheusRule.enabled=true", "dashboard.enabled=true", "podMonitor.enabled=true"]
    sets = [argument for value in values for argument in ("--set", value)]
    done = subprocess.run([binaries.helm(), "template", "x", CHART, *sets], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    rendered = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout) if each}
    assert rendered["PrometheusRule", "x"]["spec"] == yaml.safe_load(RULES.read_text())
    board = json.loads(rendered["ConfigMap", "x-dashboard"]["data"]["serinus.json"])
    assert board == json.loads((CHART / "files" / "dashboard.json").read_text())
    assert ("PodMonitor", "x-operator") in rendered


@pytest.fixture(scope="module")
def exported(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the samples of a live server that logs, and of an operator with a rollout under way that once rolled back."""
    folder = tmp_path_factory.mktemp("alerts")
    served = start(
        packaged, folder / "log", SERINUS_DRAIN_SECONDS="0", SERINUS_PREDICTION_LOG=f"jsonl:{folder / 'rows'}"
    )
    served.wait_ready(120)
    for _ in range(4):  # drift says something from 200 texts on
        answer = httpx.post(f"{served.url}/predict", json={"inputs": ["a text"] * 60}, timeout=60)
        assert answer.status_code == 200
    shown = httpx.get(f"{served.url}/metrics", timeout=10).text
    assert stop(served) == 0
    world = challenged()
    world.verdict = Verdict.INCONCLUSIVE
    world.run(20)
    cache = Cache()
    metadata = {"namespace": "team", "name": "embedder", "uid": "u", "resourceVersion": "1"}
    cache.put_release({"metadata": metadata, "status": status_codec.encode(world.status)})
    registry = CollectorRegistry()
    metrics = Metrics(cache, lambda: world.now)
    cost = Cost(price=Price(2.49)).accrued({"1": (PodUse(world.now, 1),)}, world.now)
    metrics.cost(("team", "embedder"), cost.counted({"1": (9.0, 99.0)}, world.now))
    metrics.registry_answered("default")
    registry.register(metrics)
    shown += generate_latest(registry).decode() + generate_latest(operator.prometheus_client.REGISTRY).decode()
    return {line.partition("{")[0].split()[0] for line in shown.splitlines() if line and not line.startswith("#")}


@pytest.mark.model
def test_every_metric_that_is_asked_for_is_exported(exported: set[str]) -> None:
    asked = {**queries(), **{rule["alert"]: rule["expr"] for rule in rules()}}
    names = {(place, name) for place, query in asked.items() for name in re.findall(r"\bserinus_\w+", query)}
    labels = {"serinus_dev_release", "serinus_dev_revision"}
    assert {(place, name) for place, name in names if name not in exported | labels} == set()


@pytest.mark.model
def test_every_metric_that_is_exported_is_in_the_reference(exported: set[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(serinus_\w+)`", page))
    ours = {name for name in exported if name.startswith("serinus_") and not name.endswith("_created")}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in ours}
    assert families - named == set()
