"""The pod of a revision, for its Deployment and its verify Job alike: the operator's own, with the user's template laid over it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from serinus_contract import names
from serinus_operator.rollout.model import Target
from serinus_operator.spec import Spec
from serinus_operator.template import SERVER, merged

JSON: TypeAlias = dict[str, Any]

_LONGEST_REQUEST_SECONDS: Final = 30
_TEMPORARY: Final = "tmp"


@dataclass(frozen=True, slots=True)
class Defaults:
    """The operator's settings that go into pods; resolved once per revision and kept in its Deployment."""

    image: str
    image_pull_policy: str
    tracking_uri: str


def pod_spec(namespace: str, release: str, spec: Spec, revision: Target, defaults: Defaults) -> JSON:
    """A pod that satisfies Pod Security `restricted`. What the template sets stands beside what is the operator's own."""
    drain_seconds = int(spec.serving.drain.total_seconds())
    ours: JSON = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": drain_seconds + _LONGEST_REQUEST_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(namespace, release, spec, revision, defaults)],
        "volumes": [{"name": _TEMPORARY, "emptyDir": {}}],
    }
    return merged(ours, spec.serving.template.get("spec", {}))


def _container(namespace: str, release: str, spec: Spec, revision: Target, defaults: Defaults) -> JSON:
    environment = {
        names.MODEL_URI_ENV: f"models:/{spec.model.name}/{revision.version}",
        names.TRACKING_URI_ENV: defaults.tracking_uri,
        names.DIGEST_ENV: revision.digest,
        names.RELEASE_ENV: release,
        names.NAMESPACE_ENV: namespace,
        names.REVISION_ENV: revision.revision,
        names.DRAIN_SECONDS_ENV: str(int(spec.serving.drain.total_seconds())),
        names.BACKEND_ENV: spec.serving.engine.backend,
        names.DTYPE_ENV: spec.serving.engine.dtype,
        names.MAX_BATCH_TOKENS_ENV: spec.serving.engine.max_batch_tokens,
        names.QUEUE_TOKENS_ENV: spec.serving.engine.queue_tokens,
    }
    logging_to = {"secretKeyRef": {"name": names.PREDICTION_LOG_SECRET, "key": "url", "optional": True}}
    variables: list[JSON] = [
        *({"name": name, "value": str(value)} for name, value in environment.items() if value is not None),
        {"name": names.PREDICTION_LOG_ENV, "valueFrom": logging_to},
    ]
    return {
        "name": SERVER,
        "image": spec.serving.image or defaults.image,
        "imagePullPolicy": defaults.image_pull_policy,
        "args": ["serve"],
        "env": variables,
        "resources": dict(spec.serving.resources),
        "volumeMounts": [{"name": _TEMPORARY, "mountPath": "/tmp"}],  # noqa: S108
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
