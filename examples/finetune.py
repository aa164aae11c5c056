"""Fine-tunes a sentence-transformers model on a small set that is always there, for a minute on a CPU.

Pairs are neighbouring sentences of Python's own language reference (`sentences.py`): what stands side by side belongs together.

python examples/finetune.py MODEL OUTPUT [--steps 20]
python examples/sentences.py > reference.jsonl
serinus-server register OUTPUT --name defect-embedder --alias challenger --reference reference.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples.sentences import sentences

_BATCH = 16
_LEARNING_RATE = 1e-5
_TEMPERATURE = 0.05


def finetune(model: SentenceTransformer, steps: int) -> None:
    """Contrastive steps with the other pairs of a batch as negatives (InfoNCE, van den Oord et al. 2018)."""
    torch.manual_seed(0)
    texts = sentences()
    pairs = list(zip(texts[::2], texts[1::2], strict=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    model.train()
    for step in range(steps):
        start = step * _BATCH % (len(pairs) - _BATCH)
        left, right = zip(*pairs[start : start + _BATCH], strict=True)
        similarity = _embed(model, left) @ _embed(model, right).T / _TEMPERATURE
        loss = torch.nn.functional.cross_entropy(similarity, torch.arange(len(left), device=similarity.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 0 or step == steps - 1:
            sys.stdout.write(f"step {step + 1}/{steps}: loss {loss.item():.3f}\n")
            sys.stdout.flush()
    model.eval()


def _embed(model: SentenceTransformer, texts: tuple[str, ...]) -> torch.Tensor:
    features = {
        name: value.to(model.device)
        for name, value in model.preprocess(list(texts)).items()
        if isinstance(value, torch.Tensor)
    }
    embedding: torch.Tensor = model(features)["sentence_embedding"]
    return torch.nn.functional.normalize(embedding)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    model = SentenceTransformer(str(arguments.model), device="cpu", local_files_only=True)
    finetune(model, arguments.steps)
    model.save(str(arguments.output), safe_serialization=True, create_model_card=False)


if __name__ == "__main__":
    main()
