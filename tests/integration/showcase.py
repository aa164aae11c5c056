"""Releases in every phase, and a Prometheus that remembers their last forty minutes: what the page is looked at with.

No operator runs beside them: their statuses are written here, in the operator's own form. The figures are made up.
"""

from __future__ import annotations

import json
import math
import random
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.cluster import binaries
from tests.cluster.control_plane import ControlPlane
from tests.cluster.services import answers
from tests.integration.surroundings import eventually, free_port, process

NAMESPACE = "search"
_STEPS: list[dict[str, Any]] = [
    {"verify": {}}, {"setWeight": 10}, {"analysis": {"duration": "10m"}}, {"pause": {}},
    {"setWeight": 50}, {"analysis": {"duration": "15m"}},
]  # fmt: skip
_GATES: list[dict[str, Any]] = [
    {"name": "errors", "errorRate": {}}, {"name": "latency", "latency": {"maxMean": "120ms"}},
    {"name": "confidence", "confidence": {"minMean": "0.75"}}, {"name": "drift", "drift": {}},
]  # fmt: skip
_MINUTES, _EVERY_SECONDS = 40, 15


def apply(plane: ControlPlane, now: datetime) -> None:
    """Four releases, with their statuses."""
    plane.kubectl("create", "namespace", NAMESPACE)
    for name, status in _statuses(now).items():
        spec = {
            "model": {"name": name, "alias": "challenger"}, "replicas": 4, "strategy": {"steps": _STEPS},
            "analysis": {"gates": _GATES},
        }  # fmt: skip
        metadata = {"name": name, "namespace": NAMESPACE}
        release = {"apiVersion": "serinus.dev/v1alpha1", "kind": "ModelRelease", "metadata": metadata, "spec": spec}
        done = plane.kubectl("apply", "-f", "-", stdin=json.dumps(release))
        assert done.returncode == 0, done.stderr
        write(plane, name, status)


def write(plane: ControlPlane, name: str, status: dict[str, Any]) -> None:
    """Puts fields of a status in place, as the operator would."""
    path = f"/apis/serinus.dev/v1alpha1/namespaces/{NAMESPACE}/modelreleases/{name}/status"
    code, answer = plane.call("PATCH", path, {"status": status}, "application/merge-patch+json")
    assert code == 200, answer


def annotation(plane: ControlPlane, name: str) -> dict[str, Any]:
    """The command on a release; empty without one."""
    command: dict[str, Any] = json.loads(
        _get(plane, name)["metadata"].get("annotations", {}).get("serinus.dev/command", "{}")
    )
    return command


def status(plane: ControlPlane, name: str) -> dict[str, Any]:
    """The status of a release."""
    found: dict[str, Any] = _get(plane, name)["status"]
    return found


def _get(plane: ControlPlane, name: str) -> dict[str, Any]:
    code, answer = plane.call("GET", f"/apis/serinus.dev/v1alpha1/namespaces/{NAMESPACE}/modelreleases/{name}")
    assert code == 200, answer
    return dict(answer)


@contextmanager
def prometheus(plane: ControlPlane, folder: Path, now: datetime) -> Iterator[None]:
    """A Prometheus with the history, as a Service that its label tells of."""
    address = _address()
    samples, data, port = folder / "samples.txt", folder / "data", free_port()
    samples.write_text(_history(now))
    subprocess.run(
        [binaries.promtool(), "tsdb", "create-blocks-from", "openmetrics", "--quiet", samples, data],
        check=True, timeout=120, capture_output=True,
    )  # fmt: skip
    (folder / "prometheus.yaml").write_text("{}")
    command = [str(binaries.prometheus()), f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={data}",
               f"--web.listen-address={address}:{port}"]  # fmt: skip
    with process(command, folder / "prometheus.log"):
        eventually("Prometheus is ready", lambda: answers(f"http://{address}:{port}/-/ready"))
        _expose(plane, address, port)
        try:
            yield
        finally:
            plane.kubectl("delete", "service", "an-older-prometheus", "--namespace", NAMESPACE)
            plane.kubectl(
                "delete",
                "pod,service,endpointslice",
                "prometheus",
                "--namespace",
                NAMESPACE,
                "--grace-period=0",
                "--force",
            )


def _address() -> str:
    """This machine's own: the API server's proxy goes to no loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


def _expose(plane: ControlPlane, address: str, port: int) -> None:
    """The API server's proxy wants a pod behind the Service: one without a node, whose address is that of the process here."""
    ports, metadata = [{"name": "web", "port": port}], {"name": "prometheus", "namespace": NAMESPACE}
    service = {"apiVersion": "v1", "kind": "Service", "spec": {"ports": ports}}
    service["metadata"] = metadata | {"labels": {"app.kubernetes.io/name": "prometheus"}}
    deserted = service | {
        "metadata": service["metadata"] | {"name": "an-older-prometheus"}
    }  # has the label and no pods
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    pod["spec"] = {"containers": [{"name": "prometheus", "image": "none"}], "automountServiceAccountToken": False}
    slices = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": ports}
    slices["metadata"] = metadata | {"labels": {"kubernetes.io/service-name": "prometheus"}}
    slices["endpoints"] = [{"addresses": [address], "targetRef": {"kind": "Pod", **metadata}}]
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": [deserted, service, pod, slices]})
    eventually(
        "the namespace takes pods",  # its service account comes a moment after it
        lambda: plane.kubectl("apply", "-f", "-", stdin=everything).returncode == 0,
    )
    running = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    running["conditions"] = [{"type": "Ready", "status": "True"}]
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/prometheus/status"
    code, answer = plane.call("PATCH", path, {"status": running}, "application/merge-patch+json")
    assert code == 200, answer
    proxied = f"/api/v1/namespaces/{NAMESPACE}/services/prometheus:{port}/proxy/-/ready"
    eventually("the Service has its pod", lambda: plane.kubectl("get", "--raw", proxied).returncode == 0)


def _statuses(now: datetime) -> dict[str, dict[str, Any]]:
    def ago(minutes: float) -> str:
        return (now - timedelta(minutes=minutes)).astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

    def revision(version: str, **more: Any) -> dict[str, Any]:
        return {
            "version": version,
            "revision": f"r{version}c41d",
            "digest": f"d{version}",
            "space": "51ab90c2e7f03d68",
            **more,
        }

    def rollout(version: str, result: str, reason: str, began: float, ended: float) -> dict[str, Any]:
        return revision(version) | {"result": result, "reason": reason, "startedAt": ago(began), "endedAt": ago(ended)}

    def gate(name: str, verdict: str, evidence: float, message: str) -> dict[str, Any]:
        return {
            "name": name,
            "verdict": verdict,
            "requests": 7140,
            "evidence": repr(evidence),
            "needed": "80.0",
            "message": message,
        }

    promoted = rollout("6", "Promoted", "errors: canary 3/9120 (0.0%), stable 8/27410 (0.0%)", 2930, 2885)
    first = rollout("5", "Promoted", "first release", 9400, 9396)
    slow = (
        "latency: canary 41.2 ms over 2140 requests, stable 24.9 ms over 19310 requests; limit mean ≤ 120ms, "
        "evidence 0.02 of 80 needed; comparison 97.4 of 80 needed: worse than stable"
    )
    return {
        "defect-embedder": {
            "phase": "Progressing", "verdict": "Inconclusive", "stepLabel": "6/7 analysis 15m",
            "message": "model version 7: 6/7 analysis 15m",
            "stable": revision("6", ready=2), "canary": revision("7", ready=2, startedAt=ago(33)),
            "step": {"index": 5, "hash": "a", "startedAt": ago(7), "progressedAt": ago(7)},
            "weight": {"desired": 50, "achieved": 49},
            "gates": [
                gate("errors", "Pass", 0.34, "canary 2/7140 (0.0%), stable 5/18230 (0.0%)"),
                gate("latency", "Inconclusive", 5.8, "canary 27.1 ms over 7140 requests, stable 24.9 ms over 18230 requests; "
                     "limit mean ≤ 120ms, evidence 0.001 of 80 needed; comparison 5.8 of 80 needed"),
                gate("confidence", "Pass", 0.09, "canary 0.912 over 7140 texts, stable 0.908 over 18230 texts"),
                gate("drift", "Pass", 0.21, "outside the reference's band: canary 18.9 %, stable 19.4 %"),
            ],
            "history": [promoted, first],
            "cost": {
                "until": ago(7), "countedUntil": ago(0), "price": {"perGpuHour": "2.1", "currency": "EUR"},
                "versions": [
                    {"version": "6", "gpus": 2, "gpuSeconds": "681240.0", "requests": 4_208_113, "tokens": 92_578_486},
                    {"version": "7", "gpus": 2, "gpuSeconds": "1560.0", "requests": 7140, "tokens": 157_080},
                ],
            },
        },
        "catalog-embedder": {
            "phase": "Paused", "verdict": "Pass", "stepLabel": "4/7 pause until promoted",
            "message": "model version 12: 4/7 pause until promoted",
            "stable": revision("11", ready=4), "canary": revision("12", ready=1, startedAt=ago(31)),
            "step": {"index": 3, "hash": "a", "startedAt": ago(12), "progressedAt": ago(12)},
            "weight": {"desired": 10, "achieved": 11},
            "gates": [gate("errors", "Pass", 0.2, "canary 0/2140 (0.0%), stable 2/18230 (0.0%)")],
            "history": [rollout("11", "Promoted", "errors: canary 0/8210 (0.0%), stable 3/24100 (0.0%)", 4120, 4080)],
        },
        "faq-embedder": {
            "phase": "Healthy", "message": "model version 4 serves with 4 ready replicas",
            "stable": revision("4", ready=4), "target": revision("4"),
            "history": [rollout("4", "Promoted", "errors: canary 1/9120 (0.0%), stable 2/27410 (0.0%)", 5930, 5885)],
        },
        "ticket-embedder": {
            "phase": "Degraded", "message": f"model version 9 was rejected: {slow}",
            "stable": revision("8", ready=4), "target": revision("9", rejected=True, reason=slow),
            "history": [rollout("9", "RolledBack", slow, 95, 71), rollout("8", "Promoted", "first release", 20170, 20166)],
        },
    }  # fmt: skip


def _history(now: datetime) -> str:
    """OpenMetrics of `defect-embedder`: its canary came 33 minutes ago, half of the requests 7 minutes ago."""
    chance, lines = random.Random(8), []
    series: dict[str, Callable[[float], float]] = {}
    of = f'namespace="{NAMESPACE}",serinus_dev_release="defect-embedder"'

    def share(minutes: float) -> float:
        return 0.0 if minutes > 32 else 0.1 if minutes > 7 else 0.5

    def total(role: str) -> Callable[[float], float]:  # requests since the start, 12 a second in all
        def count(minutes: float) -> float:
            passed = 0.0
            for minute in range(_MINUTES, math.floor(minutes), -1):
                part = min(1.0, minute - minutes)
                passed += 720 * part * (share(minute - 0.5) if role == "canary" else 1 - share(minute - 0.5))
            return passed

        return count

    for role, revision, seconds, confidence, drift in (
        ("stable", "r6c41d", 0.0249, 0.908, 0.05), ("canary", "r7c41d", 0.0271, 0.912, 0.07),
    ):  # fmt: skip
        labels, count = f'{of},serinus_dev_revision="{revision}",pod="{role}"', total(role)
        series[f'serinus_requests_total{{{labels},code="200"}}'] = count
        series[f'serinus_requests_total{{{labels},code="503"}}'] = lambda minutes, count=count: count(minutes) // 4000
        series[f"serinus_request_duration_seconds_count{{{labels}}}"] = count
        series[f"serinus_request_duration_seconds_sum{{{labels}}}"] = lambda m, c=count, s=seconds: c(m) * s
        for le, within in (("0.022", 0.35), ("0.033", 0.8), ("0.055", 0.97), ("0.11", 1.0), ("+Inf", 1.0)):
            below = within ** (seconds / 0.0249)
            series[f'serinus_request_duration_seconds_bucket{{{labels},le="{le}"}}'] = lambda m, c=count, b=below: (
                c(m) * b
            )
        series[f"serinus_confidence_count{{{labels}}}"] = count
        series[f"serinus_confidence_sum{{{labels}}}"] = lambda m, c=count, v=confidence: c(m) * v
        series[f'serinus_drift{{{labels},signal="confidence",statistic="psi"}}'] = lambda _, d=drift: (
            d * chance.uniform(0.8, 1.2)
        )
    of = f'namespace="{NAMESPACE}",release="defect-embedder"'
    for gate, last, wanders in (
        ("errors", 0.34, 0.2),
        ("latency", 5.8, 0.35),
        ("confidence", 0.09, 0.3),
        ("drift", 0.21, 0.25),
    ):
        series[f'serinus_gate_evidence{{{of},gate="{gate}"}}'] = lambda m, e=last, w=wanders: (
            e ** max(0, (33 - m) / 33) * math.exp(w * math.sin(m) * chance.random() * (m > 0.3))
        )
    series[f'serinus_release_weight_percent{{{of},of="desired"}}'] = lambda m: 100 * share(m)
    series[f'serinus_release_weight_percent{{{of},of="achieved"}}'] = lambda m: (
        100 * share(m + 0.5) + chance.choice((-1, 0, 0, 1)) * (share(m + 0.5) > 0)
    )
    for name, value in series.items():
        for second in range(_MINUTES * 60, -1, -_EVERY_SECONDS):
            if "canary" in name and second > 33 * 60:
                continue
            noise = 1 + chance.gauss(0, 0.00002) * ("_sum" in name)
            lines.append(f"{name} {max(0.0, value(second / 60) * noise):.6f} {now.timestamp() - second:.0f}")
    return "\n".join([*lines, "# EOF", ""])
