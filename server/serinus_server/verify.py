"""`serinus-server verify`: is this model what its manifest says, and fit to meet users? Runs before any traffic, without torch on CPUs.

A damaged model reproduces its own golden probes perfectly. What gives it away is its neighbourhoods: the ten nearest probes of each probe,
compared with those of the stable version. That works across embedding spaces, where cosines between vectors mean nothing. By how much a
model may differ from itself comes from measured noise (docs/models.md); how much a new version may change is the user's choice.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from serinus_contract.manifest import Manifest
from serinus_contract.verification import CONFIDENCE_ODDS_RATIO, Check, VerifyReport
from serinus_server.encoders import Encoder, Vectors
from serinus_server.encoders.choice import choose
from serinus_server.loading import fetch, fetch_stored
from serinus_server.neighbourhood import (
    NEIGHBOURS,
    lowest_cosine,
    mean_cosine,
    nearest,
    overlap,
    similarity_correlation,
)
from serinus_server.package import Reference, Stored, read_reference
from serinus_server.settings import Settings

log = logging.getLogger(__name__)

LEAST_OVERLAP: Final = 0.80
LEAST_CORRELATION: Final = 0.5
MOST_MEAN_COSINE: Final = 0.90
LENGTH_TOLERANCE: Final = 0.10  # of a vector's norm, against another version's
LONG_CHARACTERS: Final = 300
LONG_NEIGHBOURS: Final = 5
_BATCH: Final = 16


@dataclass(frozen=True, slots=True)
class Noise:
    """What the same model may differ by from run to run: lowest cosine to its golden vectors, share of its neighbours kept, norm."""

    least_cosine: float
    least_overlap: float
    norm_tolerance: float


# FLOAT: the worst of `make bench-verify` with room for as much again. INT8: what registration keeps (mean cosine 0.99), text by text.
FLOAT: Final = Noise(least_cosine=0.999, least_overlap=0.97, norm_tolerance=0.01)
INT8: Final = Noise(least_cosine=0.95, least_overlap=0.90, norm_tolerance=0.01)


def verify(settings: Settings, *, least_overlap: float = LEAST_OVERLAP) -> VerifyReport:
    """Loads the model and judges it. Raises ModelUnavailable or UnsafeModel when it cannot be loaded at all."""
    began = time.monotonic()
    model = fetch(settings.model_uri, settings.tracking_uri, settings.model_folder, settings.digest)
    reference = read_reference(model.folder)
    choice = choose(
        settings.backend, model.folder, model.manifest, settings.threads, reference=reference,
        least_cosine=settings.least_cosine, in_cluster=False, tell=log.info, dtype=settings.dtype,
    )  # fmt: skip
    encoder = choice.encoder
    measured = {"load_seconds": time.monotonic() - began}
    for name, each in choice.measured.items():
        measured[f"{name.replace('-', '_')}_cpu_ms"] = each.cpu_ms_per_text
    vectors, seconds = encode(encoder, reference.probes)
    measured["texts_per_second"] = len(reference.probes) / seconds
    checks = against_itself(vectors, reference, noise(encoder))
    if settings.verify_against is not None:
        folder = settings.model_folder / "stable"
        stable = fetch_stored(settings.verify_against, settings.tracking_uri, folder)
        same = stable.reference.probes == reference.probes
        on_theirs = vectors if same else encode(encoder, stable.reference.probes)[0]
        checks += against_stable(on_theirs, model.manifest, stable, least_overlap, noise(encoder))
        measured |= _confidence(encoder, reference, stable.reference)
    measured |= _latencies(encoder, reference.probes[:16])
    measured["peak_memory_bytes"] = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    measured["device_memory_bytes"] = float(encoder.memory_bytes()[0])
    rounded = {name: round(value, 5) for name, value in measured.items()}
    manifest = model.manifest
    return VerifyReport(
        tuple(checks), rounded, model.version, manifest.digest, manifest.space, encoder.backend, encoder.dtype
    )


def noise(encoder: Encoder) -> Noise:
    """The noise of the encoder's arithmetic."""
    return INT8 if "int8" in encoder.backend else FLOAT


def against_itself(vectors: Vectors, golden: Reference, limits: Noise) -> list[Check]:
    """Does the model give what it gave when it was registered? Its probes' vectors now, against the stored ones."""
    cosine = lowest_cosine(vectors, golden.vectors)
    kept = overlap(nearest(vectors), golden.neighbours)
    finite = bool(np.isfinite(vectors).all())
    length = _norm_ratio(vectors, golden.vectors)
    spread = mean_cosine(vectors)
    return [
        Check("finite", finite, "vectors are finite" if finite else "vectors have NaN or infinite components"),
        _at_least("probes", cosine, limits.least_cosine, "golden probes: the lowest cosine to the expected vectors is"),
        _at_least(
            "expected-neighbours", kept, limits.least_overlap, "golden probes: share of the expected neighbours is"
        ),
        _length("norms", length, limits.norm_tolerance, "the expected ones"),
        Check(
            "collapse",
            spread < MOST_MEAN_COSINE,
            f"mean cosine between different probes is {spread:.2f}, below {MOST_MEAN_COSINE} needed",
            round(spread, 4),
            MOST_MEAN_COSINE,
        ),
    ]


def against_stable(
    vectors: Vectors, manifest: Manifest, stable: Stored, least_overlap: float, limits: Noise
) -> list[Check]:
    """Is it a sound successor of the version that serves? Vectors of stable's probes, against those that stable gave."""
    theirs, name = stable.reference.vectors, f"stable version {stable.version}"
    correlation = similarity_correlation(vectors, theirs)
    text = f"correlation of pairwise similarities with {name} is"
    checks = [
        *_neighbourhoods(vectors, stable.reference, least_overlap, name),
        _at_least("similarities", correlation, LEAST_CORRELATION, text),
        _length("length", _norm_ratio(vectors, theirs), LENGTH_TOLERANCE, f"those of {name}"),
        _reads_enough(manifest.max_tokens, stable.manifest.max_tokens, name),
    ]
    if manifest.space == stable.manifest.space:
        cosine = lowest_cosine(vectors, theirs)
        checks.append(
            _at_least("same-space", cosine, limits.least_cosine, f"{name} has the same space; the lowest cosine is")
        )
    return checks


def _neighbourhoods(vectors: Vectors, stable: Reference, least_overlap: float, name: str) -> Iterator[Check]:
    """Short and long probes apart: a missing prompt shows in the short ones, text that is not read in the long ones alone."""
    long = np.array([len(text) >= LONG_CHARACTERS for text in stable.probes])
    groups = (("neighbours", ~long, NEIGHBOURS, ""), ("long-neighbours", long, LONG_NEIGHBOURS, " of long texts"))
    for kind, rows, k, what in groups:
        if rows.sum() > 2 * k:
            kept = overlap(nearest(vectors[rows], k), nearest(stable.vectors[rows], k))
            yield _at_least(kind, kept, least_overlap, f"top-{k} neighbour overlap{what} with {name} is")


def _reads_enough(longest: int, needed: int, name: str) -> Check:
    text = f"reads {longest} tokens of a text, {name} reads {needed}"
    if longest < needed:
        text += ": longer texts would be cut; leave `verify` out of the steps if that is meant"
    return Check("max-tokens", longest >= needed, text, longest, needed)


def encode(encoder: Encoder, texts: Sequence[str]) -> tuple[Vectors, float]:
    """The texts' vectors and how many seconds they took."""
    began = time.perf_counter()
    tokens = encoder.tokenize(texts)
    batches = [encoder.encode(tokens[start : start + _BATCH]) for start in range(0, len(tokens), _BATCH)]
    return np.concatenate(batches), time.perf_counter() - began


def write_report(report: VerifyReport, path: Path) -> None:
    """Writes the one line that the operator reads."""
    path.write_text(report.to_json(), encoding="utf-8")


def confidence_odds(low: int, of: int, stable_low: int, stable_of: int) -> float:
    """Odds of a text below its own model's lowest decile, canary to stable; half a text is added to each count (Haldane 1956)."""
    return ((low + 0.5) / (of - low + 0.5)) / ((stable_low + 0.5) / (stable_of - stable_low + 0.5))


def _confidence(encoder: Encoder, ours: Reference, stable: Reference) -> dict[str, float]:
    """Both versions on the texts that stable's profile kept, each by its own profile; nothing where one of them has none of its domain."""
    mine, theirs = ours.domain, stable.domain
    if mine is None or theirs is None:
        return {}
    vectors, _ = encode(encoder, stable.shared)
    low = int((mine.confidence(vectors) < mine.confidence_deciles[0]).sum())
    stable_low = int((theirs.confidence(theirs.sample) < theirs.confidence_deciles[0]).sum())
    n = len(stable.shared)
    return {
        "low_confidence_share": low / n,
        "stable_low_confidence_share": stable_low / n,
        CONFIDENCE_ODDS_RATIO: confidence_odds(low, n, stable_low, n),
    }


def _latencies(encoder: Encoder, probes: Sequence[str]) -> dict[str, float]:
    alone = sorted(encode(encoder, [probe])[1] for probe in probes)
    return {"latency_p50_seconds": alone[len(alone) // 2], "latency_max_seconds": alone[-1]}


def _at_least(name: str, value: float, limit: float, text: str) -> Check:
    digits = 2 if limit <= 0.99 else 5
    return Check(
        name,
        value >= limit,
        f"{text} {value:.{digits}f}, at least {limit:.{2 if digits == 2 else 3}f} needed",
        round(value, 6),
        limit,
    )


def _length(name: str, ratio: float, tolerance: float, theirs: str) -> Check:
    text = f"vectors are {ratio:.4g} times as long as {theirs}, within {tolerance:g} of 1 needed"
    return Check(name, abs(ratio - 1) <= tolerance, text, round(ratio, 6), tolerance)


def _norm_ratio(ours: Vectors, theirs: Vectors) -> float:
    """The ratio of norms that is farthest from 1; 0 where a vector is not finite."""
    ratio = np.linalg.norm(ours, axis=1) / np.maximum(np.linalg.norm(theirs, axis=1), 1e-12)
    return float(ratio[np.argmax(np.abs(ratio - 1))]) if np.isfinite(ratio).all() else 0.0
