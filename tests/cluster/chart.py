"""The chart as helm renders it, and the OpenAPI of Kubernetes versions to hold it against.

python3 -m tests.cluster.chart --set NAME=VALUE … > install.yaml     (as `make install-yaml` does)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from tests.cluster import binaries
from tests.cluster.binaries import ClusterError
from tests.cluster.control_plane import ControlPlane

CHART = Path(__file__).parents[2] / "charts" / "serinus"
NAMESPACE = "serinus-system"
REQUIRED: Mapping[str, Any] = {
    "images": {"operator": "example.org/serinus-operator:1", "server": "example.org/serinus-server:1"},
    "registries": {"default": {"trackingUri": "http://mlflow.mlflow.svc:5000"}},
    "prometheus": {"url": "http://prometheus.monitoring.svc:9090"},
}
KUBERNETES = ("1.33.13", "1.34.4", "1.35.4", "1.36.3", binaries.KUBERNETES)


def helm(*arguments: str | Path, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs helm; the caller looks at the exit code."""
    command = [str(each) for each in (binaries.helm(), *arguments)]
    surroundings = {**os.environ, **environment}
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, env=surroundings)


def rendered(
    values: Mapping[str, Any] | None = None, *options: str, name: str = "serinus", namespace: str = NAMESPACE
) -> list[dict[str, Any]]:
    """Every object of the chart with these values beside the required ones. Raises ClusterError with helm's words."""
    given = yaml.safe_dump({**REQUIRED, **(values or {})})
    done = helm("template", name, CHART, "--namespace", namespace, "--values", "-", *options, stdin=given)
    if done.returncode != 0:
        raise ClusterError(done.stderr)
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def install(plane: ControlPlane, kinds: Collection[str]) -> None:
    """Applies the chart's objects of these kinds in `default`, for an operator that runs beside the cluster. Raises ClusterError."""
    things = [each for each in rendered(namespace="default") if each["kind"] in kinds]
    installed = json.dumps({"apiVersion": "v1", "kind": "List", "items": things})
    applied = plane.kubectl("apply", "--server-side", "-f", "-", stdin=installed)
    if applied.returncode != 0:
        raise ClusterError(f"the chart was refused: {applied.stderr}")


def openapi(version: str) -> dict[str, Any]:
    """The OpenAPI (Swagger 2.0) that Kubernetes of that version describes itself with, from its Go module; kept in the cache."""
    path = binaries.cache_folder() / "openapi" / f"{version}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            command = [binaries.go(), "mod", "download", "-json", f"k8s.io/kubernetes@v{version}"]
            environment = {
                **os.environ,
                "GOMODCACHE": folder,
                "GOFLAGS": "-modcacherw",
            }  # 300 MB that nothing else needs
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, env=environment)
            if done.returncode:
                raise ClusterError(f"Kubernetes {version}: {done.stderr or done.stdout}")
            found = Path(json.loads(done.stdout)["Dir"]) / "api" / "openapi-spec" / "swagger.json"
            shutil.copyfile(found, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    described: dict[str, Any] = json.loads(path.read_text())
    return described


def misfits(thing: Mapping[str, Any], described: Mapping[str, Any]) -> list[str] | None:
    """What that version of Kubernetes would not know of an object, or not in this form; None when it does not describe the kind."""
    group, _, version = str(thing["apiVersion"]).rpartition("/")
    for name, definition in described["definitions"].items():
        for kind in definition.get("x-kubernetes-group-version-kind", ()):
            if (kind["group"], kind["version"], kind["kind"]) == (group, version, thing["kind"]):
                schema = {"$ref": f"#/definitions/{name}", "definitions": _strict(described["definitions"])}
                found = Draft202012Validator(schema).iter_errors(thing)
                return [f"{each.json_path}: {each.message[:300]}" for each in found]
    return None


def _strict(definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Swagger says nothing of unknown fields, and that a quantity or a port is a string, which a number may stand for."""
    strict = {
        name: {**each, "additionalProperties": False} if "properties" in each else each
        for name, each in definitions.items()
    }
    loose = {"type": ["string", "number"]}
    for name in ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "io.k8s.apimachinery.pkg.api.resource.Quantity"):
        strict[name] = loose
    strict["io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON"] = {}
    return strict


def main() -> int:
    """Writes the plain manifest to standard output: the namespace, with Pod Security enforced, and the chart in it."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    done = helm("template", "serinus", CHART, "--namespace", NAMESPACE, *sys.argv[1:])
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        return 1
    sys.stdout.write(yaml.safe_dump(namespace, sort_keys=False) + done.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
