"""What each release last told its registry, and how that answered: a registry that takes no writes holds no rollout up.

It is said in the condition RegistrySynced, and told again after a while, or as soon as there is something else to tell. In memory alone: a
new process tells again, which changes nothing where it had been told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from serinus_operator.apply import Writer
from serinus_operator.cache import Key
from serinus_operator.errors import SerinusError
from serinus_operator.registry import ModelView, lost, says, unresolved
from serinus_operator.rollout.actions import Action, SyncRegistry
from serinus_operator.rollout.model import RegistryIntent, Status
from serinus_operator.spec import ModelRef

_AGAIN: Final = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class Standing:
    """Does the registry say what a release wants of it? `reason` and `message` are of the condition, where there is something to do."""

    synced: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class _Refusal:
    intent: RegistryIntent
    error: SerinusError
    again_at: datetime


class RegistryTold:
    """By release: what was seen said by the registry, and what it did not take."""

    def __init__(self) -> None:
        self._said: dict[Key, RegistryIntent] = {}
        self._refused: dict[Key, _Refusal] = {}

    def standing(self, key: Key, ref: ModelRef, status: Status, model: ModelView) -> Standing:
        """How the registry, read just now, stands to what the stored status wants."""
        # Another release of the same model may have said something else since: a wish that was seen done once is done.
        synced = says(status.registry, model) or self._said.get(key) == status.registry
        if synced:
            self._refused.pop(key, None)
        elif key in self._refused:
            refusal = unresolved(ref, self._refused[key].error)
            return Standing(synced, refusal.reason, refusal.message)
        return Standing(synced, message=lost(status.stable, model))

    def due(self, key: Key, actions: Sequence[Action], now: datetime) -> tuple[Action, ...]:
        """The actions without a call that the registry has refused a moment ago."""
        refusal = self._refused.get(key)
        if refusal is None or now >= refusal.again_at:
            return tuple(actions)
        return tuple(each for each in actions if each != SyncRegistry(refusal.intent))

    def remember(self, key: Key, actions: Sequence[Action], writer: Writer, now: datetime) -> None:
        """After the actions were carried out."""
        for action in actions:
            if isinstance(action, SyncRegistry):
                self._refused.pop(key, None)
                if writer.registry_error is not None:
                    self._refused[key] = _Refusal(action.intent, writer.registry_error, now + _AGAIN)
        if writer.synced is not None:
            self._said[key] = writer.synced

    def again_at(self, key: Key, now: datetime) -> datetime | None:
        """When it is told again what it did not take a moment ago; None where there is no such thing."""
        refusal = self._refused.get(key)
        return refusal.again_at if refusal is not None and refusal.again_at > now else None

    def forget(self, key: Key) -> None:
        """The release is gone."""
        self._said.pop(key, None)
        self._refused.pop(key, None)
