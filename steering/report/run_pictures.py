"""Pictures of a run's report: cuts through the folded map, pulls, and how errors fell."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulations.arrays import FloatArray
from steering.report.plots_file import NOT_COUNTED, pretty, visible_energies
from steering.run import HistoryEntry, SpectrumView

CUTS = 6  # shown at most
CUT_BINS = 3  # path bins that a cut sums over
PULLS = 6.0  # shown range of pulls
# Okabe and Ito: told apart by the colour-blind too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STYLES = ("-", "--", "-.", ":")


def svg(figure: Figure) -> bytes:
    """A figure as SVG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "beamsteer", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    return buffer.getvalue()


def cuts(view: SpectrumView) -> Figure | None:
    """Intensity against energy in the middle of each segment of the path, with model and errors.

    Cells without exposure are left out, not zero; where nothing was counted a bar without a dot
    reaches up to the 68 % limit 1.15/D. None where no cell has exposure.
    """
    shown = [
        (low, high, label)
        for low, high, label in _middles(view)
        if _sum(view, low, high) is not None
    ]
    shown = shown[:: max(1, -(-len(shown) // CUTS))]
    if not shown:
        return None
    rows = -(-len(shown) // 2)
    figure = Figure(figsize=(13, 2.6 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 2, sharex=True, squeeze=False)
    energy = (view.energy_edges_meV[1:] + view.energy_edges_meV[:-1]) / 2
    for axes, (low, high, label) in zip(grid.flat, shown, strict=False):
        found = _sum(view, low, high)
        if found is None:
            continue
        intensity, sigma, model = found
        known = np.isfinite(intensity)
        counted = known & (sigma > 0)
        axes.errorbar(
            energy[counted],
            intensity[counted],
            sigma[counted],
            fmt="o",
            markersize=3,
            color="black",
            linewidth=0.9,
            label="measured",
        )
        axes.plot(energy, model, color=COLOURS[1], linewidth=1.4, label="model")
        empty = known & (sigma == 0)
        if empty.any() and view.exposure is not None:
            exposure = view.exposure[low:high].sum(axis=0)
            scale = _scale(view, low, high)
            limit = NOT_COUNTED * scale / np.where(exposure > 0, exposure, 1.0)
            axes.vlines(energy[empty], 0, limit[empty], color="0.6", linewidth=0.9)
        axes.set_title(label, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.set_xlim(*visible_energies(view))
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("barn/meV/sr per cell")
    for axes in grid[-1]:
        axes.set_xlabel("energy transfer (meV)")
    grid[0, 0].legend(frameon=False, fontsize=9)
    return figure


def _middles(view: SpectrumView) -> list[tuple[int, int, str]]:
    """First and last bin of a cut in the middle of every segment, and its name."""
    found: list[tuple[int, int, str]] = []
    ticks = list(zip(view.tick_positions, view.tick_labels, strict=True))
    for (left, start), (right, end) in zip(ticks, ticks[1:], strict=False):
        inside = np.flatnonzero((view.path_position > left) & (view.path_position < right))
        if not len(inside):
            continue
        middle = int(inside[len(inside) // 2])
        low = max(int(inside[0]), middle - CUT_BINS // 2)
        high = min(int(inside[-1]) + 1, low + CUT_BINS)
        names = start.split("|")[-1], end.split("|")[0]
        label = f"middle of {pretty(names[0])}\u2013{pretty(names[1])}, {high - low} bins"
        found.append((low, high, label))
    return found


def _sum(
    view: SpectrumView, low: int, high: int
) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Intensity, its error and the model of some bins together, by sums and never by averages."""
    D = _exposure(view)[low:high]
    total = D.sum(axis=0)
    if not (total > 0).any():
        return None
    divisor = np.where(total > 0, total, np.nan)

    def together(values: FloatArray) -> FloatArray:
        return (np.where(D > 0, np.nan_to_num(values[low:high]), 0.0) * D).sum(axis=0) / divisor

    variance = (np.where(D > 0, np.nan_to_num(view.sigma[low:high]), 0.0) * D) ** 2
    seen = np.isfinite(view.model_intensity[low:high]).any(axis=0)
    model = np.where(seen, together(view.model_intensity), np.nan)
    return together(view.intensity), np.sqrt(variance.sum(axis=0)) / divisor, model


def _exposure(view: SpectrumView) -> FloatArray:
    if view.exposure is not None:
        return view.exposure
    return np.isfinite(view.intensity).astype(float)


def _scale(view: SpectrumView, low: int, high: int) -> float:
    """What one count in unit exposure is worth: the variance is that of counts."""
    D, sigma, intensity = (
        _exposure(view)[low:high],
        view.sigma[low:high],
        view.intensity[low:high],
    )
    counted = (D > 0) & (sigma > 0) & (intensity > 0)
    if not counted.any():
        return 0.0
    return float(np.median(sigma[counted] ** 2 * D[counted] / intensity[counted]))


def pulls(view: SpectrumView) -> Figure | None:
    """Histogram of (measured - model)/sigma against a unit Gaussian; None without an estimate."""
    values = view.residual_sigma[np.isfinite(view.residual_sigma)]
    if not len(values):
        return None
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    edges = np.linspace(-PULLS, PULLS, 49)
    inside = np.clip(values, -PULLS + 1e-9, PULLS - 1e-9)
    axes.hist(
        inside, edges.tolist(), color="#56b4e9", edgecolor="white", linewidth=0.3, label="cells"
    )
    x = np.linspace(-PULLS, PULLS, 400)
    width = edges[1] - edges[0]
    gauss = len(values) * width * np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    axes.plot(x, gauss, color="black", linewidth=1.2, label="unit Gaussian")
    axes.set_xlabel("(measured \u2212 model) / sigma")
    axes.set_ylabel("cells")
    axes.set_title(
        f"{len(values):,} cells: mean {values.mean():+.2f}, spread {values.std():.2f}; "
        f"{(np.abs(values) > 3).mean():.2%} beyond 3",
        fontsize=10,
    )
    axes.legend(frameon=False, fontsize=9)
    return figure


def errors_over_time(history: Sequence[HistoryEntry], targets: dict[str, float]) -> Figure | None:
    """Sigma over its target after every chunk, for each parameter with a target.

    Looks that were not trusted are open circles: they claim nothing. None without a history.
    """
    names = [name for name in targets if any(p.name == name for h in history for p in h.parameters)]
    if not history or not names:
        return None
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    minutes = np.array([h.minutes_used for h in history])
    trusted = np.array([h.trusted for h in history])
    for i, name in enumerate(names):
        sigma = np.array(
            [next((p.sigma for p in h.parameters if p.name == name), np.nan) for h in history]
        )
        ratio = sigma / targets[name]
        colour, style = COLOURS[i % len(COLOURS)], STYLES[i // len(COLOURS) % len(STYLES)]
        axes.plot(minutes, ratio, style, color=colour, linewidth=1.2, label=name)
        axes.plot(minutes[trusted], ratio[trusted], "o", color=colour, markersize=4)
        axes.plot(minutes[~trusted], ratio[~trusted], "o", mfc="white", mec=colour, markersize=4)
    axes.axhline(1.0, color="black", linewidth=1.0)
    axes.annotate(
        "target",
        (1.0, 1.0),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=9,
    )
    axes.set_yscale("log")
    axes.set_xlabel("beam minutes")
    axes.set_ylabel("sigma / target")
    axes.set_title("open circles: not trusted at that look", fontsize=10)
    axes.legend(frameon=False, fontsize=8, ncols=1 + len(names) // 6)
    return figure
