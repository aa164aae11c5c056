"""The `spec` of a ModelRelease as frozen data. Reads what the API server has validated and defaulted (in the CRD only).

Must not do I/O. A second line of defence: the CRD's schema and CEL rules refuse nearly all of what is refused here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, TypeAlias

from serinus_operator.errors import InvalidSpec
from serinus_operator.template import refuse_directives

_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
}
_LONGEST_DURATION: Final = timedelta(days=365)
_DURATION: Final = re.compile(r"(?:[0-9]+(?:ms|s|m|h))+")
_GATE_KINDS: Final = ("latency", "confidence", "errorRate", "drift", "restarts", "promQL")
MOST_COMPARED_LATENCIES: Final = 4  # gates; the CRD says so too
_DURATION_PART: Final = re.compile(r"([0-9]+)(ms|s|m|h)")


class Follow(StrEnum):
    """How a release names its model version."""

    ALIAS = "alias"
    STAGE = "stage"
    VERSION = "version"


class InconclusiveAction(StrEnum):
    """What happens when an analysis has not reached a verdict in time. Promotion is not among the answers."""

    PAUSE = "Pause"
    ROLLBACK = "Rollback"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which registered model, and which version of it: the one an alias or a stage names now, or a fixed one."""

    name: str
    registry: str
    follow: Follow
    selector: str

    def __str__(self) -> str:
        sign = {Follow.ALIAS: "@", Follow.STAGE: "/", Follow.VERSION: "/"}[self.follow]
        return f"models:/{self.name}{sign}{self.selector}"


@dataclass(frozen=True, slots=True)
class Engine:
    """How texts are encoded; None is the server's own choice."""

    backend: str | None = None
    max_batch_tokens: int | None = None
    queue_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """What the user chose of the pods; part of the revision. `image` None means the operator's setting.

    `template` is a PodTemplateSpec that is laid over the operator's own: where pods run, and what is in them beside the server.
    """

    image: str | None
    resources: Mapping[str, Any]
    drain: timedelta
    template: Mapping[str, Any] = field(default_factory=dict)
    engine: Engine = Engine()


@dataclass(frozen=True, slots=True)
class Verify:
    """Run the verify Job: nothing of the canary has met a user yet."""


@dataclass(frozen=True, slots=True)
class SetWeight:
    """Give the canary `percent` (1..100) of the replicas; 100 promotes."""

    percent: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for `duration`, or for a person's `promote` when it is None."""

    duration: timedelta | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """Wait for `duration` at least and until every gate passes."""

    duration: timedelta


Step: TypeAlias = Verify | SetWeight | Pause | Analysis


@dataclass(frozen=True, slots=True)
class LatencyGate:
    """Successful requests are not slower than stable's; `max_mean` limits their mean. A pod's first `warm_up` is not compared."""

    max_mean: timedelta | None = None
    compare: bool = True
    warm_up: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class ConfidenceGate:
    """Texts are not less like their model's reference than stable's are; `min_mean`, in (0, 1), limits the mean confidence.

    `tolerance` is the odds ratio of a text below the lowest reference decile, canary to stable, that is still good; None stands for
    what verify measured. With `only_with_reference` a model without a reference profile is not judged.
    """

    min_mean: float | None = None
    compare: bool = True
    tolerance: float | None = None
    only_with_reference: bool = False


@dataclass(frozen=True, slots=True)
class DriftGate:
    """Embeddings are not more often outside their own model's reference band than stable's; `tolerance` is an odds ratio.

    Inputs are the same for both versions: a share of texts above `input_alert` outside the reference's lengths alerts, and never fails.
    """

    compare: bool = True
    tolerance: float = 2.0
    input_alert: float = 0.4
    only_with_reference: bool = False


@dataclass(frozen=True, slots=True)
class ErrorRateGate:
    """5xx answers are not more frequent than stable's; `max_rate`, in (0, 1), limits their share. `tolerance` is an odds ratio."""

    max_rate: float | None = None
    compare: bool = True
    tolerance: float = 1.25


@dataclass(frozen=True, slots=True)
class RestartsGate:
    """Containers of the canary restart at most `max_restarts` times: a crash leaves no 5xx behind."""

    max_restarts: int = 2


@dataclass(frozen=True, slots=True)
class PromQLGate:
    """The user's own query gives a number from `least` to `most`; more than `failure_limit` looks outside fail the canary."""

    query: str
    least: float | None
    most: float | None
    failure_limit: int = 2


CountedRule: TypeAlias = LatencyGate | ConfidenceGate | ErrorRateGate | DriftGate
GateRule: TypeAlias = CountedRule | RestartsGate | PromQLGate


@dataclass(frozen=True, slots=True)
class Gate:
    """A named rule; `dry_run` judges and reports without consequence."""

    name: str
    rule: GateRule
    dry_run: bool


@dataclass(frozen=True, slots=True)
class AnalysisSpec:
    """How canaries are judged."""

    interval: timedelta
    false_rollback_probability: float
    min_requests: int
    inconclusive_after: timedelta
    inconclusive_action: InconclusiveAction
    gates: tuple[Gate, ...]


class Surge(StrEnum):
    """Where the room for another pod comes from: beyond `replicas`, from a pod lowered before, or as the scheduler says."""

    AUTO = "Auto"
    SURGE = "Surge"
    SWAP = "Swap"


class OnFailure(StrEnum):
    """A failed canary's pods: each goes when its stable replacement is Ready, or all leave the Service at once."""

    KEEP_FLOOR = "KeepFloor"
    IMMEDIATE = "Immediate"


@dataclass(frozen=True, slots=True)
class Gateway:
    """An HTTPRoute of the Gateway API carries the weights: attached to these Gateways (as in the API), for these hosts."""

    parent_refs: tuple[Mapping[str, Any], ...]
    hostnames: tuple[str, ...] = ()


class OnSpaceChange(StrEnum):
    """A target whose vectors are of another space than stable's: traffic is split, spaces are kept apart, or it does not start."""

    SPLIT = "Split"
    PINNED = "Pinned"
    REFUSE = "Refuse"


@dataclass(frozen=True, slots=True)
class Strategy:
    """How replicas move. After a promotion the former stable is kept warm for `scale_down_delay`, and gates go on for `bake`.

    Without a gateway the ratio of replicas is the share of requests.
    """

    surge: Surge
    max_surge: int
    capacity_floor_percent: int
    on_failure: OnFailure
    on_space_change: OnSpaceChange
    space_retention: timedelta  # without a request that pins it, until a space that was stable's goes
    progress_deadline: timedelta
    scale_down_delay: timedelta
    bake: timedelta
    gateway: Gateway | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class RegistryMoves:
    """What is written to the registry at a transition; None or empty means nothing."""

    alias: str | None = None
    stage: str | None = None
    archive_previous: bool = False
    tags: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """A whole ModelRelease spec."""

    model: ModelRef
    replicas: int
    paused: bool
    serving: Serving
    strategy: Strategy
    analysis: AnalysisSpec
    on_canary: RegistryMoves
    on_promote: RegistryMoves
    on_rollback: RegistryMoves
    history: int


def parse_duration(text: Any, field: str) -> timedelta:
    """Reads a duration such as 10s, 5m, 1h30m or 500ms, of a year at most. Raises InvalidSpec naming `field`."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise InvalidSpec(field, f"{text!r} is not a duration; write for example 30s, 5m or 1h30m")
    milliseconds = sum(int(count) * (_UNITS[unit] // _UNITS["ms"]) for count, unit in _DURATION_PART.findall(text))
    if milliseconds > _LONGEST_DURATION // _UNITS["ms"]:  # in whole numbers: a timedelta of too many hours overflows
        raise InvalidSpec(field, f"{text} is more than a year, 8760h")
    return timedelta(milliseconds=milliseconds)


def format_duration(duration: timedelta) -> str:
    """Writes a duration as `parse_duration` reads it: 90 seconds are 1m30s. The inverse for whole milliseconds."""
    parts, rest = [], duration
    for unit in ("h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


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
        engine=Engine(engine.get("backend"), engine.get("maxBatchTokens"), engine.get("queueTokens")),
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
