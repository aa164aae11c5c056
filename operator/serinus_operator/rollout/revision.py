"""The revision: a hash of what the user chose. Two releases of the same choice are the same revision, whoever computes it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Final

from serinus_operator.rollout.model import Target
from serinus_operator.rollout.observed import Resolved
from serinus_operator.spec import Engine, Serving, Step

_LENGTH: Final = 10


def target_of(serving: Serving, resolved: Resolved) -> Target:
    """The target that spec and registry name. Operator defaults (the image, say) are no part of it: an upgrade rolls nothing."""
    chosen: dict[str, object] = {
        "version": resolved.version,
        "digest": resolved.digest,
        "image": serving.image,
        "resources": serving.resources,
        "drain": serving.drain.total_seconds(),
    }
    if serving.template:  # left out where it is empty: a field that is new must not make new revisions of what runs
        chosen["template"] = serving.template
    if serving.engine != Engine():
        engine = asdict(serving.engine)
        chosen["engine"] = {name: value for name, value in engine.items() if name != "dtype" or value is not None}
    return Target(_hash(chosen), resolved.version, resolved.digest, resolved.space)


def steps_hash(steps: tuple[Step, ...]) -> str:
    """Changes when the steps are edited."""
    return _hash([repr(step) for step in steps])


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:_LENGTH]
