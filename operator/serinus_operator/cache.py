"""What the watches have shown of our own objects, by release. Reads our own writes: what a call returned is put in at once.

Of each object only what is read here is kept: a fleet's pods, whole, are most of what an operator's memory is spent on.

An object no newer than the one held is ignored; resource versions of one object compare as integers (Kubernetes 1.35 made that official,
every etcd-backed API server has done it before).
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any, Final, TypeAlias

from serinus_contract.names import MODEL_VERSION_ANNOTATION, RELEASE_LABEL, REVISION_LABEL
from serinus_operator.manifests import ROUTE_ANNOTATION, VERIFY_LABEL
from serinus_operator.observe import ACCELERATOR, Children

JSON: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str]  # namespace, release name

KINDS: Final = ("Deployment", "Job", "Pod", "Service", "PodDisruptionBudget", "HTTPRoute")
_METADATA: Final = ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp")
_MORE_METADATA: Final = {
    "Deployment": ("generation",),
    "Pod": ("creationTimestamp", "annotations"),
    "HTTPRoute": ("annotations",),
}
_ANNOTATIONS: Final = (MODEL_VERSION_ANNOTATION, ROUTE_ANNOTATION)
_LABELS: Final = (RELEASE_LABEL, VERIFY_LABEL, REVISION_LABEL)
_SPEC: Final = {
    "Deployment": ("replicas",),
    "Service": ("selector",),
    "HTTPRoute": ("parentRefs", "hostnames", "rules"),
}
_STATUS: Final = {
    "Deployment": ("observedGeneration", "conditions"),
    "Job": ("startTime", "active", "conditions"),
    "Pod": ("phase", "startTime", "conditions", "containerStatuses"),
}
_CONDITIONS: Final = {
    "Deployment": ("ReplicaFailure",),
    "Job": ("Complete", "Failed"),
    "Pod": ("Ready", "PodScheduled"),
}


class Cache:
    """Objects by release, kind and name."""

    def __init__(self) -> None:
        self.releases: dict[Key, JSON] = {}
        self._children: defaultdict[Key, dict[tuple[str, str], JSON]] = defaultdict(dict)

    def put_release(self, release: JSON) -> bool:
        """Keeps a ModelRelease. Returns whether it is newer than the one held; our own writes come back from the watch, too."""
        key = (release["metadata"]["namespace"], release["metadata"]["name"])
        newer = _newer(release, self.releases.get(key))
        if newer:
            metadata = {name: value for name, value in release["metadata"].items() if name != "managedFields"}
            self.releases[key] = release | {"metadata": metadata}
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
        name, slim = (kind, thing["metadata"]["name"]), _slim(kind, thing)
        held = self._children[key].get(name)
        if not _newer(thing, held):
            return None
        self._children[key][name] = slim
        return key if held is None or _says(slim) != _says(held) else None

    def drop(self, kind: str, thing: JSON) -> Key | None:
        """The child is gone. Returns its release's key."""
        key = owner_of(thing)
        if key is not None:
            held = self._children[key].get((kind, thing["metadata"]["name"]))
            if held is not None and held["metadata"]["uid"] == thing["metadata"]["uid"]:
                del self._children[key][(kind, thing["metadata"]["name"])]
        return key

    def retain(self, kind: str, namespace: str | None, present: set[tuple[str, str]], listed_at: str) -> set[Key]:
        """Drops what a whole list of a kind lacks, by namespace and name; what was seen after the list was made stands.

        Returns the keys of releases that lost something.
        """
        lost = set()
        for key, held in self._children.items():
            if namespace not in (None, key[0]):
                continue
            for held_kind, name in list(held):
                version = held[held_kind, name]["metadata"]["resourceVersion"]
                if held_kind == kind and (key[0], name) not in present and int(version) <= int(listed_at):
                    del held[held_kind, name]
                    lost.add(key)
        return lost

    def child(self, key: Key, kind: str, name: str) -> JSON | None:
        """One object of the release."""
        return self._children[key].get((kind, name))

    def children(self, key: Key) -> Children:
        """Everything held of one release."""
        held = self._children[key].items()

        def of(kind: str) -> tuple[JSON, ...]:
            return tuple(thing for (held_kind, _), thing in held if held_kind == kind)

        services = {thing["metadata"]["name"]: thing for thing in of("Service")}
        route, budget = (self.child(key, kind, key[1]) for kind in ("HTTPRoute", "PodDisruptionBudget"))
        return Children(of("Deployment"), of("Job"), of("Pod"), services, route, budget is not None)


def owner_of(thing: JSON) -> Key | None:
    """The release that a child's labels name."""
    labels = thing["metadata"].get("labels") or {}
    release = labels.get(RELEASE_LABEL) or labels.get(VERIFY_LABEL)
    return (thing["metadata"]["namespace"], release) if release else None


def _newer(thing: JSON, held: JSON | None) -> bool:
    if held is None or held["metadata"]["uid"] != thing["metadata"]["uid"]:
        return True
    return int(thing["metadata"]["resourceVersion"]) > int(held["metadata"]["resourceVersion"])


def _slim(kind: str, thing: JSON) -> JSON:
    metadata = thing["metadata"]
    kept = _only(metadata, _METADATA + _MORE_METADATA.get(kind, ()))
    # Thousands of objects share these texts: each is held once.
    labels = {name: sys.intern(value) for name, value in _only(metadata.get("labels") or {}, _LABELS).items()}
    if "annotations" in kept:
        kept["annotations"] = _only(kept["annotations"], _ANNOTATIONS)
    slim: JSON = {"metadata": kept | {"namespace": sys.intern(metadata["namespace"]), "labels": labels}}
    for part, wanted in (("spec", _SPEC), ("status", _STATUS)):
        if kind in wanted:
            slim[part] = _only(thing.get(part) or {}, wanted[kind])
    if kind in _CONDITIONS and "conditions" in slim["status"]:
        read = _CONDITIONS[kind]
        slim["status"]["conditions"] = [
            _condition(each) for each in slim["status"]["conditions"] if each["type"] in read
        ]
    if kind == "Pod" and "containerStatuses" in slim["status"]:
        slim["status"]["containerStatuses"] = [_container(each) for each in slim["status"]["containerStatuses"]]
    if kind == "Pod" and (devices := _devices(thing.get("spec") or {})):
        slim["spec"] = devices
    return slim


def _devices(spec: JSON) -> JSON:
    """Of a pod's spec, which accelerators it asks for."""
    limits = [(container.get("resources") or {}).get("limits") or {} for container in spec.get("containers") or []]
    kept = [{name: count for name, count in each.items() if ACCELERATOR.search(name)} for each in limits]
    devices: JSON = {"containers": [{"resources": {"limits": each}} for each in kept if each]} if any(kept) else {}
    if spec.get("resourceClaims"):
        devices["resourceClaims"] = spec["resourceClaims"]
    return devices


def _condition(condition: JSON) -> JSON:
    """Why matters of what stands in the way; of a pod that is ready or has its node, only that it is so, and since when."""
    whole = condition["type"] not in ("Ready", "PodScheduled") or condition.get("reason") == "Unschedulable"
    return condition if whole else _only(condition, ("type", "status", "lastTransitionTime"))


def _container(status: JSON) -> JSON:
    """Restarts, and the state where something can be read from it; one that runs says nothing more."""
    state = {name: told for name, told in (status.get("state") or {}).items() if name != "running"}
    return {"restartCount": status.get("restartCount", 0), "state": state}


def _says(slim: JSON) -> JSON:
    metadata = {name: value for name, value in slim["metadata"].items() if name != "resourceVersion"}
    return slim | {"metadata": metadata}


def _only(part: JSON, names: tuple[str, ...]) -> JSON:
    return {name: part[name] for name in names if name in part}
