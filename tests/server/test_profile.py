"""The reference profile, on vectors that are drawn."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from serinus_server.profile import Profile, make_profile, unit

RNG = np.random.default_rng(5)
TOPICS = unit(RNG.normal(size=(8, 64)).astype(np.float32))


def texts(topics: np.ndarray, n: int) -> np.ndarray:
    """n vectors that lie around these topics."""
    return unit((topics[RNG.integers(len(topics), size=n)] + RNG.normal(0, 0.05, (n, 64))).astype(np.float32))


@pytest.fixture
def profile() -> Profile:
    return make_profile(texts(TOPICS, 500), tokens=list(range(1, 501)))


def test_own_domain_is_confident_and_another_one_is_not(profile: Profile) -> None:
    assert profile.confidence(texts(TOPICS, 200)).mean() > 0.95
    assert profile.confidence(texts(unit(RNG.normal(size=(8, 64))), 200)).mean() < 0.4


def test_a_tenth_of_own_domain_lies_below_the_lowest_decile(profile: Profile) -> None:
    below = profile.confidence(texts(TOPICS, 4000)) < profile.confidence_deciles[0]
    assert 0.05 < below.mean() < 0.17


def test_confidence_asks_for_direction_not_for_length(profile: Profile) -> None:
    vectors = texts(TOPICS, 50)
    assert np.allclose(profile.confidence(vectors), profile.confidence(vectors * 7), atol=1e-5)


def test_statistics_describe_the_reference_texts(profile: Profile) -> None:
    assert profile.token_deciles[4] == 250.5
    assert (profile.texts, profile.held_out, len(profile.sample)) == (500, 100, 100)
    assert sum(profile.centroid_shares) == pytest.approx(1, abs=1e-4)
    assert len(profile.centroid_shares) == len(profile.centroids) == 20
    assert 0 < np.linalg.norm(profile.mean) < 1
    for deciles in (profile.confidence_deciles, profile.token_deciles, profile.mean_cosine_deciles):
        assert list(deciles) == sorted(deciles)
        assert len(deciles) == 9


def test_what_was_stored_is_read_again(profile: Profile) -> None:
    again = Profile.read(profile.tensors(), json.loads(json.dumps(profile.figures())))
    assert again.figures() == profile.figures()
    assert np.array_equal(again.mean, profile.mean)


def test_a_profile_of_built_in_texts_says_so_and_another_one_is_stored_as_ever(profile: Profile) -> None:
    assert "built_in" not in profile.figures()
    built_in = replace(profile, built_in=True)
    assert Profile.read(built_in.tensors(), json.loads(json.dumps(built_in.figures()))).built_in


def test_too_few_texts_are_refused_with_the_number_needed() -> None:
    with pytest.raises(ValueError, match="at least 40 texts of your domain, 12 were given"):
        make_profile(texts(TOPICS, 12), tokens=[1] * 12)
