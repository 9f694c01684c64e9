"""Pictures and arrays of results as files: PNG of folded maps, NPZ of predictions and powders."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, PowerNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from simulations.arrays import FloatArray
from simulations.fold import PlaneReach, ZoneReach
from simulations.saved_file import write_whole
from steering.run import PowderFold, RunSnapshot, SpectrumView, save_snapshot

UNKNOWN = "#b4b4b4"  # where D = 0
NOT_COUNTED = 1.15  # 68 % limit on the expected count where nothing was counted
ZONES_SHOWN = 24
GREEK = {"Gamma": "Γ", "GAMMA": "Γ", "Sigma": "Σ", "Delta": "Δ", "Lambda": "Λ"}


def folded_map_png(view: SpectrumView, *, title: str = "") -> bytes:
    """:func:`folded_map` as PNG."""
    return _png(folded_map(view, title=title))


def folded_map(
    view: SpectrumView, *, title: str = "", fitted_from_meV: float | None = None
) -> Figure:
    """Measured map, model and residual with the estimated branches, and the coverage.

    What lies below ``fitted_from_meV`` (the elastic band) is hatched: the model is not held
    against it, so it has neither model nor residual.

    Cells without exposure are grey: unknown, not empty. Cells that the fit does not look at, those
    of the elastic band, are darkened. Colours are safe for the colour-blind.
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
    _map(
        grid[1, 1],
        view,
        edges,
        exposure,
        f"exposure, {covered_share(view):.0%} of the path's cells are covered",
        label,
        cmap="viridis",
        line=None,
    )
    for axes in grid[:, 0]:
        axes.set_ylabel("energy transfer (meV)")
    if fitted_from_meV is not None and fitted_from_meV > visible_energies(view)[0]:
        for axes in (grid[0, 1], grid[1, 0]):
            _hatch(axes, visible_energies(view)[0], fitted_from_meV)
    return figure


def _hatch(axes: Axes, low: float, high: float) -> None:
    """Mark a band of energies as not fitted."""
    axes.axhspan(
        low, high, facecolor=UNKNOWN, edgecolor="0.45", hatch="////", linewidth=0, zorder=3
    )
    axes.text(
        0.5,
        high,
        "hatched: elastic band, not fitted",
        transform=axes.get_yaxis_transform(),
        ha="center",
        va="bottom",
        fontsize=8,
        zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )


def write_folded_map(view: SpectrumView, path: Path | str, *, title: str = "") -> None:
    """Write :func:`folded_map_png` to ``path``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, folded_map_png(view, title=title))


def spectrum_npz(view: SpectrumView) -> bytes:
    """All arrays of a spectrum as an NPZ file without pickle."""
    buffer = io.BytesIO()
    exposure = view.exposure if view.exposure is not None else np.full(view.intensity.shape, np.nan)
    given = {
        "fitted": view.fitted,
        "hkl_rlu": view.hkl,
        "counts": view.counts,
        "scale": view.scale,
        "branches_p05_meV": view.branches_low,
        "branches_p95_meV": view.branches_high,
    }
    more: dict[str, Any] = {name: array for name, array in given.items() if array is not None}
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
        **more,
        segment_breaks=np.array(view.segment_breaks, dtype=int),
        tick_positions=np.array(view.tick_positions, dtype=float),
        tick_labels=np.array(view.tick_labels, dtype=str),
    )
    return buffer.getvalue()


def spectrum_of_npz(content: bytes) -> SpectrumView:
    """The spectrum that :func:`spectrum_npz` made, to the last bit."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    axes: dict[str, Any] = {
        name: tuple(arrays.pop(name).tolist())
        for name in ("segment_breaks", "tick_positions", "tick_labels")
    }
    if np.isnan(arrays["exposure"]).all():  # it was not known
        del arrays["exposure"]
    named = {
        "branches_meV": "branches",
        "hkl_rlu": "hkl",
        "branches_p05_meV": "branches_low",
        "branches_p95_meV": "branches_high",
    }
    for name, field in named.items():
        if name in arrays:
            arrays[field] = arrays.pop(name)
    return SpectrumView(**arrays, **axes)


def write_replayed(snapshot: RunSnapshot, folder: Path) -> None:
    """Write what people look at of a replayed run: ``snapshot.npz`` and ``folded.png``."""
    save_snapshot(snapshot, folder / "snapshot.npz")
    if snapshot.spectrum is not None:
        write_folded_map(snapshot.spectrum, folder / "folded.png", title=snapshot.title)


def write_arrays(values: dict[str, Any], path: Path | str) -> None:
    """Write the numeric lists and arrays of nested ``values`` to one NPZ, keys joined by dots."""
    found: dict[str, np.ndarray] = {}
    _collect(values, "", found)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **found)  # pyright: ignore[reportArgumentType]
    write_whole(path, buffer.getvalue())


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


def covered_share(view: SpectrumView) -> float:
    """Share of path cells with exposure, of those beyond the energies shown too."""
    return float(np.isfinite(view.intensity).mean())


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
    if line is not None and view.fitted is not None:
        left = np.isfinite(view.intensity) & ~view.fitted
        shade = np.ma.masked_where(~left, np.ones(left.shape)).T
        axes.pcolormesh(
            edges,
            view.energy_edges_meV,
            shade,
            cmap="gray_r",
            vmin=0,
            vmax=1,
            alpha=0.6,
            rasterized=True,
        )
        title = f"{title}; dark: not fitted" if left.any() else title
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


def write_fold_maps(
    view: SpectrumView,
    path: Path | str,
    *,
    title: str = "",
    reduced: bool = False,
    net: bool = False,
) -> None:
    """Write :func:`fold_maps_png` to ``path``."""
    _write(fold_maps_png(view, title=title, reduced=reduced, net=net), path)


def fold_maps_png(
    view: SpectrumView, *, title: str = "", reduced: bool = False, net: bool = False
) -> bytes:
    """I = S/D, the exposure D and the error of a fold, without any estimate, as PNG.

    ``net``: a can was taken off, I = (S - can)/D.

    Cells with D = 0 are grey in all three: unknown, not empty. Where D > 0 and nothing was counted
    the error is the 68 % limit 1.15/D. ``reduced`` input has no counts: its units are the files'.
    """
    D = np.zeros(view.intensity.shape) if view.exposure is None else view.exposure
    ticks = [pretty(label) for label in view.tick_labels]
    edges = position_edges(view)

    def mark(axes: Axes) -> None:
        for position, tick in zip(view.tick_positions, ticks, strict=True):
            width = 1.8 if "|" in tick else 0.6  # the path jumps there
            axes.axvline(position, color="black", linewidth=width, alpha=0.6)
        axes.set_xticks(list(view.tick_positions), ticks)
        axes.set_xlim(edges[0], edges[-1])
        axes.tick_params(axis="x", length=0)

    return _three_maps(
        (edges, view.energy_edges_meV),
        (view.intensity, D, _error(D, view.sigma, reduced)),
        mark=mark,
        title=title,
        along="",
        reduced=reduced,
        shown="I = (S \u2212 can)/D" if net else "I = S/D",
    )


def write_powder_fold(folded: PowderFold, path: Path | str) -> None:
    """Write the sums of a powder fold to ``path`` (NPZ) and their maps beside it (PNG)."""
    path = Path(path)
    total = folded.sums
    write_arrays(
        {
            "S": total.signal,
            "V": total.variance,
            "N": total.counts,
            "D": total.exposure,
            "flat_exposure": total.flat,
            "gaussian": np.array(total.gaussian),
            "momentum_edges_inverse_angstrom": folded.momentum_edges,
            "energy_edges_meV": folded.energy_edges_meV,
            "ei_meV": np.float64(folded.ei_meV),
            "temperature_K": np.float64(folded.temperature_K),
        },
        path,
    )
    _write(powder_maps_png(folded), path.with_suffix(".png"))


def powder_maps_png(folded: PowderFold) -> bytes:
    """S(|Q|, E), its exposure and its error as PNG; grey where D = 0."""
    total = folded.sums
    return _three_maps(
        (folded.momentum_edges, folded.energy_edges_meV),
        (
            total.intensity,
            total.exposure,
            _error(total.exposure, total.sigma, total.gaussian),
        ),
        mark=lambda axes: axes.set_xlim(folded.momentum_edges[0], folded.momentum_edges[-1]),
        title=folded.title,
        along="|Q| (1/\u00c5)",
        reduced=total.gaussian,
    )


def _error(D: FloatArray, sigma: FloatArray, reduced: bool) -> FloatArray:
    known = D > 0
    limit = NOT_COUNTED / np.where(known, D, 1.0)
    value = sigma if reduced else np.where(sigma > 0, sigma, limit)
    return np.where(known, value, np.nan)


def _three_maps(
    edges: tuple[FloatArray, FloatArray],
    maps: tuple[FloatArray, FloatArray, FloatArray],
    *,
    mark: Any,
    title: str,
    along: str,
    reduced: bool,
    shown: str = "I = S/D",
) -> bytes:
    """Draw I large, and D and the error under it; all (x bins, energy bins)."""
    figure = Figure(figsize=(13, 9.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.5, 1))
    main = figure.add_subplot(grid[0, :])
    panels = (main, figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1]))
    intensity, D, error = maps
    known = maps[1] > 0
    covered = np.flatnonzero(known.any(axis=0))
    low, high = (covered[0], covered[-1] + 1) if len(covered) else (0, D.shape[1])
    unit = "unit of the files" if reduced else "counts / (C sr meV)"
    for axes, values, name, label, cmap, norm in (
        (
            main,
            intensity,
            shown,
            unit,
            "cividis",
            PowerNorm(0.5, vmin=0, vmax=_limit(intensity, 97)),
        ),
        (
            panels[1],
            np.where(known, D, np.nan),
            f"exposure D, {known[:, low:high].mean():.0%} of the cells shown are covered",
            "sr meV" if reduced else "C sr meV",
            "viridis",
            _log_norm(D),
        ),
        (
            panels[2],
            error,
            "error \u221aV / D" + ("" if reduced else " (nothing counted: 1.15 / D)"),
            unit,
            "magma",
            _log_norm(error),
        ),
    ):
        axes.set_facecolor(UNKNOWN)
        mesh = axes.pcolormesh(
            edges[0],
            edges[1],
            np.ma.masked_invalid(values.T),
            cmap=cmap,
            norm=norm,
            rasterized=True,
        )
        bar = figure.colorbar(mesh, ax=axes, label=label, pad=0.01)
        if axes is main:
            bar.formatter = ScalarFormatter(useMathText=True)
            bar.formatter.set_powerlimits((-2, 3))
            bar.update_ticks()
        axes.set_title(name, fontsize=11)
        axes.set_ylim(float(edges[1][low]), float(edges[1][high]))
        axes.set_ylabel("energy transfer (meV)")
        axes.set_xlabel(along)
        mark(axes)
    if title:
        figure.suptitle(title)
    main.text(
        1.0,
        1.02,
        "grey: no exposure, unknown",
        transform=main.transAxes,
        ha="right",
        fontsize=9,
        bbox={"facecolor": UNKNOWN, "edgecolor": "none", "pad": 2},
    )
    return _png(figure)


def _limit(values: FloatArray, percentile: float) -> float:
    found = values[np.isfinite(values) & (values > 0)]
    return float(np.percentile(found, percentile)) if len(found) else 1.0


def _log_norm(values: FloatArray) -> LogNorm:
    """From the 1st to the 97th percentile, which leaves out cells that were hardly seen."""
    top = _limit(values, 97)
    return LogNorm(max(top / 300, min(_limit(values, 1), top / 2)), top)


def write_reach(
    plane: PlaneReach,
    zones: ZoneReach,
    view: SpectrumView,
    path: Path | str,
    *,
    title: str = "",
    axis_labels: tuple[str, str] = ("along u", "along v"),
) -> None:
    """Write :func:`reach_png` to ``path``."""
    _write(reach_png(plane, zones, view, title=title, axis_labels=axis_labels), path)


def reach_png(
    plane: PlaneReach,
    zones: ZoneReach,
    view: SpectrumView,
    *,
    title: str = "",
    axis_labels: tuple[str, str] = ("along u", "along v"),
) -> bytes:
    """Which zones and tubes the measured orientations reach, as PNG.

    Left: the horizontal plane with zone boundaries, tubes, and what the detectors see, coloured by
    energy transfer (one orientation) or by how many orientations see it. Right: exposure of every
    path bin by zone, those with most of it first.
    """
    figure = Figure(figsize=(14.5, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    several = int(plane.orientations.max(initial=0)) > 1
    seen = plane.orientations > 0
    shown = np.where(seen, plane.orientations if several else plane.energy_meV, np.nan)
    box = (plane.along[0], plane.along[-1], plane.across[0], plane.across[-1])
    image = left.imshow(
        np.ma.masked_invalid(shown),
        extent=box,
        origin="lower",
        cmap="viridis",
        alpha=0.55,
        interpolation="nearest",
    )
    figure.colorbar(
        image,
        ax=left,
        label="orientations that reach it" if several else "energy transfer (meV)",
        ticks=MaxNLocator(integer=True),
        pad=0.01,
        shrink=0.8,
    )
    tube = plane.path_bin >= 0
    for where, color in ((tube & ~seen, (0.6, 0.6, 0.6, 0.6)), (tube & seen, (0.85, 0.1, 0.1, 1))):
        layer = np.zeros((*tube.shape, 4))
        layer[where] = color
        left.imshow(layer, extent=box, origin="lower", interpolation="nearest")
    edge = np.zeros(plane.zone.shape, bool)
    edge[:, 1:] |= plane.zone[:, 1:] != plane.zone[:, :-1]
    edge[1:] |= plane.zone[1:] != plane.zone[:-1]
    layer = np.zeros((*edge.shape, 4))
    layer[edge] = (0, 0, 0, 0.35)
    left.imshow(layer, extent=box, origin="lower", interpolation="nearest")
    left.plot(0, 0, "k+")
    left.set_aspect("equal")
    if seen.any():
        margin = 0.12 * (plane.along[-1] - plane.along[0])
        for axis, line, limit in (
            (0, plane.along, left.set_xlim),
            (1, plane.across, left.set_ylim),
        ):
            found = line[seen.any(axis=axis)]
            limit(
                max(line[0], min(found[0], 0.0) - margin),
                min(line[-1], max(found[-1], 0.0) + margin),
            )
    left.set_xlabel(f"{axis_labels[0]} (1/\u00c5)")
    left.set_ylabel(f"{axis_labels[1]} (1/\u00c5)")
    left.set_title("horizontal plane: tubes reached (red) or not (grey), zone edges", fontsize=10)
    count = min(len(zones.hkl), ZONES_SHOWN)
    edges = position_edges(view)
    right.set_facecolor(UNKNOWN)
    if count:
        values = zones.exposure[:count]
        mesh = right.pcolormesh(
            edges,
            np.arange(count + 1) - 0.5,
            np.ma.masked_less_equal(values, 0),
            cmap="viridis",
            norm=_log_norm(values),
            rasterized=True,
        )
        figure.colorbar(mesh, ax=right, label="solid angle x energy (sr meV)", pad=0.01, shrink=0.8)
        right.set_yticks(
            np.arange(count),
            [" ".join(str(i).replace("-", "\u2212") for i in hkl) for hkl in zones.hkl[:count]],
            fontsize=8,
        )
        right.invert_yaxis()
    for position in view.tick_positions:
        right.axvline(position, color="black", linewidth=0.6, alpha=0.6)
    right.set_xticks(list(view.tick_positions), [pretty(label) for label in view.tick_labels])
    right.set_xlim(edges[0], edges[-1])
    right.set_ylabel("zone (hkl of its centre)")
    total = zones.exposure.sum()
    share = zones.exposure[:count].sum() / total if total > 0 else 0.0
    right.set_title(
        f"{count} of {len(zones.hkl)} zones reached hold {share:.0%} of the exposure; grey: none",
        fontsize=10,
    )
    if title:
        figure.suptitle(title)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _write(content: bytes, path: Path | str) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
