"""A packaged model on disk: what `register` wrote and `serve` and `verify` read. Checks every file before anything is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

from serinus_contract import manifest as contract
from serinus_contract.manifest import MalformedManifest, Manifest
from serinus_server.encoders import Vectors
from serinus_server.errors import ModelUnavailable, UnsafeModel
from serinus_server.profile import Profile

_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}


@dataclass(frozen=True, slots=True)
class Reference:
    """Golden probes with their expected vectors (n, dim), and the reference profile where the model has one."""

    probes: tuple[str, ...]
    vectors: Vectors
    profile: Profile | None


def read_manifest(folder: Path) -> Manifest:
    """The folder's manifest. Raises ModelUnavailable when there is none or it is malformed."""
    path = folder / contract.PATH
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelUnavailable(f"{folder} has no {contract.PATH}; package it with `serinus-server register`") from None
    except MalformedManifest as error:
        raise UnsafeModel(f"{path}: {error}") from error


def check_files(folder: Path, manifest: Manifest, digest: str | None) -> None:
    """Every file of the manifest is there with its SHA-256, and the whole is what was asked for. Raises ModelUnavailable."""
    if digest is not None and manifest.digest != digest:
        raise ModelUnavailable(f"the model has digest {manifest.digest}, the registry named {digest}")
    for path, expected in manifest.files.items():
        refuse_unsafe([Path(path)])
        try:
            found = sha256(folder / path)
        except FileNotFoundError:
            raise ModelUnavailable(f"{path} is in the manifest and not in the model") from None
        if found != expected:
            raise ModelUnavailable(f"{path} has SHA-256 {found}, the manifest says {expected}")


def read_reference(folder: Path) -> Reference:
    """Probes and profile of a packaged model. Needs only the files under `serinus/`."""
    vectors = load_file(folder / contract.VECTORS_PATH)
    probes = tuple(json.loads((folder / contract.PROBES_PATH).read_text(encoding="utf-8")))
    profile = None
    if "centroids" in vectors:
        profile = Profile.read(vectors, json.loads((folder / contract.PROFILE_PATH).read_text(encoding="utf-8")))
    return Reference(probes, vectors["probes"], profile)


def refuse_unsafe(files: Iterable[Path]) -> None:
    """Raises UnsafeModel for weights that only unpickling could read, and for Python code, by file name."""
    for file in files:
        if file.suffix in _PICKLES:
            raise UnsafeModel(f"{file}: pickled weights can run code when they are read; save the model as safetensors")
        if file.suffix == ".py":
            raise UnsafeModel(f"{file}: models that bring code of their own are not loaded")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
