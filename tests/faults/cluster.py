"""An API server with its controllers and a kubelet, in memory: requests in, answers out, every change kept for whoever watches.

What it does of server-side apply, garbage collection and rollouts is what the operator relies on; the crash tests on the real API server
(`test_crash_points`) hold it to the truth.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

from tests.operator.world import START, report

from serinus_contract.names import DIGEST_ENV, RELEASE_LABEL
from serinus_operator.manifests import VERIFY_LABEL

JSON: TypeAlias = dict[str, Any]
Name: TypeAlias = tuple[str, str, str]  # plural, namespace, name

_KINDS = {
    "deployments": "Deployment", "jobs": "Job", "pods": "Pod", "services": "Service", "events": "Event",
    "poddisruptionbudgets": "PodDisruptionBudget", "modelreleases": "ModelRelease",
}  # fmt: skip
_UNVERSIONED = ("metadata", "status", "apiVersion", "kind")


@dataclass(frozen=True)
class Change:
    """What a watch shows: ADDED, MODIFIED or DELETED, and the object as it was then."""

    version: int
    type: str
    kind: str
    thing: JSON


@dataclass
class Cluster:
    """All objects by plural, namespace and name; `log` has every change since the beginning."""

    now: datetime = START
    objects: dict[Name, JSON] = field(default_factory=dict)
    log: list[Change] = field(default_factory=list)
    verify_passes: bool = True
    away: bool = False  # the API server answers nobody; controllers and kubelets do not notice, for brevity
    _ids: Any = field(default_factory=lambda: count(1))

    def call(self, method: str, url: str, body: JSON | None = None, content_type: str = "") -> tuple[int, JSON]:
        """One request. Returns the status code and the answer, which is the caller's to keep."""
        split = urlsplit(url)
        parts = split.path.strip("/").split("/")
        if "namespaces" not in parts and parts[-1] not in _KINDS:
            return 200, {"resources": []}
        if not any(part in _KINDS for part in parts):
            return 404, {"message": "the server could not find the requested resource"}
        place = parts[parts.index("namespaces") + 1] if "namespaces" in parts else None
        tail = parts[next(at for at, part in enumerate(parts) if part in _KINDS) :]
        if len(tail) == 1:
            if method == "GET":
                return 200, self._list(tail[0], place, parse_qs(split.query).get("labelSelector", [""])[0])
            return self._create((tail[0], str(place), body["metadata"]["name"]), body)
        return self._one(method, (tail[0], str(place), tail[1]), body or {}, content_type, tail[2:] == ["status"])

    def put(self, name: Name, thing: JSON) -> JSON:
        """Stores an object under the next version, as any client, controller or kubelet would. Returns it as stored."""
        held = self.objects.get(name)
        stored = _over_the_wire(thing)
        metadata = stored["metadata"]
        metadata |= {"namespace": name[1], "name": name[2], "resourceVersion": str(len(self.log) + 1)}
        metadata.setdefault("uid", f"uid-{next(self._ids)}")
        metadata.setdefault("creationTimestamp", self.now.isoformat())
        same = held is not None and _desired(held) == _desired(stored)
        metadata["generation"] = held["metadata"]["generation"] + (not same) if held else 1
        self.objects[name] = stored
        self._tell("MODIFIED" if held else "ADDED", name, stored)
        return _over_the_wire(stored)

    def drop(self, name: Name) -> None:
        """An object is gone."""
        gone = self.objects.pop(name)
        self._tell("DELETED", name, gone | {"metadata": gone["metadata"] | {"resourceVersion": str(len(self.log) + 1)}})

    def at(self, version: int) -> dict[Name, JSON]:
        """All objects as they were after so many changes."""
        then: dict[Name, JSON] = {}
        for change in self.log[:version]:
            name = (_plural(change.kind), change.thing["metadata"]["namespace"], change.thing["metadata"]["name"])
            if change.type == "DELETED":
                then.pop(name, None)
            else:
                then[name] = change.thing
        return then

    def of(self, plural: str) -> list[JSON]:
        """All objects of one kind, by name."""
        return [thing for name, thing in sorted(self.objects.items()) if name[0] == plural]

    def settle(self) -> None:
        """One step of the controllers and the kubelet: pods are made, become Ready a step later, and go a step after they were asked to."""
        for name, pod in list(self.objects.items()):
            if name[0] == "pods" and pod["metadata"].get("deletionTimestamp"):
                self.drop(name)
        for name, job in [each for each in self.objects.items() if each[0][0] == "jobs"]:
            self._run_job(name, job)
        for name, pod in [each for each in self.objects.items() if each[0][0] == "pods"]:
            if not pod.get("status") and VERIFY_LABEL not in pod["metadata"]["labels"]:
                self.put(name, pod | {"status": _ready()})
        for name, deployment in [each for each in self.objects.items() if each[0][0] == "deployments"]:
            self._run_deployment(name, deployment)
        self._collect_garbage()

    def _run_deployment(self, name: Name, deployment: JSON) -> None:
        generation = deployment["metadata"]["generation"]
        if (deployment.get("status") or {}).get("observedGeneration") != generation:
            deployment = self.put(name, deployment | {"status": {"observedGeneration": generation}})
        pods = [(each, pod) for each, pod in self._pods_of(name) if not pod["metadata"].get("deletionTimestamp")]
        wanted = deployment["spec"]["replicas"]
        for each, pod in pods[wanted:]:
            self._ask_to_go(each, pod)
        for _ in range(wanted - len(pods)):
            self._make_pod(name, deployment)

    def _run_job(self, name: Name, job: JSON) -> None:
        if job.get("status", {}).get("conditions"):
            return
        pods = self._pods_of(name)
        if not pods:
            self._make_pod(name, job)
            self.put(name, job | {"status": {"startTime": self.now.isoformat(), "active": 1}})
            return
        each, pod = pods[0]
        environment = {item["name"]: item.get("value", "") for item in pod["spec"]["containers"][0]["env"]}
        said = report(environment[DIGEST_ENV], passed=self.verify_passes)
        ended = {"exitCode": 0, "reason": "Completed", "message": said.to_json()}
        container = {"name": "server", "restartCount": 0, "state": {"terminated": ended}}
        self.put(each, pod | {"status": {"phase": "Succeeded", "containerStatuses": [container]}})
        self.put(
            name,
            job
            | {
                "status": {
                    "startTime": job["status"]["startTime"],
                    "conditions": [{"type": "Complete", "status": "True"}],
                }
            },
        )

    def _make_pod(self, owner: Name, thing: JSON) -> None:
        template = _over_the_wire(thing["spec"]["template"])
        template["metadata"]["ownerReferences"] = [{"uid": thing["metadata"]["uid"]}]
        self.put(("pods", owner[1], f"{owner[2]}-{next(self._ids)}"), {"kind": "Pod", **template})

    def _ask_to_go(self, name: Name, pod: JSON) -> None:
        self.put(name, pod | {"metadata": pod["metadata"] | {"deletionTimestamp": self.now.isoformat()}})

    def _pods_of(self, owner: Name) -> list[tuple[Name, JSON]]:
        uid = self.objects[owner]["metadata"]["uid"]
        return [(name, pod) for name, pod in self.objects.items() if name[0] == "pods" and _owner(pod) == uid]

    def _collect_garbage(self) -> None:
        there = {thing["metadata"]["uid"] for thing in self.objects.values()}
        for name, thing in list(self.objects.items()):
            if _owner(thing) not in (None, *there):
                if name[0] == "pods" and not thing["metadata"].get("deletionTimestamp"):
                    self._ask_to_go(name, thing)
                elif name[0] != "pods":
                    self.drop(name)

    def _list(self, plural: str, namespace: str | None, selector: str) -> JSON:
        wanted = selector.split(",") if selector else []
        found = [
            _over_the_wire(thing)
            for name, thing in self.objects.items()
            if name[0] == plural and namespace in (None, name[1]) and _has(thing, wanted)
        ]
        return {"items": found, "metadata": {"resourceVersion": str(len(self.log))}}

    def _create(self, name: Name, body: JSON) -> tuple[int, JSON]:
        if name in self.objects:
            return 409, {"message": f"{name[2]} already exists"}
        return 201, self.put(name, body)

    def _one(self, method: str, name: Name, body: JSON, content_type: str, status: bool) -> tuple[int, JSON]:
        held = self.objects.get(name)
        if held is None and "apply-patch" not in content_type:
            return 404, {"message": f"{name[2]} not found"}
        match method:
            case "GET":
                return 200, _over_the_wire(held or {})
            case "DELETE":
                self.drop(name)
                self._collect_garbage()
                return 200, {}
            case "PATCH":
                return 200, self.put(name, _merged(held or {}, body))
            case _:
                assert held is not None
                if body["metadata"]["resourceVersion"] != held["metadata"]["resourceVersion"]:
                    return 409, {"message": "the object has been modified"}
                return 200, self.put(name, held | {"status": body["status"]} if status else body)

    def _tell(self, type_: str, name: Name, thing: JSON) -> None:
        self.log.append(Change(len(self.log) + 1, type_, _KINDS[name[0]], _over_the_wire(thing)))


def pods(cluster: Cluster, *, ready: bool = False) -> list[JSON]:
    """Pods that serve; those that are Ready and not on their way out where `ready`."""
    serving = [pod for pod in cluster.of("pods") if RELEASE_LABEL in pod["metadata"]["labels"]]
    return [pod for pod in serving if not ready or (pod.get("status") and not pod["metadata"].get("deletionTimestamp"))]


def _ready() -> JSON:
    return {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


def _desired(thing: JSON) -> JSON:
    return {name: value for name, value in thing.items() if name not in _UNVERSIONED}


def _owner(thing: JSON) -> str | None:
    return next((str(owner["uid"]) for owner in thing["metadata"].get("ownerReferences", [])), None)


def _has(thing: JSON, wanted: list[str]) -> bool:
    """A label selector: `name=value`, `name`, `!name`."""
    labels = thing["metadata"].get("labels") or {}

    def holds(term: str) -> bool:
        name, equals, value = term.removeprefix("!").partition("=")
        return labels.get(name) == value if equals else (name in labels) != term.startswith("!")

    return all(holds(term) for term in wanted)


def _plural(kind: str) -> str:
    return next(plural for plural, each in _KINDS.items() if each == kind)


def _merged(held: JSON, patch: JSON) -> JSON:
    """A merge patch; of our own apply it differs only where a field is given up, and a selector is given whole."""
    merged = dict(held)
    for name, value in patch.items():
        whole = name == "selector" or not isinstance(value, dict) or not isinstance(held.get(name), dict)
        merged[name] = value if whole else _merged(held[name], value)
    return merged


def _over_the_wire(thing: JSON) -> JSON:
    """A copy that nobody else holds; many times as fast as `copy.deepcopy`."""
    return json.loads(json.dumps(thing))  # type: ignore[no-any-return]
