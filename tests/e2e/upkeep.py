"""The chart's own life on a cluster that serves: an upgrade to other images and settings, then `helm uninstall`, requests running."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from examples.sentences import sentences
from tests.e2e.demo import NAME, NODE_PORT, RELEASE, REQUESTS_PER_SECOND
from tests.e2e.stage import OPERATOR_NAMESPACE, Stage, until
from tests.e2e.traffic import Traffic

_OPERATOR = f"--namespace={OPERATOR_NAMESPACE}"
_PODS = f"serinus.dev/release={NAME}"
_REPLICAS = 4  # examples/modelrelease.yaml
_PASSING = ("events", "events.events.k8s.io")  # the API server forgets them by itself
_EVERY_NAMESPACE_HAS = {"ConfigMap kube-root-ca.crt", "ServiceAccount default"}


@dataclass(frozen=True)
class Upkeep:
    """Restarts of each serving pod by its uid; what was left in the cluster of the chart; what became of the requests."""

    before: dict[str, int]
    upgraded: dict[str, int]
    uninstalled: dict[str, int]
    operators: int  # how many operator pods the upgrade brought
    left: set[str]
    traffic: Traffic


def kept_up(stage: Stage) -> Upkeep:
    """Upgrades and uninstalls. Raises ClusterError when one does not come to its end in time."""
    traffic = Traffic(f"http://127.0.0.1:{NODE_PORT}/predict", sentences(), REQUESTS_PER_SECOND)
    traffic.start()
    try:
        until("the pods of the rollout are gone", lambda: len(_restarts(stage)) == _REPLICAS, 60)
        before, first = _restarts(stage), _operators(stage)
        server = {**stage.values["images"], "server": "localhost/serinus-server:another"}
        stage.install({"images": server, "registryPollSeconds": 7})
        second = _operators(stage)
        _have_it_look(stage)
        upgraded = _restarts(stage)
        stage.uninstall()
        until("the operator's pods are gone", lambda: not _operators(stage), 60)
        return Upkeep(before, upgraded, _restarts(stage), len(second - first), _left(stage), traffic)
    finally:
        traffic.stop()


def _have_it_look(stage: Stage) -> None:
    """Returns once the new operator has looked at the release: it answers a command, though with a refusal."""
    command = json.dumps({"id": "after the upgrade", "verb": "promote"})
    stage.kubectl("annotate", "--overwrite", RELEASE, f"serinus.dev/command={command}")

    def answered() -> bool:
        said = stage.release(NAME)["status"].get("command") or {}
        return bool(said.get("id") == "after the upgrade")

    until("the new operator looks at the release", answered, 60)


def _restarts(stage: Stage) -> dict[str, int]:
    pods = stage.read("pods", f"--selector={_PODS}")["items"]
    return {
        pod["metadata"]["uid"]: sum(each["restartCount"] for each in pod["status"]["containerStatuses"]) for pod in pods
    }


def _operators(stage: Stage) -> set[str]:
    pods = stage.read("pods", _OPERATOR, "--selector=app.kubernetes.io/name=serinus")["items"]
    return {pod["metadata"]["uid"] for pod in pods}


def _left(stage: Stage) -> set[str]:
    """Every object of any kind that helm or the chart has marked as its own, and whatever is in the chart's namespace."""
    kinds = stage.kubectl("api-resources", "--verbs=list", "--output=name").split()
    wanted = ",".join(kind for kind in kinds if kind not in _PASSING)
    things = stage.read(wanted, "--all-namespaces")["items"]
    return {_named(each) for each in things if _is_the_charts(each)} - _EVERY_NAMESPACE_HAS


def _is_the_charts(thing: dict[str, Any]) -> bool:
    metadata = thing["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    return (
        labels.get("app.kubernetes.io/instance") == "serinus"
        or annotations.get("meta.helm.sh/release-name") == "serinus"
        or metadata.get("namespace") == OPERATOR_NAMESPACE
    )


def _named(thing: dict[str, Any]) -> str:
    return f"{thing['kind']} {thing['metadata']['name']}"
