"""The verify Job's one JSON line: written by `serinus-server verify` to its termination message, read by the operator.

Kubernetes cuts a termination message at 4096 bytes; `to_json` shortens its own messages first, so that no verdict is ever cut.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

MAX_BYTES: Final = 4096
SCHEMA: Final = 1
# In `measured`: the odds of a text of low confidence, this model's to the stable one's, on the latter's reference. Absent without profiles.
CONFIDENCE_ODDS_RATIO: Final = "confidence_odds_ratio"
_MESSAGE_CHARACTERS: Final = (1000, 300, 150, 80, 40)


class MalformedReport(ValueError):
    """A termination message that is not a verify report; the text says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question asked of the model, e.g. top-10 neighbour overlap with stable 0.69, at least 0.90 needed."""

    name: str
    passed: bool
    message: str
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The whole verdict of a verify run.

    `measured` holds figures that inform and do not judge (e.g. `latency_p50_seconds`, `load_seconds`, `texts_per_second`). Where both
    versions have a reference profile, `low_confidence_share` and `stable_low_confidence_share` are there (how many of stable's reference
    texts lie below each model's own lowest decile) and CONFIDENCE_ODDS_RATIO of the two: what the confidence gate has to tolerate.
    """

    checks: tuple[Check, ...]
    measured: dict[str, float]
    model_version: str
    digest: str
    space: str
    backend: str = ""  # the runtime that was judged, and that all pods of the revision are to use
    dtype: str = ""  # and the numbers that it multiplies

    @property
    def passed(self) -> bool:
        """True when at least one check ran and none failed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """The failed checks' messages, or a summary of what passed."""
        failed = [check.message for check in self.checks if not check.passed]
        return "; ".join(failed) if failed else f"{len(self.checks)} checks passed"

    def to_json(self) -> str:
        """Returns one line of JSON of at most 4096 bytes, with the longest messages shortened. Raises ValueError when that cannot be."""
        for characters in _MESSAGE_CHARACTERS:
            checks = [{**asdict(check), "message": _shortened(check.message, characters)} for check in self.checks]
            report = {"schema": SCHEMA, "passed": self.passed, **asdict(self), "checks": checks}
            line = json.dumps(report, separators=(",", ":"), ensure_ascii=False)
            if len(line.encode()) <= MAX_BYTES:
                return line
        raise ValueError(f"verify report has {len(line.encode())} bytes, a termination message holds {MAX_BYTES}")

    @classmethod
    def from_json(cls, text: str) -> VerifyReport:
        """Reads what `to_json` wrote. Raises MalformedReport for anything else."""
        try:
            data: dict[str, Any] = json.loads(text)
            if data["schema"] != SCHEMA:
                raise MalformedReport(f"verify report has schema {data['schema']!r}, this operator reads {SCHEMA}")
            return cls(
                checks=tuple(Check(**check) for check in data["checks"]),
                measured={str(name): float(value) for name, value in data["measured"].items()},
                model_version=str(data["model_version"]),
                digest=str(data["digest"]),
                space=str(data["space"]),
                backend=str(data.get("backend", "")),
                dtype=str(data.get("dtype", "")),
            )
        except MalformedReport:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise MalformedReport(f"not a verify report ({type(error).__name__}: {error}): {text[:120]!r}") from error


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"
