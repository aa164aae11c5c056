"""Texts to padded token ids, the same way for every runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from serinus_server.encoders import TokenIds


def load_tokenizer(folder: Path, max_tokens: int) -> Tokenizer:
    """The model's tokenizer, truncating, not padding: batches are padded to their own longest text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def token_ids(tokenizer: Tokenizer, prompt: str, texts: Sequence[str]) -> list[list[int]]:
    """Each text's ids, behind the model's prompt."""
    return [encoding.ids for encoding in tokenizer.encode_batch([prompt + text for text in texts])]


def pad(batch: Sequence[TokenIds], multiple: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and mask, both (len(batch), longest) int64, padded on the right with zeros to a multiple of `multiple` tokens."""
    longest = -(-max(len(tokens) for tokens in batch) // multiple) * multiple
    ids = np.zeros((len(batch), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask
