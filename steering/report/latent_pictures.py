"""Pictures of the latent of a bundle: what its dimensions say, where spectra lie among others."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from simulations.arrays import FloatArray
from steering.report.plots_file import UNKNOWN
from steering.report.run_pictures import COLOURS, STYLES

MEASURED = "#d55e00"
MARKS = ("*", "P", "X", "D", "v", "^")
DOMINANT = 4  # parameters that a map is coloured by
SPECTRA = 5  # shown of an interpolation


def latent_pictures(found: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG pictures of an analysis by the names of their files."""
    return {
        "dimensions.png": _png(_dimensions(found)),
        "map.png": _png(_map(found)),
        "interpolation.png": _png(_interpolation(found)),
        "psi.png": _png(_psi(found)),
        "distance.png": _png(_distance(found)),
    }


def _figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _dimensions(found: Mapping[str, Any]) -> Figure:
    """How active each dimension is, how it moves with each parameter, and what it goes with."""
    names: list[str] = found["parameter_names"]
    activity = found["activity"]
    order = np.argsort(-activity["variance"])[:40]
    active = activity["active"][order]
    figure = _figure(
        14,
        4.6 + 0.16 * len(order),
        f"{found['title']}: {int(activity['active'].sum())} of {len(activity['active'])} "
        "dimensions are active",
    )
    bars, moves, goes = figure.subplots(1, 3, sharey=True, width_ratios=(1.0, 1.2, 1.2))
    rows = np.arange(len(order))
    bars.barh(rows, activity["variance"][order], color=np.where(active, COLOURS[0], UNKNOWN))
    if activity["noise"].any():
        bars.plot(
            activity["noise"][order], rows, "|", color="black", ms=9, label="noise of samples"
        )
        bars.legend(loc="lower right")
    bars.set_xscale("log")
    bars.set_xlabel("variance of the latent mean (grey: inactive)")
    bars.set_yticks(rows, [str(k) for k in order])
    bars.set_ylabel("latent dimension, most active first")
    bars.invert_yaxis()
    moved = np.asarray(found["sensitivity"]["over_spread"])[order]
    _table(figure, moves, moved, names, "viridis", (0.0, float(moved.max(initial=1e-9))))
    moves.set_title("sensitivity: spreads of the code per prior sigma", fontsize=10)
    together = np.asarray(found["correlation"]["codes_parameters"])[order]
    _table(figure, goes, together, names, "RdBu_r", (-1.0, 1.0))
    goes.set_title("correlation of code and parameter", fontsize=10)
    return figure


def _table(
    figure: Figure,
    axes: Axes,
    values: FloatArray,
    names: Sequence[str],
    colours: str,
    limits: tuple[float, float],
) -> None:
    shown = axes.imshow(
        values, aspect="auto", cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="none"
    )
    axes.set_xticks(np.arange(len(names)), names, rotation=60, ha="right")
    figure.colorbar(shown, ax=axes, pad=0.01)


def _map(found: Mapping[str, Any]) -> Figure:
    """Simulated spectra in the plane of the two largest components, measured ones among them."""
    places = np.asarray(found["map"]["simulated"])
    shares = np.asarray(found["map"]["shares"])
    parameters = np.asarray(found["map"]["parameters"])
    chosen = _dominant(found)
    figure = _figure(
        13, 9.5, f"{found['title']}: principal components of {len(places)} simulated spectra"
    )
    for axes, k in zip(figure.subplots(2, 2, sharex=True, sharey=True).flat, chosen, strict=False):
        shown = axes.scatter(
            *places.T, c=parameters[:, k], s=9, cmap="viridis", linewidths=0, alpha=0.8
        )
        figure.colorbar(shown, ax=axes, label=found["unit"], pad=0.01)
        axes.set_title(found["parameter_names"][k])
        for n, run in enumerate(found["runs"]):
            axes.plot(
                *run["map"],
                MARKS[n % len(MARKS)],
                color=MEASURED,
                mec="black",
                ms=15,
                label=_short(run["name"]),
            )
    for axes in figure.axes[len(chosen) : 4]:
        axes.set_visible(False)
    for axes in figure.axes[:4:2]:
        axes.set_ylabel(f"second component, {shares[1]:.0%} of the variance")
    for axes in figure.axes[2:4]:
        axes.set_xlabel(f"first component, {shares[0]:.0%} of the variance")
    if found["runs"]:
        figure.axes[0].legend(loc="best", fontsize=9)
    return figure


def _interpolation(found: Mapping[str, Any]) -> Figure:
    """Parameters along the line between two codes, and the spectra between their parameters."""
    between = found["interpolation"]
    steps = np.asarray(between["steps"])
    figure = _figure(
        14,
        8.2,
        f"from one simulated spectrum to another: codes of the spectra between leave the straight "
        f"line by {between['bend']:.0%} of its length",
    )
    upper, lower = np.ravel(np.array(figure.subfigures(2, 1)))
    chosen = _dominant(found)
    curves = upper.subplots(1, len(chosen), squeeze=False)[0]
    for k, axes in zip(chosen, curves, strict=True):
        axes.plot(steps, np.asarray(between["along_latent"])[:, k], COLOURS[0], label="latent line")
        axes.plot(
            steps, np.asarray(between["along_parameters"])[:, k], "--k", label="truth of spectra"
        )
        axes.plot(
            steps,
            np.asarray(between["read_off_spectra"])[:, k],
            "o",
            color=COLOURS[1],
            label="read off spectra",
        )
        axes.set_title(f"{found['parameter_names'][k]} ({found['unit']})", fontsize=10)
        axes.set_xlabel("way from one to the other")
    curves[0].legend(fontsize=8)
    spectra = np.asarray(between["spectra"])
    edges = np.asarray(between["energy_edges_meV"])
    seen = np.flatnonzero(np.nanmax(spectra, axis=(0, 1), initial=0.0) > 0)
    last = int(seen[-1]) + 1 if len(seen) else len(edges) - 1
    top = float(np.nanpercentile(spectra[:, :, :last], 99))
    shown = np.rint(np.linspace(0, len(steps) - 1, SPECTRA)).astype(int)
    maps = lower.subplots(1, SPECTRA, sharey=True)
    for k, axes in zip(shown, maps, strict=True):
        axes.set_facecolor(UNKNOWN)
        axes.pcolormesh(
            np.arange(spectra.shape[1] + 1),
            edges[: last + 1],
            spectra[k, :, :last].T,
            norm=PowerNorm(0.5, vmin=0, vmax=top if top > 0 else 1.0),
            cmap="magma",
            rasterized=True,
        )
        axes.set_title(f"at {steps[k]:.2f}", fontsize=10)
        axes.set_xlabel("path bin")
    maps[0].set_ylabel("energy transfer (meV)")
    return figure


def _psi(found: Mapping[str, Any]) -> Figure:
    """Error of every parameter against the one orientation that was measured."""
    psi = found["psi"]
    angles = np.asarray(psi["psi_deg"])
    errors, whole = np.asarray(psi["error_over_prior"]), np.asarray(psi["all_orientations"])
    figure = _figure(
        13, 5.6, f"{found['title']}: which orientation tells what (dotted: all of them, same time)"
    )
    for n, axes in enumerate(figure.subplots(1, len(errors), sharey=True)):
        for k, name in enumerate(found["parameter_names"]):
            colour = COLOURS[k % len(COLOURS)]
            style = STYLES[k // len(COLOURS) % len(STYLES)]
            axes.plot(angles, errors[n][:, k], style, marker=".", color=colour, label=name)
            axes.axhline(whole[n][k], color=colour, ls=":", lw=0.9)
        axes.axhline(1.0, color="black", lw=0.8)
        axes.set_title(f"one orientation, {psi['minutes'][n]:g} min", fontsize=10)
        axes.set_xlabel("psi (degrees)")
    figure.axes[0].set_ylabel("RMS error / prior sigma (1: nothing learned)")
    figure.axes[0].set_ylim(0.0, None)
    figure.axes[-1].legend(fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _distance(found: Mapping[str, Any]) -> Figure:
    """Distances of simulated spectra at three levels of counts, and where measured ones lie."""
    told = found["distance"]
    figure = _figure(11, 5.4, f"{found['title']}: how far spectra lie from those trained on")
    axes = figure.subplots()
    runs = [run["latent_distance"] for run in found["runs"]]
    most = max([float(np.max(one)) for one in told["simulated"]] + runs)
    edges = np.linspace(0, 1.05 * most, 70).tolist()
    for n, (level, some) in enumerate(zip(told["levels"], told["simulated"], strict=True)):
        axes.hist(
            some,
            edges,
            density=True,
            histtype="step",
            lw=1.6,
            color=COLOURS[n],
            label=f"simulated, {level['counts']:,.0f} counts",
        )
    for n, run in enumerate(found["runs"]):
        axes.axvline(
            run["latent_distance"],
            color=MEASURED,
            ls=STYLES[n % len(STYLES)],
            lw=2,
            label=f"{_short(run['name'])}: farther than {run['latent_share']:.1%}",
        )
    axes.set_xlabel("Mahalanobis distance of the code / sqrt(dimension)")
    axes.set_ylabel("density")
    axes.legend()
    return figure


def _dominant(found: Mapping[str, Any]) -> list[int]:
    """Parameters that move the codes most, in their own order."""
    moved = np.linalg.norm(np.asarray(found["sensitivity"]["over_spread"]), axis=0)
    return sorted(np.argsort(-moved)[:DOMINANT].tolist())


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"...{name[-37:]}"
