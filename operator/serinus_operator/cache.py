"""What the watches have shown of our own objects, by release. Reads our own writes: what a call returned is put in at once.

An object older than the one held is ignored; resource versions of one object compare as integers (Kubernetes 1.35 made that official,
every etcd-backed API server has done it before).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final, TypeAlias

from serinus_contract.names import RELEASE_LABEL
from serinus_operator.manifests import VERIFY_LABEL
from serinus_operator.observe import Children

JSON: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str]  # namespace, release name

KINDS: Final = ("Deployment", "Job", "Pod", "Service")


class Cache:
    """Objects by release, kind and name."""

    def __init__(self) -> None:
        self.releases: dict[Key, JSON] = {}
        self._children: defaultdict[Key, dict[tuple[str, str], JSON]] = defaultdict(dict)

    def put_release(self, release: JSON) -> Key:
        """Keeps a ModelRelease unless a newer one is held. Returns its key."""
        key = (release["metadata"]["namespace"], release["metadata"]["name"])
        if _newer(release, self.releases.get(key)):
            self.releases[key] = release
        return key

    def drop_release(self, key: Key) -> None:
        """The ModelRelease is gone; the garbage collector takes what it owned."""
        self.releases.pop(key, None)
        self._children.pop(key, None)

    def put(self, kind: str, thing: JSON) -> Key | None:
        """Keeps a child unless a newer one is held. Returns its release's key, None when it is nobody's."""
        key = owner_of(thing)
        if key is not None:
            name = (kind, thing["metadata"]["name"])
            if _newer(thing, self._children[key].get(name)):
                self._children[key][name] = thing
        return key

    def drop(self, kind: str, thing: JSON) -> Key | None:
        """The child is gone. Returns its release's key."""
        key = owner_of(thing)
        if key is not None:
            held = self._children[key].get((kind, thing["metadata"]["name"]))
            if held is not None and held["metadata"]["uid"] == thing["metadata"]["uid"]:
                del self._children[key][(kind, thing["metadata"]["name"])]
        return key

    def replace(self, key: Key, kind: str, things: list[JSON]) -> None:
        """The API server's whole list of a kind: what it lacks is gone, whether or not a watch told."""
        listed = {thing["metadata"]["name"] for thing in things if owner_of(thing) == key}
        for held_kind, name in list(self._children[key]):
            if held_kind == kind and name not in listed:
                del self._children[key][(held_kind, name)]
        for thing in things:
            self.put(kind, thing)

    def children(self, key: Key) -> Children:
        """Everything held of one release."""
        held = self._children[key].items()

        def of(kind: str) -> tuple[JSON, ...]:
            return tuple(thing for (held_kind, _), thing in held if held_kind == kind)

        shared = self._children[key].get(("Service", key[1]))
        return Children(of("Deployment"), of("Job"), of("Pod"), shared)


def owner_of(thing: JSON) -> Key | None:
    """The release that a child's labels name."""
    labels = thing["metadata"].get("labels") or {}
    release = labels.get(RELEASE_LABEL) or labels.get(VERIFY_LABEL)
    return (thing["metadata"]["namespace"], release) if release else None


def _newer(thing: JSON, held: JSON | None) -> bool:
    if held is None or held["metadata"]["uid"] != thing["metadata"]["uid"]:
        return True
    return int(thing["metadata"]["resourceVersion"]) >= int(held["metadata"]["resourceVersion"])
