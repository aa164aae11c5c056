"""What the watches have shown of our own objects, by release. Reads our own writes: what a call returned is put in at once.

Of each object only what is read here is kept, and ModelReleases are held as packed JSON: as trees of dicts, a fleet's objects were most of
what the operator's memory was spent on.

An object no newer than the one held is ignored; resource versions of one object compare as integers (Kubernetes 1.35 made that official,
every etcd-backed API server has done it before).
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson

from serinus_contract.names import COMMAND_ANNOTATION, RELEASE_LABEL, REVISION_LABEL
from serinus_operator.manifests import ROUTE_ANNOTATION, VERIFY_LABEL
from serinus_operator.observe import Children
from serinus_operator.pods import Pod, read_pod

JSON: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str]  # namespace, release name

KINDS: Final = ("Deployment", "Job", "Pod", "Service", "PodDisruptionBudget", "HTTPRoute")
_RELEASE_METADATA: Final = ("name", "namespace", "uid", "resourceVersion", "generation", "deletionTimestamp")
_METADATA: Final = {"Deployment": ("generation",)}
_SPEC: Final = {
    "Deployment": ("replicas",),
    "Service": ("selector",),
    "HTTPRoute": ("parentRefs", "hostnames", "rules"),
}
_STATUS: Final = {
    "Deployment": ("observedGeneration", "conditions"),
    "Job": ("startTime", "active", "conditions"),
}
_CONDITIONS: Final = {"Deployment": ("ReplicaFailure",), "Job": ("Complete", "Failed")}


@dataclass(frozen=True, slots=True)
class StoredRelease:
    """A ModelRelease as the API server has it. `model` is the registry and the registered model that it names."""

    uid: str
    version: int
    packed: bytes
    model: tuple[str, str]
    rolling: bool  # has it a canary?

    def json(self) -> JSON:
        """The object, without what is not read here; the caller's own."""
        unpacked: JSON = orjson.loads(self.packed)
        return unpacked


@dataclass(frozen=True, slots=True)
class _Held:
    """A child, and what tells another one of its name from a newer one."""

    uid: str
    version: int
    thing: JSON | Pod


class Cache:
    """Objects by release, kind and name."""

    def __init__(self) -> None:
        self.releases: dict[Key, StoredRelease] = {}
        self._children: defaultdict[Key, dict[str, dict[str, _Held]]] = defaultdict(dict)

    def put_release(self, release: JSON) -> bool:
        """Keeps a ModelRelease. Returns whether it is newer than the one held; our own writes come back from the watch, too."""
        key = (release["metadata"]["namespace"], release["metadata"]["name"])
        newer = _newer(release, self.releases.get(key))
        if newer:
            self.releases[key] = _stored(release)
        return newer

    def drop_release(self, key: Key) -> None:
        """The ModelRelease is gone; the garbage collector takes what it owned."""
        self.releases.pop(key, None)
        self._children.pop(key, None)

    def put(self, kind: str, thing: JSON) -> Key | None:
        """Keeps a child unless a newer one is held. Returns its release's key, None when it is nobody's or nothing that is read changed."""
        key = owner_of(thing)
        if key is None:
            return None
        held, name = self._children[key].setdefault(kind, {}), thing["metadata"]["name"]
        before = held.get(name)
        if not _newer(thing, before):
            return None
        seen = read_pod(thing) if kind == "Pod" else _slim(kind, thing)
        held[name] = _Held(thing["metadata"]["uid"], int(thing["metadata"]["resourceVersion"]), seen)
        same = before is not None and before.uid == thing["metadata"]["uid"] and before.thing == seen
        return None if same else key

    def drop(self, kind: str, thing: JSON) -> Key | None:
        """The child is gone. Returns its release's key."""
        key = owner_of(thing)
        if key is not None:
            held = self._children[key].get(kind, {}).get(thing["metadata"]["name"])
            if held is not None and held.uid == thing["metadata"]["uid"]:
                self.forget(key, kind, thing["metadata"]["name"])
        return key

    def forget(self, key: Key, kind: str, name: str) -> None:
        """We have deleted a child."""
        self._children[key].get(kind, {}).pop(name, None)

    def retain(self, kind: str, namespace: str | None, present: set[tuple[str, str]], listed_at: str) -> set[Key]:
        """Drops what a whole list of a kind lacks, by namespace and name; what was seen after the list was made stands.

        Returns the keys of releases that lost something.
        """
        lost = set()
        for key, kinds in self._children.items():
            if namespace not in (None, key[0]):
                continue
            held = kinds.get(kind, {})
            for name in list(held):
                if (key[0], name) not in present and held[name].version <= int(listed_at):
                    del held[name]
                    lost.add(key)
        return lost

    def child(self, key: Key, kind: str, name: str) -> JSON | None:
        """One object of the release that is no pod."""
        held = self._children[key].get(kind, {}).get(name)
        return None if held is None or isinstance(held.thing, Pod) else held.thing

    def children(self, key: Key) -> Children:
        """Everything held of one release."""
        kinds = self._children[key]

        def of(kind: str) -> dict[str, JSON]:
            held = kinds.get(kind, {})
            return {name: each.thing for name, each in held.items() if not isinstance(each.thing, Pod)}

        pods = tuple(each.thing for each in kinds.get("Pod", {}).values() if isinstance(each.thing, Pod))
        route, budgeted = of("HTTPRoute").get(key[1]), key[1] in of("PodDisruptionBudget")
        deployments, jobs = (tuple(of(kind).values()) for kind in ("Deployment", "Job"))
        return Children(deployments, jobs, pods, of("Service"), route, budgeted)


def owner_of(thing: JSON) -> Key | None:
    """The release that a child's labels name."""
    labels = thing["metadata"].get("labels") or {}
    release = labels.get(RELEASE_LABEL) or labels.get(VERIFY_LABEL)
    return (sys.intern(thing["metadata"]["namespace"]), sys.intern(release)) if release else None


def _newer(thing: JSON, held: StoredRelease | _Held | None) -> bool:
    if held is None or held.uid != thing["metadata"]["uid"]:
        return True
    return int(thing["metadata"]["resourceVersion"]) > held.version


def _stored(release: JSON) -> StoredRelease:
    metadata = _only(release["metadata"], _RELEASE_METADATA)
    command = (release["metadata"].get("annotations") or {}).get(COMMAND_ANNOTATION)
    if command is not None:
        metadata["annotations"] = {COMMAND_ANNOTATION: command}
    named = (release.get("spec") or {}).get("model") or {}
    return StoredRelease(
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        packed=orjson.dumps(release | {"metadata": metadata}),
        model=(sys.intern(named.get("registry", "")), sys.intern(named.get("name", ""))),
        rolling=bool((release.get("status") or {}).get("canary")),
    )


def _slim(kind: str, thing: JSON) -> JSON:
    metadata = _only(thing["metadata"], _METADATA.get(kind, ()))
    labels, annotations = (thing["metadata"].get(part) or {} for part in ("labels", "annotations"))
    if REVISION_LABEL in labels:
        metadata["labels"] = {REVISION_LABEL: sys.intern(labels[REVISION_LABEL])}
    if ROUTE_ANNOTATION in annotations:
        metadata["annotations"] = {ROUTE_ANNOTATION: annotations[ROUTE_ANNOTATION]}
    slim: JSON = {"metadata": metadata}
    for part, wanted in (("spec", _SPEC), ("status", _STATUS)):
        if kind in wanted:
            slim[part] = _only(thing.get(part) or {}, wanted[kind])
    if kind in _CONDITIONS and "conditions" in slim["status"]:
        read = _CONDITIONS[kind]
        slim["status"]["conditions"] = [each for each in slim["status"]["conditions"] if each["type"] in read]
    return slim


def _only(part: JSON, names: tuple[str, ...]) -> JSON:
    return {name: part[name] for name in names if name in part}
