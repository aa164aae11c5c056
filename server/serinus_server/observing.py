"""After the response: what was predicted, one record per text, told to whoever observes (prediction log, drift).

Nothing here may delay or fail an answer: observers are called when the client has its bytes, and what they raise is logged, not served.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.metrics_core import Metric

from serinus_server.encoders import Vectors

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One text that was answered. `text` is None where the client sent token ids; `confidence` without a reference profile.

    `latency_seconds` runs from the first byte in to the last byte out of the whole request; `vector` is (dim,) float32.
    """

    request_id: str
    index: int
    space: str
    tokens: int
    characters: int
    latency_seconds: float
    confidence: float | None
    vector: Vectors
    text: str | None
    document_id: str = ""  # the client's own name for the text
    mirrored: bool = False  # of a copy: no client has got this answer


class Observer(Protocol):
    """Learns of predictions. `observe` runs on the event loop: it must only put them somewhere, in microseconds."""

    def observe(self, predictions: Sequence[Prediction]) -> None:
        """The texts of one request, in its order."""

    def collect(self) -> Iterator[Metric]:
        """Its metrics, as Prometheus' registry asks for them at each scrape."""

    async def close(self) -> None:
        """The last request has been answered: write what is still held."""


def tell(observers: Sequence[Observer], predictions: Sequence[Prediction]) -> None:
    """Calls each observer; one that fails hides nothing from the others."""
    for observer in observers:
        try:
            observer.observe(predictions)
        except Exception:  # the answer has left; a broken observer must not close the connection
            log.exception("observer %s failed", type(observer).__name__)
