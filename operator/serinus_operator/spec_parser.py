"""Reads the `spec` of a ModelRelease as the API server has validated and defaulted it (in the CRD only). Pure.

A second line of defence: the CRD's schema and CEL rules refuse nearly all of what is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from serinus_operator.durations import parse_duration
from serinus_operator.errors import InvalidSpec
from serinus_operator.spec import (
    MOST_COMPARED_LATENCIES,
    Analysis,
    AnalysisSpec,
    ConfidenceGate,
    DriftGate,
    Engine,
    ErrorRateGate,
    Follow,
    Gate,
    GateRule,
    Gateway,
    InconclusiveAction,
    LatencyGate,
    ModelRef,
    OnFailure,
    OnSpaceChange,
    Pause,
    PromQLGate,
    RegistryMoves,
    RestartsGate,
    Serving,
    SetWeight,
    Spec,
    Step,
    Strategy,
    Surge,
    Verify,
)
from serinus_operator.template import refuse_directives

_GATE_KINDS: Final = ("latency", "confidence", "errorRate", "drift", "restarts", "promQL")


def parse_spec(data: Mapping[str, Any]) -> Spec:
    """Reads the `spec` of a ModelRelease as the API server stores it. Raises InvalidSpec naming the field."""
    try:
        return _parse(data)
    except KeyError as missing:
        raise InvalidSpec(
            "spec", f"field {missing} is missing; is the installed CRD older than this operator?"
        ) from missing
    except (TypeError, AttributeError, ValueError) as error:
        raise InvalidSpec("spec", f"cannot be read: {error}") from error


def _parse(data: Mapping[str, Any]) -> Spec:
    strategy, analysis, registry = data["strategy"], data["analysis"], data["registry"]
    return Spec(
        model=_model(data["model"]),
        replicas=int(data["replicas"]),
        paused=bool(data["paused"]),
        serving=_serving(data["serving"]),
        strategy=Strategy(
            surge=Surge(strategy["surge"]),
            max_surge=int(strategy["maxSurge"]),
            capacity_floor_percent=int(str(strategy["capacityFloor"]).removesuffix("%")),
            on_failure=OnFailure(strategy["onFailure"]),
            on_space_change=OnSpaceChange(strategy["onSpaceChange"]),
            space_retention=parse_duration(strategy["spaceRetention"], "spec.strategy.spaceRetention"),
            progress_deadline=parse_duration(strategy["progressDeadline"], "spec.strategy.progressDeadline"),
            scale_down_delay=parse_duration(strategy["scaleDownDelay"], "spec.strategy.scaleDownDelay"),
            bake=parse_duration(strategy["bake"], "spec.strategy.bake"),
            gateway=_gateway(strategy["routing"]),
            steps=tuple(_step(step, f"spec.strategy.steps[{index}]") for index, step in enumerate(strategy["steps"])),
        ),
        analysis=AnalysisSpec(
            interval=parse_duration(analysis["interval"], "spec.analysis.interval"),
            false_rollback_probability=float(analysis["falseRollbackProbability"]),
            min_requests=int(analysis["minRequests"]),
            inconclusive_after=parse_duration(analysis["inconclusive"]["after"], "spec.analysis.inconclusive.after"),
            inconclusive_action=InconclusiveAction(analysis["inconclusive"]["action"]),
            gates=_gates(analysis["gates"]),
        ),
        on_canary=_moves(registry.get("onCanary", {})),
        on_promote=_moves(registry.get("onPromote", {})),
        on_rollback=_moves(registry.get("onRollback", {})),
        history=int(data["history"]),
    )


def _model(data: Mapping[str, Any]) -> ModelRef:
    named = [follow for follow in Follow if data.get(follow)]
    if len(named) != 1:
        raise InvalidSpec("spec.model", f"exactly one of alias, stage, version is needed, {len(named)} are given")
    return ModelRef(name=data["name"], registry=data["registry"], follow=named[0], selector=str(data[named[0]]))


def _serving(data: Mapping[str, Any]) -> Serving:
    refuse_directives(data.get("template", {}))
    engine = data.get("engine", {})
    return Serving(
        image=data.get("image"),
        resources=data.get("resources", {}),
        drain=parse_duration(data["drain"], "spec.serving.drain"),
        template=data.get("template", {}),
        engine=Engine(
            engine.get("backend"), engine.get("maxBatchTokens"), engine.get("queueTokens"), engine.get("dtype")
        ),
    )


def _gateway(data: Mapping[str, Any]) -> Gateway | None:
    if data["type"] != "GatewayAPI":
        return None
    return Gateway(tuple(data["parentRefs"]), tuple(data.get("hostnames", ())))


def _step(data: Mapping[str, Any], field: str) -> Step:
    match dict(data):
        case {"verify": _, **rest} if not rest:
            return Verify()
        case {"setWeight": percent, **rest} if not rest:
            if not 1 <= int(percent) <= 100:
                raise InvalidSpec(f"{field}.setWeight", f"{percent} is not in 1..100")
            return SetWeight(int(percent))
        case {"pause": pause, **rest} if not rest:
            duration = (pause or {}).get("duration")
            return Pause(None if duration is None else parse_duration(duration, f"{field}.pause.duration"))
        case {"analysis": analysis, **rest} if not rest:
            return Analysis(parse_duration(analysis["duration"], f"{field}.analysis.duration"))
        case _:
            raise InvalidSpec(field, "exactly one of verify, setWeight, pause, analysis is needed")


def _gates(given: Sequence[Mapping[str, Any]]) -> tuple[Gate, ...]:
    gates = tuple(_gate(gate, f"spec.analysis.gates[{index}]") for index, gate in enumerate(given))
    compared = sum(isinstance(gate.rule, LatencyGate) and gate.rule.compare for gate in gates)
    if compared > MOST_COMPARED_LATENCIES:
        most = f"at most {MOST_COMPARED_LATENCIES} latency gates may compare, {compared} do"
        raise InvalidSpec("spec.analysis.gates", f"{most}: the evidence of more does not fit into 16 KB of status")
    return gates


def _gate(data: Mapping[str, Any], field: str) -> Gate:
    match {kind: data[kind] for kind in _GATE_KINDS if kind in data}:
        case {"latency": given, **rest} if not rest:
            limit = given.get("maxMean")
            rule: GateRule = LatencyGate(
                None if limit is None else parse_duration(limit, f"{field}.latency.maxMean"),
                given["compare"],
                parse_duration(given["warmUp"], f"{field}.latency.warmUp"),
            )
        case {"confidence": given, **rest} if not rest:
            limit = given.get("minMean")
            rule = ConfidenceGate(
                None if limit is None else _share(limit, f"{field}.confidence.minMean"),
                given["compare"],
                _tolerance(given["tolerance"], f"{field}.confidence.tolerance") if "tolerance" in given else None,
                given["onlyWithReference"],
            )
        case {"drift": given, **rest} if not rest:
            rule = DriftGate(
                given["compare"],
                _tolerance(given["tolerance"], f"{field}.drift.tolerance"),
                _share(given["inputAlert"], f"{field}.drift.inputAlert"),
                given["onlyWithReference"],
            )
        case {"errorRate": given, **rest} if not rest:
            limit = given.get("max")
            rule = ErrorRateGate(
                None if limit is None else _share(limit, f"{field}.errorRate.max"),
                given["compare"],
                _tolerance(given["tolerance"], f"{field}.errorRate.tolerance"),
            )
        case {"restarts": given, **rest} if not rest:
            rule = RestartsGate(given["max"])
        case {"promQL": given, **rest} if not rest:
            rule = _own_query(given, f"{field}.promQL")
        case _:
            raise InvalidSpec(field, f"exactly one of {', '.join(_GATE_KINDS)} is needed")
    return Gate(name=data["name"], rule=rule, dry_run=bool(data.get("dryRun", False)))


def _own_query(given: Mapping[str, Any], field: str) -> PromQLGate:
    least, most = (
        None if given.get(bound) is None else _finite(given[bound], f"{field}.{bound}") for bound in ("min", "max")
    )
    if least is None and most is None:
        raise InvalidSpec(field, "min or max is needed, else it judges nothing")
    if least is not None and most is not None and least > most:
        raise InvalidSpec(field, f"min {least:g} is above max {most:g}")
    return PromQLGate(str(given["query"]), least, most, int(given["failureLimit"]))


def _finite(text: str, field: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidSpec(field, f"{text} is not a finite number")
    return value


def _tolerance(text: str, field: str) -> float:
    value = float(text)
    if not 1 <= value <= 10:
        raise InvalidSpec(field, f"{text} is not an odds ratio between 1 and 10")
    return value


def _share(text: str, field: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise InvalidSpec(field, f"{text} is not between 0 and 1, both excluded")
    return value


def _moves(data: Mapping[str, Any]) -> RegistryMoves:
    return RegistryMoves(
        alias=data.get("alias"),
        stage=data.get("stage"),
        archive_previous=bool(data.get("archivePrevious", False)),
        tags=data.get("tag"),
    )
