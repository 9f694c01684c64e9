"""Pictures of powder fits: data, fit, residual and their sums over |Q| and E, as PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from model_server.powder import PowderFit
from simulations.saved_file import write_whole
from simulations.scattering import MeasuredSpectrum
from steering.run import Inverted


def write_powder_fits(found: Inverted, path: Path) -> tuple[Path, ...]:
    """Write one picture per spectrum; several get their temperature into the name.

    Parameters
    ----------
    found : Inverted
    path : Path
        Ends in ``.png``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    several = len(found.spectra) > 1
    written = []
    for spectrum, fit, result in zip(found.spectra, found.fits, found.results, strict=True):
        own = path
        if several:
            own = path.with_name(f"{path.stem}-{spectrum.temperature_K:g}K{path.suffix}")
        _draw(spectrum, fit, result, own)
        written.append(own)
    return tuple(written)


def _draw(spectrum: MeasuredSpectrum, fit: PowderFit, result: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    q, energy = spectrum.q_inverse_A, spectrum.energy_meV
    data = np.where(spectrum.valid, spectrum.intensity, np.nan)
    low, high = np.nanpercentile(data, (2, 99))
    residual = (data - fit.fitted) / fit.noise
    maps = (
        ("data", data, {"vmin": low, "vmax": high}),
        ("fit", fit.fitted, {"vmin": low, "vmax": high}),
        ("(data - fit) / noise", residual, {"vmin": -5, "vmax": 5, "cmap": "RdBu_r"}),
    )
    for panel, (title, values, how) in zip(axes[0], maps, strict=True):
        drawn = panel.pcolormesh(q, energy, values, shading="nearest", rasterized=True, **how)
        panel.set_facecolor("0.85")
        panel.set(title=title, xlabel="|Q| (1/\u00c5)", ylabel="E (meV)")
        figure.colorbar(drawn, ax=panel)
    known = np.isfinite(data)
    parts = [("phonons", fit.phonons, "C0"), ("background", fit.background, "C2")]
    if fit.can is not None:
        parts.append(("can", fit.can, "C4"))

    def mean(values: Any, axis: int) -> Any:
        count = known.sum(axis=axis)
        total = np.where(known, values, 0.0).sum(axis=axis)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    for panel, x, axis, label in (
        (axes[1, 0], energy, 1, "E (meV)"),
        (axes[1, 1], q, 0, "|Q| (1/\u00c5)"),
    ):
        panel.plot(x, mean(data, axis), "k.", markersize=3, label="data")
        panel.plot(x, mean(fit.fitted, axis), "C3", label="fit")
        for name, values, colour in parts:
            panel.plot(x, mean(values, axis), colour, linewidth=1, label=name)
        panel.set(xlabel=label, ylabel="mean intensity")
    axes[1, 0].legend()
    panel = axes[1, 2]
    spread = residual[np.isfinite(residual)]
    panel.hist(spread, bins=np.linspace(-6, 6, 61), density=True, color="0.6")
    x = np.linspace(-6, 6, 200)
    panel.plot(x, np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi), "C3")
    panel.set(
        xlabel="(data - fit) / noise",
        title=f"chi-square {result['chi_square']:.2f}, nmse_free {result['nmse_free']:.3f}",
    )
    verdict = "trusted" if result["trusted"] else "NOT TRUSTED"
    figure.suptitle(f"{spectrum.name}, {spectrum.temperature_K:g} K: {verdict}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_whole(path, buffer.getvalue())
