"""What verify lets pass and what it catches, with the real model in several arithmetics and with every damage of `make bench-verify`."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from serinus_contract.verification import MAX_BYTES, Check, VerifyReport
from serinus_server.encoders import Vectors
from serinus_server.package import Reference, read_reference
from serinus_server.verify import FLOAT, against_itself, confidence_odds


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """Imported here: torch takes ten seconds, in each process that collects tests."""
    from tests.bench import verify

    return verify


@pytest.fixture(scope="module")
def golden(packaged: Path) -> Reference:
    return read_reference(packaged)


@pytest.mark.model
@pytest.mark.parametrize(
    ("mutation", "beside_stable", "by_its_own_probes"),
    [
        ("wrong pooling (cls)", "neighbours", "probes"),
        ("no normalisation", "length", "norms"),
        ("swapped tokenizer (no lower-casing)", "neighbours", "probes"),
        ("maximum length cut to 128", "max-tokens", "probes"),
        ("one damaged layer (½σ of noise on the fourth)", "neighbours", "probes"),
        ("wrong checkpoint (untrained)", "neighbours", "probes"),
    ],
)
def test_every_mutation_is_caught_beside_stable_and_by_the_models_own_probes(
    bench: ModuleType, packaged: Path, golden: Reference, mutation: str, beside_stable: str, by_its_own_probes: str
) -> None:
    vectors, max_tokens = bench.mutated(packaged, bench.mutations()[mutation], golden.probes)
    as_canary, as_itself = bench.judged(packaged, vectors, max_tokens, golden)
    assert beside_stable in as_canary
    assert by_its_own_probes in as_itself


@pytest.mark.model
def test_a_missing_prompt_is_caught(bench: ModuleType, packaged: Path, golden: Reference) -> None:
    as_canary, as_itself = bench.judged(packaged, golden.vectors, 256, bench.prompted(packaged, golden.probes))
    assert "neighbours" in as_canary
    assert "probes" in as_itself


@pytest.mark.model
def test_dtype_batch_size_and_backend_changes_pass_in_200_runs(
    bench: ModuleType, packaged: Path, golden: Reference
) -> None:
    """A run mixes settings text by text."""
    by_setting = np.stack([vectors for _, vectors in bench.settings(packaged, golden.probes)])
    assert bench.RUNS == 200
    assert bench.failed_runs(by_setting, golden) == []


def test_not_a_number_and_collapse_are_caught() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(40, 8)).astype(np.float32)
    sound = Reference(("text",) * 40, vectors, np.zeros((40, 10), dtype=np.int32))
    broken = vectors.copy()
    broken[3, 2] = np.nan
    assert not _passed("finite", broken, sound)
    assert not _passed("norms", broken, sound)
    assert not _passed("collapse", np.ones_like(vectors), sound)
    assert _passed("collapse", vectors, sound)


def _passed(name: str, vectors: Vectors, golden: Reference) -> bool:
    return next(check.passed for check in against_itself(vectors, golden, FLOAT) if check.name == name)


def test_confidence_odds_are_one_for_equal_shares_and_finite_at_the_ends() -> None:
    assert confidence_odds(10, 100, 10, 100) == 1
    assert confidence_odds(20, 100, 10, 100) == pytest.approx(2.2, abs=0.1)
    assert 0 < confidence_odds(0, 100, 10, 100) < 0.1
    assert confidence_odds(100, 100, 10, 100) > 100


@pytest.mark.parametrize("message", ["x" * 5000, "ünïcödé → " * 500, "short"])
def test_the_report_is_one_line_that_a_termination_message_holds(message: str) -> None:
    checks = tuple(Check(f"check-{index}", index > 0, message, 0.5, 0.9) for index in range(12))
    report = VerifyReport(checks, {f"figure_{index}": 0.123456 for index in range(12)}, "7", "d" * 64, "s" * 16)
    line = report.to_json()
    assert len(line.encode()) <= MAX_BYTES
    assert "\n" not in line
    read = VerifyReport.from_json(line)
    assert not read.passed
    assert [check.name for check in read.checks] == [check.name for check in checks]
    assert json.loads(line)["measured"]["figure_3"] == 0.123456
