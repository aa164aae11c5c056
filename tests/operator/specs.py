"""ModelReleases that are refused, each with what the refusal must say: by the API server (tests/integration) and by `lint` alike."""

from __future__ import annotations

import copy
from typing import Any

GOOD: dict[str, Any] = {
    "apiVersion": "serinus.dev/v1alpha1",
    "kind": "ModelRelease",
    "metadata": {"name": "good", "namespace": "default"},
    "spec": {"model": {"name": "m", "alias": "challenger"}},
}


def with_spec(**changes: Any) -> dict[str, Any]:
    release = copy.deepcopy(GOOD)
    release["spec"] |= changes
    return release


def steps(*steps: dict[str, Any]) -> dict[str, Any]:
    return with_spec(strategy={"steps": list(steps)})


def routing(**routing: Any) -> dict[str, Any]:
    return with_spec(strategy={"routing": routing})


def overlay(**pod: Any) -> dict[str, Any]:
    return with_spec(serving={"template": {"spec": pod}})


def gate(**rule: Any) -> dict[str, Any]:
    return with_spec(analysis={"gates": [{"name": "g", **rule}]})


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "typo": (with_spec(replica=3), 'unknown field "spec.replica"'),
    "typo in a step": (steps({"setWieght": 10}), "setWieght"),
    "no model": ({**GOOD, "spec": {}}, "spec.model"),
    "weight 0": (steps({"setWeight": 0}), "setWeight"),
    "weight 101": (steps({"setWeight": 101}), "setWeight"),
    "falling weights": (steps({"setWeight": 50}, {"pause": {}}, {"setWeight": 10}), "weights must rise"),
    "same weight twice": (steps({"setWeight": 50}, {"pause": {}}, {"setWeight": 50}), "weights must rise"),
    "weights without analysis": (steps({"setWeight": 10}, {"setWeight": 20}), "an analysis or a pause"),
    "verify is no analysis": (steps({"setWeight": 10}, {"verify": {}}, {"setWeight": 20}), "an analysis or a pause"),
    "two in a step": (steps({"setWeight": 10, "pause": {}}), "steps[0]"),
    "empty step": (steps({}), "steps[0]"),
    "bad pause": (steps({"pause": {"duration": "soon"}}), "steps[0].pause.duration"),
    "analysis without duration": (steps({"analysis": {}}), "steps[0].analysis.duration"),
    "alias and version": (
        with_spec(model={"name": "m", "alias": "a", "version": "1"}),
        "exactly one of alias, stage, version",
    ),
    "alias and stage": (
        with_spec(model={"name": "m", "alias": "a", "stage": "Staging"}),
        "exactly one of alias, stage, version",
    ),
    "none of them": (with_spec(model={"name": "m"}), "exactly one of alias, stage, version"),
    "unknown stage": (with_spec(model={"name": "m", "stage": "Canary"}), "spec.model.stage"),
    "version 0": (with_spec(model={"name": "m", "version": "0"}), "spec.model.version"),
    "version as a word": (with_spec(model={"name": "m", "version": "latest"}), "spec.model.version"),
    "slash in the name": (with_spec(model={"name": "a/b", "version": "1"}), "spec.model.name"),
    "followed alias is written": (
        with_spec(registry={"onPromote": {"alias": "challenger"}}),
        "must not write the alias",
    ),
    "followed alias is written by canary": (
        with_spec(registry={"onCanary": {"alias": "challenger"}}),
        "must not write the alias",
    ),
    "followed stage": (
        with_spec(model={"name": "m", "stage": "Staging"}, registry={"onCanary": {"stage": "Production"}}),
        "onCanary.stage must be the stage",
    ),
    "negative replicas": (with_spec(replicas=-1), "spec.replicas"),
    "replicas as text": (with_spec(replicas="three"), "spec.replicas"),
    "swapping, and spaces apart": (
        with_spec(strategy={"surge": "Swap", "capacityFloor": "50%", "onSpaceChange": "Pinned"}),
        "must not be Swap with onSpaceChange Pinned",
    ),
    "bad retention": (with_spec(strategy={"spaceRetention": "a day"}), "spec.strategy.spaceRetention"),
    "surge 0": (with_spec(strategy={"maxSurge": 0}), "spec.strategy.maxSurge"),
    "floor over 100": (with_spec(strategy={"capacityFloor": "101%"}), "spec.strategy.capacityFloor"),
    "floor without sign": (with_spec(strategy={"capacityFloor": "90"}), "spec.strategy.capacityFloor"),
    "bad deadline": (with_spec(strategy={"progressDeadline": "10 minutes"}), "spec.strategy.progressDeadline"),
    "bad drain": (with_spec(serving={"drain": "1d"}), "spec.serving.drain"),
    "bad quantity": (
        with_spec(serving={"resources": {"limits": {"cpu": "lots"}}}),
        "spec.serving.resources.limits.cpu",
    ),
    "probability 0": (with_spec(analysis={"falseRollbackProbability": "0.0"}), "falseRollbackProbability"),
    "probability 1": (with_spec(analysis={"falseRollbackProbability": "1"}), "falseRollbackProbability"),
    "no interval": (with_spec(analysis={"interval": "0s"}), "spec.analysis.interval"),
    "promote when inconclusive": (with_spec(analysis={"inconclusive": {"action": "Promote"}}), "inconclusive.action"),
    "template with the operator's label": (
        with_spec(serving={"template": {"metadata": {"labels": {"serinus.dev/release": "x"}}}}),
        "the operator's own",
    ),
    "template with another image of the server": (
        with_spec(serving={"template": {"spec": {"containers": [{"name": "server", "image": "x"}]}}}),
        "its image is spec.serving.image",
    ),
    "template with a variable of the operator's": (
        with_spec(
            serving={"template": {"spec": {"containers": [{"name": "server", "env": [{"name": "SERINUS_RELEASE"}]}]}}}
        ),
        "the operator sets MLFLOW_MODEL_URI",
    ),
    "template with a folder of the node": (
        with_spec(serving={"template": {"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}}),
        "spec.serving.template.spec.volumes[0].hostPath",
    ),
    "template with another volume tmp": (
        overlay(volumes=[{"name": "tmp", "emptyDir": {}}]),
        "the volume tmp is the operator's own",
    ),
    "volume without a name": (overlay(volumes=[{"emptyDir": {}}]), "spec.serving.template.spec.volumes[0].name"),
    "unknown backend": (with_spec(serving={"engine": {"backend": "tensorrt"}}), "spec.serving.engine.backend"),
    "unknown dtype": (with_spec(serving={"engine": {"dtype": "float8"}}), "spec.serving.engine.dtype"),
    "a dtype that the backend has not": (
        with_spec(serving={"engine": {"backend": "onnx", "dtype": "bfloat16"}}),
        "spec.serving.engine.dtype is not the backend's: onnx has float32 and int8",
    ),
    "a wait of the batcher": (
        with_spec(serving={"engine": {"maxWait": "2ms"}}),
        "spec.serving.engine.maxWait",
    ),
    "a batch of no tokens": (
        with_spec(serving={"engine": {"maxBatchTokens": 0}}),
        "spec.serving.engine.maxBatchTokens",
    ),
    "a queue in words": (with_spec(serving={"engine": {"queueTokens": "many"}}), "spec.serving.engine.queueTokens"),
    "claim without a name": (
        with_spec(serving={"resources": {"claims": [{"request": "gpu"}]}}),
        "spec.serving.resources.claims[0].name",
    ),
    "toleration that is no object": (
        with_spec(serving={"template": {"spec": {"tolerations": ["gpu"]}}}),
        "spec.serving.template.spec.tolerations",
    ),
    "gate without a rule": (gate(), "exactly one of latency, confidence, errorRate"),
    "gate with two rules": (gate(latency={"maxMean": "1s"}, errorRate={"max": "0.1"}), "exactly one of latency"),
    "more latency gates than fit": (
        with_spec(analysis={"gates": [{"name": f"g{index}", "latency": {}} for index in range(5)]}),
        "at most 4 latency gates in spec.analysis.gates may compare",
    ),
    "latency that judges nothing": (
        gate(latency={"compare": False}),
        "latency in spec.analysis.gates needs compare or maxMean",
    ),
    "confidence that judges nothing": (gate(confidence={"compare": False}), "needs compare or minMean"),
    "errors that judge nothing": (gate(errorRate={"compare": False}), "needs compare or max"),
    "tolerance below 1": (gate(errorRate={"tolerance": "0.9"}), "errorRate.tolerance"),
    "tolerance of 11": (gate(confidence={"tolerance": "11"}), "confidence.tolerance"),
    "warm-up without a unit": (gate(latency={"warmUp": "60"}), "latency.warmUp"),
    "restarts below 0": (gate(restarts={"max": -1}), "restarts.max"),
    "latency limit 0": (gate(latency={"maxMean": "0ms"}), "latency.maxMean"),
    "confidence over 1": (gate(confidence={"minMean": "1.5"}), "confidence.minMean"),
    "error rate 0": (gate(errorRate={"max": "0.00"}), "errorRate.max"),
    "promQL without bounds": (gate(promQL={"query": "up"}), "min or max"),
    "promQL without a query": (gate(promQL={"max": "1"}), "promQL.query"),
    "promQL with crossed bounds": (gate(promQL={"query": "up", "min": "2", "max": "1.5"}), "min is above max"),
    "promQL with a bound in words": (gate(promQL={"query": "up", "max": "few"}), "promQL.max"),
    "promQL with an unknown variable": (gate(promQL={"query": "x{a='{{ pod }}'}", "max": "1"}), "a query may hold"),
    "promQL too long": (gate(promQL={"query": "u" * 2001, "max": "1"}), "promQL.query"),
    "drift alert over 1": (gate(drift={"inputAlert": "1.2"}), "drift.inputAlert"),
    "gate twice": (
        with_spec(
            analysis={
                "gates": [{"name": "g", "latency": {"maxMean": "1s"}}, {"name": "g", "errorRate": {"max": "0.1"}}]
            }
        ),
        "Duplicate",
    ),
    "name too long": ({**GOOD, "metadata": {"name": "a" * 41, "namespace": "default"}}, "at most 40 characters"),
    "name starts with a digit": ({**GOOD, "metadata": {"name": "1a", "namespace": "default"}}, "DNS-1035"),
    "name with dots": ({**GOOD, "metadata": {"name": "a.b", "namespace": "default"}}, "DNS-1035"),
    "no history": (with_spec(history=0), "spec.history"),
    "unknown surge": (with_spec(strategy={"surge": "Maybe"}), "spec.strategy.surge"),
    "swap with nothing to swap": (with_spec(strategy={"surge": "Swap"}), "capacityFloor must be below 100%"),
    "unknown failure policy": (with_spec(strategy={"onFailure": "Ignore"}), "spec.strategy.onFailure"),
    "bake without a unit": (with_spec(strategy={"bake": "10"}), "spec.strategy.bake"),
    "delay in days": (with_spec(strategy={"scaleDownDelay": "1d"}), "spec.strategy.scaleDownDelay"),
    "a step after 100": (steps({"setWeight": 100}, {"pause": {}}), "setWeight 100 promotes"),
    "verify twice": (steps({"verify": {}}, {"verify": {}}), "verify is needed once"),
    "unknown routing": (routing(type="Istio"), "spec.strategy.routing.type"),
    "a route without a Gateway": (routing(type="GatewayAPI"), "spec.strategy.routing.parentRefs"),
    "a route with an empty list of them": (
        routing(type="GatewayAPI", parentRefs=[]),
        "spec.strategy.routing.parentRefs must name a Gateway",
    ),
    "a Gateway without a route": (routing(parentRefs=[{"name": "g"}]), "are for type GatewayAPI"),
    "a host without a route": (routing(type="Replicas", hostnames=["a.example.org"]), "are for type GatewayAPI"),
    "a Gateway without a name": (
        routing(type="GatewayAPI", parentRefs=[{"namespace": "infra"}]),
        "spec.strategy.routing.parentRefs[0].name",
    ),
    "a host with a port": (
        routing(type="GatewayAPI", parentRefs=[{"name": "g"}], hostnames=["a.example.org:80"]),
        "spec.strategy.routing.hostnames[0]",
    ),
    "too many steps": (steps(*[{"pause": {}}] * 31), "spec.strategy.steps"),
}
