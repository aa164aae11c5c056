"""Texts to token ids without holding up the event loop. Whatever the tokenizer raises is translated here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from serinus_server.errors import EncoderCrashed, EncoderFailed

_INLINE_CHARACTERS: Final = 512  # 50 to 150 µs on the event loop; a hop to a thread and back costs as much

Tokenize: TypeAlias = Callable[[Sequence[str]], list[list[int]]]


class Tokeniser:
    """Short texts are tokenised where they are, long ones in one of `threads`. `failed` learns of what the tokenizer raises."""

    def __init__(self, tokenize: Tokenize, threads: int, failed: Callable[[BaseException], None]) -> None:
        self._tokenize, self._failed = tokenize, failed
        self._pool = ThreadPoolExecutor(threads, "tokenize")
        self._closed = False

    async def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text. Raises EncoderFailed; EncoderCrashed when closed."""
        try:
            if sum(map(len, texts)) <= _INLINE_CHARACTERS:
                return self._tokenize(texts)
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._tokenize, texts)
        except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
            raise
        except BaseException as error:  # a panic of the tokenizer's Rust is no Exception
            if self._closed and isinstance(error, RuntimeError):
                raise EncoderCrashed("the server is about to be replaced") from error
            self._failed(error)
            raise EncoderFailed(f"the text could not be tokenised: {type(error).__name__}") from error

    async def close(self) -> None:
        """Takes no more texts."""
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)
