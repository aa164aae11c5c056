"""What goes over the socket between a front end and the engine: frames of a JSON head and raw numbers. Both ends are ours."""

from __future__ import annotations

import asyncio
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Final, TypeAlias, cast

import orjson

_SIZES: Final = struct.Struct("<II")  # bytes of the head, bytes of the numbers
_MOST_UNSENT_BYTES: Final = 16 * 1024 * 1024

Head: TypeAlias = list[Any]


class Kind(IntEnum):
    """What a frame is about; the first item of its head. The items that follow, and the numbers:"""

    HELLO = 0  # engine: instance, first request number, [observed, texts are kept]
    ASK = 1  # front end: number, seconds left, seconds of tokenising, tokens of each text; int32 token ids
    LEAVE = 2  # front end: number
    TOLD = 3  # front end: what was counted, by name of Books' methods; predictions; float32 vectors
    VECTORS = 4  # engine: number, confidences or null, seconds in the queue, seconds encoding; float32 (texts, dim)
    FAILED = 5  # engine: number, name of the error, message, seconds to come back after


class Frames(asyncio.Protocol, ABC):
    """One end. What is sent within one turn of the loop leaves in one write."""

    def __init__(self) -> None:
        self._arrived = bytearray()
        self._leaving: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.congested = False  # the other end does not read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's classes
        self._transport.set_write_buffer_limits(high=_MOST_UNSENT_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end has closed, or died."""
        self._transport = None

    def pause_writing(self) -> None:
        """Too much is unsent."""
        self.congested = True

    def resume_writing(self) -> None:
        """The other end reads again."""
        self.congested = False

    def data_received(self, data: bytes) -> None:
        """Cuts what has arrived into frames."""
        arrived = self._arrived
        arrived += data
        at = 0
        while len(arrived) - at >= _SIZES.size:
            head, numbers = _SIZES.unpack_from(arrived, at)
            begin = at + _SIZES.size
            end = begin + head + numbers
            if len(arrived) < end:
                break
            self.received(orjson.loads(arrived[begin : begin + head]), bytes(arrived[begin + head : end]))
            at = end
        del arrived[:at]

    @abstractmethod
    def received(self, head: Head, numbers: bytes) -> None:
        """Takes a whole frame; called once for each, in the order in which they were sent."""

    def send(self, head: Iterable[Any], numbers: bytes = b"") -> None:
        """Sends a frame at the end of this turn; into nothing when the socket is closed."""
        text = orjson.dumps([*head], option=orjson.OPT_SERIALIZE_NUMPY)
        if not self._leaving:
            asyncio.get_running_loop().call_soon(self.flush)
        self._leaving.append(_SIZES.pack(len(text), len(numbers)) + text + numbers)

    def flush(self) -> None:
        """Writes what has been sent."""
        if self._transport is not None and self._leaving:
            self._transport.write(b"".join(self._leaving))
        self._leaving.clear()

    def close(self) -> None:
        """Closes once all is written."""
        self.flush()
        if self._transport is not None:
            self._transport.close()
