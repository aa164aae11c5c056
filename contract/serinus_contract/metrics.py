"""The server's metrics that the operator's gates read: names and histogram bounds.

A latency gate compares "canary slower than 1.1·b" with "stable slower than b", so that every bound b has 1.1·b beside it.
"""

from typing import Final

REQUESTS_TOTAL: Final = "serinus_requests_total"  # counter; labels route, code (HTTP status as text)
FORWARDED_TOTAL: Final = (
    "serinus_forwarded_total"  # counter; label code; requests answered by the pods of the space that they pin
)
PINNED_TOTAL: Final = (
    "serinus_pinned_total"  # counter of requests that pin this server's own space, passed on ones among them
)
MIRRORED_TOTAL: Final = (
    "serinus_mirrored_total"  # counter; label outcome (sent, failed, dropped); copies for a canary of another space
)
REQUEST_DURATION_SECONDS: Final = "serinus_request_duration_seconds"  # histogram; label route; 2xx answers only
CONFIDENCE: Final = (
    "serinus_confidence"  # histogram in [0, 1], one observation per text; absent without a reference profile
)
LOW_CONFIDENCE_TOTAL: Final = (
    "serinus_low_confidence_total"  # counter of texts below the lowest decile of their own model's reference profile
)
# Counters of texts outside their own model's reference band (its outermost deciles); comparable with the number of texts.
INPUT_OUT_OF_BAND_TOTAL: Final = "serinus_input_out_of_band_total"  # by length in tokens
EMBEDDING_OUT_OF_BAND_TOTAL: Final = "serinus_embedding_out_of_band_total"  # by nearness to the reference
READY_AT_SECONDS: Final = "serinus_ready_at_seconds"  # gauge, Unix time at which the server became ready
INPUT_TOKENS: Final = "serinus_input_tokens"  # histogram, tokens per text
BATCH_TOKENS: Final = "serinus_batch_tokens"  # histogram, tokens per batch sent to the encoder
ENCODE_SECONDS: Final = "serinus_encode_seconds"  # histogram, one observation per batch
QUEUE_SECONDS: Final = "serinus_queue_seconds"  # histogram, from admission to the forward pass, a request
TOKENIZE_SECONDS: Final = "serinus_tokenize_seconds"  # histogram, a request
PADDING_TOKENS_TOTAL: Final = (
    "serinus_padding_tokens_total"  # counter of padding sent to the encoder: what batching wastes
)
QUEUE_TOKENS: Final = "serinus_queue_tokens"  # gauge
GPU_RESERVED_BYTES: Final = "serinus_gpu_memory_reserved_bytes"  # gauge; 0 without a GPU
GPU_ALLOCATED_BYTES: Final = "serinus_gpu_memory_allocated_bytes"  # gauge
MODEL_INFO: Final = "serinus_model_info"  # gauge, always 1; labels model, version, space, digest, backend
DRIFT: Final = "serinus_drift"  # gauge; labels signal (input_length, confidence, embedding), statistic (psi, js, kl, ks, shift, mmd)
DRIFT_FLOOR: Final = "serinus_drift_floor"  # gauge; same labels; what chance exceeds once in 100 000 looks
DRIFT_LEVEL: Final = "serinus_drift_level"  # gauge; label signal; 0 none, 1 moderate, 2 high; absent with too few texts
DRIFT_TEXTS: Final = "serinus_drift_effective_texts"  # gauge, Kish's n of the decayed window
PROBE_COSINE: Final = (
    "serinus_probe_cosine"  # gauge, lowest cosine of golden probes to the vectors they had at registration
)
PREDICTION_LOG_WRITTEN_TOTAL: Final = "serinus_prediction_log_written_total"  # counter of rows
PREDICTION_LOG_DROPPED_TOTAL: Final = "serinus_prediction_log_dropped_total"  # counter of rows, when the queue was full
PREDICTION_LOG_QUEUE_ROWS: Final = "serinus_prediction_log_queue_rows"  # gauge, rows that wait to be written

LATENCY_BOUNDS_SECONDS: Final = (
    *(0.0025, 0.005, 0.0055, 0.010, 0.011, 0.020, 0.022, 0.030, 0.033, 0.050, 0.055, 0.080, 0.088),
    *(0.100, 0.110, 0.120, 0.132, 0.200, 0.220, 0.500, 0.550, 1.0, 1.1, 2.5, 5.0, 10.0),
)
CONFIDENCE_BOUNDS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
# The comparison's bounds b, each with its 1.1·b: "canary slower than 1.1·b" against "stable slower than b". At most eight, for each of
# them has its share of the evidence: from 5 ms to 1 s, each about twice the one before, and the objective of 120 ms.
COMPARED_LATENCIES_SECONDS: Final = (
    *((0.005, 0.0055), (0.010, 0.011), (0.020, 0.022), (0.050, 0.055)),
    *((0.120, 0.132), (0.200, 0.220), (0.500, 0.550), (1.0, 1.1)),
)
# Beside what is compared, so that a summary can tell slow from slower.
SUMMARISED_LATENCIES_SECONDS: Final = (0.100, 2.5, 5.0, 10.0)
