"""Small charts as SVG without styles or scripts of their own: the page's style sheet draws them, by day and by night. Pure."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final, TypeAlias
from xml.etree import ElementTree

import pygal
from pygal.style import Style

JSON: TypeAlias = dict[str, Any]
Points: TypeAlias = Sequence[tuple[datetime, float]]

# pygal leaves a finder for its maps there, in a form that Python 3.11 warns of at every import of what is not installed.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]

_NARROWEST, _WIDEST, _HEIGHT = 240, 1200, 150
_POINTS: Final = 120  # of a line; more is finer than a pixel of a small chart
_TICK_SECONDS: Final = (60, 300, 600, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600)
_LEAST: Final = 1e-3  # where a logarithmic axis ends
_STYLE: Final = Style(label_font_size=11, major_label_font_size=11)  # pygal leaves room for labels of this size


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over time by whose they are: `stable`, `canary`, `desired` … `limit` is drawn across, `limit_says` names it.

    `range` is that of the axis where the data should not choose it; `stepped` where a value holds until the next one.
    """

    id: str
    title: str
    lines: Mapping[str, Points]
    unit: str = ""
    limit: float | None = None
    limit_says: str = "limit"
    log: bool = False
    stepped: bool = False
    range: tuple[float, float] | None = None
    from_zero: bool = False


def drawn(chart: Chart, start: datetime, end: datetime, width: int) -> JSON:
    """The chart for the page: its SVG, `width` pixels wide, and what it says, in words, for those who do not see it."""
    lines = {
        role: points for role, given in chart.lines.items() if (points := _thinned(_within(chart, given, start, end)))
    }
    last = {role: written(points[-1][1], chart.unit) for role, points in lines.items()}
    limit = "" if chart.limit is None else f"{chart.limit_says} {written(chart.limit, chart.unit)}"
    says = ", ".join([*(f"{role} {value}" for role, value in last.items()), *([limit] if limit else [])])
    return {
        "id": chart.id,
        "title": chart.title,
        "last": last,
        "limit": limit,
        "says": f"{chart.title}: {says or 'no data'}",
        "svg": _svg(chart, lines, start, end, min(max(width, _NARROWEST), _WIDEST)) if lines else "",
    }


def written(value: float, unit: str) -> str:
    """A value with its unit, short: seconds are given in milliseconds, shares in percent."""
    match unit:
        case "s":
            return f"{value * 1000:.3g} ms"
        case "share":
            return f"{value:.2%}" if value < 0.1 else f"{value:.1%}"
        case "%":
            return f"{value:.0f} %"
        case _:
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _svg(chart: Chart, lines: Mapping[str, Points], start: datetime, end: datetime, width: int) -> str:
    seconds = (start.timestamp(), end.timestamp())
    plot = pygal.XY(
        width=width, height=_HEIGHT, style=_STYLE, css=(), js=(), no_prefix=True, disable_xml_declaration=True,
        show_legend=False, margin=2, margin_right=12, spacing=6, min_scale=2, max_scale=4, dots_size=3,
        logarithmic=chart.log, range=chart.range, xrange=seconds,
        include_x_axis=chart.from_zero, x_value_formatter=_clock(seconds),
        value_formatter=lambda value: written(value, chart.unit), truncate_label=-1,
    )  # fmt: skip
    plot.x_labels = _ticks(*seconds)
    roles = []
    for role, points in lines.items():
        at = [(instant.timestamp(), value) for instant, value in points]
        plot.add(role, _stairs(at, seconds[1]) if chart.stepped else at)
        roles.append(role)
    if chart.limit is not None and (not chart.log or chart.limit > 0):
        plot.add("limit", [(seconds[0], chart.limit), (seconds[1], chart.limit)], show_dots=False)
        roles.append("limit")
    return _bare(plot.render_tree(), roles)


def _bare(tree: Any, roles: Sequence[str]) -> str:
    """Without what a strict policy refuses (styles, scripts), titles that a browser pops up, and pygal's own tooltips."""
    for parent in list(tree.iter()):
        for child in list(parent):
            tag = child.tag if isinstance(child.tag, str) else "comment"
            if tag in ("comment", "defs", "title") or "tooltip-overlay" in child.get("class", ""):
                parent.remove(child)
        classes = parent.get("class", "").split()
        if "series" in classes:
            index = next(int(each.removeprefix("serie-")) for each in classes if each.startswith("serie-"))
            parent.set("class", f"series {roles[index]}")
    tree.set("aria-hidden", "true")
    del tree.attrib["id"]
    return ElementTree.tostring(tree, encoding="unicode")


def _within(chart: Chart, points: Points, start: datetime, end: datetime) -> Points:
    """What is a number and in view; of a value that holds, also the last one before."""
    least = _LEAST if chart.log else -math.inf
    known = [(at, max(value, least)) for at, value in points if math.isfinite(value) and at <= end]
    before = [(start, value) for at, value in known if at < start][-1:] if chart.stepped else []
    return [*before, *((at, value) for at, value in known if at >= start)]


def _thinned(points: Points) -> Points:
    every = max(1, math.ceil(len(points) / _POINTS))
    return [*points[:-1:every], *points[-1:]]


def _stairs(points: list[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """A value holds until the next one."""
    steps = [point for (_, before), (at, value) in pairwise(points) for point in ((at, before), (at, value))]
    return [points[0], *steps, (end, points[-1][1])]


def _ticks(start: float, end: float) -> list[float]:
    """At most six round instants."""
    every = next((each for each in _TICK_SECONDS if (end - start) / each <= 6), _TICK_SECONDS[-1])
    first = math.ceil(start / every)
    return [float(tick * every) for tick in range(first, int(end // every) + 1)]


def _clock(span: tuple[float, float]) -> Callable[[float], str]:
    form = "%H:%M" if span[1] - span[0] <= 24 * 3600 else "%d %b %H:%M"
    return lambda seconds: datetime.fromtimestamp(seconds, UTC).strftime(form)
