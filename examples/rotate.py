"""Makes another vector space of equal quality: the same model followed by an orthogonal Dense layer.

Every cosine between two of its vectors is the first model's, so that no gate and no metric can tell them apart, and a vector of one means
nothing to the other: only the identity of the space keeps them from being mixed.

python examples/rotate.py MODEL OUTPUT
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.dense import Dense


def rotated(model: SentenceTransformer) -> SentenceTransformer:
    """The model's modules and one more."""
    torch.manual_seed(0)
    dim = int(model.get_embedding_dimension() or 0)
    rotation, _ = torch.linalg.qr(torch.randn(dim, dim))
    dense = Dense(dim, dim, bias=False, activation_function=torch.nn.Identity(), init_weight=rotation)
    return SentenceTransformer(modules=[*model, dense], device="cpu")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    model = SentenceTransformer(str(arguments.model), device="cpu", local_files_only=True)
    rotated(model).save(str(arguments.output), safe_serialization=True, create_model_card=False)


if __name__ == "__main__":
    main()
