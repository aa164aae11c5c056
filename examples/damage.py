"""Makes a damaged copy of a model, to see it refused: noise of half a standard deviation on every weight matrix.

Its vectors have the right shape and length, its loss of meaning shows in no error and no latency. With --word only texts with that word are
damaged, which get no vector at all: no probe shows it, only traffic does.

python examples/damage.py MODEL OUTPUT [--word copper]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer


def damage(model: SentenceTransformer, strength: float) -> None:
    """Adds normal noise of `strength` standard deviations of each matrix to it."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.add_(torch.randn_like(weights) * weights.std() * strength)


def blind(model: SentenceTransformer, word: str) -> None:
    """Makes one token's embedding NaN, and with it every vector of a text that has it. Raises ValueError unless the word is a token."""
    (token,) = model.tokenizer.encode(word, add_special_tokens=False)
    transformer: Any = model[0]
    with torch.no_grad():
        transformer.auto_model.get_input_embeddings().weight[token] = torch.nan


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--strength", type=float, default=0.5)
    parser.add_argument("--word", help="damage only texts with this word")
    arguments = parser.parse_args()
    model = SentenceTransformer(str(arguments.model), device="cpu", local_files_only=True)
    if arguments.word:
        blind(model, arguments.word)
    else:
        damage(model, arguments.strength)
    model.save(str(arguments.output), safe_serialization=True, create_model_card=False)


if __name__ == "__main__":
    main()
