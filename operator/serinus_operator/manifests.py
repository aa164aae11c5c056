"""What the operator creates, rendered as plain dicts. Pure: a release and a revision in, manifests out.

Pods carry release, revision and space as labels, never a role: roles change at promotion, pods do not. Everything is owned by its
ModelRelease, so that deleting that deletes all of it and no finalizer is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from serinus_contract import names
from serinus_operator.pod_template import Defaults, pod_spec
from serinus_operator.rollout.actions import ApplyServing, Route
from serinus_operator.rollout.model import Target
from serinus_operator.spec import Gateway, Spec

JSON: TypeAlias = dict[str, Any]

MANAGED_BY: Final = {"app.kubernetes.io/managed-by": "serinus"}
VERIFY_LABEL: Final = "serinus.dev/verify"
ROUTE_ANNOTATION: Final = "serinus.dev/told-apart"
_NO_REVISION: Final = "none"
_PARENT: Final = ("name", "namespace", "sectionName", "port")
_STARTUP_PROBE_SECONDS: Final = 5
_VERIFY_TTL_SECONDS: Final = 3600
# The operator's own deadline comes first: it knows why the pod waits, and the Job's end takes that pod away.
_AFTER_DEADLINE_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Release:
    """The ModelRelease that owns what is rendered."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def deployment(
    release: Release,
    spec: Spec,
    revision: Target,
    replicas: int,
    defaults: Defaults,
    backend: str = "",
    dtype: str = "",
) -> JSON:
    """The Deployment of a revision. Rendered once; a live Deployment afterwards only ever gets another `replicas`.

    With the `backend` and the `dtype` that verify chose all pods encode alike, wherever they run.
    """
    labels = {names.RELEASE_LABEL: release.name, names.REVISION_LABEL: revision.revision}
    pod = pod_spec(release.namespace, release.name, spec, revision, defaults)
    container = pod["containers"][0]
    container |= {"ports": [{"name": names.HTTP_PORT_NAME, "containerPort": names.HTTP_PORT}], **_probes(spec)}
    if backend:
        pinned = {
            names.BACKEND_ENV: backend,
            names.BACKEND_REASON_ENV: f"verify chose it for revision {revision.revision}",
        } | ({names.DTYPE_ENV: dtype} if dtype else {})
        container["env"] = [
            *(each for each in container["env"] if each["name"] not in pinned),
            *({"name": name, "value": value} for name, value in pinned.items()),
        ]
    pod_labels = MANAGED_BY | labels | {names.SPACE_LABEL: revision.space}
    metadata = spec.serving.template.get("metadata", {})  # ours win: they are what Services and gates go by
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(release, deployment_name(release, revision.revision), revision),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "progressDeadlineSeconds": int(spec.strategy.progress_deadline.total_seconds()),
            "template": {
                "metadata": {
                    "labels": metadata.get("labels", {}) | pod_labels,
                    "annotations": metadata.get("annotations", {}) | _version(revision),
                },
                "spec": pod,
            },
        },
    }


def verify_job(release: Release, spec: Spec, revision: Target, against: str | None, defaults: Defaults) -> JSON:
    """The verify Job: the canary's pod without serving labels, ports and probes. Nothing of it can meet a user."""
    pod = pod_spec(release.namespace, release.name, spec, revision, defaults) | {"restartPolicy": "Never"}
    container = pod["containers"][0]
    pod["containers"] = [container]  # others, which never end, would keep the Job from ending
    container |= {
        "args": ["verify"],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }  # a run without a report says why
    if against is not None:
        container["env"].append({"name": names.VERIFY_AGAINST_ENV, "value": f"models:/{spec.model.name}/{against}"})
    labels = MANAGED_BY | {VERIFY_LABEL: release.name, names.REVISION_LABEL: revision.revision}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(release, verify_job_name(release, revision.revision), revision),
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": int(spec.strategy.progress_deadline.total_seconds()) + _AFTER_DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": _VERIFY_TTL_SECONDS,
            "template": {"metadata": {"labels": labels, "annotations": _version(revision)}, "spec": pod},
        },
    }


def serving(release: Release, live: ApplyServing) -> tuple[JSON, ...]:
    """The shared Service over every live revision or the one that serves alone, one for each role, and the disruption budget."""
    everyone = {names.RELEASE_LABEL: release.name}
    served = everyone if live.alone is None else everyone | {names.REVISION_LABEL: live.alone}
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(release, release.name),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": everyone},
        },
    }
    shared = _service(release, release.name, served)
    return (
        budget,
        _service(release, f"{release.name}-stable", everyone | {names.REVISION_LABEL: live.stable or _NO_REVISION}),
        *(space_service(release, space) for space in live.spaces),
        *_mirror_services(release, live),
        *([] if live.route is None else [http_route(release, live.route)]),
        _service(release, f"{release.name}-canary", everyone | {names.REVISION_LABEL: live.canary or _NO_REVISION}),
        shared,
    )


def space_service(release: Release, space: str) -> JSON:
    """The Service over the pods of one vector space, for clients that pin it and for the pods that pass them on."""
    selector = {names.RELEASE_LABEL: release.name, names.SPACE_LABEL: space}
    return _service(release, names.space_service(release.name, space), selector)


def _mirror_services(release: Release, live: ApplyServing) -> list[JSON]:
    """Headless: who mirrors finds its pods, and those that get the copies, by DNS."""
    found = []
    for name, revision in zip(names.mirror_services(release.name), live.mirror or (), strict=False):
        service = _service(release, name, {names.RELEASE_LABEL: release.name, names.REVISION_LABEL: revision})
        service["spec"]["clusterIP"] = "None"
        found.append(service)
    return found


def http_route(release: Release, route: Route) -> JSON:
    """The HTTPRoute. It is applied after stable's Service and before the canary's: at promotion no weight is on an empty one."""
    metadata = _metadata(release, release.name)
    metadata["annotations"] = {ROUTE_ANNOTATION: json.dumps([route.stable, route.canary])}
    rules = [_straight(release.name, *named) for named in _told_apart(route)]
    backends = [
        {"name": f"{release.name}-{role}", "port": names.HTTP_PORT, "weight": weight}
        for role, weight in (("stable", 100 - route.weight), ("canary", route.weight))
    ]
    spec: JSON = {
        "parentRefs": [dict(parent) for parent in route.gateway.parent_refs],
        "rules": [*rules, {"backendRefs": backends}],
    }
    if route.gateway.hostnames:
        spec |= {"hostnames": list(route.gateway.hostnames)}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata,
        "spec": spec,
    }


def served_revisions(
    release_name: str, services: Mapping[str, Mapping[str, Any]], route: Mapping[str, Any] | None = None
) -> ApplyServing | None:
    """What the Services select and the HTTPRoute divides now; None when one of the Services is missing."""
    try:
        shared, stable, canary = (
            services[f"{release_name}{role}"]["spec"]["selector"].get(names.REVISION_LABEL)
            for role in ("", "-stable", "-canary")
        )
    except KeyError:
        return None
    stable, canary = (None if revision == _NO_REVISION else revision for revision in (stable, canary))
    prefix = names.space_service(release_name, "")
    spaces = tuple(sorted(name.removeprefix(prefix) for name in services if name.startswith(prefix)))
    selectors = [services[name]["spec"]["selector"] for name in names.mirror_services(release_name) if name in services]
    mirror = tuple(str(selector.get(names.REVISION_LABEL, "")) for selector in selectors)
    both = None if not mirror else (mirror[0], mirror[-1])
    return ApplyServing(stable, canary, shared, None if route is None else route_of(route), spaces, both)


def route_of(http_route: Mapping[str, Any]) -> Route | None:
    """The inverse of `http_route`, from what the API server stores; None when somebody has made something else of it."""
    try:
        annotation, spec = http_route["metadata"]["annotations"][ROUTE_ANNOTATION], http_route["spec"]
        stable, canary = (named and (str(named[0]), str(named[1])) for named in json.loads(annotation))
        parents = tuple({name: parent[name] for name in _PARENT if name in parent} for parent in spec["parentRefs"])
        weight = int(spec["rules"][-1]["backendRefs"][1]["weight"])
        return Route(Gateway(parents, tuple(spec.get("hostnames", ()))), weight, stable, canary)
    except (KeyError, IndexError, ValueError, TypeError):
        return None


def deployment_name(release: Release, revision: str) -> str:
    """Name of a revision's Deployment."""
    return f"{release.name}-{revision}"


def verify_job_name(release: Release, revision: str) -> str:
    """Name of a revision's verify Job."""
    return f"{release.name}-{revision}-verify"


def _told_apart(route: Route) -> list[tuple[str, str, str]]:
    """(role, header, value) of what tells stable and canary apart: their versions and their spaces, where these differ."""
    if route.stable is None or route.canary is None:
        return []
    headers = (names.MODEL_VERSION_HEADER, names.SPACE_HEADER)
    return [
        (role, header, value)
        for header, stable, canary in zip(headers, route.stable, route.canary, strict=True)
        if stable != canary
        for role, value in (("stable", stable), ("canary", canary))
    ]


def _straight(release_name: str, role: str, header: str, value: str) -> JSON:
    return {
        "matches": [{"headers": [{"name": header, "value": value}]}],
        "backendRefs": [{"name": f"{release_name}-{role}", "port": names.HTTP_PORT}],
    }


def _metadata(release: Release, name: str, revision: Target | None = None) -> JSON:
    labels = MANAGED_BY | {names.RELEASE_LABEL: release.name}
    if revision is not None:
        labels[names.REVISION_LABEL] = revision.revision
    owner = {
        "apiVersion": f"{names.GROUP}/{names.API_VERSION}",
        "kind": names.KIND,
        "name": release.name,
        "uid": release.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {"name": name, "namespace": release.namespace, "labels": labels, "ownerReferences": [owner]}


def _version(revision: Target) -> JSON:
    return {names.MODEL_VERSION_ANNOTATION: revision.version}


def _service(release: Release, name: str, selector: JSON) -> JSON:
    port = {"name": names.HTTP_PORT_NAME, "port": names.HTTP_PORT, "targetPort": names.HTTP_PORT_NAME}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(release, name),
        "spec": {"selector": selector, "ports": [port]},
    }


def _probes(spec: Spec) -> JSON:
    """Start-up may take as long as the progress deadline; afterwards readiness is asked often and liveness rarely."""

    def get(path: str, period_seconds: int, failures: int) -> JSON:
        request = {"path": path, "port": names.HTTP_PORT_NAME}
        return {"httpGet": request, "periodSeconds": period_seconds, "failureThreshold": failures, "timeoutSeconds": 5}

    attempts = max(1, int(spec.strategy.progress_deadline.total_seconds()) // _STARTUP_PROBE_SECONDS)
    return {
        "startupProbe": get("/readyz", _STARTUP_PROBE_SECONDS, attempts),
        "readinessProbe": get("/readyz", 5, 3),
        "livenessProbe": get("/livez", 20, 6),
    }
