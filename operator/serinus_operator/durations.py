"""Durations as users write them: 10s, 5m, 1h30m, 500ms. Pure."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final

from serinus_operator.errors import InvalidSpec

_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
}
_LONGEST_DURATION: Final = timedelta(days=365)
_DURATION: Final = re.compile(r"(?:[0-9]+(?:ms|s|m|h))+")
_DURATION_PART: Final = re.compile(r"([0-9]+)(ms|s|m|h)")


def parse_duration(text: Any, field: str) -> timedelta:
    """Reads a duration such as 10s, 5m, 1h30m or 500ms, of a year at most. Raises InvalidSpec naming `field`."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise InvalidSpec(field, f"{text!r} is not a duration; write for example 30s, 5m or 1h30m")
    milliseconds = sum(int(count) * (_UNITS[unit] // _UNITS["ms"]) for count, unit in _DURATION_PART.findall(text))
    if milliseconds > _LONGEST_DURATION // _UNITS["ms"]:  # in whole numbers: a timedelta of too many hours overflows
        raise InvalidSpec(field, f"{text} is more than a year, 8760h")
    return timedelta(milliseconds=milliseconds)


def format_duration(duration: timedelta) -> str:
    """Writes a duration as `parse_duration` reads it: 90 seconds are 1m30s. The inverse for whole milliseconds."""
    parts, rest = [], duration
    for unit in ("h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
