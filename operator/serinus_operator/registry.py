"""The MLflow Model Registry: what it says (snapshots, polled) and making it say what a release wants.

Each registry has a store with credentials of its own; MLflow's fluent client would take them from the process's environment. Calls run
in threads, with timeouts; MLflow's errors are translated here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import requests
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.store.model_registry.rest_store import RestStore
from mlflow.utils.rest_utils import MlflowHostCreds

from serinus_contract.names import DIGEST_TAG, SPACE_TAG
from serinus_operator.errors import NotFound, Rejected, SerinusError, Unavailable
from serinus_operator.rollout.model import RegistryIntent, Resolution, Resolved, Revision, Unresolved
from serinus_operator.settings import RegistrySettings
from serinus_operator.spec import Follow, ModelRef, Spec

_T = TypeVar("_T")
_NO_STAGE = "None"


@dataclass(frozen=True, slots=True)
class VersionView:
    """One model version as the registry shows it."""

    version: str
    stage: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelView:
    """A registered model at one moment."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, VersionView] = field(default_factory=dict)


def resolve(spec: Spec, model: ModelView, stable: Revision | None) -> Resolution:
    """Which version the spec names. Pure.

    With several versions in a followed stage the highest number wins. A followed stage that our own promotion emptied still names the
    stable version: our moves never look like a vanished target.
    """
    ref = spec.model
    version = _named_version(ref, model)
    if version is None and ref.follow is Follow.STAGE and stable is not None and stable.version in model.versions:
        promoted_to = spec.on_promote.stage
        if promoted_to is not None and model.versions[stable.version].stage == promoted_to:
            version = stable.version
    if version is None:
        known = {
            Follow.ALIAS: sorted(model.aliases),
            Follow.STAGE: _stages(model),
            Follow.VERSION: sorted(model.versions),
        }
        has = ", ".join(known[ref.follow]) or "none"
        return Unresolved("NotFound", f"{ref} names no model version; the registry has these: {has}")
    tags = model.versions[version].tags
    if DIGEST_TAG not in tags or SPACE_TAG not in tags:
        message = f"version {version} of {ref.name} has no {DIGEST_TAG} tag; register it with `serinus-server register`"
        return Unresolved("NotPackaged", message)
    return Resolved(version, tags[DIGEST_TAG], tags[SPACE_TAG])


def unresolved(ref: ModelRef, error: SerinusError) -> Unresolved:
    """The registry gave no model at all."""
    match error:
        case NotFound():
            return Unresolved("NotFound", f"{ref}: the registry has no such registered model")
        case Unavailable():
            return Unresolved("RegistryUnavailable", f"{ref}: {error}; what serves goes on serving", passing=True)
        case _:
            return Unresolved("RegistryRefused", f"{ref}: {error}")


def says(intent: RegistryIntent, model: ModelView) -> bool:
    """Does the registry say what is wanted? Versions that have been deleted since want nothing more. Pure."""
    known = model.versions
    return (
        all(model.aliases.get(alias) == version for alias, version in intent.aliases.items() if version in known)
        and all(model.aliases.get(alias) != version for alias, version in intent.withdrawn.items())
        and all(known[version].stage == stage for version, stage in intent.stages.items() if version in known)
        and all(
            known[version].tags.items() >= tags.items() for version, tags in intent.tags.items() if version in known
        )
    )


class Registry:
    """One MLflow server."""

    def __init__(self, settings: RegistrySettings, timeout_seconds: float) -> None:
        credentials = MlflowHostCreds(
            settings.tracking_uri, username=settings.username, password=settings.password, token=settings.token
        )
        self._store = RestStore(lambda: credentials)
        self._timeout_seconds = timeout_seconds

    async def view(self, name: str) -> ModelView:
        """The registered model now. Raises NotFound, Unavailable, Rejected."""
        return await self._in_thread(lambda: self._read(name))

    async def sync(self, name: str, intent: RegistryIntent) -> ModelView:
        """Writes what differs, aliases before stages before tags, and reads the result back. Raises Unavailable, Rejected."""
        return await self._in_thread(lambda: self._write(name, intent))

    def _read(self, name: str) -> ModelView:
        model = self._store.get_registered_model(name)
        found: list[Any] = []
        token = None
        while True:
            page = self._store.search_model_versions(f"name='{name}'", max_results=1000, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                break
        versions = {
            str(v.version): VersionView(str(v.version), v.current_stage or _NO_STAGE, dict(v.tags)) for v in found
        }
        return ModelView({alias: str(version) for alias, version in model.aliases.items()}, versions)

    def _write(self, name: str, intent: RegistryIntent) -> ModelView:
        model = self._read(name)
        for alias, version in intent.aliases.items():
            if version in model.versions and model.aliases.get(alias) != version:
                self._store.set_registered_model_alias(name, alias, version)
        for alias, version in intent.withdrawn.items():
            if model.aliases.get(alias) == version:
                self._store.delete_registered_model_alias(name, alias)
        for version, stage in intent.stages.items():
            if version in model.versions and model.versions[version].stage != stage:
                self._store.transition_model_version_stage(name, version, stage, archive_existing_versions=False)
        for version, tags in intent.tags.items():
            for key, value in tags.items():
                if version in model.versions and model.versions[version].tags.get(key) != value:
                    self._store.set_model_version_tag(name, version, ModelVersionTag(key, value))
        return self._read(name)

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        try:
            return await asyncio.wait_for(asyncio.to_thread(call), self._timeout_seconds)
        except TimeoutError as error:
            raise Unavailable(f"MLflow did not answer within {self._timeout_seconds:.0f} s") from error
        except RestException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise NotFound(str(error)) from error
            raise _translate(error) from error
        except (MlflowException, requests.RequestException) as error:
            raise _translate(error) from error


def _translate(error: Exception) -> SerinusError:
    text = str(error).split("\n", maxsplit=1)[0][:300]
    if "401" in text or "403" in text or "PERMISSION_DENIED" in text:
        return Rejected(f"MLflow refuses the operator ({text}); check the registry's Secret and MLflow's allowed hosts")
    if isinstance(error, RestException) and error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
        return Rejected(f"MLflow refused the call: {text}")
    return Unavailable(f"MLflow: {text}")


def _named_version(ref: ModelRef, model: ModelView) -> str | None:
    match ref.follow:
        case Follow.ALIAS:
            version = model.aliases.get(ref.selector)
            return version if version in model.versions else None
        case Follow.STAGE:
            staged = [v.version for v in model.versions.values() if v.stage == ref.selector]
            return max(staged, key=int, default=None)
        case Follow.VERSION:
            return ref.selector if ref.selector in model.versions else None


def _stages(model: ModelView) -> list[str]:
    return sorted({version.stage for version in model.versions.values()})
