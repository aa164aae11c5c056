"""The reference profile: what the model's own domain looks like, so that confidence means nearness to it. Pure numpy.

Confidence of a text = clip(c / c₀, 0, 1) with c the cosine to the nearest reference centroid (spherical k-means, k = min(32, n/20)) and
c₀ the median of c over held-out reference texts: the model's own domain is near 1 whatever its raw cosines are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serinus_server.encoders import Vectors

_HELD_OUT_EVERY = 5
_ITERATIONS = 25
_LEAST_TEXTS = 40


@dataclass(frozen=True, slots=True)
class Profile:
    """`centroids` (k, dim) float32 of norm 1; `median_cosine` is c₀; deciles (9,) of confidence over held-out texts."""

    centroids: Vectors
    median_cosine: float
    confidence_deciles: tuple[float, ...]

    def confidence(self, vectors: Vectors) -> Vectors:
        """Confidence of each row of (n, dim) unit vectors, (n,) float32 in [0, 1]."""
        nearest = (vectors @ self.centroids.T).max(axis=1)
        return np.clip(nearest / self.median_cosine, 0.0, 1.0).astype(np.float32)


def make_profile(vectors: Vectors) -> Profile:
    """The profile of (n, dim) unit vectors of reference texts. Raises ValueError for fewer than 40."""
    if len(vectors) < _LEAST_TEXTS:
        raise ValueError(
            f"a reference profile needs at least {_LEAST_TEXTS} texts of your domain, {len(vectors)} were given"
        )
    held_out = np.arange(len(vectors)) % _HELD_OUT_EVERY == 0
    known = vectors[~held_out]
    centroids = spherical_kmeans(known, k=max(1, min(32, len(known) // 20)))
    nearest = (vectors[held_out] @ centroids.T).max(axis=1)
    profile = Profile(centroids, float(np.median(nearest)), ())
    deciles = np.quantile(profile.confidence(vectors[held_out]), np.arange(1, 10) / 10)
    return Profile(centroids, profile.median_cosine, tuple(round(float(decile), 6) for decile in deciles))


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
