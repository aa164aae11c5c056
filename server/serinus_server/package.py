"""A packaged model on disk: what `register` wrote and `serve` and `verify` read. Checks every file before anything is loaded."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from serinus_contract import manifest as contract
from serinus_contract.manifest import MalformedManifest, Manifest
from serinus_server.encoders import Vectors
from serinus_server.errors import ModelUnavailable, UnsafeModel
from serinus_server.profile import Profile

_PICKLES: Final = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
# In an ONNX file: a StringStringEntryProto whose key (field 1) is "location", up to the tag of its value (field 2).
_EXTERNAL_LOCATION: Final = b"\x0a\x08location\x12"


@dataclass(frozen=True, slots=True)
class Reference:
    """Golden probes with their expected vectors (n, dim) and nearest probes (n, 10); the reference profile where the model has one.

    `shared` are the texts of the profile's sample: another version is judged on them.
    """

    probes: tuple[str, ...]
    vectors: Vectors
    neighbours: NDArray[np.int32]
    profile: Profile | None = None
    shared: tuple[str, ...] = ()

    @property
    def domain(self) -> Profile | None:
        """The profile, where it is of the user's own domain: limits, gates, alerts and drift rest on such a one alone."""
        return None if self.profile is None or self.profile.built_in else self.profile


@dataclass(frozen=True, slots=True)
class Stored:
    """A registered version as its package describes it, without the model: manifest, and what is stored of its vectors."""

    version: str
    manifest: Manifest
    reference: Reference


def read_manifest(folder: Path) -> Manifest:
    """The folder's manifest. Raises ModelUnavailable when there is none or it is malformed."""
    path = folder / contract.PATH
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelUnavailable(f"{folder} has no {contract.PATH}; package it with `serinus-server register`") from None
    except (MalformedManifest, UnicodeDecodeError) as error:
        raise UnsafeModel(f"{path}: {error}") from error


def check_files(folder: Path, manifest: Manifest, digest: str | None, under: str = "") -> None:
    """Every file of the manifest whose path begins with `under` is there with its SHA-256, and the whole is what was asked for.

    Raises ModelUnavailable, and UnsafeModel for a file that would be read by running it or reads elsewhere.
    """
    if digest is not None and manifest.digest != digest:
        raise ModelUnavailable(f"the model has digest {manifest.digest}, the registry named {digest}")
    for path, expected in manifest.files.items():
        if not path.startswith(under):
            continue
        refuse_unsafe([Path(path)])
        try:
            found = sha256(folder / path)
        except FileNotFoundError:
            raise ModelUnavailable(f"{path} is in the manifest and not in the model") from None
        except OSError as error:  # a folder, a name that no file can have
            raise ModelUnavailable(f"{path} is in the manifest and cannot be read: {error.strerror}") from error
        if found != expected:
            raise ModelUnavailable(f"{path} has SHA-256 {found}, the manifest says {expected}")
        if path.endswith(".onnx"):
            _refuse_data_elsewhere(folder, path)


def read_reference(folder: Path) -> Reference:
    """Probes and profile of a packaged model. Needs only the files under `serinus/`."""
    tensors = load_file(folder / contract.VECTORS_PATH)
    probes = tuple(_read_json(folder / contract.PROBES_PATH))
    golden = Reference(probes, tensors["probes"], tensors["neighbours"])
    if "centroids" not in tensors:
        return golden
    profile = Profile.read(tensors, _read_json(folder / contract.PROFILE_PATH))
    return replace(golden, profile=profile, shared=tuple(_read_json(folder / contract.REFERENCE_PATH)))


def write_reference(folder: Path, reference: Reference) -> None:
    """Writes what `read_reference` reads."""
    (folder / contract.PROBES_PATH).parent.mkdir(parents=True, exist_ok=True)
    _write_json(folder / contract.PROBES_PATH, reference.probes)
    tensors: dict[str, np.ndarray] = {"probes": reference.vectors, "neighbours": reference.neighbours}
    if reference.profile is not None:
        tensors |= reference.profile.tensors()
        _write_json(folder / contract.PROFILE_PATH, reference.profile.figures())
        _write_json(folder / contract.REFERENCE_PATH, reference.shared)
    save_file(tensors, folder / contract.VECTORS_PATH)


def refuse_pickled_only(files: Iterable[Path]) -> None:
    """Raises UnsafeModel for a folder whose weights only unpickling could read. Pickles beside safetensors are left alone."""
    found = list(files)
    safe = {file.parent for file in found if file.suffix == ".safetensors"}
    refuse_unsafe(file for file in found if file.suffix in _PICKLES and file.parent not in safe)


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


def _refuse_data_elsewhere(folder: Path, path: str) -> None:
    """An ONNX file may name other files that hold its tensors: those must lie beside it. Raises UnsafeModel otherwise."""
    for location in _external_locations(folder / path):
        pure = PurePosixPath(location)
        if pure.is_absolute() or ".." in pure.parts or "\\" in location:
            raise UnsafeModel(f"{path}: reads its tensors from {location!r}, which is outside the model's folder")


def _external_locations(path: Path) -> Iterator[str]:
    if not path.stat().st_size:
        return  # nothing to map
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(_EXTERNAL_LOCATION)
        while at >= 0:
            start = at + len(_EXTERNAL_LOCATION)
            yield content[start + 1 : start + 1 + content[start]].decode(errors="replace")
            at = content.find(_EXTERNAL_LOCATION, start)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
