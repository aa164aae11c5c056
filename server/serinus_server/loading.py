"""From a model URI to a checked folder. Nothing is loaded with MLflow's flavours: they run code and trust pickles."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serinus_contract import manifest as contract
from serinus_contract.manifest import Manifest
from serinus_server.errors import ModelUnavailable
from serinus_server.package import Stored, check_files, read_manifest, read_reference

if TYPE_CHECKING:
    from mlflow import MlflowClient

_URI: Final = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<selector>[^/@]+)|@(?P<alias>[^/@]+))")
_STAGES: Final = ("Staging", "Production", "Archived")


@dataclass(frozen=True, slots=True)
class Model:
    """A model on this machine, checked. `version` is "folder" where no registry was asked."""

    name: str
    version: str
    folder: Path
    manifest: Manifest


def fetch(
    uri: str, tracking_uri: str | None, folder: Path, digest: str | None = None, *, only_reference: bool = False
) -> Model:
    """Resolves the URI, downloads the manifest's files into `folder` and checks each.

    `only_reference` fetches what lies under `serinus/` alone (probes and profile). Raises ModelUnavailable, UnsafeModel.
    """
    parsed = _URI.fullmatch(uri)
    if parsed is None:
        local = Path(uri)
        if not local.is_dir():
            raise ModelUnavailable(
                f"{uri!r} is neither a folder nor models:/NAME/VERSION, models:/NAME@ALIAS or models:/NAME/STAGE"
            )
        manifest = read_manifest(local)
        check_files(local, manifest, digest)
        return Model(local.name, "folder", local, manifest)
    if tracking_uri is None:
        raise ModelUnavailable("set MLFLOW_TRACKING_URI to the MLflow server that knows " + uri)
    return _download(parsed, tracking_uri, folder, digest, only_reference=only_reference)


def fetch_stored(uri: str, tracking_uri: str | None, folder: Path) -> Stored:
    """What is stored of a version beside the model itself. Raises ModelUnavailable, UnsafeModel."""
    model = fetch(uri, tracking_uri, folder, only_reference=True)
    return Stored(model.version, model.manifest, read_reference(model.folder))


def _download(
    parsed: re.Match[str], tracking_uri: str, folder: Path, digest: str | None, *, only_reference: bool
) -> Model:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    name = parsed["name"]
    try:
        client = MlflowClient(tracking_uri, tracking_uri)
        version = _version(client, parsed)
        repository = get_artifact_repository(
            client.get_model_version_download_uri(name, version), tracking_uri=tracking_uri
        )
        folder = folder / f"{name}-{version}"
        folder.mkdir(parents=True, exist_ok=True)
        repository.download_artifacts(contract.PATH, str(folder))
        manifest = read_manifest(folder)
        wanted = "serinus/" if only_reference else ""
        for path in manifest.files:
            if path.startswith(wanted):
                repository.download_artifacts(path, str(folder))
    except (MlflowException, OSError) as error:
        raise ModelUnavailable(f"{parsed[0]} from {tracking_uri}: {str(error)[:300]}") from error
    check_files(folder, manifest, digest, wanted)
    return Model(name, version, folder, manifest)


def _version(client: MlflowClient, parsed: re.Match[str]) -> str:
    name, selector, alias = parsed["name"], parsed["selector"], parsed["alias"]
    if alias:
        return str(client.get_model_version_by_alias(name, alias).version)
    if selector not in _STAGES:
        return str(selector)
    staged = [each for each in client.search_model_versions(f"name='{name}'") if each.current_stage == selector]
    if not staged:
        raise ModelUnavailable(f"no version of {name} is in stage {selector}")
    return str(max(int(each.version) for each in staged))
