"""Releases as people read them. Pure: JSON of the API in, rich renderables out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from rich.console import Group
from rich.table import Table
from rich.tree import Tree

from serinus_contract.names import REVISION_LABEL
from serinus_operator import status_codec
from serinus_operator.durations import format_duration
from serinus_operator.forecast import Forecast
from serinus_operator.rollout.cost import Cost, amount

JSON: TypeAlias = dict[str, Any]

_STYLES = {
    "Healthy": "green", "Progressing": "cyan", "Paused": "yellow", "Degraded": "red",
    "Pass": "green", "Fail": "red", "Inconclusive": "yellow", "NoData": "yellow", "Error": "red",
    "Promoted": "green", "RolledBack": "red", "Aborted": "yellow", "Superseded": "cyan",
}  # fmt: skip


def tree(release: JSON, pods: Sequence[JSON], now: datetime) -> Tree:
    """One release with its revisions, their pods, the gates, and what each version has cost until now."""
    status, metadata = release.get("status") or {}, release["metadata"]
    top = Tree(
        f"[bold]{metadata['namespace']}/{metadata['name']}[/bold]  {_coloured(status.get('phase', 'not seen by the operator yet'))}"
    )
    if status.get("message"):
        top.add(status["message"])
    for role in ("stable", "canary", "former"):
        revision = status.get(role)
        if revision:
            share = {"canary": _share, "former": _kept}.get(role, lambda _: "")(status)
            title = f"{role}: model version {revision['version']}, revision {revision['revision']}, space {revision['space']}{share}"
            branch = top.add(title)
            for pod in pods:
                if pod["metadata"]["labels"].get(REVISION_LABEL) == revision["revision"]:
                    branch.add(_pod(pod))
    if status.get("stepLabel"):
        top.add(
            f"step {status['stepLabel']}"
            + ("  [yellow]paused[/yellow]" if (status.get("canary") or {}).get("paused") else "")
        )
    if status.get("gates"):
        gates = top.add("gates")
        for gate in status["gates"]:
            dry = " (dry run)" if gate.get("dryRun") else ""
            gates.add(f"{_coloured(gate['verdict'])}{dry}  {gate['message']}")
    _add_cost(top, status_codec.decode_cost(status), now)
    return top


def _add_cost(top: Tree, cost: Cost, now: datetime) -> None:
    if not cost.versions:
        return
    counted = f", requests and tokens until {cost.counted_until:%Y-%m-%d %H:%M} UTC" if cost.counted_until else ""
    branch = top.add(f"cost{counted}")
    for used in cost.as_of(now):
        hours = [(used.gpu_seconds, "GPU"), (used.cpu_pod_seconds, "CPU pod")]
        said = [f"{seconds / 3600:,.2f} {what} hours" for seconds, what in hours if seconds]
        price = amount(used, cost.price)
        if price is not None:
            said.append(f"{price:,.2f} {cost.price.currency}".strip())
        if used.requests:
            said.append(f"{used.requests:,} requests, {used.tokens:,} tokens")
            if price is not None:
                said.append(
                    f"{1000 * price / used.requests:,.4f} {cost.price.currency}".strip() + " a thousand requests"
                )
        branch.add(f"model version {used.version}: {', '.join(said) or 'nothing yet'}")


def overview(releases: Sequence[JSON]) -> Table:
    """One line a release."""
    table = Table(*("NAME", "PHASE", "STABLE", "CANARY", "WEIGHT", "STEP", "VERDICT"), box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    for release in releases:
        status = release.get("status") or {}
        canary = status.get("canary") or {}
        weight = status.get("weight", {}).get("desired")
        table.add_row(
            release["metadata"]["name"],
            _coloured(status.get("phase", "")),
            (status.get("stable") or {}).get("version", ""),
            canary.get("version", ""),
            f"{weight} %" if weight else "",
            status.get("stepLabel", ""),
            _coloured(status.get("verdict", "")),
        )
    return table


def history(release: JSON) -> Table:
    """What was rolled out, newest first."""
    table = Table("ENDED", "VERSION", "REVISION", "RESULT", "TOOK", "EVIDENCE", "REASON", box=None, pad_edge=False)
    for entry in (release.get("status") or {}).get("history") or []:
        took = datetime.fromisoformat(entry["endedAt"]) - datetime.fromisoformat(entry["startedAt"])
        table.add_row(
            entry["endedAt"][:19] + "Z",
            entry["version"],
            entry["revision"],
            _coloured(entry["result"]),
            f"{took.total_seconds():.0f} s",
            entry.get("evidence", ""),
            entry["reason"],
        )
    return table


def forecast(found: Forecast, stated: float) -> Group:
    """Steps of a forecast, then how often it would be wrong, then what is wrong with the spec."""
    columns = (
        "STEP",
        "CANARY GETS",
        "TAKES (MEDIAN)",
        "CANARY REQUESTS",
        "EVIDENCE (2 × ERRORS)",
        "ROLLED BACK BY THEN",
    )
    table = Table(*columns, box=None, pad_edge=False)
    for step in found.steps:
        table.add_row(
            step.label,
            "" if step.achieved_percent is None else f"{step.achieved_percent:.0f} %",
            "" if step.takes is None else format_duration(step.takes),
            str(step.canary_requests or ""),
            "" if step.evidence is None else f"{step.evidence:.0%}",
            "" if step.found is None else f"{step.found:.0%}",
        )
    lines = [
        f"simulated: gates {', '.join(found.gates)}; the evidence (of what is needed) and who is found by then are of twice the errors",
        f"a good version is rolled back in {found.false_rollback:.1%} of trials (stated: at most {stated:.1%})",
        f"a version with twice the errors is promoted in {found.missed:.1%} of trials",
        *(f"note  {note}" for note in found.notes),
        *(f"[red]problem[/red]  {problem}" for problem in found.problems),
    ]
    return Group(table, "", *lines)


def _share(status: JSON) -> str:
    weight = status.get("weight") or {}
    if not weight.get("desired"):
        return ""
    swaps = ", swapping" if (status.get("capacity") or {}).get("policy") == "Swap" else ""
    return f", {weight['desired']} % wanted, {weight.get('achieved', 0)} % achieved{swaps}"


def _kept(status: JSON) -> str:
    former = status["former"]
    return f", warm until {former['warmUntil'][11:19]}, judged until {former['bakeUntil'][11:19]} UTC"


def _pod(pod: JSON) -> str:
    status = pod.get("status") or {}
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or [])
    leaving = pod["metadata"].get("deletionTimestamp")
    state = (
        "[yellow]terminating[/yellow]"
        if leaving
        else ("[green]ready[/green]" if ready else f"[yellow]{status.get('phase')}[/yellow]")
    )
    restarts = sum(each.get("restartCount", 0) for each in status.get("containerStatuses") or [])
    return f"{pod['metadata']['name']}  {state}" + (f"  {restarts} restarts" if restarts else "")


def _coloured(word: str) -> str:
    return f"[{_STYLES[word]}]{word}[/{_STYLES[word]}]" if word in _STYLES else word
