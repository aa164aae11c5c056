"""A user: registers versions, applies releases, looks at them."""

from __future__ import annotations

import json
import warnings
from typing import Any

from tests.cluster.control_plane import ControlPlane

from serinus_contract.names import DIGEST_TAG, SPACE_TAG

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlflow import MlflowClient


class Team:
    """One team with one registered model and one release."""

    def __init__(self, plane: ControlPlane, registry: MlflowClient, name: str) -> None:
        self.plane, self.registry, self.name, self.model = plane, registry, name, f"model-{name}"
        registry.create_registered_model(self.model)

    def register(self) -> str:
        run = self.registry.create_run("0").info
        version = self.registry.create_model_version(self.model, f"{run.artifact_uri}/model", run_id=run.run_id).version
        self.registry.set_model_version_tag(self.model, version, DIGEST_TAG, f"digest-{version}")
        self.registry.set_model_version_tag(self.model, version, SPACE_TAG, f"space{version}")
        self.registry.set_registered_model_alias(self.model, "challenger", version)
        return str(version)

    def apply(self, **changes: Any) -> None:
        spec = {
            "model": {"name": self.model, "alias": "challenger"},
            "replicas": 3,
            "strategy": {
                "progressDeadline": "2m",
                "scaleDownDelay": "0s",
                "bake": "0s",
                "steps": [{"verify": {}}, {"setWeight": 30}, {"analysis": {"duration": "3s"}}],
            },
            "analysis": {"interval": "1s", "minRequests": 50},
            "registry": {
                "onCanary": {"alias": "canary", "stage": "Staging"},
                "onPromote": {"alias": "champion", "stage": "Production", "archivePrevious": True},
                "onRollback": {"tag": {"rolled-back": "{{ reason }}"}},
            },
        }
        release = {
            "apiVersion": "serinus.dev/v1alpha1",
            "kind": "ModelRelease",
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": spec | changes,
        }
        done = self.plane.kubectl("apply", "-f", "-", stdin=json.dumps(release))
        assert done.returncode == 0, done.stderr

    def status(self) -> dict[str, Any]:
        code, release = self.plane.call(
            "GET", f"/apis/serinus.dev/v1alpha1/namespaces/default/modelreleases/{self.name}"
        )
        status: dict[str, Any] = release.get("status", {}) if code == 200 else {}
        return status

    def stable_version(self) -> str | None:
        status = self.status()
        settled = status.get("phase") == "Healthy"
        version: str | None = status.get("stable", {}).get("version") if settled else None
        return version

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        group = "apis/apps/v1" if kind == "deployments" else "api/v1"
        code, answer = self.plane.call(
            "GET", f"/{group}/namespaces/default/{kind}?labelSelector=serinus.dev/release%3D{self.name}"
        )
        assert code == 200, answer
        items: list[dict[str, Any]] = answer["items"]
        return items
