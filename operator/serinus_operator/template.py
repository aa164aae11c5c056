"""`spec.serving.template`: a user's PodTemplateSpec over the operator's own. Pure.

A merge as Kubernetes' strategic merge patch does it: maps by their names, lists by the key of their kind, everything else replaced. Its
directives (`$patch`, …) are refused: an overlay adds, and takes nothing of the operator's away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from serinus_operator.errors import InvalidSpec

JSON: TypeAlias = dict[str, Any]

SERVER: Final = "server"  # the operator's own container
FIELD: Final = "spec.serving.template"
# Where pods run: names no image, no Secret's content and no account, so that whoever may write a ModelRelease may write this.
_SCHEDULING: Final = frozenset(
    ("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName", "runtimeClassName",
     "schedulerName", "imagePullSecrets")
)  # fmt: skip
_KEYS: Final = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "claims": "name",
    "hostAliases": "ip",
}
_RESTRICTED: Final = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def merged(pod: JSON, overlay: Mapping[str, Any]) -> JSON:
    """The pod with the overlay laid over it. Containers that it adds satisfy Pod Security `restricted` unless they say otherwise."""
    laid: JSON = _merge(pod, overlay)
    for kind in ("containers", "initContainers"):
        if kind in laid:
            laid[kind] = [_confined(container) for container in laid[kind]]
    return laid


def is_guarded(image: str | None, template: Mapping[str, Any]) -> bool:
    """Does it say more than where pods run? Then the requester must be one who may create such pods (the chart's admission policy asks)."""
    return image is not None or not set(template.get("spec", {})) <= _SCHEDULING


def refuse_directives(template: Mapping[str, Any]) -> None:
    """Raises InvalidSpec, naming the field, for a directive of strategic merge patches."""
    for place, name in _names(template, FIELD):
        if name.startswith("$"):
            raise InvalidSpec(place, f"{name} is refused: an overlay adds to the operator's pod and takes nothing away")


def _confined(container: JSON) -> JSON:
    return container | {"securityContext": _merge(_RESTRICTED, container.get("securityContext", {}))}


def _merge(base: Any, over: Any, name: str = "") -> Any:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return dict(base) | {
            each: _merge(base[each], over[each], each) if each in base else over[each] for each in over
        }
    if isinstance(base, Sequence) and isinstance(over, Sequence) and name in _KEYS:
        return _by_key(base, over, _KEYS[name], whole=name == "env")  # a variable has a value or a source, not both
    return over


def _by_key(base: Sequence[Any], over: Sequence[Any], key: str, *, whole: bool) -> list[Any]:
    """The base's items in their order, then the new ones in theirs."""
    found = {str(each.get(key)): each for each in base}
    for each in over:
        name = str(each.get(key))
        found[name] = _merge(found[name], each) if name in found and not whole else each
    return list(found.values())


def _names(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield place, str(name)
            yield from _names(inner, f"{place}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _names(inner, f"{place}[{index}]")
