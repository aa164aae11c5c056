"""Distances against scipy, windows without drift, and drift that is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist, jensenshannon, pdist

from serinus_contract.manifest import Manifest
from serinus_server import distances, drift, mmd
from serinus_server.drift import Bins, Drift, Level
from serinus_server.observing import Prediction
from serinus_server.profile import Profile, make_profile, unit

RNG = np.random.default_rng(11)
DIM = 48
SCALE = RNG.exponential(1, DIM) + 0.05
CENTRE = RNG.normal(0, 1, DIM)
AA_WINDOWS = 2000


def vectors(n: int, offset: float = 0.0) -> np.ndarray:
    """Unit vectors around a centre, in some directions wider than in others, as embeddings are."""
    return unit((CENTRE * (1 - offset) + RNG.normal(0, 1, (n, DIM)) * SCALE).astype(np.float32))


def lengths(n: int, factor: float = 1.0) -> np.ndarray:
    return np.clip(np.exp(RNG.normal(2.9, 0.5, n)) * factor, 3, 256).astype(int)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test draws the same, whatever ran before it."""
    RNG.bit_generator.state = np.random.default_rng(12).bit_generator.state


@pytest.fixture(scope="module")
def profile() -> Profile:
    RNG.bit_generator.state = np.random.default_rng(13).bit_generator.state
    return make_profile(vectors(1500), lengths(1500).tolist())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def predictions(profile: Profile, given: np.ndarray, tokens: Sequence[int]) -> list[Prediction]:
    confidence = profile.confidence(given)
    return [
        Prediction("id", index, "space", int(tokens[index]), 10, 0.01, float(confidence[index]), vector, None)
        for index, vector in enumerate(given)
    ]


def test_distances_are_scipys() -> None:
    p, q = (distances.smoothed(RNG.integers(0, 400, (50, 10)).astype(float)) for _ in range(2))
    assert np.allclose(distances.kl(p, q), stats.entropy(p, q, axis=1), atol=1e-9)
    assert np.allclose(distances.psi(p, q), stats.entropy(p, q, axis=1) + stats.entropy(q, p, axis=1), atol=1e-9)
    assert np.allclose(distances.js(p, q), jensenshannon(p, q, axis=1) ** 2, atol=1e-9)
    one, other = RNG.integers(1, 60, 10), RNG.integers(1, 60, 10)
    theirs = stats.ks_2samp(np.repeat(np.arange(10), one), np.repeat(np.arange(10), other)).statistic
    assert distances.ks(one / one.sum(), other / other.sum()) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("degrees", [1, 4, 9, 37.4, 210])
def test_quantiles_of_chi_square_are_scipys(degrees: float) -> None:
    for probability in (0.5, 0.05, 1e-5, 1e-9):
        ours = distances.chi_square_quantile(degrees, probability)
        assert ours == pytest.approx(stats.chi2.isf(probability, degrees), rel=1e-6)


def test_floors_are_exceeded_about_as_often_as_is_said() -> None:
    """At 5 %, where there is something to count: 4 000 pairs of samples of ten equal bins."""
    n, m = 600, 900
    p, q = (distances.smoothed(RNG.multinomial(size, [0.1] * 10, 4000).astype(float)) for size in (n, m))
    for distance, by_chance in (
        (distances.psi, distances.psi_by_chance),
        (distances.kl, distances.kl_by_chance),
        (distances.js, distances.js_by_chance),
    ):
        assert 0.04 < (distance(p, q) > by_chance(n, m, 10, 0.05)).mean() < 0.06, distance
    assert (distances.ks(p, q) > distances.ks_by_chance(n, m, 0.05)).mean() < 0.05  # of bins: smaller than of values


@pytest.mark.parametrize("n", [200, 500, 2000])
def test_no_alert_in_2000_windows_without_drift(profile: Profile, n: int) -> None:
    everything, everything_long = vectors(20_000), lengths(20_000)
    confidence = profile.confidence(everything)
    cosine = everything @ unit(profile.mean[None])[0]
    chosen = RNG.integers(0, len(everything), (AA_WINDOWS, n))
    for values, deciles, shares, texts in (
        (everything_long, profile.token_deciles, profile.token_shares, profile.texts),
        (confidence, profile.confidence_deciles, profile.confidence_shares, profile.held_out),
        (cosine, profile.mean_cosine_deciles, profile.mean_cosine_shares, profile.held_out),
    ):
        bins = Bins.between(deciles, shares, texts)
        owners = np.searchsorted(bins.bounds, values, side="right")
        counts = np.stack([(owners == each)[chosen].sum(axis=1) for each in range(len(bins.shares))], axis=1)
        psi = distances.psi(distances.smoothed(counts.astype(float)), bins.reference())
        floor = distances.psi_by_chance(n, texts, len(bins.shares), drift.BY_CHANCE)
        assert {drift.judge(float(value), floor, drift.PSI_LIMITS) for value in psi} == {Level.NONE}
        p, q, sizes = distances.smoothed(counts.astype(float)), bins.reference(), (n, texts, len(bins.shares))
        assert distances.kl(p, q).max() < distances.kl_by_chance(*sizes, drift.BY_CHANCE)
        assert distances.js(p, q).max() < distances.js_by_chance(*sizes, drift.BY_CHANCE)
        assert distances.ks(p, q).max() < distances.ks_by_chance(n, texts, drift.BY_CHANCE)
    variance, degrees = drift.spread(profile)
    gaps = np.stack([everything[window].mean(axis=0) for window in chosen]) - profile.mean
    by_chance = distances.chi_square_quantile(degrees, drift.BY_CHANCE) / degrees
    shift = (gaps**2).sum(axis=1) / variance
    floor = (1 / n + 1 / profile.texts) * by_chance
    assert {drift.judge(float(value), floor, drift.SHIFT_LIMITS) for value in shift} == {Level.NONE}


def test_the_floor_of_the_shift_is_of_the_size_of_chance(profile: Profile) -> None:
    variance, degrees = drift.spread(profile)
    windows = vectors(400 * 300).reshape(400, 300, DIM).mean(axis=1)
    shift = ((windows - profile.mean) ** 2).sum(axis=1) / variance / (1 / 300 + 1 / profile.texts)
    assert 0.5 < shift.mean() < 2.0
    assert shift.max() < distances.chi_square_quantile(degrees, drift.BY_CHANCE) / degrees


def test_mmd_is_that_of_an_independent_kernel_and_of_the_definition() -> None:
    x, y = vectors(60), vectors(80, offset=0.3)
    sigma = mmd.bandwidth(x)
    assert sigma == pytest.approx(np.median(pdist(x.astype(float))), rel=1e-6)

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.exp(-cdist(one.astype(float), other.astype(float), "sqeuclidean") / (2 * sigma**2))

    pairs = [kernel(x, x)[i, j] for i in range(60) for j in range(60) if i != j]
    others = [kernel(y, y)[i, j] for i in range(80) for j in range(80) if i != j]
    assert mmd.mmd(x, y, sigma) == pytest.approx(np.mean(pairs) + np.mean(others) - 2 * kernel(x, y).mean(), abs=1e-9)
    same = [mmd.mmd(vectors(50), vectors(50), sigma) for _ in range(300)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 300**0.5  # unbiased: 0 on the average, and negative half of the time
    assert min(same) < 0 < max(same)


def test_streamed_mmd_is_that_of_its_features_and_near_that_of_the_kernel() -> None:
    """Weighted as by decay, in parts, brought down on the way."""
    sample, seen = vectors(200), vectors(300, offset=0.3)
    stream = mmd.Stream(sample)
    stream.add(seen[:120], 1.0)
    stream.scale(0.25)
    stream.add(seen[120:], 2.0)
    weights = np.r_[np.full(120, 0.25), np.full(180, 2.0)]
    x, y = stream.features(seen), stream.features(sample)
    assert np.allclose((x**2).sum(axis=1), 1)
    pairs, products = np.outer(weights, weights), x @ x.T
    off = ~np.eye(300, dtype=bool)
    within = (pairs * products)[off].sum() / pairs[off].sum()
    same = (y @ y.T)[~np.eye(200, dtype=bool)].mean()
    exact = within + same - 2 * (weights @ x @ y.T).sum() / (weights.sum() * 200)
    assert stream.distance() == pytest.approx(exact, abs=1e-9)
    evenly = mmd.Stream(sample)
    evenly.add(seen, 1.0)
    kernels = mmd.mmd(seen, sample, mmd.bandwidth(sample))
    assert evenly.distance() == pytest.approx(kernels, rel=0.35)


def test_mmd_exceeds_its_floor_by_chance_as_often_as_is_said() -> None:
    over = {0.05: 0, 0.01: 0, 1e-5: 0}
    trials = 250
    for _ in range(trials):
        stream = mmd.Stream(vectors(100))
        stream.add(vectors(200), 1.0)
        for probability in over:
            over[probability] += stream.distance() > stream.by_chance(200, probability)
    assert 0.02 < over[0.05] / trials < 0.09
    assert over[0.01] / trials < 0.03
    assert over[1e-5] == 0


def test_a_change_that_leaves_the_mean_alone_is_told_by_mmd(profile: Profile) -> None:
    """Half of the texts lie nearer together than the reference's, half farther."""
    given = vectors(1000).astype(np.float64)
    spread = np.where(np.arange(1000) % 2, 0.1, 1.9)[:, None]
    moved = (profile.mean + spread * (given - profile.mean)).astype(np.float32)
    observed = Drift(profile, 600)
    observed.observe(predictions(profile, moved, lengths(1000).tolist()))
    embedding = observed.findings()["embedding"]
    assert embedding.mmd is not None
    assert embedding.mmd_floor is not None
    assert embedding.mmd > embedding.mmd_floor
    still = Drift(profile, 600)
    still.observe(predictions(profile, vectors(1000), lengths(1000).tolist()))
    embedding = still.findings()["embedding"]
    assert (embedding.mmd or 0) < (embedding.mmd_floor or 0)
    exported = {
        (sample.name, sample.labels["statistic"])
        for family in still.collect()
        for sample in family.samples
        if "statistic" in sample.labels
    }
    assert {("serinus_drift", "mmd"), ("serinus_drift_floor", "mmd")} <= exported


def test_longer_texts_and_moved_embeddings_are_found_and_told_apart(profile: Profile) -> None:
    longer = Drift(profile, 600)
    longer.observe(predictions(profile, vectors(1000), lengths(1000, factor=1.8).tolist()))
    found = longer.findings()
    assert found["input_length"].level is Level.HIGH
    assert found["embedding"].level is Level.NONE
    moved = Drift(profile, 600)
    moved.observe(predictions(profile, vectors(1000, offset=0.8), lengths(1000).tolist()))
    found = moved.findings()
    assert found["input_length"].level is Level.NONE
    assert found["embedding"].level is Level.HIGH


def test_under_200_texts_nothing_is_said(profile: Profile) -> None:
    watched = Drift(profile, 600)
    assert watched.findings() == {}
    watched.observe(predictions(profile, vectors(199), lengths(199, factor=3).tolist()))
    assert {finding.level for finding in watched.findings().values()} == {None}
    assert not [each for metric in watched.collect() if metric.name == "serinus_drift_level" for each in metric.samples]


def test_old_texts_are_forgotten_and_effective_n_is_kishs(profile: Profile) -> None:
    clock = Clock()
    watched = Drift(profile, 60, clock)
    watched.observe(predictions(profile, vectors(400, offset=0.9), lengths(400, factor=3).tolist()))
    assert watched.effective_texts == pytest.approx(400)
    clock.now = 60
    watched.observe(predictions(profile, vectors(400), lengths(400).tolist()))
    assert watched.effective_texts == pytest.approx((400 * 0.5 + 400) ** 2 / (400 * 0.25 + 400))
    for _ in range(400):  # 5 hours: weights are brought down on the way
        clock.now += 45
        watched.observe(predictions(profile, vectors(20), lengths(20).tolist()))
    assert np.isfinite(watched.effective_texts)
    assert {finding.level for finding in watched.findings().values()} <= {None, Level.NONE}


def test_out_of_band_texts_are_counted(profile: Profile) -> None:
    watched = Drift(profile, 600)
    watched.observe(predictions(profile, vectors(2000), lengths(2000).tolist()))
    counted = {metric.name: metric.samples[0].value for metric in watched.collect() if metric.type == "counter"}
    assert 0.1 < counted["serinus_input_out_of_band"] / 2000 < 0.3
    assert 0.1 < counted["serinus_embedding_out_of_band"] / 2000 < 0.3


# --- real sentences and the real model --------------------------------------------------------------------------------------------

GERMAN = """Der Zug nach Hamburg fährt heute von Gleis sieben ab. Bitte vergessen Sie nicht, Ihren Ausweis mitzubringen.
Die Lieferung verzögert sich leider um zwei Tage. Wir bedanken uns für Ihre Geduld und Ihr Verständnis.
Im Winter bleibt das Museum montags geschlossen. Das Wetter soll am Wochenende wieder besser werden.
Meine Großmutter backt jeden Sonntag einen Apfelkuchen. Der neue Drucker im dritten Stock druckt nur schwarze Seiten.
Können Sie mir sagen, wann die nächste Sitzung beginnt? Die Rechnung wurde bereits im letzten Monat bezahlt.
Unsere Nachbarn haben einen kleinen Hund und zwei Katzen. Bei starkem Regen läuft der Keller manchmal voll.
Das Ersatzteil ist derzeit nicht auf Lager. Der Fehler tritt nur auf, wenn zwei Benutzer gleichzeitig speichern.
Nach der Wartung lief die Maschine wieder ohne Störung. Die Kinder spielen nachmittags gern im Garten.
Der Vertrag kann mit einer Frist von drei Monaten gekündigt werden. Am Abend gingen wir noch am Fluss spazieren.
Für die Anmeldung benötigen wir eine gültige Adresse. Das Konzert war schon nach wenigen Stunden ausverkauft.
Die Temperatur im Ofen darf zweihundert Grad nicht übersteigen. Er liest lieber Zeitungen als Romane.
Auf der Autobahn gab es einen langen Stau. Die Schrauben müssen gleichmäßig angezogen werden.
Sie hat ihre Prüfung mit Auszeichnung bestanden. Morgen kommt der Elektriker und prüft die Leitungen.
Der Kunde beschwert sich über eine beschädigte Verpackung. Das Brot schmeckt am besten, wenn es noch warm ist.
Wir suchen eine Wohnung mit Balkon in der Nähe der Universität. Die Versammlung wurde wegen Krankheit verschoben."""


@pytest.mark.model
def test_language_length_and_topic_shifts_of_real_sentences_are_found_and_their_own_domain_is_not(
    packaged: Path, corpus: list[str]
) -> None:
    from serinus_server.encoders.onnx import OnnxEncoder
    from serinus_server.register import built_in_probes

    encoder = OnnxEncoder(packaged, Manifest.from_json((packaged / "serinus/manifest.json").read_text()), threads=0)
    rng = np.random.default_rng(2)

    def encoded(texts: Sequence[str]) -> tuple[np.ndarray, list[int]]:
        tokens = encoder.tokenize(texts)
        batches = [encoder.encode(tokens[start : start + 32]) for start in range(0, len(tokens), 32)]
        return np.concatenate(batches), [len(each) for each in tokens]

    def drawn(pool: Sequence[str], n: int = 220) -> list[str]:
        return [pool[index] for index in rng.integers(0, len(pool), n)]

    shuffled = [corpus[index] for index in rng.permutation(len(corpus))]
    profile = make_profile(*encoded(shuffled[:300]))
    german = [sentence.strip() + "." for sentence in GERMAN.replace("?", ".").split(".") if sentence.strip()]

    def levels(texts: Sequence[str]) -> dict[str, Level | None]:
        watched = Drift(profile, 600)
        watched.observe(predictions(profile, *encoded(texts)))
        return {name: finding.level for name, finding in watched.findings().items()}

    assert set(levels(shuffled[300:550]).values()) == {Level.NONE}
    assert levels(drawn(german))["embedding"] is Level.HIGH
    assert levels(drawn(built_in_probes()))["embedding"] is Level.HIGH
    longer = [" ".join(drawn(shuffled[300:900], 3)) for _ in range(220)]
    assert levels(longer)["input_length"] is Level.HIGH
