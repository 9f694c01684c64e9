"""Predicted spectra as PNG, NPZ and CSV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from simulations.arrays import FloatArray
from steering.predict.indirect_spectrum import IndirectSpectrum
from steering.predict.phonons_file import ELEMENTS, mark_path, source_title, subscripted
from steering.predict.spectrum_map import Setting, SpectrumMap
from steering.report import UNKNOWN, write_files

INTENSITY = "S(Q,E) (barn/meV/sr per primitive cell)"
MEV_PER_WAVENUMBER = 0.1239841984


def write_spectrum(found: SpectrumMap | IndirectSpectrum, names: Sequence[Path]) -> list[Path]:
    """Write a spectrum under names of `tables_file.named_files`; returns the files."""
    if isinstance(found, IndirectSpectrum):
        return write_files(
            names,
            picture=lambda: indirect_png(found),
            content=found.content(),
            tables=lambda: {"": _indirect_table(found)},
            notes=_notes(found.setting, "momentum of a bank: at the middle of the energy bin"),
        )
    return write_files(
        names,
        picture=lambda: map_png(found),
        content=found.content(),
        tables=lambda: {"": _map_table(found)},
        notes=_notes(found.setting, "empty cells: out of the instrument's reach"),
    )


def map_png(found: SpectrumMap) -> bytes:
    """Intensity in colour over both axes, as PNG; grey is out of the instrument's reach."""
    plane = found.kind == "plane"
    figure = Figure(figsize=(7.4, 6.4) if plane else (9.6, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_facecolor(UNKNOWN)
    scale = PowerNorm(0.5, vmin=0, vmax=colour_limit(found.intensity))
    pieces = [slice(0, len(found.x))]
    if found.path is not None:
        starts = [0, *found.path.breaks, len(found.x)]
        pieces = [slice(a, b) for a, b in zip(starts, starts[1:], strict=False)]
    mesh = None
    for piece in pieces:
        edges = found.x_edges if found.path is None else _edges_of(found.x[piece])
        mesh = axes.pcolormesh(
            edges,
            found.y_edges,
            np.ma.masked_invalid(found.intensity[piece].T),
            cmap="viridis",
            norm=scale,
            rasterized=True,
        )
        if found.branches_meV is not None:
            axes.plot(
                found.x[piece], found.branches_meV[piece], color="white", linewidth=0.6, alpha=0.45
            )
    if mesh is not None:
        bar = figure.colorbar(mesh, ax=axes, label=INTENSITY, pad=0.02, extend="max")
        bar.ax.tick_params(direction="in")
    _label(axes, found)
    figure.suptitle(
        f"{subscripted(found.setting.title)}: {source_title(found.setting.route)}\n"
        f"{found.setting.words}",
        fontsize=10.5,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def colour_limit(intensity: FloatArray) -> float:
    """Upper end of the colour scale: what the largest value of four columns in five stays below.

    Near a reflection acoustic phonons grow without bound and would hide all else.
    """
    known = np.isfinite(intensity).any(axis=1)
    highest = np.nanmax(intensity[known], axis=1)
    highest = highest[highest > 0]
    return float(np.percentile(highest, 80)) if len(highest) else 1.0


def _label(axes: Axes, found: SpectrumMap) -> None:
    axes.set_ylim(float(found.y_edges[0]), float(found.y_edges[-1]))
    axes.set_ylabel("energy transfer (meV)")
    axes.tick_params(direction="in")
    if found.path is not None:
        mark_path(axes, found.path, color="white")
        zone = direction_text(found.origin_hkl)
        axes.set_xlabel(f"q from the reflection {zone}, as labelled")
        return
    axes.set_xlim(float(found.x_edges[0]), float(found.x_edges[-1]))
    if found.kind == "powder":
        axes.set_xlabel("|Q| (1/Å)")
    elif found.kind == "line":
        axes.set_xlabel(
            f"distance from {direction_text(found.origin_hkl)} r.l.u. along "
            f"{direction_text(_shortest(found.axes_hkl[0]), '[]')} (1/Å)"
        )
        _hkl_on_top(axes, found)
    else:
        zero = found.origin_hkl
        start = "" if zero is None or not np.any(zero) else f" from {direction_text(zero)} r.l.u."
        axes.set_xlabel(f"Q along {direction_text(found.axes_hkl[0], '[]')}{start} (1/Å)")
        axes.set_ylabel(f"Q along {direction_text(found.axes_hkl[1], '[]')}{start} (1/Å)")
        axes.set_aspect("equal")
        if found.band_meV is not None:
            low, high = found.band_meV
            axes.set_title(f"E = {low:g} to {high:g} meV", fontsize=10)


def _hkl_on_top(axes: Axes, found: SpectrumMap) -> None:
    """Name points of a line by their hkl on a second axis."""
    if found.origin_hkl is None:
        return
    length = float(found.x_edges[-1])
    share = np.linspace(0.0, 1.0, 5)
    top = axes.secondary_xaxis("top")
    top.set_xticks(
        list(share * length),
        [direction_text(found.origin_hkl + s * found.axes_hkl[0]) for s in share],
        fontsize=8.5,
    )
    top.tick_params(direction="in")
    top.set_xlabel("h k l (r.l.u. of the conventional cell)", fontsize=8.5)


def direction_text(hkl: FloatArray | None, brackets: str = "()") -> str:
    """Three indices in brackets, e.g. ``(2 2 0)`` or ``[1 -1 0]``."""
    values = np.zeros(3) if hkl is None else hkl
    return brackets[0] + " ".join(f"{round(float(x), 3) + 0.0:g}" for x in values) + brackets[1]


def _shortest(direction: FloatArray) -> FloatArray:
    """Return the shortest whole-number vector of a direction, where there is one."""
    whole = np.rint(direction).astype(int)
    if np.abs(direction - whole).max() > 1e-9 or not whole.any():
        return direction
    return direction / np.gcd.reduce(whole)


def _edges_of(x: FloatArray) -> FloatArray:
    """Edges between points, the first and last point being edges themselves."""
    return np.concatenate([x[:1], 0.5 * (x[1:] + x[:-1]), x[-1:]])


def indirect_png(found: IndirectSpectrum) -> bytes:
    """S(E) by the number of phonons and by element, both banks, as PNG."""
    s = found.spectrum
    several = len(s.elements) > 1
    rows = 2 if several else 1
    figure = Figure(figsize=(10.4, 3.1 * rows + 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, len(s.banks), sharex=True, squeeze=False)
    energy = 0.5 * (s.energy_edges_meV[1:] + s.energy_edges_meV[:-1])
    inelastic = 1e3 * s.partials[:, :, 1:].sum(axis=2)  # (elements, banks, E) mbarn
    for b, bank in enumerate(s.banks):
        axes = grid[0, b]
        orders = 1e3 * s.orders[b]
        total = orders[1:].sum(axis=0)
        shown = [("1 phonon", orders[1]), ("2 phonons", orders[2])]
        if len(orders) > 3:
            shown.append((f"3 to {len(orders) - 1} phonons", orders[3:].sum(axis=0)))
        axes.fill_between(energy, 0, total, color="#1b4f72", alpha=0.12, linewidth=0)
        axes.plot(energy, total, color="#1b4f72", linewidth=1.2, label="all phonons")
        for k, (name, values) in enumerate(shown):
            axes.plot(
                energy, values, color=ELEMENTS[k], linewidth=1.0,
                linestyle=("-", "--", ":")[k], label=name,
            )  # fmt: skip
        low, high = np.nanmin(s.momentum[b]), np.nanmax(s.momentum[b])
        axes.set_title(f"{bank} bank, |Q| = {low:.2g} to {high:.2g} /Å", fontsize=10)
        _dress(axes, energy, total)
        if several:
            below = grid[1, b]
            below.fill_between(energy, 0, total, color="#1b4f72", alpha=0.12, linewidth=0)
            for k, symbol in enumerate(s.elements):
                below.plot(
                    energy, inelastic[k, b], color=ELEMENTS[k % len(ELEMENTS)], linewidth=1.0,
                    linestyle=("-", "--", ":", "-.")[k % 4], label=symbol,
                )  # fmt: skip
            _dress(below, energy, total)
        top = axes.secondary_xaxis(
            "top", functions=(lambda e: e / MEV_PER_WAVENUMBER, lambda w: w * MEV_PER_WAVENUMBER)
        )
        top.tick_params(direction="in", labelsize=8.5)
        top.set_xlabel("wave number (1/cm)", fontsize=8.5)
        grid[-1, b].set_xlabel("energy transfer (meV)")
    for row in grid:
        row[0].set_ylabel("S(E) (mbarn/meV/sr per cell)")
        row[0].legend(frameon=False, fontsize=8.5)
    figure.suptitle(
        f"{subscripted(found.setting.title)}: {source_title(found.setting.route)}; "
        f"{found.setting.words}; elastic line left out",
        fontsize=10.5,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _dress(axes: Axes, energy: FloatArray, total: FloatArray) -> None:
    axes.set_xlim(float(energy[0]), float(energy[-1]))
    axes.set_ylim(0, 1.06 * max(float(total.max()), 1e-9))
    axes.tick_params(direction="in")


def _notes(setting: Setting, last: str) -> list[str]:
    return [
        f"{setting.title}; {setting.route['kind']}: {setting.route['source']}",
        setting.words,
        *setting.approximations,
        f"intensity and its parts in barn/meV/sr per primitive cell; {last}",
    ]


Table = tuple[Sequence[str], Sequence[Sequence[Any]]]


def _map_table(found: SpectrumMap) -> Table:
    """One row per cell."""
    nx, ny = found.intensity.shape
    columns: dict[str, FloatArray] = {}
    if found.hkl is not None:
        hkl = found.hkl if found.hkl.ndim == 3 else np.repeat(found.hkl[:, None], ny, axis=1)
        for k, name in enumerate(("h_rlu", "k_rlu", "l_rlu")):
            columns[name] = hkl[..., k]
    columns[found.x_name] = np.repeat(found.x[:, None], ny, axis=1)
    columns[found.y_name] = np.repeat(found.y[None], nx, axis=0)
    columns["intensity"] = found.intensity
    columns.update(found.parts)
    flat = np.stack([values.ravel() for values in columns.values()], axis=1)
    return list(columns), flat.tolist()


def _indirect_table(found: IndirectSpectrum) -> Table:
    s = found.spectrum
    energy = 0.5 * (s.energy_edges_meV[1:] + s.energy_edges_meV[:-1])
    columns: dict[str, FloatArray] = {
        "energy_meV": energy,
        "wavenumber_inverse_cm": energy / MEV_PER_WAVENUMBER,
    }
    for b, bank in enumerate(s.banks):
        columns[f"{bank}_q_inverse_A"] = s.momentum[b]
        columns[f"{bank}_total"] = s.total[b]
        columns[f"{bank}_elastic"] = s.orders[b, 0]
        for order in range(1, s.orders.shape[1]):
            columns[f"{bank}_{order}_phonon{'s' if order > 1 else ''}"] = s.orders[b, order]
        for k, symbol in enumerate(s.elements):
            columns[f"{bank}_{symbol}"] = s.partials[k, b, 1:].sum(axis=0)
    return list(columns), np.stack(list(columns.values()), axis=1).tolist()
