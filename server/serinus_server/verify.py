"""`serinus-server verify`: is this model what its manifest says, and fit to meet users? Runs before any traffic, without torch.

A damaged model reproduces its own golden probes perfectly. What gives it away is its neighbourhoods: the ten nearest probes of each probe,
compared with those of the stable version. That works across embedding spaces, where cosines between vectors mean nothing.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from serinus_contract.verification import CONFIDENCE_ODDS_RATIO, Check, VerifyReport
from serinus_server.encoders import Encoder, Vectors
from serinus_server.encoders.choice import load_encoder
from serinus_server.loading import fetch
from serinus_server.package import Reference, read_reference
from serinus_server.settings import Settings

NEIGHBOURS: Final = 10
LEAST_OVERLAP: Final = 0.80
_LEAST_COSINE: Final = 0.999
_MOST_MEAN_COSINE: Final = 0.90
_BATCH: Final = 16


def verify(settings: Settings, *, least_overlap: float = LEAST_OVERLAP) -> VerifyReport:
    """Loads the model and judges it. Raises ModelUnavailable or UnsafeModel when it cannot be loaded at all."""
    began = time.monotonic()
    model = fetch(settings.model_uri, settings.tracking_uri, settings.model_folder, settings.digest)
    encoder = load_encoder(settings.backend, model.folder, model.manifest, settings.threads)
    loaded_seconds = time.monotonic() - began
    reference = read_reference(model.folder)
    vectors, seconds = _encode(encoder, reference.probes)
    odds_ratio = None
    checks = [_reproduces(vectors, reference.vectors), _finite(vectors, model.manifest.normalize), _spread(vectors)]
    if settings.verify_against is not None:
        stable = fetch(
            settings.verify_against, settings.tracking_uri, settings.model_folder / "stable", only_reference=True
        )
        theirs = read_reference(stable.folder)
        checks += against(encoder, theirs, stable.version, least_overlap)
        odds_ratio = confidence_odds_ratio(encoder, reference, theirs)
    one_at_a_time = sorted(_encode(encoder, [probe])[1] for probe in reference.probes[:16])
    measured = {
        "load_seconds": round(loaded_seconds, 3),
        "latency_p50_seconds": round(one_at_a_time[len(one_at_a_time) // 2], 5),
        "texts_per_second": round(len(reference.probes) / seconds, 1),
        "peak_memory_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
    }
    if odds_ratio is not None:
        measured[CONFIDENCE_ODDS_RATIO] = round(odds_ratio, 3)
    return VerifyReport(tuple(checks), measured, model.version, model.manifest.digest, model.manifest.space)


def against(encoder: Encoder, stable: Reference, version: str, least_overlap: float) -> list[Check]:
    """Compares with the stable version's stored vectors, on its probes."""
    vectors, _ = _encode(encoder, stable.probes)
    overlap = neighbour_overlap(vectors, stable.vectors)
    correlation = similarity_correlation(vectors, stable.vectors)
    text = f"top-{NEIGHBOURS} neighbour overlap with stable version {version} is {overlap:.2f}, at least {least_overlap:.2f} needed"
    return [
        Check("neighbours", overlap >= least_overlap, text, round(overlap, 4), least_overlap),
        Check(
            "similarities",
            correlation > 0,
            f"correlation of pairwise similarities with stable is {correlation:.2f}",
            round(correlation, 4),
            0.0,
        ),
    ]


def confidence_odds_ratio(encoder: Encoder, ours: Reference, stable: Reference) -> float | None:
    """The odds of a text of low confidence, ours to stable's, each by its own profile, on stable's probes. None without two profiles.

    Low is below a profile's lowest decile. Half a text is added to each count, so that none of them gives a ratio too.
    """
    if ours.profile is None or stable.profile is None:
        return None
    vectors, _ = _encode(encoder, stable.probes)
    odds = []
    for profile, rows in ((ours.profile, vectors), (stable.profile, stable.vectors)):
        low = int((profile.confidence(rows) < profile.confidence_deciles[0]).sum())
        odds.append((low + 0.5) / (len(rows) - low + 0.5))
    return odds[0] / odds[1]


def neighbour_overlap(ours: Vectors, theirs: Vectors, k: int = NEIGHBOURS) -> float:
    """Mean share of common members among the k nearest rows of each row, for two (n, …) sets of vectors of the same n texts."""
    ours_near, theirs_near = _nearest(ours, k), _nearest(theirs, k)
    shared = [len(set(a) & set(b)) for a, b in zip(ours_near.tolist(), theirs_near.tolist(), strict=True)]
    return float(np.mean(shared)) / k


def similarity_correlation(ours: Vectors, theirs: Vectors) -> float:
    """Pearson correlation of the two sets' pairwise cosines; valid across spaces."""
    above = np.triu_indices(len(ours), 1)
    return float(np.corrcoef(_cosines(ours)[above], _cosines(theirs)[above])[0, 1])


def write_report(report: VerifyReport, path: Path) -> None:
    """Writes the one line that the operator reads."""
    path.write_text(report.to_json(), encoding="utf-8")


def _reproduces(vectors: Vectors, expected: Vectors) -> Check:
    cosine = np.nan_to_num((vectors * expected).sum(axis=1) / (_norms(vectors) * _norms(expected)), nan=-1.0)
    lowest = float(cosine.min())
    text = f"golden probes: lowest cosine to the expected vectors is {lowest:.5f}, at least {_LEAST_COSINE} needed"
    return Check("probes", lowest >= _LEAST_COSINE, text, round(lowest, 6), _LEAST_COSINE)


def _finite(vectors: Vectors, normalize: bool) -> Check:
    sound = bool(np.isfinite(vectors).all()) and (not normalize or bool(np.allclose(_norms(vectors), 1, atol=1e-3)))
    return Check(
        "finite", sound, "vectors are finite and of their norm" if sound else "vectors are not finite or not of norm 1"
    )


def _spread(vectors: Vectors) -> Check:
    mean = float(np.nan_to_num(_cosines(vectors)[np.triu_indices(len(vectors), 1)].mean(), nan=1.0))
    text = f"mean cosine between different probes is {mean:.2f}, below {_MOST_MEAN_COSINE} needed"
    return Check("collapse", mean < _MOST_MEAN_COSINE, text, round(mean, 4), _MOST_MEAN_COSINE)


def _encode(encoder: Encoder, texts: Sequence[str]) -> tuple[Vectors, float]:
    began = time.perf_counter()
    tokens = encoder.tokenize(texts)
    batches = [encoder.encode(tokens[start : start + _BATCH]) for start in range(0, len(tokens), _BATCH)]
    return np.concatenate(batches), time.perf_counter() - began


def _nearest(vectors: Vectors, k: int) -> np.ndarray:
    cosines = _cosines(vectors)
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :k]


def _cosines(vectors: Vectors) -> np.ndarray:
    unit = vectors / np.maximum(_norms(vectors), 1e-12)[:, None]
    return unit @ unit.T


def _norms(vectors: Vectors) -> np.ndarray:
    return np.linalg.norm(vectors, axis=1)
