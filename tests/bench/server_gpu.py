"""`make bench-gpu`: the torch encoder's forward pass, and its memory over random lengths. Needs no network and, by default, no model file.

python -m tests.bench.server_gpu [--model PACKAGED] [--seconds 300]

Without --model: MiniLM-L6's configuration with random weights. Without a GPU it exercises itself on the CPU and judges nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from tests.bench.report import write_section

from serinus_contract.manifest import Manifest
from serinus_server.encoders.torch import TorchEncoder
from serinus_server.package import read_manifest

_CONFIGURATION = {
    "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536, "hidden_act": "gelu", "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip
_TOKENS = 32
_FLOPS_PER_TOKEN = 21.23e6 + 9216 * _TOKENS
_GEMM = 4096
_TARGET_SHARE = 0.15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a packaged model; without it random weights")
    parser.add_argument("--random-weights", action="store_true", help="what happens without --model; named for clarity")
    parser.add_argument("--seconds", type=float, default=300, help="how long memory is watched (300)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        encoder = _encoder(arguments.model, Path(name))
    on_gpu = encoder.device.type == "cuda"
    rates = {f"{texts} × {_TOKENS}": _tokens_per_second(encoder, texts) for texts in (1, 8, 32, 128)}
    limit = _gemm_flops(encoder) / _FLOPS_PER_TOKEN
    first, last, most = _watch_memory(encoder, arguments.seconds)
    share = max(rates.values()) / limit
    targets = {
        f"forward ≥ {_TARGET_SHARE:.0%} of the GEMM limit at {_TOKENS} tokens": share >= _TARGET_SHARE,
        "reserved memory flat over random lengths": last <= first and most <= first,
    }
    device = (
        torch.cuda.get_device_name()
        if on_gpu
        else f"{platform.processor() or platform.machine()}: no GPU, nothing is judged"
    )
    line = {
        "benchmark": "gpu", "device": device, "tokens_per_second": {name: round(rate) for name, rate in rates.items()},
        "share_of_gemm_limit": round(share, 3) if on_gpu else None, "reserved_bytes": {"first": first, "last": last, "most": most},
        "targets": targets if on_gpu else {}, "random_weights": arguments.model is None,
        "machine": {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()},
    }  # fmt: skip
    if on_gpu:
        rows = "\n".join(f"| {name} | {rate:,.0f} |" for name, rate in rates.items())
        write_section(
            "gpu", f"{device}, torch {torch.__version__}.\n\n| texts × tokens | tokens/s |\n|---|---|\n{rows}"
        )
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    return 1 if on_gpu and not all(targets.values()) and os.environ.get("ENFORCE") != "0" else 0


def _encoder(model: Path | None, folder: Path) -> TorchEncoder:
    if model is not None:
        return TorchEncoder(model, read_manifest(model), 0, shapes=True)
    (folder / "config.json").write_text(json.dumps(_CONFIGURATION), encoding="utf-8")
    return TorchEncoder(folder, Manifest("random", 384, 256, "mean", True, {}), 0, shapes=True, random_weights=True)


def _tokens_per_second(encoder: TorchEncoder, texts: int) -> float:
    batch = [list(range(1000, 1000 + _TOKENS))] * texts
    encoder.encode(batch)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < 1.0:
        encoder.encode(batch)
        done += 1
    return done * texts * _TOKENS / (time.perf_counter() - began)


def _gemm_flops(encoder: TorchEncoder) -> float:
    """Operations a second of a large square product in the model's dtype: what the device can do."""
    size = _GEMM if encoder.device.type == "cuda" else 512
    left = torch.randn(size, size, device=encoder.device, dtype=torch.bfloat16 if size == _GEMM else torch.float32)
    times = 20
    for _ in range(2):
        began = time.perf_counter()
        for _ in range(times):
            torch.mm(left, left)
        if encoder.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return 2.0 * size**3 * times / seconds


def _watch_memory(encoder: TorchEncoder, duration: float) -> tuple[int, int, int]:
    """Reserved bytes after a warm-up at every length, at the end, and at most, under batches of random sizes and lengths."""
    rng, longest = random.Random(3), 256
    most_texts = 64 if encoder.device.type == "cuda" else 2  # on a CPU it is only exercised
    for length in range(8, longest + 1, 8):
        encoder.encode([list(range(length))] * most_texts)
    first = most = encoder.memory_bytes()[0]
    ends_at, report_at = time.monotonic() + duration, 0.0
    while (now := time.monotonic()) < ends_at:
        encoder.encode([list(range(rng.randint(1, longest))) for _ in range(rng.randint(1, most_texts))])
        most = max(most, encoder.memory_bytes()[0])
        if now > report_at:
            report_at = now + 10
            sys.stderr.write(f"{ends_at - now:4.0f} s left, {most / 1e6:.0f} MB reserved at most\n")
    return first, encoder.memory_bytes()[0], most


if __name__ == "__main__":
    sys.exit(main())
