"""The API server, as the plugin sees it: releases and their pods, with errors that say what to do."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from copy import copy
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

    def releases(self, everywhere: bool = False) -> list[JSON]:
        """All releases of the namespace, or of the cluster."""
        api, where = self._api, {} if everywhere else {"namespace": self.namespace}
        listing: Any = api.list_cluster_custom_object if everywhere else api.list_namespaced_custom_object
        found: JSON = self._call(
            lambda: listing(GROUP, API_VERSION, plural=PLURAL, _request_timeout=_CALL_SECONDS, **where), "modelreleases"
        )
        items: list[JSON] = found["items"]
        return items

    def within(self, namespace: str) -> Cluster:
        """The same cluster, another namespace."""
        other = copy(self)
        other.namespace = namespace
        return other

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

    def services(self, selector: str) -> list[JSON]:
        """The Services of all namespaces with these labels."""
        listed = self._call(
            lambda: self._core.list_service_for_all_namespaces(label_selector=selector, _request_timeout=_CALL_SECONDS),
            "services",
        )
        items: list[JSON] = self._core.api_client.sanitize_for_serialization(listed)["items"]
        return items

    def raw(self, path: str, parameters: Mapping[str, str], timeout_seconds: float) -> bytes:
        """What the API server answers to a GET of a path that the client library has no method for, such as a Service's proxy."""
        api = self._core.api_client

        def get() -> bytes:
            request = api.param_serialize(
                "GET", path, query_params=list(parameters.items()), auth_settings=["BearerToken"]
            )
            answer = api.call_api(*request, _request_timeout=timeout_seconds)
            body: bytes = answer.read()
            if answer.status >= 400:
                raise ApiException(status=answer.status, reason=_said(body) or answer.reason)
            return body

        answered: bytes = self._call(get, path.partition("/proxy/")[0])
        return answered

    def command(self, release: JSON, verb: str, wait_seconds: float, **more: str) -> str:
        """Asks the operator for something and returns its answer. Raises when it refuses or does not answer in time."""
        status = release.get("status") or {}
        wish: JSON = {"verb": verb, **more}
        if status.get("canary") and status.get("step") is not None:
            wish |= {"revision": status["canary"]["revision"], "step": status["step"].get("index", 0) + 1}
        name = release["metadata"]["name"]
        identity, ends_at = self.ask(name, wish), time.monotonic() + wait_seconds
        while time.monotonic() < ends_at:
            if (outcome := self.answer(name, identity)) is not None:
                return outcome
            time.sleep(_POLL_SECONDS)
        raise self.unanswered(wait_seconds)

    def ask(self, name: str, wish: Mapping[str, Any]) -> str:
        """Writes a command, `verb` and more, on a release. Returns the id that its answer will carry."""
        identity = uuid.uuid4().hex[:12]
        self._call(
            lambda: self._api.patch_namespaced_custom_object(
                GROUP, API_VERSION, self.namespace, PLURAL, name,
                {"metadata": {"annotations": {COMMAND_ANNOTATION: json.dumps({"id": identity, **wish})}}},
                _request_timeout=_CALL_SECONDS,
            ),
            f"modelrelease {name!r}",
        )  # fmt: skip
        return identity

    def answer(self, name: str, identity: str) -> str | None:
        """What the operator did; None while it has not answered. Raises when it refused."""
        given: Mapping[str, str] = (self.release(name).get("status") or {}).get("command") or {}
        if given.get("id") != identity:
            return None
        if given["outcome"].startswith("refused"):
            raise click.ClickException(given["outcome"])
        return given["outcome"]

    def unanswered(self, seconds: float) -> click.ClickException:
        """That nobody obeyed in time."""
        return click.ClickException(
            f"the operator has not answered within {seconds:.0f} s; does it run, and does it watch {self.namespace!r}?"
        )

    def _call(self, call: Callable[[], Any], what: str) -> Any:
        try:
            return call()
        except ApiException as error:
            match error.status:
                case 404:
                    hint = f"{what} not found; `kubectl get modelreleases -A` lists what there is (no such kind: install the chart)"
                case 401 | 403:
                    rights = (
                        f"get, list and patch on {PLURAL}.{GROUP}" if PLURAL[:-1] in what else "the right to get it"
                    )
                    hint = f"{what}: the API server refuses ({error.status}); ask for {rights}"
                case _:
                    hint = f"{what}: the API server answered {error.status} {error.reason}"
            raise click.ClickException(hint) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise click.ClickException(f"the API server does not answer: {error}") from error


def _said(body: bytes) -> str:
    """The API server's own sentence in a refusal; empty where there is none."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, LookupError, TypeError):
        return ""
