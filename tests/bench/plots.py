"""The plots of `make bench-gates`, as small SVG files beside the docs that show them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from tests.bench.traffic_model import WINDOW, Noise

from serinus_operator.gates.tables import Floats

FOLDER = Path(__file__).parents[2] / "docs" / "plots"
_MINUTES_A_LOOK = WINDOW.total_seconds() / 60
_COLOURS = 6
_POINTS = 80  # of a curve: keeps the files small


def draw(false: Mapping[Noise, Mapping[str, Floats]], bad: Mapping[str, Floats], looks: int) -> None:
    """Writes gates-false-rollbacks.svg and gates-found.svg."""
    mpl.use("svg")
    mpl.rcParams.update(
        {
            "svg.hashsalt": "serinus",
            "svg.fonttype": "none",
            "font.size": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    from matplotlib import pyplot as plt

    FOLDER.mkdir(parents=True, exist_ok=True)
    figure, panels = plt.subplots(1, len(false), figsize=(10, 3.0), sharey=True)
    for panel, (noise, found) in zip(panels, false.items(), strict=True):
        for rule, at in found.items():
            panel.plot(*_share_by_time(at, looks), label=rule, linewidth=2 if rule.startswith("Serinus") else 1)
        panel.axhline(5, color="grey", linestyle=":", linewidth=1)
        panel.set(title=noise, xlabel="minutes", ylim=(-2, 102))
    panels[0].set_ylabel("good releases rolled back, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    _save(figure, "gates-false-rollbacks")
    figure, panel = plt.subplots(figsize=(7, 3.4))
    for index, (name, at) in enumerate(bad.items()):
        style = ("-", "--")[index // _COLOURS]
        panel.plot(*_share_by_time(at, 720), label=name, color=f"C{index % _COLOURS}", linestyle=style, linewidth=1.2)
    panel.set(
        xscale="log", xlabel="minutes", ylabel="bad canaries found, %", ylim=(-2, 102), xlim=(_MINUTES_A_LOOK, 120)
    )
    panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.tight_layout()
    _save(figure, "gates-found")


def _share_by_time(failed_at: Floats, looks: int) -> tuple[Floats, Floats]:
    """Minutes and the percentage of releases that had failed by then."""
    times: Floats = np.unique(np.geomspace(1, looks, _POINTS).round())
    shares: Floats = (failed_at[None, :] <= times[:, None]).mean(axis=1) * 100
    return times * _MINUTES_A_LOOK, shares


def _save(figure: mpl.figure.Figure, name: str) -> None:
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
