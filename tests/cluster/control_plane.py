"""etcd, API server, controller manager and scheduler, without a node: what integration tests need of a cluster.

With KUBEBUILDER_ASSETS set, etcd, kube-apiserver and kubectl are taken from there.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.cluster.binaries import ClusterError, hyperkube
from tests.cluster.pki import Pki
from tests.cluster.processes import Processes

SERVICE_RANGE = "198.19.0.0/16"
SERVICE_ADDRESS = "198.19.0.1"
POD_RANGE = "198.18.0.0/16"


class ControlPlane:
    """A control plane in `folder`; a context manager. `address` is where nodes and pods reach it.

    Requests of `audited_user` are logged, one line of JSON each, in `audit_log`.
    """

    def __init__(
        self, folder: Path, address: str = "127.0.0.1", port: int | None = None, audited_user: str | None = None
    ) -> None:
        self.folder, self.address, self.audited_user = folder, address, audited_user
        self.port = port or _free_port()
        self.processes = Processes(folder / "run")
        self.kubeconfig = folder / "kubeconfig"
        self.audit_log = folder / "audit.jsonl"

    def __enter__(self) -> ControlPlane:
        try:
            self.start()
        except BaseException:
            self.processes.stop_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.processes.stop_all()

    @property
    def url(self) -> str:
        """The API server's address."""
        return f"https://{self.address}:{self.port}"

    @cached_property
    def pki(self) -> Pki:
        """Its certificates, made on first use."""
        return Pki(self.folder / "pki", [self.address, "127.0.0.1", SERVICE_ADDRESS])

    def start(self) -> None:
        """Starts everything and waits until it is ready. Raises ClusterError."""
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)
        self.pki.kubeconfig(self.kubeconfig, self.url)
        etcd = f"http://127.0.0.1:{_free_port()}"
        peer = f"http://127.0.0.1:{_free_port()}"
        self.processes.start("etcd", [
            *program("etcd"), f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
        ])  # fmt: skip
        self._start_apiserver(etcd)
        self.processes.wait("kube-apiserver", self.ready, 90)
        common = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0",
                  "--kube-api-qps=500", "--kube-api-burst=1000"]  # fmt: skip
        self.processes.start("kube-controller-manager", [
            *program("kube-controller-manager"), *common, "--use-service-account-credentials",
            f"--service-account-private-key-file={self.pki.folder / 'service-accounts.key'}",
            f"--root-ca-file={self.pki.ca}", f"--cluster-cidr={POD_RANGE}", "--node-monitor-grace-period=10h",
        ])  # fmt: skip
        self.processes.start("kube-scheduler", [*program("kube-scheduler"), *common])
        self.processes.wait("kube-controller-manager", self._has_default_account, 60)

    def ready(self) -> bool:
        """Does the API server say that it is ready?"""
        try:
            return self.call("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> tuple[int, Any]:
        """One call of the API as the admin. Returns the status code and the decoded answer. Raises OSError when there is none."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"content-type": content_type}, method=method)
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=15) as answer:
                status, raw = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, raw = error.code, error.read()
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, raw.decode(errors="replace")

    def watch(self, path: str, seconds: int) -> Iterator[tuple[str, Any]]:
        """What is there and every change of it, for so long: (type, object). `path` has a query already. Raises OSError.

        The API server closes the watch of a reader that is slow; it then goes on where it was.
        """
        ends_at, since = time.monotonic() + seconds, ""
        while (left := int(ends_at - time.monotonic())) > 0:
            url = f"{self.url}{path}&watch=true&timeoutSeconds={left}{since}"
            with urllib.request.urlopen(url, context=self._context, timeout=left + 15) as lines:
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise OSError(str(event["object"]))
                    since = f"&resourceVersion={event['object']['metadata']['resourceVersion']}"
                    yield event["type"], event["object"]

    @cached_property
    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.pki.ca))
        context.load_cert_chain(self.pki.folder / "admin.crt", self.pki.folder / "admin.key")
        return context

    def kubectl(
        self, *arguments: str, stdin: str | None = None, deadline_seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl as the admin; the caller looks at the exit code."""
        ours = (f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.folder / 'kube-cache'}")
        command = [str(each) for each in (*program("kubectl"), *ours, *arguments)]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=deadline_seconds)

    def _has_default_account(self) -> bool:
        return self.kubectl("get", "serviceaccount", "default").returncode == 0

    def _start_apiserver(self, etcd: str) -> None:
        keys = self.pki.folder
        self.processes.start("kube-apiserver", [
            *program("kube-apiserver"), f"--etcd-servers={etcd}", "--authorization-mode=Node,RBAC", "--allow-privileged",
            "--bind-address=0.0.0.0", f"--secure-port={self.port}",
            *([] if self.address.startswith("127.") else [f"--advertise-address={self.address}"]),
            *(["--endpoint-reconciler-type=none"] if self.address.startswith("127.") else []),
            f"--tls-cert-file={keys / 'apiserver.crt'}", f"--tls-private-key-file={keys / 'apiserver.key'}",
            f"--client-ca-file={keys / 'ca.crt'}", "--kubelet-preferred-address-types=InternalIP",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            f"--kubelet-client-certificate={keys / 'admin.crt'}", f"--kubelet-client-key={keys / 'admin.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={keys / 'service-accounts.key'}", *self._audit(),
        ])  # fmt: skip

    def _audit(self) -> list[str]:
        if self.audited_user is None:
            return []
        theirs = {"level": "Metadata", "users": [self.audited_user], "omitStages": ["RequestReceived"]}
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [theirs, {"level": "None"}]}
        file = self.folder / "audit-policy.json"
        file.write_text(json.dumps(policy))
        return [f"--audit-policy-file={file}", f"--audit-log-path={self.audit_log}"]


def program(name: str) -> Sequence[str | Path]:
    """The command that runs a program: from KUBEBUILDER_ASSETS where it is there, else from our one binary."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and (Path(assets) / name).exists():
        return [Path(assets) / name]
    return [hyperkube(), name]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: Any = probe.getsockname()[1]
    return int(port)


__all__ = ["ClusterError", "ControlPlane", "program"]
