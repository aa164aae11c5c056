"""What runs beside the node and is reached from pods at the node's address: cluster DNS and Prometheus.

Both are host processes; Prometheus has a Service without selector, so that pods find it by name as in any cluster.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from tests.cluster import binaries
from tests.cluster.binaries import ClusterError
from tests.cluster.control_plane import ControlPlane, program
from tests.cluster.node import NODE_ADDRESS
from tests.cluster.processes import Processes

PROMETHEUS_PORT = 9090
PROMETHEUS_URL = f"http://{NODE_ADDRESS}:{PROMETHEUS_PORT}"
_COREDNS_HEALTH_PORT = 18081
_SCRAPE_INTERVAL = "5s"


def start_dns(plane: ControlPlane, folder: Path, processes: Processes) -> None:
    """CoreDNS on the node's address, port 53."""
    config = folder / "Corefile"
    config.write_text(f""".:53 {{
    bind {NODE_ADDRESS}
    errors
    health {NODE_ADDRESS}:{_COREDNS_HEALTH_PORT}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {plane.kubeconfig}
        pods insecure
    }}
    cache 10
    forward . {folder / "resolv.conf"}
}}
""")
    processes.start("coredns", [*program("coredns"), "-conf", config])
    processes.wait("coredns", lambda: answers(f"http://{NODE_ADDRESS}:{_COREDNS_HEALTH_PORT}/health"), 30)


def start_prometheus(plane: ControlPlane, folder: Path, processes: Processes) -> None:
    """Prometheus, scraping every pod of a ModelRelease; release, revision and space become labels of the series."""
    binary = binaries.prometheus()
    config = folder / "prometheus.json"
    config.write_text(json.dumps(_prometheus_config(plane)))
    processes.start("prometheus", [
        binary, f"--config.file={config}", f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={NODE_ADDRESS}:{PROMETHEUS_PORT}", "--storage.tsdb.retention.time=1d",
    ])  # fmt: skip
    processes.wait("prometheus", lambda: answers(f"{PROMETHEUS_URL}/-/ready"), 60)
    expose(plane, "prometheus", PROMETHEUS_PORT)


def expose(plane: ControlPlane, name: str, port: int) -> None:
    """A Service in the namespace `default` for a program at the node's address."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": port}]},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port}],
        "endpoints": [{"addresses": [NODE_ADDRESS]}],
    }
    manifests = json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, endpoints]})
    done = plane.kubectl("apply", "-f", "-", stdin=manifests)
    if done.returncode != 0:
        raise ClusterError(f"cannot expose {name}: {done.stderr.strip()}")


def answers(url: str) -> bool:
    """Does it answer 200?"""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _prometheus_config(plane: ControlPlane) -> object:
    def copied(source: str, target: str) -> object:
        return {"source_labels": [f"__meta_kubernetes_pod_{source}"], "target_label": target}

    def kept(source: str, pattern: str) -> object:
        return {"source_labels": [f"__meta_kubernetes_{source}"], "regex": pattern, "action": "keep"}

    job = {
        "job_name": "serinus",
        "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(plane.kubeconfig)}],
        "relabel_configs": [
            kept("pod_label_serinus_dev_release", ".+"),
            kept("pod_container_port_name", "http"),
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            copied("name", "pod"),
            copied("label_serinus_dev_release", "serinus_dev_release"),
            copied("label_serinus_dev_revision", "serinus_dev_revision"),
            copied("label_serinus_dev_space", "serinus_dev_space"),
        ],
    }
    operator = {
        "job_name": "serinus-operator",
        "honor_labels": True,  # namespace and release are those of the release that a series is about
        "kubernetes_sd_configs": job["kubernetes_sd_configs"],
        "relabel_configs": [
            kept("pod_label_app_kubernetes_io_name", "serinus"),
            kept("pod_label_app_kubernetes_io_component", "operator"),
            kept("pod_container_port_name", "metrics"),
            copied("name", "pod"),
        ],
    }
    intervals = {"scrape_interval": _SCRAPE_INTERVAL, "scrape_timeout": "4s"}
    return {"global": intervals, "scrape_configs": [job, operator]}
