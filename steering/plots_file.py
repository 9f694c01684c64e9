"""Pictures and arrays of results as files: PNG of the folded map, NPZ of a prediction."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from steering.run_store import SpectrumView

FloatArray = NDArray[np.float64]
UNKNOWN = "#b4b4b4"  # where D = 0
GREEK = {"Gamma": "Γ", "GAMMA": "Γ", "Sigma": "Σ", "Delta": "Δ", "Lambda": "Λ"}


def folded_map_png(view: SpectrumView, *, title: str = "") -> bytes:
    """Measured map, model and residual with the estimated branches, and the coverage, as PNG.

    Cells without exposure are grey: unknown, not empty. Colours are safe for the colour-blind.
    """
    figure = Figure(figsize=(13, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    if title:
        figure.suptitle(title)
    edges = position_edges(view)
    top = intensity_limit(view)
    for axes, values, name in (
        (grid[0, 0], view.intensity, "measured (branches: estimate)"),
        (grid[0, 1], view.model_intensity, "model"),
    ):
        scale = PowerNorm(0.5, vmin=0, vmax=top)
        _map(axes, view, edges, values, name, "barn/meV/sr", norm=scale)
    _map(
        grid[1, 0],
        view,
        edges,
        view.residual_sigma,
        "residual",
        "(measured - model) / sigma",
        cmap="RdBu_r",
        norm=TwoSlopeNorm(0, -5, 5),
        line="black",
    )
    if view.exposure is not None:
        exposure = np.where(view.exposure > 0, view.exposure, np.nan)
        label = "D"
    else:
        exposure = np.where(np.isfinite(view.intensity), 1.0, np.nan)
        label = "covered"
    covered = float(np.isfinite(exposure).mean())
    _map(
        grid[1, 1],
        view,
        edges,
        exposure,
        f"exposure, {covered:.0%} of the cells covered",
        label,
        cmap="viridis",
        line=None,
    )
    for axes in grid[:, 0]:
        axes.set_ylabel("energy transfer (meV)")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def write_folded_map(view: SpectrumView, path: Path | str, *, title: str = "") -> None:
    """Write :func:`folded_map_png` to ``path``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(folded_map_png(view, title=title))


def spectrum_npz(view: SpectrumView) -> bytes:
    """All arrays of a spectrum as an NPZ file without pickle."""
    buffer = io.BytesIO()
    exposure = view.exposure if view.exposure is not None else np.full(view.intensity.shape, np.nan)
    np.savez_compressed(
        buffer,
        path_position=view.path_position,
        energy_edges_meV=view.energy_edges_meV,
        intensity=view.intensity,
        sigma=view.sigma,
        model_intensity=view.model_intensity,
        residual_sigma=view.residual_sigma,
        branches_meV=view.branches,
        exposure=exposure,
        segment_breaks=np.array(view.segment_breaks, dtype=int),
        tick_positions=np.array(view.tick_positions, dtype=float),
        tick_labels=np.array(view.tick_labels, dtype=str),
    )
    return buffer.getvalue()


def write_arrays(values: dict[str, Any], path: Path | str) -> None:
    """Write the numeric lists and arrays of nested ``values`` to one NPZ, keys joined by dots."""
    found: dict[str, np.ndarray] = {}
    _collect(values, "", found)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, **found)  # pyright: ignore[reportArgumentType]


def _collect(value: Any, name: str, found: dict[str, np.ndarray]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _collect(item, f"{name}.{key}" if name else str(key), found)
    elif isinstance(value, np.ndarray):
        found[name] = value
    elif isinstance(value, list | tuple) and value:
        try:
            array = np.array(value, dtype=float)
        except (TypeError, ValueError):
            return
        found[name] = array


def position_edges(view: SpectrumView) -> FloatArray:
    """Edges of the path bins, (bins + 1,), half-way between centres."""
    x = view.path_position
    if len(x) == 1:
        return np.array([x[0] - 0.5, x[0] + 0.5])
    middle = (x[1:] + x[:-1]) / 2
    return np.concatenate([[1.5 * x[0] - 0.5 * x[1]], middle, [1.5 * x[-1] - 0.5 * x[-2]]])


def visible_energies(view: SpectrumView) -> tuple[float, float]:
    """Energy range worth drawing: bins with exposure in any cell, and the estimated branches."""
    covered = np.isfinite(view.intensity).any(axis=0)
    edges = view.energy_edges_meV
    if not covered.any():
        return float(edges[0]), float(edges[-1])
    found = np.flatnonzero(covered)
    upper = float(edges[found[-1] + 1])
    if np.isfinite(view.branches).any():
        upper = max(upper, 1.04 * float(np.nanmax(view.branches)))
    return float(edges[found[0]]), min(upper, float(edges[-1]))


def intensity_limit(view: SpectrumView) -> float:
    """Upper end of the colour scale: the 96th percentile of what is known and not zero."""
    known = np.concatenate([a[np.isfinite(a)] for a in (view.intensity, view.model_intensity)])
    known = known[known > 0]
    return float(np.percentile(known, 96)) if len(known) else 1.0


def _map(
    axes: Axes,
    view: SpectrumView,
    edges: FloatArray,
    values: FloatArray,
    title: str,
    label: str,
    *,
    cmap: str = "cividis",
    line: str | None = "white",
    **scale: Any,
) -> None:
    axes.set_facecolor(UNKNOWN)
    mesh = axes.pcolormesh(
        edges,
        view.energy_edges_meV,
        np.ma.masked_invalid(values.T),
        cmap=cmap,
        rasterized=True,
        **scale,
    )
    axes.figure.colorbar(mesh, ax=axes, label=label, pad=0.01)
    axes.set_title(title, fontsize=10)
    if line is not None:
        starts = [0, *view.segment_breaks, len(view.path_position)]
        for start, stop in zip(starts, starts[1:], strict=False):
            axes.plot(
                view.path_position[start:stop],
                np.where(view.branches > 0, view.branches, np.nan)[start:stop],
                color=line,
                linewidth=0.8,
                alpha=0.9,
            )
    for position in view.tick_positions:
        axes.axvline(position, color="black", linewidth=0.5, alpha=0.6)
    axes.set_xticks(list(view.tick_positions), [pretty(label) for label in view.tick_labels])
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(*visible_energies(view))


def pretty(label: str) -> str:
    """Return a point's label with Greek letters, e.g. ``Gamma`` as Γ."""
    return "|".join(GREEK.get(part, part) for part in label.split("|"))
