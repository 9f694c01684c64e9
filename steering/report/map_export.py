"""The folded map as people take it away: a table of its cells, and pictures in three formats."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Literal

import numpy as np

from steering.report.plots_file import folded_map
from steering.report.run_pictures import svg
from steering.run import SpectrumView

PictureFormat = Literal["png", "pdf", "svg"]
_DIGITS = 6


def folded_map_picture(view: SpectrumView, kind: PictureFormat, *, title: str = "") -> bytes:
    """Map, model, residual and exposure as PNG, PDF or SVG.

    Parameters
    ----------
    view : SpectrumView
    kind : str
        In ``pdf`` and ``svg`` cells are one image, lines and letters stay what they are.
    title : str
    """
    figure = folded_map(view, title=title)
    if kind == "svg":
        return svg(figure)
    when = {"CreationDate": None} if kind == "pdf" else {}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=110, metadata=when)
    return buffer.getvalue()


def folded_map_csv(view: SpectrumView, *, notes: Sequence[str] = ()) -> bytes:
    """Table of every cell that has exposure, after lines of ``notes`` that begin with a ``#``.

    Parameters
    ----------
    view : SpectrumView
    notes : sequence of str
    """
    centres = 0.5 * (view.energy_edges_meV[1:] + view.energy_edges_meV[:-1])
    seen = np.argwhere(np.isfinite(view.intensity))
    rows, columns = seen[:, 0], seen[:, 1]
    table: dict[str, np.ndarray] = {"position_inverse_A": view.path_position[rows]}
    if view.hkl is not None:
        for axis, name in enumerate(("h_rlu", "k_rlu", "l_rlu")):
            table[name] = view.hkl[rows, axis]
    table["energy_meV"] = centres[columns]
    cells = {
        "intensity_barn_per_meV_sr": view.intensity,
        "sigma_barn_per_meV_sr": view.sigma,
        "counts": view.counts,
        "exposure": view.exposure,
        "model_barn_per_meV_sr": view.model_intensity,
        "residual_sigma": view.residual_sigma,
        "fitted": view.fitted,
    }
    table |= {name: array[rows, columns] for name, array in cells.items() if array is not None}
    text = io.StringIO()
    text.writelines(f"# {' '.join(line.split())}\n" for line in notes)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows([_plain(value) for value in row] for row in zip(*table.values(), strict=True))
    return text.getvalue().encode()


def _plain(value: float | bool) -> str:
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return f"{value:.{_DIGITS}g}" if np.isfinite(value) else ""
