"""What passes between the serving process and the writer: batches of rows one way, one line of answer for each the other way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, BinaryIO


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as JSON lines. `token` is unlike that of every other batch, and the same when the batch is sent again."""

    token: str
    count: int
    rows: bytes

    def head(self) -> bytes:
        """The line before the rows."""
        return json.dumps({"token": self.token, "count": self.count, "bytes": len(self.rows)}).encode() + b"\n"


def read_batch(stream: BinaryIO) -> Batch | None:
    """The next whole batch; None at the end of the stream, also when the sender died in the middle of one."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    head = json.loads(line)
    rows = stream.read(head["bytes"])
    return Batch(head["token"], head["count"], rows) if len(rows) == head["bytes"] else None


@dataclass(frozen=True, slots=True)
class Answer:
    """`error` empty: the batch `token` is written. Else it is not yet, and why; the writer goes on trying."""

    token: str
    error: str = ""

    def line(self) -> bytes:
        """The answer as a line."""
        return json.dumps({"token": self.token, "error": self.error}).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Answer:
        """Reads what `line` wrote."""
        data: dict[str, Any] = json.loads(line)
        return cls(**data)
