"""A node made of processes: for each pod of a release a real server on an address of its own, and the names of Services in a hosts file.

It stands where kubelet, kube-proxy and the cluster's DNS would. Every server sees the hosts file as its /etc/hosts, by a mount namespace of
its own, so that looking a Service up goes the same way as in a pod. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.cluster.control_plane import ControlPlane
from tests.integration.surroundings import pods_of

from serinus_contract.names import HTTP_PORT, RELEASE_LABEL, REVISION_LABEL

_ALONE = 'mount --bind "$0" /etc/hosts && exec "$@"'
_HOSTS_BYTES = 4096  # always as many, in one write: a reader never sees half of it


@dataclass
class Container:
    """A pod's server."""

    address: str
    process: subprocess.Popen[bytes]
    ready: bool = False


@dataclass
class Node:
    """Runs the pods of one release. `models` are folders by model version; `services` the ready addresses by name."""

    plane: ControlPlane
    release: str
    folder: Path
    models: Mapping[str, Path]
    services: dict[str, list[str]] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    containers: dict[str, Container] = field(default_factory=dict)  # by the pod's uid
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    begun: int = 0
    killed: int = 0
    errors: list[str] = field(default_factory=list)

    def __enter__(self) -> Node:
        assert os.geteuid() == 0, "a mount namespace for each server needs root"
        self.folder.mkdir(parents=True)
        self._write_hosts()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(30)
        for container in self.containers.values():
            container.process.kill()
            container.process.wait(20)

    def addresses(self, service: str) -> list[str]:
        """Where a client that looks the Service up may connect now."""
        return list(self.services.get(service, ()))

    def kill_one(self, rng: random.Random) -> None:
        """A pod dies in the middle of what it does, and is gone."""
        ready = [uid for uid, container in self.containers.items() if container.ready]
        if not ready:
            return
        uid = rng.choice(ready)
        self.containers[uid].process.kill()
        self.killed += 1
        self._delete(self.pods[uid])

    def _run(self) -> None:
        while not self.stop.wait(0.1):
            try:
                self._look()
            except Exception as error:  # the test has to see it
                self.errors.append(repr(error))

    def _look(self) -> None:
        found = {pod["metadata"]["uid"]: pod for pod in pods_of(self.plane, f"{RELEASE_LABEL}={self.release}")}
        self.pods = found
        for uid, pod in found.items():
            container = self.containers.get(uid)
            if container is None and not pod["metadata"].get("deletionTimestamp"):
                self.containers[uid] = self._start(pod)
            elif container is not None and pod["metadata"].get("deletionTimestamp"):
                if container.process.poll() is None:
                    container.ready = False
                    container.process.send_signal(signal.SIGTERM)
                else:
                    self._delete(pod)
            elif container is not None:
                self._probe(pod, container)
        for uid in set(self.containers) - set(found):
            container = self.containers.pop(uid)
            container.process.kill()
            container.process.wait(20)
        self._write_hosts()

    def _start(self, pod: dict[str, Any]) -> Container:
        self.begun += 1
        address = f"127.88.{os.getpid() & 0xFF}.{self.begun}"
        environment = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"] if "value" in each}
        version = environment["MLFLOW_MODEL_URI"].rpartition("/")[2]
        changed = {
            "MLFLOW_MODEL_URI": str(self.models[version]), "SERINUS_HOST": address, "SERINUS_THREADS": "1",
            "SERINUS_BACKEND": "onnx", "SERINUS_CONNECTION_AGE_SECONDS": "5",
        }  # fmt: skip
        command = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            _ALONE,
            str(self._hosts),
            sys.executable,
            "-m",
            "serinus_server",
            "serve",
        ]
        with (self.folder / f"{pod['metadata']['name']}.log").open("ab") as log:
            process = subprocess.Popen(command, env={**os.environ, **environment, **changed}, stdout=log, stderr=log)
        return Container(address, process)

    def _probe(self, pod: dict[str, Any], container: Container) -> None:
        alive = container.process.poll() is None
        if not alive:
            self._delete(pod)
            return
        if not container.ready:
            with contextlib.suppress(httpx.HTTPError):
                container.ready = (
                    httpx.get(f"http://{container.address}:{HTTP_PORT}/readyz", timeout=1).status_code == 200
                )
            if container.ready:
                self._patch(
                    pod,
                    {
                        "phase": "Running",
                        "podIP": container.address,
                        "conditions": [{"type": "Ready", "status": "True"}],
                    },
                )

    def _write_hosts(self) -> None:
        """Endpoints of every Service of the release, as soon as its pods are ready or gone."""
        path = f"/api/v1/services?labelSelector={RELEASE_LABEL}%3D{self.release}"
        code, answer = self.plane.call("GET", path)
        found = {}
        for service in answer["items"] if code == 200 else []:
            selector = service["spec"]["selector"]
            found[service["metadata"]["name"]] = [
                container.address
                for uid, container in list(self.containers.items())
                if container.ready and uid in self.pods
                and selector.items() <= self.pods[uid]["metadata"]["labels"].items()
            ]  # fmt: skip
        self.services = found
        lines = ["127.0.0.1 localhost"]
        lines += [f"{address} {name}.default.svc" for name, addresses in found.items() for address in addresses]
        text = ("\n".join(lines) + "\n").encode().ljust(_HOSTS_BYTES, b"\n")
        assert len(text) == _HOSTS_BYTES, "too many addresses for one write"
        descriptor = os.open(self._hosts, os.O_WRONLY | os.O_CREAT)
        try:
            os.pwrite(descriptor, text, 0)
        finally:
            os.close(descriptor)
        targets = [
            {"targets": [f"{container.address}:{HTTP_PORT}"], "labels": _labels(self.pods[uid])}
            for uid, container in list(self.containers.items())
            if uid in self.pods
        ]
        written = self.folder / "targets.new"
        written.write_text(json.dumps(targets))
        written.replace(self.targets)

    @property
    def _hosts(self) -> Path:
        return self.folder / "hosts"

    @property
    def targets(self) -> Path:
        """What Prometheus is to scrape."""
        return self.folder / "targets.json"

    def _patch(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        self.plane.call("PATCH", f"{_path(pod)}/status", {"status": status}, "application/merge-patch+json")

    def _delete(self, pod: dict[str, Any]) -> None:
        self.plane.call("DELETE", f"{_path(pod)}?gracePeriodSeconds=0")


def _path(pod: dict[str, Any]) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _labels(pod: dict[str, Any]) -> dict[str, str]:
    labels = pod["metadata"]["labels"]
    return {
        "namespace": pod["metadata"]["namespace"],
        "pod": pod["metadata"]["name"],
        "serinus_dev_release": labels[RELEASE_LABEL],
        "serinus_dev_revision": labels[REVISION_LABEL],
    }
