"""A release as the page shows it. Pure: JSON of the API in, JSON for the page out."""

from __future__ import annotations

import math
import sys
from datetime import datetime
from typing import Any, TypeAlias

from serinus_operator.errors import InvalidSpec
from serinus_operator.rollout.draft import describe, effective_steps
from serinus_operator.spec import SetWeight
from serinus_operator.spec_parser import parse_spec

JSON: TypeAlias = dict[str, Any]

VERBS = ("promote", "pause", "resume", "abort", "retry")


def shown(release: JSON, now: datetime) -> JSON:
    """Everything about a release but its charts, its cost until now; fields that its status lacks are empty, never absent."""
    metadata, status = release["metadata"], release.get("status") or {}
    weight = status.get("weight") or {}
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "model": release["spec"]["model"]["name"],
        "phase": status.get("phase", "Unknown"),
        "message": status.get(
            "message", "not seen by the operator yet; does it run, and does it watch this namespace?"
        ),
        "stable": _revision(status.get("stable")),
        "canary": _revision(status.get("canary")),
        "weight": {"desired": weight.get("desired", 0), "achieved": weight.get("achieved", 0)},
        "step": (status.get("step") or {}).get("index", 0) + 1 if status.get("canary") else 0,
        "steps": _steps(release),
        "verdict": status.get("verdict", ""),
        "gates": [_gate(gate) for gate in status.get("gates") or []],
        "verbs": verbs(status),
        "answer": status.get("command"),
        "history": status.get("history") or [],
        "cost": _cost(status, now),
        "conditions": [each for each in status.get("conditions") or [] if _wrong(each)],
    }


def verbs(status: JSON) -> list[str]:
    """What a person can ask for now. The operator has the last word: a page may be a second old."""
    canary = status.get("canary")
    if canary and not canary.get("ending"):
        return ["promote", "resume" if canary.get("paused") else "pause", "abort"]
    return ["retry"] if (status.get("target") or {}).get("rejected") and not canary else []


def _revision(revision: JSON | None) -> JSON | None:
    if not revision:
        return None
    return {each: revision.get(each, "") for each in ("version", "revision", "space", "startedAt")} | {
        "ready": revision.get("ready", 0),
        "paused": revision.get("paused", False),
        "ending": revision.get("ending", ""),
    }


def _steps(release: JSON) -> list[JSON]:
    """The steps of this rollout, or of the next one. None where the spec is older than this plugin, or newer."""
    status = release.get("status") or {}
    try:
        spec = parse_spec(release["spec"])
    except InvalidSpec:
        return []
    now = (status.get("step") or {}).get("index", 0) if status.get("canary") else -1
    return [
        {
            "label": describe(step),
            "weight": step.percent if isinstance(step, SetWeight) else None,
            "state": "todo" if index > now else "now" if index == now else "done",
        }
        for index, step in enumerate(effective_steps(spec.strategy.steps, first=not status.get("stable")))
    ]


def _gate(gate: JSON) -> JSON:
    return {
        "name": gate["name"],
        "verdict": gate.get("verdict", ""),
        "evidence": _number(gate.get("evidence", "0")),
        "needed": _number(gate.get("needed", "0")),
        "requests": gate.get("requests", 0),
        "message": gate.get("message", ""),
        "alert": gate.get("alert", ""),
        "dryRun": gate.get("dryRun", False),
    }


def _cost(status: JSON, now: datetime) -> JSON:
    """What each model version has used, oldest first: hours, the administrator's price, requests; None where there is no price.

    The status holds sums until `until`, and what each version holds since then.
    """
    cost = status.get("cost") or {}
    price = cost.get("price") or {}
    rates = [_number(price.get(each, "0")) for each in ("perGpuHour", "perCpuPodHour")]
    since = (now - datetime.fromisoformat(cost["until"])).total_seconds() if "until" in cost else 0.0
    versions = []
    for used in cost.get("versions") or []:
        held = (("gpuSeconds", "gpus"), ("cpuPodSeconds", "cpuPods"))
        hours = [(_number(used.get(sum_, "0")) + used.get(now_, 0) * max(0.0, since)) / 3600 for sum_, now_ in held]
        requests = used.get("requests", 0)
        paid = hours[0] * rates[0] + hours[1] * rates[1] if any(rates) else None
        versions.append(
            {
                "version": used["version"],
                "gpuHours": round(hours[0], 2),
                "cpuPodHours": round(hours[1], 2),
                "price": None if paid is None else round(paid, 2),
                "perThousand": None if paid is None or not requests else round(1000 * paid / requests, 4),
                "requests": requests,
                "tokens": used.get("tokens", 0),
            }
        )
    return {"currency": price.get("currency", ""), "versions": versions}


def _number(text: str) -> float:
    """A decimal string as JSON can carry it."""
    value = float(text)
    return value if math.isfinite(value) else sys.float_info.max if value > 0 else 0.0


def _wrong(condition: JSON) -> bool:
    """Conditions that a person should read: the others repeat phase and message."""
    expected = {"ModelResolved": "True", "RegistrySynced": "True", "EmbeddingSpaceChanged": "False"}
    return condition["status"] != expected.get(condition["type"], condition["status"])
