"""`serinus-server register`: packages a sentence-transformers folder and registers it as a model version. The only module with torch.

What is registered: safetensors, tokenizer, configuration, an ONNX export, the reference profile, golden probes, and a manifest with the
SHA-256 of each. Nothing else goes in, and nothing pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.modules.pooling import Pooling

from serinus_contract import manifest as contract
from serinus_contract.manifest import Manifest
from serinus_contract.names import DIGEST_TAG, SPACE_TAG
from serinus_server.encoders.onnx import OnnxEncoder
from serinus_server.errors import ModelUnavailable, UnsafeModel
from serinus_server.package import refuse_unsafe, sha256
from serinus_server.profile import make_profile

Progress = Callable[[str], None]

_EXPORT_COSINE: Final = 0.9999
_BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Registered:
    """A model version that now exists."""

    name: str
    version: str
    space: str
    digest: str


def package(
    source: Path, target: Path, reference: Sequence[str], probes: Sequence[str], progress: Progress
) -> Manifest:
    """Writes the clean package of the model in `source` to `target`. Raises UnsafeModel, ModelUnavailable, ValueError."""
    refuse_unsafe(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    _refuse_custom_code(source)
    progress(f"loading {source}")
    model = SentenceTransformer(
        str(source), device="cpu", local_files_only=True, model_kwargs={"attn_implementation": "eager"}
    )
    transformer, pooling, normalize = _parts(model)
    target.mkdir(parents=True, exist_ok=True)
    model.save(str(target), safe_serialization=True, create_model_card=False)
    progress("exporting to ONNX")
    _export(model, transformer, target)
    manifest = Manifest(
        space=space_identity(model, pooling=pooling, normalize=normalize),
        dim=int(model.get_embedding_dimension() or 0),
        max_tokens=int(model.max_seq_length or 512),
        pooling=pooling,
        normalize=normalize,
        files={},
    )
    progress(f"encoding {len(probes)} probes and {len(reference)} reference texts")
    _write_reference(model, target, manifest, reference, probes)
    files = {str(path.relative_to(target)): sha256(path) for path in sorted(target.rglob("*")) if path.is_file()}
    manifest = Manifest(manifest.space, manifest.dim, manifest.max_tokens, pooling, normalize, files)
    (target / contract.PATH).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def register(folder: Path, name: str, tracking_uri: str, parameters: Mapping[str, str], progress: Progress,
             *, alias: str | None = None, stage: str | None = None) -> Registered:  # fmt: skip
    """Uploads a package and registers it; alias and stage move last, when the version is whole."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output is for the result
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    manifest = Manifest.from_json((folder / contract.PATH).read_text(encoding="utf-8"))
    client = MlflowClient(tracking_uri, tracking_uri)
    try:
        experiment = client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
        run = client.create_run(experiment_id, run_name=f"register {name}")
        for key, value in {**parameters, "dim": str(manifest.dim), "space": manifest.space}.items():
            client.log_param(run.info.run_id, key, value)
        progress(f"uploading {sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:.0f} MB")
        client.log_artifacts(run.info.run_id, str(folder), "model")
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


def space_identity(model: SentenceTransformer, *, pooling: str, normalize: bool) -> str:
    """What makes vectors comparable: tensor values, the tokenizer, the semantic configuration, the dimension. Never files.

    Saving the model again, another dtype on disk, batch size or backend change nothing. Returns 16 hex digits (a label's worth).
    """
    identity = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().to(torch.float32).contiguous().numpy()
        identity.update(f"{name} {values.shape}".encode())
        identity.update(values.tobytes())
    backend = json.loads(model.tokenizer.backend_tokenizer.to_str())
    backend["truncation"] = backend["padding"] = None
    identity.update(json.dumps(backend, sort_keys=True).encode())
    configuration = _parts(model)[0].auto_model.config
    semantic = {
        "pooling": pooling,
        "normalize": normalize,
        "max_tokens": model.max_seq_length,
        "prompts": model.prompts,
        "heads": getattr(configuration, "num_attention_heads", None),
        "activation": getattr(configuration, "hidden_act", None),
        "dim": model.get_embedding_dimension(),
    }
    identity.update(json.dumps(semantic, sort_keys=True).encode())
    return identity.hexdigest()[:16]


def built_in_probes() -> list[str]:
    """Sentences of many domains, for models that bring no probes of their own."""
    return resources.files("serinus_server").joinpath("probes.txt").read_text(encoding="utf-8").splitlines()


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


def _refuse_custom_code(source: Path) -> None:
    for path in source.rglob("*.json"):
        content = path.read_text(encoding="utf-8", errors="replace")
        if '"auto_map"' in content:
            raise UnsafeModel(
                f"{path.relative_to(source)}: auto_map asks for code of the model's own, which is not loaded"
            )
    modules = source / "modules.json"
    if not modules.exists():
        raise UnsafeModel("modules.json is missing: this is no sentence-transformers folder")
    for module in json.loads(modules.read_text(encoding="utf-8")):
        if not str(module["type"]).startswith("sentence_transformers."):
            raise UnsafeModel(f"modules.json: module type {module['type']} is unknown")


def _parts(model: SentenceTransformer) -> tuple[Transformer, str, bool]:
    """Transformer, pooling mode and whether vectors are normalised. Raises UnsafeModel for other architectures."""
    modules: list[Any] = list(model)
    known = (
        len(modules) in (2, 3)
        and isinstance(modules[0], Transformer)
        and isinstance(modules[1], Pooling)
        and (len(modules) == 2 or isinstance(modules[2], Normalize))
    )
    if not known:
        kinds = ", ".join(type(module).__name__ for module in modules)
        raise UnsafeModel(f"modules.json: {kinds} is not supported; Transformer, Pooling and an optional Normalize are")
    mode = modules[1].pooling_mode
    if mode not in ("mean", "cls", "lasttoken"):
        raise UnsafeModel(f"1_Pooling/config.json: pooling {mode} is not supported; mean, cls and lasttoken are")
    return modules[0], mode, len(modules) == 3


class _States(torch.nn.Module):
    """The transformer as a function of positional tensors, which is what the exporter traces."""

    def __init__(self, network: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Hidden states (batch, tokens, dim)."""
        states: torch.Tensor = self.network(
            **dict(zip(self.names, inputs, strict=True)), return_dict=True
        ).last_hidden_state
        return states


def _export(model: SentenceTransformer, transformer: Transformer, target: Path) -> None:
    network = transformer.auto_model.eval()
    features = dict(
        model.tokenizer(["a short text", "another, somewhat longer text"], padding=True, return_tensors="pt")
    )
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in features]

    path = target / contract.ONNX_PATH
    path.parent.mkdir(exist_ok=True)
    axes = {0: "batch", 1: "tokens"}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the tracer warns of every shape that it sees as a constant; the result is checked below
        torch.onnx.export(
            _States(network, names), tuple(features[name] for name in names), str(path), input_names=names, output_names=["states"],
            dynamic_axes=dict.fromkeys([*names, "states"], axes), opset_version=17, dynamo=False,
        )  # fmt: skip


def _write_reference(
    model: SentenceTransformer, target: Path, manifest: Manifest, reference: Sequence[str], probes: Sequence[str]
) -> None:
    """Vectors come from the export, which is what serves; it is first held against the model itself."""
    encoder = OnnxEncoder(target, manifest, threads=0)
    vectors = _encode(encoder, probes)
    expected = model.encode(list(probes), batch_size=_BATCH, convert_to_numpy=True, show_progress_bar=False)
    cosine = (vectors * expected).sum(axis=1) / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1))
    if cosine.min() < _EXPORT_COSINE:
        raise ModelUnavailable(
            f"the ONNX export differs from the model: cosine {cosine.min():.6f}, {_EXPORT_COSINE} needed"
        )
    (target / "serinus").mkdir(exist_ok=True)
    (target / contract.PROBES_PATH).write_text(json.dumps(list(probes), ensure_ascii=False), encoding="utf-8")
    tensors = {"probes": vectors}
    if reference:
        lengths = [len(tokens) for tokens in encoder.tokenize(reference)]
        profile = make_profile(_encode(encoder, reference), lengths)
        tensors |= profile.tensors()
        (target / contract.PROFILE_PATH).write_text(json.dumps(profile.figures()), encoding="utf-8")
    save_file(tensors, target / contract.VECTORS_PATH)


def _encode(encoder: OnnxEncoder, texts: Sequence[str]) -> np.ndarray:
    tokens = encoder.tokenize(texts)
    return np.concatenate([encoder.encode(tokens[start : start + _BATCH]) for start in range(0, len(tokens), _BATCH)])
