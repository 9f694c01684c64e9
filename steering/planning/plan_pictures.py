"""Pictures of a plan: gain by orientation, what is covered, and how errors would fall."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from steering.planning.scan_plan import ScanPlan
from steering.report import COLOURS, STYLES, UNKNOWN, pretty

MOST_MARKED = 12  # orientations of the schedule that are marked


def plan_figure(plan: ScanPlan) -> Figure:
    """All of them in one figure."""
    figure = Figure(figsize=(12.5, 8.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplot_mosaic(
        [["gain", "alone"], ["covered", "errors"]],
        width_ratios=(1.25, 1),
        height_ratios=(1, 1.2),
    )
    _by_psi(axes["gain"], plan, alone=False)
    _by_psi(axes["alone"], plan, alone=True)
    _coverage(figure, axes["covered"], plan)
    _errors(axes["errors"], plan)
    figure.suptitle(f"{plan.title}: a plan before any data", x=0.01, ha="left", fontsize=12)
    return figure


def _by_psi(axes: Axes, plan: ScanPlan, *, alone: bool) -> None:
    """Gain, or hours at one orientation alone, over psi; a line for each incident energy."""
    for k, offer in enumerate(sorted(plan.energies, key=lambda one: one.ei_meV)):
        values = offer.alone_hours if alone else offer.gain_per_minute
        axes.plot(
            offer.psi_deg,
            np.where(np.isfinite(values), values, np.nan),
            STYLES[k % len(STYLES)],
            color=COLOURS[k % len(COLOURS)],
            linewidth=1.5,
            marker="o",
            markersize=3,
            label=f"{offer.ei_meV:g} meV" + (" (best)" if offer is plan.best else ""),
        )
    axes.set_xlabel("psi (degrees)")
    if alone:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylabel("wall hours")
        title = "Until every target, one orientation alone"
    else:
        gain = dict(zip(plan.best.psi_deg, plan.best.gain_per_minute, strict=True))
        shown = plan.orientations[:MOST_MARKED]
        axes.scatter(
            [psi for psi, _, _ in shown],
            [gain[psi] for psi, _, _ in shown],
            s=[40 + 160 * minutes / shown[0][1] for _, minutes, _ in shown],
            facecolors="none",
            edgecolors="black",
            linewidths=1.3,
            zorder=3,
            label="planned",
        )
        axes.set_ylabel("gain per wall minute")
        title = "What the first minutes bring, mean over draws of the prior"
    axes.set_title(title, fontsize=11, loc="left")
    axes.legend(frameon=False, fontsize=9)


def _coverage(figure: Figure, axes: Axes, plan: ScanPlan) -> None:
    """Share of the planned time that sees each cell of the path, with branches of the draws."""
    edges = _edges(plan.path_position)
    seen = np.ma.masked_less_equal(plan.covered.T, 0.0)
    colours = mpl.colormaps["Blues"].with_extremes(bad=UNKNOWN)
    drawn = axes.pcolormesh(
        edges, plan.energy_edges_meV, seen, cmap=colours, vmin=0, vmax=1, rasterized=True
    )
    for branches in plan.branches[:8]:
        axes.plot(plan.path_position, branches, color=COLOURS[1], linewidth=0.5, alpha=0.5)
    axes.set_xticks(plan.tick_positions, [pretty(label) for label in plan.tick_labels])
    for tick in plan.tick_positions:
        axes.axvline(tick, color="0.4", linewidth=0.6)
    axes.set_ylim(max(plan.energy_edges_meV[0], 0.0), plan.energy_edges_meV[-1])
    axes.set_ylabel("energy transfer (meV)")
    axes.set_title(
        f"Share of the time that sees a cell, Ei {plan.best.ei_meV:g} meV (grey: never)",
        fontsize=11,
        loc="left",
    )
    figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.01)


def _errors(axes: Axes, plan: ScanPlan) -> None:
    """Largest sigma over target against wall hours of the schedule."""
    hours = [0.0, *(step.wall_hours for step in plan.steps)]
    worst = [plan.start_worst, *(step.worst for step in plan.steps)]
    axes.plot(hours, worst, "o-", color=COLOURS[0], markersize=4)
    axes.axhline(1.0, color="black", linewidth=0.9, linestyle="--")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(left=0)
    axes.set_xlabel("wall hours")
    axes.set_ylabel("largest sigma / target, median")
    axes.set_title("How the schedule approaches its targets", fontsize=11, loc="left")


def _edges(centres: np.ndarray) -> np.ndarray:
    middle = 0.5 * (centres[1:] + centres[:-1])
    first = centres[0] - (middle[0] - centres[0]) if len(middle) else centres[0] - 0.5
    last = centres[-1] + (centres[-1] - middle[-1]) if len(middle) else centres[-1] + 0.5
    return np.concatenate([[first], middle, [last]])
