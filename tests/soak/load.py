"""Open-loop load whose every failed request is remembered, and tried once more as a client with one retry would."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import aiohttp
from tests.e2e.traffic import Traffic

RETRY_AFTER_SECONDS = 3.0
WORD = "copper"  # in no sentence of the reference, and one token: verify cannot see what a version makes of it
_WORD_EVERY = 5


@dataclass(frozen=True)
class Lost:
    """A request whose first try failed, between two instants of time.monotonic(). `version` answered it, if anyone did."""

    began: float
    ended: float
    told: str
    version: str
    saved: bool  # by the retry


@dataclass
class Load(Traffic):
    """Every fifth text has a word that is in no reference. Failures are in `lost`; `failures` holds those that no retry saved."""

    most_seconds: float = 3 * 3600.0
    lost: list[Lost] = field(default_factory=list)

    def text(self, number: int) -> str:
        text = super().text(number)
        return text if number % _WORD_EVERY else f"{text} It is made of {WORD}."

    async def send(self, client: aiohttp.ClientSession, number: int) -> None:
        began = time.monotonic()
        failed = await self.ask(client, number)
        if failed is None:
            return
        ended = time.monotonic()
        await asyncio.sleep(RETRY_AFTER_SECONDS)
        again = await self.ask(client, number)
        self.lost.append(Lost(began, ended, failed.told, failed.version, saved=again is None))
        if again is not None:
            self.failures.append(f"{failed.told}; again: {again.told}")
