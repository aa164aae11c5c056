"""The MLflow Model Registry: what it says (snapshots) and making it say what a release wants. MLflow's errors are translated here.

Its REST API is called directly: MLflow's own client takes credentials and retries from the process's environment, and importing it
costs 116 MB, more than the whole operator without it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from serinus_contract.names import DIGEST_TAG, SPACE_TAG
from serinus_operator.errors import Forbidden, NotFound, Rejected, SerinusError, Unauthorized, Unavailable
from serinus_operator.rollout.model import RegistryIntent, Revision, StepSummary
from serinus_operator.rollout.observed import Resolution, Resolved, Unresolved
from serinus_operator.settings import RegistrySettings
from serinus_operator.spec import Follow, ModelRef, Spec

JSON: TypeAlias = dict[str, Any]

_NO_STAGE: Final = "None"
_GOES_ON: Final = "what serves goes on serving"
_PAGE: Final = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VersionView:
    """One model version as the registry shows it."""

    version: str
    stage: str
    tags: Mapping[str, str]
    run_id: str = ""  # of the run that it was registered from; empty without one


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
        message = f"{ref} names no model version; the registry has these: {has}. Set it there or change spec.model; {_GOES_ON}"
        return Unresolved("NotFound", message)
    tags = model.versions[version].tags
    if DIGEST_TAG not in tags or SPACE_TAG not in tags:
        message = f"version {version} of {ref.name} has no {DIGEST_TAG} tag; register it with `serinus-server register`"
        return Unresolved("NotPackaged", message)
    return Resolved(version, tags[DIGEST_TAG], tags[SPACE_TAG])


def unresolved(ref: ModelRef, error: SerinusError) -> Unresolved:
    """The registry gave no model at all."""
    match error:
        case NotFound():
            message = "the registry has no such registered model; was it renamed? Then apply a release of its new name"
            return Unresolved("NotFound", f"{ref}: {message}; {_GOES_ON}")
        case Unavailable():
            return Unresolved("RegistryUnavailable", f"{ref}: {error}; {_GOES_ON}", passing=True)
        case Unauthorized():
            return Unresolved("RegistryUnauthorized", f"{ref}: {error}; {_GOES_ON}")
        case Forbidden():
            return Unresolved("RegistryForbidden", f"{ref}: {error}; {_GOES_ON}")
        case _:
            return Unresolved("RegistryRefused", f"{ref}: {error}; {_GOES_ON}")


def lost(stable: Revision | None, model: ModelView) -> str:
    """What to do about a stable version that the registry has no more; empty when it has it. Pure."""
    if stable is None or stable.version in model.versions:
        return ""
    return (
        f"model version {stable.version}, which serves, was deleted from the registry: pods that run go on, new ones cannot load it; "
        "restore it, or roll out another version"
    )


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
        and all(
            known[version].tags.get(tag) == summary.text()
            for version, summaries in intent.summaries.items()
            if version in known
            for tag, summary in summaries.items()
        )
    )


class Registry:
    """One MLflow server."""

    def __init__(self, settings: RegistrySettings, timeout_seconds: float) -> None:
        self._settings = settings
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def view(self, name: str) -> ModelView:
        """The registered model now. Raises NotFound, Unavailable, Rejected."""
        model = (await self._call("GET", "registered-models/get", {"name": name}))["registered_model"]
        found = self._pages("model-versions/search", "model_versions", {"filter": f"name='{name}'"})
        versions = {str(each["version"]): _version_view(each) async for each in found}
        return ModelView({each["alias"]: str(each["version"]) for each in model.get("aliases", [])}, versions)

    async def overview(self) -> dict[str, JSON]:
        """Every registered model as the search shows it: with its aliases and the latest version of each stage."""
        return {
            model["name"]: model async for model in self._pages("registered-models/search", "registered_models", {})
        }

    async def sync(self, name: str, intent: RegistryIntent) -> ModelView:
        """Writes what differs, aliases before stages before tags, and reads the result back. Raises Unavailable, Rejected."""
        model = await self.view(name)
        for alias, version in intent.aliases.items():
            if version in model.versions and model.aliases.get(alias) != version:
                await self._call("POST", "registered-models/alias", {"name": name, "alias": alias, "version": version})
        for alias, version in intent.withdrawn.items():
            if model.aliases.get(alias) == version:
                await self._call("DELETE", "registered-models/alias", {"name": name, "alias": alias})
        for version, stage in intent.stages.items():
            if version in model.versions and model.versions[version].stage != stage:
                move = {"name": name, "version": version, "stage": stage, "archive_existing_versions": False}
                await self._call("POST", "model-versions/transition-stage", move)
        for version, tags in intent.tags.items():
            for key, value in tags.items():
                if version in model.versions and model.versions[version].tags.get(key) != value:
                    tag = {"name": name, "version": version, "key": key, "value": value}
                    await self._call("POST", "model-versions/set-tag", tag)
        for version, summaries in intent.summaries.items():
            for key, summary in summaries.items():
                if version in model.versions and model.versions[version].tags.get(key) != summary.text():
                    await self._log_metrics(model.versions[version].run_id, summary)
                    tag = {"name": name, "version": version, "key": key, "value": summary.text()}
                    await self._call("POST", "model-versions/set-tag", tag)
        return await self.view(name)

    async def _log_metrics(self, run_id: str, summary: StepSummary) -> None:
        """Logs the figures on the version's run, before the tag that says it is done; MLflow keeps one of two equal points.

        A run that was deleted, or that this user may not write to, leaves the tag to tell it.
        """
        if not run_id:
            return
        at = {"timestamp": int(summary.until.timestamp() * 1000), "step": summary.step}
        metrics = [{"key": f"serinus.{name}", "value": value, **at} for name, value in summary.figures.items()]
        try:
            await self._call("POST", "runs/log-batch", {"run_id": run_id, "metrics": metrics})
        except (NotFound, Rejected, Forbidden) as error:
            log.warning("metrics are not logged on run %s: %s", run_id, error)

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def _pages(self, path: str, items: str, query: Mapping[str, str]) -> AsyncIterator[JSON]:
        token = ""
        while True:
            page = await self._call(
                "GET", path, {**query, "max_results": str(_PAGE), **({"page_token": token} if token else {})}
            )
            for each in page.get(items, []):
                yield each
            token = page.get("next_page_token") or ""
            if not token:
                return

    async def _call(self, method: str, path: str, arguments: Mapping[str, Any]) -> JSON:
        if self._session is None:
            self._session = self._connect()
        url = f"{self._settings.tracking_uri}/api/2.0/mlflow/{path}"
        sent: dict[str, Any] = {"params": arguments} if method == "GET" else {"json": arguments}
        try:
            async with self._session.request(method, url, **sent) as response:
                text = await response.text()
                answer: JSON = json.loads(text) if response.status < 400 else _error_of(text)
        except TimeoutError as error:
            raise Unavailable(f"MLflow did not answer within {self._timeout.total:g} s; is it overloaded?") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = f"{type(error).__name__}: {str(error)[:200]}"
            raise Unavailable(
                f"MLflow cannot be reached ({why}); does it run, and is the registry's trackingUri right?"
            ) from error
        if response.status >= 400:
            raise _translate(response.status, answer, text)
        return answer

    def _connect(self) -> aiohttp.ClientSession:
        ours, headers = self._settings, {}
        if ours.username is not None:
            headers["Authorization"] = aiohttp.encode_basic_auth(ours.username, ours.password or "")
        elif ours.token is not None:
            headers["Authorization"] = f"Bearer {ours.token}"
        return aiohttp.ClientSession(headers=headers, timeout=self._timeout, proxy=_proxy_of(ours.tracking_uri))


def _proxy_of(uri: str) -> str | None:
    """The proxy that the environment names for this address. (`trust_env` would also take credentials from a .netrc.)"""
    url = urlsplit(uri)
    return None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)


def _translate(status: int, answer: JSON, text: str) -> SerinusError:
    """What went wrong, and what to do. A text that is no JSON comes from MLflow's host check, or from a proxy in between."""
    code = str(answer.get("error_code", ""))
    said = " ".join(str(answer.get("message") or text).split())[:300]
    if code == "RESOURCE_DOES_NOT_EXIST":
        return NotFound(said)
    if status == 401 or code == "UNAUTHENTICATED":
        return Unauthorized("MLflow does not accept the operator's credentials (401); correct the registry's Secret")
    if status == 403 and "host" in said.lower() and not code:
        return Forbidden(
            f"MLflow refuses the host name that it is called by (403 {said}); add the trackingUri's host to its --allowed-hosts"
        )
    if status == 403 or code == "PERMISSION_DENIED":
        return Forbidden(
            f"MLflow does not allow it to the operator's user (403 {said}); give that user EDIT on the registered model"
        )
    if code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
        return Rejected(f"MLflow refused the call: {said}")
    if status == 404:
        return Rejected(f"there is no MLflow behind the registry's trackingUri (404 {said}); correct it")
    return Unavailable(f"MLflow failed ({status} {said}); its log says why, and it is asked again at every poll")


def _error_of(text: str) -> JSON:
    """MLflow's error; nothing when a proxy in between answered."""
    try:
        answer = json.loads(text)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _version_view(version: JSON) -> VersionView:
    tags = {each["key"]: each.get("value", "") for each in version.get("tags", [])}
    return VersionView(
        str(version["version"]), version.get("current_stage") or _NO_STAGE, tags, version.get("run_id") or ""
    )


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
