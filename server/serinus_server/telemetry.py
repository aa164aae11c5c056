"""The server's metrics, with the contract's names and bounds. Counters exist from the start, at zero: absence is not zero."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from serinus_contract import metrics as contract

HOT_ROUTES = ("/predict", "/v1/embeddings")


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
        self.encode = Histogram(contract.ENCODE_SECONDS, "Forward pass of a batch", registry=self.registry)
        self.queue_tokens = Gauge(contract.QUEUE_TOKENS, "Tokens admitted and not yet answered", registry=self.registry)
        self.gpu_reserved = Gauge(contract.GPU_RESERVED_BYTES, "Held by the allocator", registry=self.registry)
        self.gpu_allocated = Gauge(contract.GPU_ALLOCATED_BYTES, "In use by tensors", registry=self.registry)
        self.probe_cosine = Gauge(
            contract.PROBE_COSINE, "Lowest cosine of golden probes to their vectors", registry=self.registry
        )
        labels = ["model", "version", "space", "digest", "backend"]
        self.model_info = Gauge(contract.MODEL_INFO, "What is served", labels, registry=self.registry)
        for route in HOT_ROUTES:
            self.duration.labels(route)
            for code in ("200", "500"):
                self.requests.labels(route, code)

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
