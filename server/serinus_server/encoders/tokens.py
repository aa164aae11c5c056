"""Texts to padded token ids, the same way for every runtime."""

from __future__ import annotations

import threading
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from serinus_contract.manifest import Manifest
from serinus_server.encoders import TokenIds


class Tokenizing:
    """The model's tokenizer, one copy a thread: a shared one raises "Already borrowed". Truncates; batches are padded later."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._max_tokens, self._prompt = manifest.max_tokens, manifest.prompt
        self._text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        self._of_thread = threading.local()
        self.vocabulary = self._tokenizer().get_vocab_size(with_added_tokens=True)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text behind the model's prompt, special tokens included."""
        tokenizer, prompt = self._tokenizer(), self._prompt
        if len(texts) == 1:  # a third cheaper than a batch of one
            return [tokenizer.encode(prompt + texts[0]).ids]
        return [encoding.ids for encoding in tokenizer.encode_batch_fast([prompt + text for text in texts])]

    def _tokenizer(self) -> Tokenizer:
        tokenizer: Tokenizer | None = getattr(self._of_thread, "tokenizer", None)
        if tokenizer is None:
            tokenizer = self._of_thread.tokenizer = Tokenizer.from_str(self._text)
            tokenizer.no_padding()
            tokenizer.enable_truncation(self._max_tokens)
        return tokenizer


def pad(batch: Sequence[TokenIds], multiple: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and mask, both (len(batch), longest) int64, padded on the right with zeros to a multiple of `multiple` tokens."""
    longest = -(-max(map(len, batch)) // multiple) * multiple
    ids = np.zeros((len(batch), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask


def feeds(
    batch: Sequence[TokenIds], inputs: Container[str], multiple: int = 1
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What an export with these `inputs` takes for a batch, by name, and the mask; padded as `pad` does."""
    ids, mask = pad(batch, multiple)
    named = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in inputs:
        named["token_type_ids"] = np.zeros_like(ids)
    return named, mask
