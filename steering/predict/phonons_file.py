"""Dispersion and density of states as PNG, NPZ and CSV."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from steering.predict.path_points import PathPoints
from steering.predict.phonons import IMAGINARY_MEV, Phonons
from steering.report import GREEK, write_files

BRANCH = "#1b4f72"
UNSTABLE = "#b8432f"
ELEMENTS = ("#c77d11", "#2f7d5b", "#7a4fa3", "#a33a52", "#3d6fb0", "#6b6b2f")
"""Colours of elements; far apart also for the colour-blind when told in a legend."""


def write_phonons(found: Phonons, names: Sequence[Path]) -> list[Path]:
    """Write phonons under names of `tables_file.named_files`; returns the files."""
    return write_files(
        names,
        picture=lambda: phonons_png(found),
        content=found.content(),
        tables=lambda: _tables(found),
        notes=_notes(found),
    )


def phonons_png(found: Phonons) -> bytes:
    """Dispersion with labelled points beside the density of states, as PNG.

    Imaginary modes lie below zero, on a shaded ground.
    """
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(
        1, 2, sharey=True, gridspec_kw={"width_ratios": [3.2, 1], "wspace": 0.02}
    )
    figure.suptitle(f"{subscripted(found.title)}: {source_title(found.route)}", fontsize=11)
    bottom = 0.0
    if found.imaginary is not None:
        lowest = min(found.imaginary.lowest_meV, float(found.energies_meV.min()))
        bottom = 1.25 * lowest
        for axes in (left, right):
            axes.axhspan(2 * bottom, 0, color=UNSTABLE, alpha=0.08, linewidth=0)
        left.text(
            0.01, 0.01, "imaginary: shown as negative energies", color=UNSTABLE, fontsize=8.5,
            transform=left.transAxes, va="bottom", zorder=5,
            bbox={"color": "white", "alpha": 0.85, "pad": 2.0},
        )  # fmt: skip
    starts = [0, *found.path.breaks, len(found.path.position)]
    for start, stop in zip(starts, starts[1:], strict=False):
        piece = slice(start, stop)
        x, energies = found.path.position[piece], found.energies_meV[piece]
        left.plot(x, energies, color=BRANCH, linewidth=1.1)
        if found.imaginary is not None:
            below = np.where(energies < -IMAGINARY_MEV, energies, np.nan)
            left.plot(x, below, color=UNSTABLE, linewidth=1.3)
    mark_path(left, found.path)
    left.set_ylabel("phonon energy (meV)")
    _draw_dos(right, found)
    top = max(found.highest_meV, float(found.dos.energy_edges_meV[-1]) / 1.05)
    left.set_ylim(bottom, 1.04 * top)
    for axes in (left, right):
        axes.axhline(0, color="black", linewidth=0.6)
        axes.tick_params(direction="in")
    second = right.secondary_yaxis(
        "right", functions=(lambda e: e / 4.135667696923859, lambda f: f * 4.135667696923859)
    )
    second.set_ylabel("frequency (THz)")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def mark_path(axes: Axes, path: PathPoints, color: str = "black") -> None:
    """Label the points of a path on the horizontal axis and draw a line at each."""
    for position in path.tick_positions[1:-1]:
        axes.axvline(float(position), color=color, linewidth=0.6, alpha=0.55)
    axes.set_xticks(list(path.tick_positions), [pretty_point(label) for label in path.tick_labels])
    axes.set_xlim(float(path.tick_positions[0]), float(path.tick_positions[-1]))
    axes.tick_params(axis="x", length=0)


def pretty_point(label: str) -> str:
    """Return a point's label with Greek letters and indices, e.g. ``Sigma_0`` as Σ with index 0."""
    parts = []
    for part in label.split("|"):
        name, _, index = part.partition("_")
        letter = GREEK.get(name.capitalize(), GREEK.get(name, name))
        parts.append(f"{letter}$_{{{index}}}$" if index else letter)
    return "|".join(parts)


def subscripted(formula: str) -> str:
    """Return a formula with its numbers as indices, for matplotlib."""
    out = "".join(f"$_{{{c}}}$" if c.isdigit() else c for c in formula)
    return out.replace("}$$_{", "")


def source_title(route: dict[str, str]) -> str:
    """Where vibrations came from, short enough for a title."""
    if route["kind"] == "force_field":
        return f"force field {route['source']}"
    if route["kind"] == "direct":
        return f"densities of {route['source']}"
    name = route["source"].removeprefix("built in: ")
    return f"force constants of {'/'.join(Path(name).parts[-2:])}"


def _draw_dos(axes: Axes, found: Phonons) -> None:
    energy = found.dos.energies_meV
    total = found.dos.total
    axes.fill_betweenx(energy, 0, total, color=BRANCH, alpha=0.12, linewidth=0)
    axes.plot(total, energy, color=BRANCH, linewidth=1.1, label="total")
    partial = found.element_dos
    if len(partial) > 1:
        for k, (symbol, density) in enumerate(partial.items()):
            axes.plot(
                density, energy, color=ELEMENTS[k % len(ELEMENTS)], linewidth=1.0,
                linestyle=("-", "--", ":", "-.")[k % 4], label=symbol,
            )  # fmt: skip
        axes.legend(frameon=False, fontsize=8.5, handlelength=1.6, loc="best")
    highest = float(total.max())
    if found.imaginary is not None:
        edges = found.imaginary.energy_edges_meV
        middle = 0.5 * (edges[1:] + edges[:-1])
        axes.fill_betweenx(
            middle, 0, found.imaginary.density, color=UNSTABLE, alpha=0.35, linewidth=0
        )
        highest = max(highest, float(found.imaginary.density.max()))
    axes.set_xlim(0, 1.08 * highest)
    axes.xaxis.set_major_locator(MaxNLocator(3, prune="lower"))
    axes.set_xlabel("density of states\n(modes/meV per cell)")


def _notes(found: Phonons) -> list[str]:
    notes = [
        f"phonons of {found.title}; {found.route['kind']}: {found.route['source']}",
        *found.approximations,
        "hkl in r.l.u. of the conventional cell; energies ascending, negative where imaginary",
    ]
    if found.imaginary is not None:
        notes.append(found.imaginary.words)
    return notes


def _tables(found: Phonons) -> Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]:
    labels = [""] * len(found.path.position)
    starts = [0, *found.path.breaks]
    ends = [*[b - 1 for b in found.path.breaks], len(labels) - 1]
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        labels[start] = found.path.tick_labels[k].split("|")[-1]
        labels[end] = found.path.tick_labels[k + 1].split("|")[0]
    branches = [f"energy_{s + 1}_meV" for s in range(found.energies_meV.shape[1])]
    dispersion = [
        [label, x, *hkl, *energies]
        for label, x, hkl, energies in zip(
            labels, found.path.position, found.path.hkl, found.energies_meV, strict=True
        )
    ]
    partial = found.element_dos
    columns = [found.dos.energies_meV, found.dos.total, *partial.values()]
    density = np.stack(columns, axis=1)
    if found.imaginary is not None:
        edges = found.imaginary.energy_edges_meV
        below = np.full((len(edges) - 1, len(columns)), np.nan)
        below[:, 0] = 0.5 * (edges[1:] + edges[:-1])
        below[:, 1] = found.imaginary.density
        density = np.concatenate([below, density])
    return {
        "": (["label", "position_inverse_A", "h_rlu", "k_rlu", "l_rlu", *branches], dispersion),
        "-dos": (
            ["energy_meV", "total_per_meV", *(f"{symbol}_per_meV" for symbol in partial)],
            density.tolist(),
        ),
    }
