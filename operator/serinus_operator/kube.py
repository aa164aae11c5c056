"""Calls to the Kubernetes API: a few verbs over `kubernetes.aio`, with a deadline each, errors translated into our own.

Objects go in and come out as plain JSON: what the manifests render is what is sent.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeAlias

import aiohttp
from kubernetes.aio import client, config

from serinus_contract.names import API_VERSION, GROUP, PLURAL
from serinus_operator.errors import Conflict, NotFound, Rejected, Unavailable

JSON: TypeAlias = dict[str, Any]

FIELD_MANAGER: Final = "serinus-operator"
_PREFIXES: Final = {
    "Deployment": ("/apis/apps/v1", "deployments"),
    "Job": ("/apis/batch/v1", "jobs"),
    "Pod": ("/api/v1", "pods"),
    "Service": ("/api/v1", "services"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
    "Event": ("/api/v1", "events"),
    "ModelRelease": (f"/apis/{GROUP}/{API_VERSION}", PLURAL),
}


class Kube:
    """The API server, for the few things that the operator does there."""

    def __init__(self, api: client.ApiClient, timeout_seconds: float) -> None:
        self.api = api
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def create(self, manifest: JSON) -> JSON:
        """Creates an object. Raises Conflict when it exists."""
        path = _path(manifest["kind"], manifest["metadata"]["namespace"])
        return await self._call("POST", path, body=manifest, query={"fieldManager": FIELD_MANAGER})

    async def apply(self, manifest: JSON) -> JSON:
        """Server-side apply: creates the object or makes our fields of it so."""
        metadata = manifest["metadata"]
        return await self._call(
            "PATCH",
            _path(manifest["kind"], metadata["namespace"], metadata["name"]),
            body=manifest,
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            content_type="application/apply-patch+yaml",
        )

    async def scale(self, namespace: str, deployment: str, replicas: int) -> JSON:
        """Sets a Deployment's replicas and nothing else."""
        path = _path("Deployment", namespace, deployment)
        body = {"spec": {"replicas": replicas}}
        return await self._call("PATCH", path, body=body, content_type="application/merge-patch+json")

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Deletes an object and, in the background, what it owns. One that is gone already is as good."""
        try:
            await self._call("DELETE", _path(kind, namespace, name), body={"propagationPolicy": "Background"})
        except NotFound:
            return

    async def replace(self, thing: JSON) -> JSON:
        """Writes an object whole. Raises Conflict when it is not the newest."""
        metadata = thing["metadata"]
        return await self._call("PUT", _path(thing["kind"], metadata["namespace"], metadata["name"]), body=thing)

    async def replace_status(self, release: JSON) -> JSON:
        """Writes the status subresource. Raises Conflict when `release` is not the newest."""
        metadata = release["metadata"]
        path = _path("ModelRelease", metadata["namespace"], metadata["name"]) + "/status"
        return await self._call("PUT", path, body=release, query={"fieldManager": FIELD_MANAGER})

    async def get(self, kind: str, namespace: str, name: str) -> JSON:
        """Reads an object. Raises NotFound."""
        return await self._call("GET", _path(kind, namespace, name))

    async def list(self, kind: str, namespace: str, label_selector: str) -> list[JSON]:
        """Lists objects. Items come without kind and apiVersion, as the API sends them."""
        answer = await self._call("GET", _path(kind, namespace), query={"labelSelector": label_selector})
        items: list[JSON] = answer["items"]
        return items

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: JSON | None = None,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> JSON:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        parameters = await self.api.param_serialize(
            method=method,
            resource_path=path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = await self.api.call_api(*parameters, _request_timeout=self._timeout)
            raw = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{method} {path}: {type(error).__name__} {error}") from error
        if response.status >= 400:
            raise _translate(response.status, f"{method} {path}", raw)
        answer: JSON = json.loads(raw)
        return answer


async def connect(timeout_seconds: float) -> Kube:
    """A client from the pod's service account, or from KUBECONFIG outside a cluster. Raises Unavailable when there is neither."""
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            await config.load_kube_config()
        except config.ConfigException as error:
            raise Unavailable(f"neither a service account nor a kubeconfig: {error}") from error
    return Kube(client.ApiClient(), timeout_seconds)


def _path(kind: str, namespace: str, name: str | None = None) -> str:
    prefix, plural = _PREFIXES[kind]
    path = f"{prefix}/namespaces/{namespace}/{plural}"
    return path if name is None else f"{path}/{name}"


def _translate(status: int, call: str, raw: bytes) -> Exception:
    try:
        message = json.loads(raw).get("message", "")
    except (ValueError, AttributeError):
        message = raw[:200].decode(errors="replace")
    text = f"{call}: {status} {message}"
    match status:
        case 404:
            return NotFound(text)
        case 409:
            return Conflict(text)
        case 408 | 429 | 500 | 502 | 503 | 504:
            return Unavailable(text)
        case _:
            return Rejected(text)
