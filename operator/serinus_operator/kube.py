"""Calls to the Kubernetes API: a few verbs, with a deadline each, errors translated into our own.

Objects go in and come out as plain JSON: what the manifests render is what is sent. So the official client's 700 models, a third of the
operator's memory, are not loaded; credentials are found as kopf finds them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import aiohttp
import kopf
import orjson

from serinus_contract.names import API_VERSION, GROUP, PLURAL
from serinus_operator.errors import Conflict, NotFound, Rejected, SerinusError, Unavailable

JSON: TypeAlias = dict[str, Any]

FIELD_MANAGER: Final = "serinus-operator"
_PAGE: Final = 500
_WATCH_SECONDS: Final = 300
_LONGEST_OBJECT: Final = 2**21  # etcd takes no more than 1.5 MB
_PREFIXES: Final = {
    "Deployment": ("/apis/apps/v1", "deployments"),
    "Job": ("/apis/batch/v1", "jobs"),
    "Pod": ("/api/v1", "pods"),
    "Service": ("/api/v1", "services"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "HTTPRoute": ("/apis/gateway.networking.k8s.io/v1", "httproutes"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
    "Event": ("/api/v1", "events"),
    "ModelRelease": (f"/apis/{GROUP}/{API_VERSION}", PLURAL),
    "ValidatingAdmissionPolicy": ("/apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicies"),
    "ValidatingAdmissionPolicyBinding": (
        "/apis/admissionregistration.k8s.io/v1",
        "validatingadmissionpolicybindings",
    ),
}


class Expired(SerinusError):
    """The API server has forgotten the version that a watch was to go on from: list again."""


class Kube:
    """The API server, for the few things that the operator does there."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def create(self, manifest: JSON) -> JSON:
        """Creates an object. Raises Conflict when it exists."""
        path = _path(manifest["kind"], manifest["metadata"]["namespace"])
        return await self._call("POST", path, body=manifest, query={"fieldManager": FIELD_MANAGER})

    async def try_out(self, manifest: JSON) -> None:
        """Has the API server examine an object as if it were created: nothing is stored. Raises Rejected with what is wrong in it."""
        path = _path(manifest["kind"], manifest["metadata"]["namespace"])
        query = {"fieldManager": FIELD_MANAGER, "dryRun": "All", "fieldValidation": "Strict"}
        try:
            await self._call("POST", path, body=manifest, query=query)
        except Conflict:
            return  # it exists, and was examined then

    async def apply(self, manifest: JSON) -> JSON:
        """Server-side apply: creates the object or makes our fields of it so. Raises Rejected when the cluster has no such kind."""
        metadata, kind = manifest["metadata"], manifest["kind"]
        try:
            return await self._call(
                "PATCH",
                _path(kind, metadata["namespace"], metadata["name"]),
                body=manifest,
                query={"fieldManager": FIELD_MANAGER, "force": "true"},
                content_type="application/apply-patch+yaml",
            )
        except NotFound as error:
            raise Rejected(f"this cluster has no {kind} ({manifest['apiVersion']}); are its CRDs installed?") from error

    async def scale(self, namespace: str, deployment: str, replicas: int) -> JSON:
        """Sets a Deployment's replicas and nothing else."""
        return await self.merge("Deployment", namespace, deployment, {"spec": {"replicas": replicas}})

    async def merge(self, kind: str, namespace: str, name: str, changes: JSON) -> JSON:
        """Changes these fields of an object and nothing else."""
        path = _path(kind, namespace, name)
        return await self._call("PATCH", path, body=changes, content_type="application/merge-patch+json")

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

    async def serves(self, kind: str) -> bool:
        """Does the cluster know this kind of object?"""
        prefix, plural = _PREFIXES[kind]
        try:
            answer = await self._call("GET", prefix)
        except NotFound:
            return False
        return any(each["name"] == plural for each in answer["resources"])

    async def get(self, kind: str, namespace: str | None, name: str) -> JSON:
        """Reads an object, in no namespace when that is None. Raises NotFound."""
        return await self._call("GET", _path(kind, namespace, name))

    async def pages(self, kind: str, namespace: str | None, label_selector: str) -> AsyncIterator[JSON]:
        """Lists objects, of the whole cluster when `namespace` is None, page by page. Items come without kind and apiVersion."""
        query = {"labelSelector": label_selector, "limit": str(_PAGE)}
        while True:
            page = await self._call("GET", _path(kind, namespace), query=query)
            yield page
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return

    async def changes(
        self, kind: str, namespace: str | None, label_selector: str, since: str
    ) -> AsyncIterator[tuple[str, JSON]]:
        """Changes of objects since a resourceVersion: (type, object), type being ADDED, MODIFIED, DELETED or BOOKMARK.

        Ends when the API server closes the watch, after some minutes. Raises Expired when it has forgotten that version.
        """
        query = {
            "watch": "true", "allowWatchBookmarks": "true", "labelSelector": label_selector, "resourceVersion": since,
            "timeoutSeconds": str(_WATCH_SECONDS),
        }  # fmt: skip
        path = _path(kind, namespace)
        timeout = aiohttp.ClientTimeout(total=_WATCH_SECONDS + 30, sock_connect=self._timeout.total)
        session = self._session or self._open()
        try:
            async with session.get(path, params=query, timeout=timeout, read_bufsize=_LONGEST_OBJECT) as response:
                if response.status == HTTPStatus.UNAUTHORIZED:
                    await self.close()
                if response.status >= 400:
                    raise _translate(response.status, f"watch {path}", await response.read())
                async for line in response.content:
                    event = orjson.loads(line)
                    if event["type"] == "ERROR":
                        raise _translate(int(event["object"].get("code", 500)), f"watch {path}", line)
                    yield event["type"], event["object"]
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"watch {path}: {type(error).__name__} {error}") from error

    async def close(self) -> None:
        """Closes the connections; the next call opens new ones with the credentials as they are then."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        """Credentials are the pod's service account, or KUBECONFIG's outside a cluster."""
        settings = kopf.OperatorSettings()
        login = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
        if login is None:
            raise Unavailable("neither a service account nor a kubeconfig: set KUBECONFIG")
        connector = aiohttp.TCPConnector(ssl=login.as_ssl_context())
        self._session = aiohttp.ClientSession(
            login.server, headers=login.as_http_headers(), connector=connector, timeout=self._timeout
        )
        return self._session

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
        data = None if body is None else orjson.dumps(body)
        try:
            for last in (False, True):
                session = self._session or self._open()
                async with session.request(method, path, params=query, data=data, headers=headers) as response:
                    raw = await response.read()
                if response.status != HTTPStatus.UNAUTHORIZED or last:
                    break
                await self.close()  # a service account's token is replaced every hour
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{method} {path}: {type(error).__name__} {error}") from error
        if response.status >= 400:
            raise _translate(response.status, f"{method} {path}", raw)
        try:
            answer: JSON = orjson.loads(raw)
        except ValueError as error:
            raise Unavailable(f"{method} {path}: what came is no JSON") from error
        return answer


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    prefix, plural = _PREFIXES[kind]
    path = f"{prefix}/{plural}" if namespace is None else f"{prefix}/namespaces/{namespace}/{plural}"
    return path if name is None else f"{path}/{name}"


def _translate(status: int, call: str, raw: bytes) -> Exception:
    try:
        message = orjson.loads(raw).get("message", "")
    except (ValueError, AttributeError):
        message = raw[:200].decode(errors="replace")
    text = f"{call}: {status} {message}"
    match status:
        case 404:
            return NotFound(text)
        case 409:
            return Conflict(text)
        case 410:
            return Expired(text)
        case 408 | 429 | 500 | 502 | 503 | 504:
            return Unavailable(text)
        case _:
            return Rejected(text)
