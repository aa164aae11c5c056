"""The reference profile: what the model's own domain looks like, so that confidence means nearness to it and drift a way from it.

Confidence of a text = clip(c / c₀, 0, 1) with c the cosine to the nearest reference centroid (spherical k-means, k = min(32, n/20)) and
c₀ the median of c over held-out reference texts: the model's own domain is near 1 whatever its raw cosines are. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from serinus_server.encoders import Vectors

LEAST_TEXTS: Final = 40
_HELD_OUT_EVERY: Final = 5
_ITERATIONS: Final = 25
_MOST_SAMPLED: Final = 256

Deciles: TypeAlias = tuple[float, ...]  # the 9 inner bounds, rising


@dataclass(frozen=True, slots=True)
class Profile:
    """The reference texts as this model sees them. Vectors are taken at norm 1; every fifth text is held out from the centroids.

    `centroids` (k, dim); `median_cosine` is c₀; deciles of confidence and of the cosine to `mean` are over the `held_out` texts, deciles of
    input length (tokens, special ones included, after truncation) over all `texts`. `mean` (dim,) is the mean vector of all texts, shorter
    than 1; `centroid_shares` (k,) the share of all texts nearest to each centroid; `sample` (≤ 256, dim) are vectors of held-out texts.
    """

    centroids: Vectors
    median_cosine: float
    confidence_deciles: Deciles
    token_deciles: Deciles
    mean_cosine_deciles: Deciles
    centroid_shares: tuple[float, ...]
    mean: Vectors
    sample: Vectors
    texts: int
    held_out: int
    confidence_shares: tuple[
        float, ...
    ]  # of those texts in the ten bins between the deciles, a value on a bound above it
    token_shares: tuple[float, ...]
    mean_cosine_shares: tuple[float, ...]
    built_in: bool = (
        False  # of texts of many domains that come with `register`: good for an answer's confidence, not for a limit
    )

    def confidence(self, vectors: Vectors) -> Vectors:
        """Confidence of each row of (n, dim) vectors, (n,) float32 in [0, 1]."""
        nearest = (unit(vectors) @ self.centroids.T).max(axis=1)
        return np.clip(nearest / self.median_cosine, 0.0, 1.0).astype(np.float32)

    def tensors(self) -> dict[str, Vectors]:
        """What of it is stored as tensors; `figures` is the rest."""
        return {"centroids": self.centroids, "mean": self.mean, "sample": self.sample}

    def figures(self) -> dict[str, Any]:
        """What of it is stored as JSON."""
        names = ("median_cosine", "confidence_deciles", "token_deciles", "mean_cosine_deciles", "centroid_shares")
        shares = ("confidence_shares", "token_shares", "mean_cosine_shares")
        return {name: getattr(self, name) for name in (*names, *shares, "texts", "held_out")} | (
            {"built_in": True} if self.built_in else {}
        )

    @property
    def sampled(self) -> range:
        """Which of the reference texts `sample` is of."""
        return range(0, len(self.sample) * _HELD_OUT_EVERY, _HELD_OUT_EVERY)

    @classmethod
    def read(cls, tensors: dict[str, Vectors], figures: dict[str, Any]) -> Profile:
        """The profile of which `tensors` and `figures` were stored. Raises KeyError, TypeError for anything else."""
        stored: dict[str, Any] = {name: tensors[name] for name in ("centroids", "mean", "sample")}
        stored |= {name: tuple(value) if isinstance(value, list) else value for name, value in figures.items()}
        return cls(**stored)


def make_profile(vectors: Vectors, tokens: Sequence[int]) -> Profile:
    """The profile of the (n, dim) vectors of reference texts with these many tokens each. Raises ValueError for fewer than 40."""
    if len(vectors) < LEAST_TEXTS:
        raise ValueError(
            f"a reference profile needs at least {LEAST_TEXTS} texts of your domain, {len(vectors)} were given"
        )
    vectors = unit(vectors)
    out = np.arange(len(vectors)) % _HELD_OUT_EVERY == 0
    known, held_out = vectors[~out], vectors[out]
    centroids = spherical_kmeans(known, k=max(1, min(32, len(known) // 20)))
    nearest = (held_out @ centroids.T).max(axis=1)
    median = float(np.median(nearest))
    mean = vectors.mean(axis=0).astype(np.float32)
    confidence, cosines, lengths = np.clip(nearest / median, 0, 1), held_out @ unit(mean[None])[0], np.asarray(tokens)
    owners = np.bincount((vectors @ centroids.T).argmax(axis=1), minlength=len(centroids))
    return Profile(
        centroids=centroids,
        median_cosine=median,
        confidence_deciles=_deciles(confidence),
        token_deciles=_deciles(lengths),
        mean_cosine_deciles=_deciles(cosines),
        centroid_shares=tuple(round(float(share), 6) for share in owners / len(vectors)),
        mean=mean,
        sample=held_out[:_MOST_SAMPLED].copy(),
        texts=len(vectors),
        held_out=len(held_out),
        confidence_shares=_shares(confidence),
        token_shares=_shares(lengths),
        mean_cosine_shares=_shares(cosines),
    )


def unit(vectors: Vectors) -> Vectors:
    """The rows at norm 1; a row of zeros stays one."""
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)).astype(np.float32, copy=False)


def spherical_kmeans(vectors: Vectors, k: int, seed: int = 0) -> Vectors:
    """k centroids of norm 1 for (n, dim) unit vectors (Dhillon & Modha, Machine Learning 42, 2001), k-means++ seeding."""
    rng = np.random.default_rng(seed)
    chosen = [int(rng.integers(len(vectors)))]
    for _ in range(k - 1):
        distance = np.clip(1 - (vectors @ vectors[chosen].T).max(axis=1), 0, None)
        total = distance.sum()
        weights = distance / total if total > 0 else np.full(len(vectors), 1 / len(vectors))
        chosen.append(int(rng.choice(len(vectors), p=weights)))
    centroids = vectors[chosen].copy()
    for _ in range(_ITERATIONS):
        owner = (vectors @ centroids.T).argmax(axis=1)
        for cluster in range(k):
            members = vectors[owner == cluster]
            if len(members):
                mean = members.sum(axis=0)
                centroids[cluster] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return centroids.astype(np.float32)


def _deciles(values: np.ndarray) -> Deciles:
    return tuple(round(float(decile), 6) for decile in np.quantile(values, np.arange(1, 10) / 10))


def _shares(values: np.ndarray) -> tuple[float, ...]:
    """Of the values in the ten bins between their deciles: not a tenth each where values are equal, as lengths are."""
    bins = np.searchsorted(_deciles(values), values, side="right")
    return tuple(round(float(count) / len(values), 6) for count in np.bincount(bins, minlength=10))
