"""Certificates of one cluster, made with openssl: a CA, the API server's, the admin's, and the service account key."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

_DAYS = "3650"


class Pki:
    """The files of one cluster's keys, in `folder`."""

    def __init__(self, folder: Path, addresses: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca = folder / "ca.crt"
        if not self.ca.exists():
            self._make(addresses)

    def _make(self, addresses: Sequence[str]) -> None:
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", _DAYS,
                      "-subj", "/CN=serinus-local-cluster", "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip
        self._openssl("genrsa", "-out", "service-accounts.key", "2048")
        self._openssl("rsa", "-in", "service-accounts.key", "-pubout", "-out", "service-accounts.pub")
        kubernetes = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        names = [f"DNS:{name}" for name in kubernetes] + [f"IP:{address}" for address in addresses]
        self.issue("apiserver", "/CN=kube-apiserver", "subjectAltName=" + ",".join(names))
        self.issue("admin", "/O=system:masters/CN=admin")

    def issue(
        self, name: str, subject: str, extension: str = "extendedKeyUsage=clientAuth,serverAuth"
    ) -> tuple[Path, Path]:
        """A certificate and its key, signed by the CA."""
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(extension + "\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject,
                      "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", _DAYS, "-extfile", extensions.name, "-out", f"{name}.crt")  # fmt: skip
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def kubeconfig(self, path: Path, server: str, identity: str = "admin") -> Path:
        """Writes a kubeconfig (JSON is YAML) with everything in it."""

        def encoded(name: str) -> str:
            return base64.b64encode((self.folder / name).read_bytes()).decode()

        user = {"client-certificate-data": encoded(f"{identity}.crt"), "client-key-data": encoded(f"{identity}.key")}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "serinus",
            "clusters": [
                {"name": "serinus", "cluster": {"server": server, "certificate-authority-data": encoded("ca.crt")}}
            ],
            "users": [{"name": identity, "user": user}],
            "contexts": [
                {"name": "serinus", "context": {"cluster": "serinus", "user": identity, "namespace": "default"}}
            ],
        }
        path.write_text(json.dumps(config, indent=1))
        path.chmod(0o600)
        return path

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True, timeout=60)
