"""The API server, as the plugin sees it: releases and their pods, with errors that say what to do."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import click
import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from serinus_contract.names import API_VERSION, COMMAND_ANNOTATION, GROUP, PLURAL, RELEASE_LABEL

JSON: TypeAlias = dict[str, Any]

_CALL_SECONDS = 15
_POLL_SECONDS = 0.5


class Cluster:
    """One namespace of the cluster that the kubeconfig names. Raises click.ClickException with one sentence."""

    def __init__(self, context: str | None, namespace: str | None) -> None:
        try:
            config.load_kube_config(context=context)
            _, current = config.list_kube_config_contexts()
        except config.ConfigException as error:
            raise click.ClickException(f"no cluster to talk to: {error}") from error
        named = current["context"].get("namespace") if context is None else None
        self.namespace = namespace or named or "default"
        self._api = client.CustomObjectsApi()
        self._core = client.CoreV1Api()

    def release(self, name: str) -> JSON:
        """One release."""
        found: JSON = self._call(
            lambda: self._api.get_namespaced_custom_object(
                GROUP, API_VERSION, self.namespace, PLURAL, name, _request_timeout=_CALL_SECONDS
            ),
            f"modelrelease {name!r} in namespace {self.namespace!r}",
        )
        return found

    def releases(self) -> list[JSON]:
        """All releases of the namespace."""
        found: JSON = self._call(
            lambda: self._api.list_namespaced_custom_object(
                GROUP, API_VERSION, self.namespace, PLURAL, _request_timeout=_CALL_SECONDS
            ),
            "modelreleases",
        )
        items: list[JSON] = found["items"]
        return items

    def pods(self, name: str) -> list[JSON]:
        """The serving pods of a release, as plain JSON."""
        listed = self._call(
            lambda: self._core.list_namespaced_pod(
                self.namespace, label_selector=f"{RELEASE_LABEL}={name}", _request_timeout=_CALL_SECONDS
            ),
            "pods",
        )
        items: list[JSON] = self._core.api_client.sanitize_for_serialization(listed)["items"]
        return items

    def command(self, release: JSON, verb: str, wait_seconds: float, **more: str) -> str:
        """Asks the operator for something and returns its answer. Raises when it refuses or does not answer in time."""
        status, name = release.get("status") or {}, release["metadata"]["name"]
        wish: JSON = {"id": uuid.uuid4().hex[:12], "verb": verb, **more}
        if status.get("canary") and status.get("step") is not None:
            wish |= {"revision": status["canary"]["revision"], "step": status["step"].get("index", 0) + 1}
        self._call(
            lambda: self._api.patch_namespaced_custom_object(
                GROUP, API_VERSION, self.namespace, PLURAL, name,
                {"metadata": {"annotations": {COMMAND_ANNOTATION: json.dumps(wish)}}}, _request_timeout=_CALL_SECONDS,
            ),
            f"modelrelease {name!r}",
        )  # fmt: skip
        return self._answer(name, wish["id"], wait_seconds)

    def _answer(self, name: str, identity: str, wait_seconds: float) -> str:
        ends_at = time.monotonic() + wait_seconds
        while time.monotonic() < ends_at:
            given: Mapping[str, str] = (self.release(name).get("status") or {}).get("command") or {}
            if given.get("id") == identity:
                if given["outcome"].startswith("refused"):
                    raise click.ClickException(given["outcome"])
                return given["outcome"]
            time.sleep(_POLL_SECONDS)
        raise click.ClickException(
            f"the operator has not answered within {wait_seconds:.0f} s; does it run, and does it watch {self.namespace!r}?"
        )

    def _call(self, call: Callable[[], Any], what: str) -> Any:
        try:
            return call()
        except ApiException as error:
            match error.status:
                case 404:
                    hint = f"{what} not found; `kubectl get modelreleases -A` lists what there is (no such kind: install the chart)"
                case 401 | 403:
                    hint = f"{what}: the API server refuses ({error.status}); ask for get, list and patch on {PLURAL}.{GROUP}"
                case _:
                    hint = f"{what}: the API server answered {error.status} {error.reason}"
            raise click.ClickException(hint) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise click.ClickException(f"the API server does not answer: {error}") from error
