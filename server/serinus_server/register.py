"""`serinus-server register`: packages a sentence-transformers folder and registers it as a model version. Needs torch.

What is registered: safetensors, tokenizer, configuration, an ONNX export, the reference profile, golden probes, and a manifest with the
SHA-256 of each. Nothing else goes in, and nothing pickled.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from serinus_contract import manifest as contract
from serinus_contract.manifest import Manifest
from serinus_contract.names import DIGEST_TAG, SPACE_TAG
from serinus_server.encoders import Vectors
from serinus_server.encoders.onnx import OnnxEncoder
from serinus_server.errors import ModelUnavailable
from serinus_server.export import export
from serinus_server.matryoshka import shorten
from serinus_server.neighbourhood import lowest_cosine, mean_cosine, nearest, overlap
from serinus_server.package import Reference, Stored, sha256, write_reference
from serinus_server.profile import Profile, make_profile
from serinus_server.quantize import write_int8
from serinus_server.source import Source, load_source
from serinus_server.space import space_identity

Progress: TypeAlias = Callable[[str], None]

_EXPORT_COSINE: Final = 0.9999
_SAME_SPACE_COSINE: Final = 0.999
_SAME_SPACE_COSINE_INT8: Final = 0.99
_SAME_SPACE_OVERLAP_INT8: Final = 0.95
_BATCH: Final = 32
_PROGRESS_SECONDS: Final = 2.0
_LONG_PROBES: Final = 24


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a package is made from beside the model: without `reference` texts the built-in ones.

    `profile_from` and `same_space_as` are versions that are trusted.
    """

    probes: Sequence[str]
    reference: Sequence[str] = ()
    profile_from: Stored | None = None
    same_space_as: Stored | None = None
    dimensions: tuple[int, ...] = ()  # that the model was trained for its vectors to be cut to


@dataclass(frozen=True, slots=True)
class Packaged:
    """What was packaged, and the figures that go to the registry's run."""

    manifest: Manifest
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Registered:
    """A model version that now exists."""

    name: str
    version: str
    space: str
    digest: str


def package(folder: Path, target: Path, wishes: Wishes, progress: Progress) -> Packaged:
    """Writes the clean package of the model in `folder` to `target`. Raises UnsafeModel, ModelUnavailable, ValueError."""
    began = time.monotonic()
    progress(f"loading {folder}")
    source = load_source(folder)
    target.mkdir(parents=True, exist_ok=True)
    source.model.save(str(target), safe_serialization=True, create_model_card=False)
    progress("exporting to ONNX")
    export(source, target / contract.ONNX_PATH)
    manifest = Manifest(
        space_identity(source), source.dim, source.max_tokens, source.pooling, source.normalize, {}, source.output, source.prompt
    )  # fmt: skip
    encoder = OnnxEncoder(target, manifest, threads=0)
    golden, metrics = _golden(source, encoder, wishes.probes, progress)
    manifest, shortened = _shortened(manifest, golden, wishes.dimensions, progress)
    metrics |= shortened
    if wishes.same_space_as is not None:
        metrics |= measure_same_space(manifest, wishes.same_space_as, _encoding(encoder, progress))
        manifest = replace(manifest, space=wishes.same_space_as.manifest.space)
    reference = _with_profile(golden, encoder, manifest, wishes, progress)
    write_reference(target, reference)
    write_int8(target, manifest, reference.probes, reference.vectors, progress)
    files = {str(path.relative_to(target)): sha256(path) for path in sorted(target.rglob("*")) if path.is_file()}
    manifest = replace(manifest, files=files)
    (target / contract.PATH).write_text(manifest.to_json(), encoding="utf-8")
    if reference.profile is not None:
        metrics["reference_median_cosine"] = reference.profile.median_cosine
    return Packaged(manifest, {**metrics, "packaging_seconds": time.monotonic() - began})


def _shortened(
    manifest: Manifest, golden: Reference, dimensions: Sequence[int], progress: Progress
) -> tuple[Manifest, dict[str, float]]:
    """Declares the dimensions, and tells what of the neighbourhoods each keeps. Raises ValueError for one that is none of the model's."""
    figures = {}
    for dim in dimensions:
        if not 0 < dim < manifest.dim:
            raise ValueError(f"--dimensions {dim}: the model has {manifest.dim}, and fewer are needed")
        kept = overlap(nearest(shorten(golden.vectors, dim, manifest.normalize)), golden.neighbours)
        figures[f"neighbours_kept_at_{dim}"] = kept
        progress(f"cut to {dim} dimensions: {kept:.2f} of the ten nearest neighbours are kept")
    return replace(manifest, dimensions=tuple(sorted(set(dimensions), reverse=True))), figures


def register(folder: Path, name: str, tracking_uri: str, parameters: Mapping[str, object], metrics: Mapping[str, float],
             progress: Progress, *, alias: str | None = None, stage: str | None = None) -> Registered:  # fmt: skip
    """Logs a run, uploads the package and registers it; alias and stage move last, when the version is whole."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output is for the result
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    manifest = Manifest.from_json((folder / contract.PATH).read_text(encoding="utf-8"))
    client = MlflowClient(tracking_uri, tracking_uri)
    try:
        experiment = client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
        run = client.create_run(experiment_id, run_name=f"register {name}")
        for key, value in {**parameters, **_parameters(manifest)}.items():
            client.log_param(run.info.run_id, key, value)
        for key, figure in metrics.items():
            client.log_metric(run.info.run_id, key, figure)
        _upload(client, run.info.run_id, folder, progress)
        client.set_terminated(run.info.run_id)
        if not client.search_registered_models(f"name='{name}'"):
            client.create_registered_model(name)
        source = f"{run.info.artifact_uri}/model"
        tags = {DIGEST_TAG: manifest.digest, SPACE_TAG: manifest.space}
        version = str(client.create_model_version(name, source, run.info.run_id, tags=tags).version)
        if alias:
            client.set_registered_model_alias(name, alias, version)
        if stage:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                client.transition_model_version_stage(name, version, stage)
    except MlflowException as error:
        raise ModelUnavailable(f"MLflow at {tracking_uri}: {error}") from error
    return Registered(name, version, manifest.space, manifest.digest)


def measure_same_space(
    manifest: Manifest, other: Stored, encode: Callable[[Sequence[str]], Vectors]
) -> dict[str, float]:
    """Holds a copy that is declared to be of another version's space against that version's vectors. Raises ValueError when it is not.

    Rounding to half precision keeps every cosine above 0.999; int8 keeps 0.99, and then the neighbours decide.
    """
    for name in ("dim", "normalize"):
        if getattr(manifest, name) != getattr(other.manifest, name):
            theirs, ours = getattr(other.manifest, name), getattr(manifest, name)
            raise ValueError(f"--same-space-as {other.version}: its {name} is {theirs}, this model's {ours}")
    vectors = encode(other.reference.probes)
    cosine, shared = (
        lowest_cosine(vectors, other.reference.vectors),
        overlap(nearest(vectors), other.reference.neighbours),
    )
    as_int8 = cosine >= _SAME_SPACE_COSINE_INT8 and shared >= _SAME_SPACE_OVERLAP_INT8
    if cosine < _SAME_SPACE_COSINE and not as_int8:
        raise ValueError(
            f"--same-space-as {other.version}: the lowest cosine to its golden probes is {cosine:.4f} and {shared:.2f} of the neighbours "
            f"are its own; {_SAME_SPACE_COSINE} is needed, or {_SAME_SPACE_COSINE_INT8} with {_SAME_SPACE_OVERLAP_INT8} of the neighbours"
        )
    return {"same_space_lowest_cosine": cosine, "same_space_neighbour_overlap": shared}


def built_in_probes() -> list[str]:
    """Sentences of many domains, and long texts made of them: a model that reads less of a text is found by the long ones alone."""
    sentences = resources.files("serinus_server").joinpath("probes.txt").read_text(encoding="utf-8").splitlines()
    lengths = (6, 12, 24, 48)  # sentences: about 70, 130, 250 and 500 tokens
    long = [
        " ".join(sentences[(index * 5 + each * 11) % len(sentences)] for each in range(lengths[index % len(lengths)]))
        for index in range(_LONG_PROBES)
    ]
    return sentences + long


def built_in_reference() -> list[str]:
    """Sentences of many domains, for a model whose user has given none of his own: what is unlike ordinary text is not confident."""
    return resources.files("serinus_server").joinpath("reference.txt").read_text(encoding="utf-8").splitlines()


def read_texts(path: Path) -> list[str]:
    """Texts of a JSON-lines file: a string a line, or an object with `text`. Raises ValueError naming the line."""
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            text = value["text"] if isinstance(value, dict) else value
        except (ValueError, KeyError) as error:
            raise ValueError(f'{path}:{number}: a JSON string or {{"text": "…"}} is needed') from error
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{path}:{number}: the text is empty or no text")
        texts.append(text)
    return texts


def _golden(
    source: Source, encoder: OnnxEncoder, probes: Sequence[str], progress: Progress
) -> tuple[Reference, dict[str, float]]:
    """Vectors come from the export, which is what serves; it is first held against the model itself."""
    progress(f"encoding {len(probes)} probes")
    vectors = _encoding(encoder, progress)(probes)
    expected = source.model.encode(list(probes), batch_size=_BATCH, convert_to_numpy=True, show_progress_bar=False)
    cosine = lowest_cosine(vectors, expected)
    if cosine < _EXPORT_COSINE:
        raise ModelUnavailable(f"the ONNX export differs from the model: cosine {cosine:.6f}, {_EXPORT_COSINE} needed")
    metrics = {"export_lowest_cosine": cosine, "probes_mean_cosine": mean_cosine(vectors)}
    return Reference(tuple(probes), vectors, nearest(vectors)), metrics


def _with_profile(
    golden: Reference, encoder: OnnxEncoder, manifest: Manifest, wishes: Wishes, progress: Progress
) -> Reference:
    profile, shared = _profile(encoder, manifest, wishes, progress)
    return replace(golden, profile=profile, shared=shared)


def _profile(
    encoder: OnnxEncoder, manifest: Manifest, wishes: Wishes, progress: Progress
) -> tuple[Profile, tuple[str, ...]]:
    other = wishes.profile_from
    if other is not None:
        if other.reference.domain is None:
            raise ValueError(f"--profile-from {other.version}: that version was registered without --reference texts")
        if other.manifest.dim != manifest.dim:
            raise ValueError(
                f"--profile-from {other.version}: its vectors have {other.manifest.dim} dimensions, this model's {manifest.dim}"
            )
        return other.reference.domain, other.reference.shared
    texts = wishes.reference or built_in_reference()
    progress(f"encoding {len(texts)} reference texts")
    lengths = [len(tokens) for tokens in encoder.tokenize(texts)]
    profile = make_profile(_encoding(encoder, progress)(texts), lengths)
    profile = replace(profile, built_in=not wishes.reference)
    return profile, tuple(texts[index] for index in profile.sampled)


def _encoding(encoder: OnnxEncoder, progress: Progress) -> Callable[[Sequence[str]], Vectors]:
    """Encodes texts in batches and says how far it is every two seconds."""

    def encode(texts: Sequence[str]) -> Vectors:
        tokens, batches, said_at = encoder.tokenize(texts), [], time.monotonic()
        for start in range(0, len(tokens), _BATCH):
            batches.append(encoder.encode(tokens[start : start + _BATCH]))
            if time.monotonic() - said_at > _PROGRESS_SECONDS:
                said_at = time.monotonic()
                progress(f"  {start + len(batches[-1])} of {len(tokens)}")
        return np.concatenate(batches)

    return encode


def _parameters(manifest: Manifest) -> dict[str, object]:
    names = ("space", "dim", "max_tokens", "pooling", "normalize", "output", "prompt")
    return {name: getattr(manifest, name) for name in names}


def _upload(client: Any, run_id: str, folder: Path, progress: Progress) -> None:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    progress(f"uploading {len(files)} files, {size / 1e6:.0f} MB")
    for path in files:
        if path.stat().st_size > size / 4:
            progress(f"  {path.relative_to(folder)}, {path.stat().st_size / 1e6:.0f} MB")
        client.log_artifact(run_id, str(path), str(Path("model") / path.relative_to(folder).parent))
