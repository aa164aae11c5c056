"""Observers learn of every text, and can neither delay nor break an answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from serinus_server.observing import Prediction, tell


class Broken:
    def observe(self, predictions: Sequence[Prediction]) -> None:
        raise RuntimeError("disk full")

    async def close(self) -> None: ...


class Keeping:
    def __init__(self) -> None:
        self.kept: list[Prediction] = []

    def observe(self, predictions: Sequence[Prediction]) -> None:
        self.kept += predictions

    async def close(self) -> None: ...


def test_an_observer_that_fails_hides_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    keeping = Keeping()
    prediction = Prediction("id", 0, "space", 3, 5, 0.01, 0.9, np.zeros(4, dtype=np.float32), "a b c")
    tell([Broken(), keeping], [prediction])
    assert keeping.kept == [prediction]
    assert "Broken" in caplog.text
