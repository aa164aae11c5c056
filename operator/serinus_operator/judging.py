"""Reads the windows that have ended since the last judged one, one a look, and lets the gates judge each. Writes nothing.

Windows end at multiples of the interval, the same for all releases, so that one snapshot of the counters serves them all. After a time
in which nothing was judged (a restart, a Prometheus that did not answer) each of them is read on its own, as it would have been: each is
capped and ranked alone, no look of a user's query is lost, and the evidence is that of an operator that had never been away.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from serinus_operator.errors import Unavailable
from serinus_operator.gates.behaviour import Behaviour
from serinus_operator.gates.judge import (
    Evidence,
    GateVerdict,
    Restarts,
    Verdict,
    confidence_tolerance,
    judge,
    overall,
    verdicts,
)
from serinus_operator.gates.queries import Measurement, fill_in
from serinus_operator.gates.windows import Window, subtract
from serinus_operator.manifests import Release
from serinus_operator.prometheus import Prometheus
from serinus_operator.promql import Queries
from serinus_operator.rollout.model import Status
from serinus_operator.rollout.observed import AnalysisResult, Observed
from serinus_operator.spec import AnalysisSpec, LatencyGate, PromQLGate

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# After a longer absence the windows before these are judged as one: an hour of 10 s each is read in a few minutes.
_MOST_READ_AGAIN: Final = 360
_SOON: Final = timedelta(seconds=0.05)


class Judging:
    """Judges releases. Keeps nothing between looks: what was judged is in the evidence."""

    def __init__(self, prometheus: Prometheus, queries: Queries, scrape_lag: timedelta) -> None:
        self._prometheus, self._queries, self._scrape_lag = prometheus, queries, scrape_lag

    async def look(
        self, analysis: AnalysisSpec, status: Status, observed: Observed, release: Release, now: datetime
    ) -> tuple[AnalysisResult, datetime | None]:
        """Adds the next window that has ended, if any. Returns the verdicts and when the window after it can be read.

        While later windows are still to be read nothing passes: they may hold what fails the canary.
        """
        judged = _judged(status, now)
        if judged is None:
            return AnalysisResult(), None
        canary, stable = judged
        latest, evidence = aligned(now - self._scrape_lag, analysis.interval), status.evidence
        if evidence is None or evidence.canary_revision != canary:
            if observed.workload(canary).side.ready == 0:
                return AnalysisResult(), None
            measured = None if status.canary is None else status.canary.confidence_odds_ratio
            evidence = Evidence(canary, latest, confidence_tolerance=confidence_tolerance(measured))
        error, achieved, behaviour = "", status.weight.achieved if evidence.requests else None, status.behaviour
        if latest > evidence.window_end:
            try:
                window = await self._window(analysis, evidence.window_end, latest, release)
                measurements = await self._measure(analysis, release, canary, stable, window.end)
            except Unavailable as unavailable:
                error = str(unavailable)
            else:
                evidence = judge(analysis, evidence, window, stable, measurements)
                if behaviour is None or behaviour.revision != canary:
                    behaviour = Behaviour(canary, window.start, window.end)
                behaviour = behaviour.add(window, stable)
                achieved = _share(window, canary, stable, achieved)
        restarts = Restarts(observed.workload(canary).restarts, observed.workload(stable).restarts)
        gates = verdicts(analysis, evidence, restarts)
        if error:
            gates = tuple(_without_data(gate, error) for gate in gates)
        verdict, soonest = overall(gates), now + timedelta(seconds=1)
        if latest > evidence.window_end and not error:
            verdict = Verdict.INCONCLUSIVE if verdict is Verdict.PASS else verdict
            soonest = now + _SOON
        next_window = max(
            aligned(evidence.window_end, analysis.interval) + analysis.interval + self._scrape_lag, soonest
        )
        return AnalysisResult(verdict, gates, evidence, achieved, behaviour), next_window

    async def _window(self, analysis: AnalysisSpec, start: datetime, latest: datetime, release: Release) -> Window:
        """The first window after `start`. Raises Unavailable."""
        key = (release.namespace, release.name)
        end = next_end(start, latest, analysis.interval)
        at_start = (await self._prometheus.snapshot(start)).get(key, {})
        at_end = (await self._prometheus.snapshot(end)).get(key, {})
        return subtract(start, at_start, end, at_end, _warm_up(analysis))

    async def _measure(
        self, analysis: AnalysisSpec, release: Release, canary: str, stable: str, at: datetime
    ) -> dict[str, Measurement]:
        """What the queries of the release's own gates say, by gate."""
        asked = {gate.name: gate.rule.query for gate in analysis.gates if isinstance(gate.rule, PromQLGate)}
        names = {"namespace": release.namespace, "release": release.name, "canary": canary, "stable": stable}
        said = [self._queries.measure(fill_in(query, **names), release.namespace, at) for query in asked.values()]
        return dict(zip(asked, await asyncio.gather(*said), strict=True))


def aligned(at: datetime, interval: timedelta) -> datetime:
    """The last multiple of `interval` since the epoch: all releases with the same interval share their instants."""
    return at - (at - EPOCH) % interval


def next_end(start: datetime, latest: datetime, interval: timedelta) -> datetime:
    """Where the first window after `start` ends, of those until `latest`: the next aligned instant, unless too many have passed."""
    return max(aligned(start, interval) + interval, latest - (_MOST_READ_AGAIN - 1) * interval)


def _judged(status: Status, now: datetime) -> tuple[str, str] | None:
    """The revision that is judged and the one that it is compared with: canary and stable, or while baking stable and the former."""
    canary, stable, former = status.canary, status.stable, status.former
    if stable is not None and canary is not None and canary.ending is None:
        return canary.revision, stable.revision
    if stable is not None and canary is None and former is not None and now < former.bake_until:
        return stable.revision, former.revision
    return None


def _share(window: Window, canary: str, stable: str, before: int | None) -> int | None:
    """The canary's percentage of the window's requests; what it was before, where there were none."""
    ours, theirs = window.of(canary).requests, window.of(stable).requests
    return round(100 * ours / (ours + theirs)) if ours + theirs > 0 else before


def _warm_up(analysis: AnalysisSpec) -> timedelta:
    """How long a pod's requests are not compared: the longest that a gate asks for."""
    return max(
        (gate.rule.warm_up for gate in analysis.gates if isinstance(gate.rule, LatencyGate)), default=timedelta()
    )


def _without_data(gate: GateVerdict, error: str) -> GateVerdict:
    """A failure stands; anything else cannot be told while data is missing."""
    return (
        gate if gate.verdict is Verdict.FAIL else replace(gate, verdict=Verdict.ERROR, message=f"{gate.name}: {error}")
    )
