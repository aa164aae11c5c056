"""The server's metrics, with the contract's names and bounds. Counters exist from the start, at zero: absence is not zero."""

from __future__ import annotations

from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from serinus_contract import metrics as contract
from serinus_server.encoders import Vectors

HOT_ROUTES = ("/predict", "/v1/embeddings", "/v2/infer")
_PHASE_BOUNDS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)


class Books(Protocol):
    """Who counts what the hot routes have answered: this process's telemetry, or the engine's behind a line."""

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One request of a hot route has its answer."""

    def passed_on(self, status: int) -> None:
        """One request was answered by the space that it pins."""

    def confident(self, confidence: Vectors, lowest_decile: float) -> None:
        """The confidences of one request's texts, (n,), beside the lowest decile of the reference."""

    def pinned(self) -> None:
        """One request pins the space that is served here."""

    def mirrored(self, outcome: str) -> None:
        """One copy of a request was `sent`, has `failed`, or was `dropped` without being sent."""


class Telemetry:
    """One process's metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        name = contract.REQUESTS_TOTAL.removesuffix("_total")
        self.requests = Counter(name, "Requests answered, by HTTP status", ["route", "code"], registry=self.registry)
        self.duration = Histogram(
            contract.REQUEST_DURATION_SECONDS, "First byte in to last byte out, of 2xx answers", ["route"],
            buckets=contract.LATENCY_BOUNDS_SECONDS, registry=self.registry,
        )  # fmt: skip
        name = contract.FORWARDED_TOTAL.removesuffix("_total")
        self.forwarded = Counter(name, "Requests passed to the space that they pin", ["code"], registry=self.registry)
        name = contract.PINNED_TOTAL.removesuffix("_total")
        self._pinned = Counter(name, "Requests that pin the space served here", registry=self.registry)
        name = contract.MIRRORED_TOTAL.removesuffix("_total")
        self._mirrored = Counter(name, "Copies for a canary of another space", ["outcome"], registry=self.registry)
        self.confidence = Histogram(
            contract.CONFIDENCE,
            "Nearness to the reference profile, a text",
            buckets=contract.CONFIDENCE_BOUNDS,
            registry=self.registry,
        )
        name = contract.LOW_CONFIDENCE_TOTAL.removesuffix("_total")
        self.low_confidence = Counter(name, "Texts below the lowest decile of the reference", registry=self.registry)
        self.ready_at = Gauge(contract.READY_AT_SECONDS, "Unix time of readiness", registry=self.registry)
        lengths = (8, 16, 32, 64, 128, 256, 512, 1024)
        self.input_tokens = Histogram(
            contract.INPUT_TOKENS, "Tokens of a text", buckets=lengths, registry=self.registry
        )
        batches = (32, 128, 512, 2048, 8192, 16384, 65536)
        self.batch_tokens = Histogram(
            contract.BATCH_TOKENS, "Tokens of a batch", buckets=batches, registry=self.registry
        )
        self.encode = Histogram(
            contract.ENCODE_SECONDS, "Forward pass of a batch", buckets=_PHASE_BOUNDS, registry=self.registry
        )
        self.queue = Histogram(
            contract.QUEUE_SECONDS, "From admission to the forward pass", buckets=_PHASE_BOUNDS, registry=self.registry
        )
        self.tokenise = Histogram(
            contract.TOKENIZE_SECONDS, "Text to token ids, a request", buckets=_PHASE_BOUNDS, registry=self.registry
        )
        name = contract.PADDING_TOKENS_TOTAL.removesuffix("_total")
        self.padding = Counter(name, "Padding sent to the encoder", registry=self.registry)
        self.queue_tokens = Gauge(contract.QUEUE_TOKENS, "Tokens admitted and not yet answered", registry=self.registry)
        self.gpu_reserved = Gauge(contract.GPU_RESERVED_BYTES, "Held by the allocator", registry=self.registry)
        self.gpu_allocated = Gauge(contract.GPU_ALLOCATED_BYTES, "In use by tensors", registry=self.registry)
        self.probe_cosine = Gauge(
            contract.PROBE_COSINE, "Lowest cosine of golden probes to their vectors", registry=self.registry
        )
        labels = ["model", "version", "space", "digest", "backend"]
        self.model_info = Gauge(contract.MODEL_INFO, "What is served", labels, registry=self.registry)
        # looked up once: `labels` checks and joins its arguments at every call
        self._durations = {route: self.duration.labels(route) for route in HOT_ROUTES}
        self._counters = {
            (route, code): self.requests.labels(route, str(code)) for route in HOT_ROUTES for code in (200, 500)
        }

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One request of a hot route has its answer."""
        counter = self._counters.get((route, status))
        if counter is None:
            counter = self._counters[route, status] = self.requests.labels(route, str(status))
        counter.inc()
        if status < 300:
            self._durations[route].observe(seconds)

    def pinned(self) -> None:
        """One request pins the space that is served here."""
        self._pinned.inc()

    def mirrored(self, outcome: str) -> None:
        """One copy of a request was `sent`, has `failed`, or was `dropped` without being sent."""
        self._mirrored.labels(outcome).inc()

    def passed_on(self, status: int) -> None:
        """One request was answered by the space that it pins."""
        self.forwarded.labels(str(status)).inc()

    def confident(self, confidence: Vectors, lowest_decile: float) -> None:
        """The confidences of one request's texts, (n,), beside the lowest decile of the reference."""
        for value in confidence.tolist():
            self.confidence.observe(value)
            if value < lowest_decile:
                self.low_confidence.inc()

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
