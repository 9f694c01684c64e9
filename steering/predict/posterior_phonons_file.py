"""A result as force constants for phonopy, tables and a picture; and its experiment found."""

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

from simulations.arrays import FloatArray
from simulations.dynamics import PhonopyFolder
from simulations.errors import InputError
from simulations.progress import Progress, silent
from steering.experiment import Experiment, load_experiment
from steering.predict.phonons_file import BRANCH, ELEMENTS, UNSTABLE, mark_path, subscripted
from steering.predict.posterior_phonons import VOIGT_NAMES, Band, PosteriorPhonons, rounded
from steering.report import write_files
from steering.run import RESULT_EXPERIMENT

_FOLDERS_UP = 3  # from partition-0/RUN/estimate to the state folder
_MOST_LABELS = 9


def is_result(path: Path) -> bool:
    """Whether a file is meant as a ``result.json``, be it whole or not: JSON, not a structure."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix == ".json" or file.read(256).lstrip().startswith(b"{")


def experiment_of_result(path: Path, given: Path | None = None) -> tuple[Experiment, Path]:
    """Experiment that a result was measured with, and the folder that its paths start from.

    Parameters
    ----------
    path : Path
        Of the result.
    given : Path, optional
        The experiment file; None: the one that ``replay`` writes beside the result, or the
        ``experiment.yaml`` of the state folder or demonstration that holds it.

    Raises
    ------
    InputError
        If there is none.
    """
    if given is not None:
        return load_experiment(given), given.parent
    folder = path.resolve().parent
    above = [folder, *folder.parents][: _FOLDERS_UP + 1]
    for candidate in (folder / RESULT_EXPERIMENT, *(one / "experiment.yaml" for one in above)):
        if candidate.is_file():
            return load_experiment(candidate), candidate.parent
    raise InputError(
        f"{path}: no {RESULT_EXPERIMENT} lies beside it and no experiment.yaml above; expected the "
        "experiment that the run was measured with. Give it with -e FILE, or replay the run again"
    )


def write_posterior_phonons(
    found: PosteriorPhonons, folder: Path, *, sets: int = 20, progress: Progress | None = None
) -> list[Path]:
    """Write force constants, tables and a picture.

    Parameters
    ----------
    found : PosteriorPhonons
    folder : Path
        Gets ``phonopy.yaml`` and ``FORCE_CONSTANTS`` of the mean, the same of the first draws in
        ``sample-001`` and so on, ``phonons.png``, ``phonons.npz``, and tables in CSV. Samples that
        an earlier call left there are removed.
    sets : int
        Most draws written as force constants; stable ones only.
    progress : callable, optional
        Called with (message, fraction).

    Raises
    ------
    InputError
        If the folder is a file.
    """
    say = progress or silent
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output is {folder}, a file; expected a folder for the files")
    folder.mkdir(parents=True, exist_ok=True)
    model = found.posterior.model
    mean = model.force_constants(found.posterior.values)
    # a draw, since the mean may lie where the supercell happens to lose nothing
    moved = model.force_constants(found.draws[0]) if len(found.draws) else mean
    phonopy = PhonopyFolder(moved)
    notes = list(found.notes)
    if phonopy.lost_eV_A2 > 1e-9:
        notes.append(
            f"FORCE_CONSTANTS: the supercell cannot tell equivalent images apart; bonds change by "
            f"up to {phonopy.lost_eV_A2:.2g} eV/angstrom^2"
        )
    written = list(phonopy.write(mean, folder))
    _remove_older(folder)
    for k, phi in enumerate(found.draws[:sets]):
        say(f"FORCE_CONSTANTS of sample {k + 1}", k / max(sets, 1))
        phonopy.write(model.force_constants(phi), folder / f"sample-{k + 1:03d}")
    about = [found.verdict, f"run {found.run}, {found.title}", *notes]
    written += write_files(
        [folder / f"phonons{ending}" for ending in (".png", ".npz", ".csv")],
        picture=lambda: posterior_png(found),
        content={**found.content(), "notes": notes},
        tables=lambda: _tables(found),
        notes=about,
    )
    return written


def _remove_older(folder: Path) -> None:
    """Remove samples of an earlier call; draws of two posteriors must not lie side by side."""
    for sample in sorted(folder.glob("sample-[0-9][0-9][0-9]*")):
        for name in ("phonopy.yaml", "FORCE_CONSTANTS"):
            (sample / name).unlink(missing_ok=True)
        if sample.is_dir() and not any(sample.iterdir()):
            sample.rmdir()


def posterior_png(found: PosteriorPhonons) -> bytes:
    """Dispersion and density of states with bands, how wide they are, and what follows, as PNG."""
    figure = Figure(figsize=(11.5, 9.6), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.add_gridspec(3, 1, height_ratios=(3.1, 1.1, 1.9))
    upper = rows[:2].subgridspec(2, 2, width_ratios=(4, 1), height_ratios=(3.1, 1.1), wspace=0.03)
    lower = rows[2].subgridspec(1, 3)
    branches = figure.add_subplot(upper[0, 0])
    density = figure.add_subplot(upper[0, 1], sharey=branches)
    width = figure.add_subplot(upper[1, 0], sharex=branches)
    figure.suptitle(f"{subscripted(found.title)}, force constants of run {found.run}", fontsize=12)
    branches.set_title(
        _short(found.verdict), fontsize=9.5, weight="bold", loc="left",
        color="#2f7d5b" if found.trusted else UNSTABLE,
    )  # fmt: skip
    _draw_branches(branches, width, found)
    _draw_density(density, found)
    _draw_heat(figure.add_subplot(lower[0]), found)
    _draw_motion(figure.add_subplot(lower[1]), found)
    _draw_elastic(figure.add_subplot(lower[2]), found)
    about = figure.add_subplot(upper[1, 1])
    about.axis("off")
    about.text(
        0.0, 0.5, "bands: 16-84 % and\n5-95 % of the draws;\n"
        f"{found.unstable} of {found.drawn} draws are\nunstable and left out",
        fontsize=9, va="center", transform=about.transAxes,
    )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def independent_elastic(found: PosteriorPhonons) -> list[tuple[str, int, int]]:
    """Names and places of elastic constants, equal ones together and zero ones left out."""
    value = found.elastic_GPa.value
    scale = float(np.abs(value).max())
    groups: list[tuple[list[str], int, int]] = []
    places = [(i, i) for i in range(6)] + [(i, j) for i in range(6) for j in range(i + 1, 6)]
    for i, j in places:
        if abs(value[i, j]) < 1e-4 * scale:
            continue
        name = f"C{i + 1}{j + 1}"
        for names, a, b in groups:
            if (i == j) == (a == b) and abs(value[a, b] - value[i, j]) < 1e-5 * scale:
                names.append(name)
                break
        else:
            groups.append(([name], i, j))
    return [(" = ".join(names), i, j) for names, i, j in groups]


def _short(text: str) -> str:
    return text if len(text) <= 130 else text[:127] + "..."


def _pieces(found: PosteriorPhonons) -> list[slice]:
    starts = [0, *found.path.breaks, len(found.path.position)]
    return [slice(a, b) for a, b in zip(starts, starts[1:], strict=False)]


def _draw_branches(axes: Axes, width: Axes, found: PosteriorPhonons) -> None:
    band = found.energies_meV
    half = 0.5 * (band.high90 - band.low90)
    for piece in _pieces(found):
        x = found.path.position[piece]
        for s in range(band.value.shape[1]):
            axes.fill_between(
                x, band.low90[piece, s], band.high90[piece, s], color=BRANCH, alpha=0.25,
                linewidth=0,
            )  # fmt: skip
            axes.fill_between(
                x, band.low68[piece, s], band.high68[piece, s], color=BRANCH, alpha=0.45,
                linewidth=0,
            )  # fmt: skip
        axes.plot(x, band.value[piece], color=BRANCH, linewidth=0.8)
        width.plot(x, half[piece], color=BRANCH, linewidth=0.8)
    bottom = min(0.0, 1.1 * float(band.value.min()))
    if bottom < -0.1:
        axes.axhspan(2 * bottom, 0, color=UNSTABLE, alpha=0.08, linewidth=0)
    else:
        bottom = 0.0
    axes.set_ylim(bottom, 1.04 * float(band.value.max()))
    axes.set_ylabel("phonon energy (meV)")
    mark_path(axes, found.path)
    axes.tick_params(labelbottom=False)
    mark_path(width, found.path)
    width.set_ylabel("half width\nof 90 % (meV)")
    if np.isfinite(half).any():
        width.set_ylim(0, 1.08 * float(np.nanmax(half)))
    width.yaxis.set_major_locator(MaxNLocator(4))
    for one in (axes, width):
        one.tick_params(axis="y", direction="in")


def _fill(axes: Axes, x: FloatArray, band: Band, color: str, label: str | None, style: str) -> None:
    axes.fill_between(x, band.low90, band.high90, color=color, alpha=0.2, linewidth=0)
    axes.fill_between(x, band.low68, band.high68, color=color, alpha=0.4, linewidth=0)
    axes.plot(x, band.value, style, color=color, linewidth=1.0, label=label)


def _draw_density(axes: Axes, found: PosteriorPhonons) -> None:
    energy = 0.5 * (found.dos_edges_meV[1:] + found.dos_edges_meV[:-1])
    axes.fill_betweenx(
        energy, found.dos.low90, found.dos.high90, color=BRANCH, alpha=0.25, linewidth=0
    )
    axes.fill_betweenx(
        energy, found.dos.low68, found.dos.high68, color=BRANCH, alpha=0.45, linewidth=0
    )
    axes.plot(found.dos.value, energy, color=BRANCH, linewidth=0.8, label="total")
    if len(found.element_dos) > 1:
        for k, (symbol, band) in enumerate(found.element_dos.items()):
            axes.plot(
                band.value, energy, color=ELEMENTS[k % len(ELEMENTS)], linewidth=0.9,
                linestyle=("-", "--", ":", "-.")[k % 4], label=symbol,
            )  # fmt: skip
        axes.legend(frameon=False, fontsize=8, handlelength=1.4)
    axes.set_xlim(0, 1.08 * float(found.dos.value.max()))
    axes.xaxis.set_major_locator(MaxNLocator(3, prune="lower"))
    axes.tick_params(direction="in", labelleft=False)
    axes.set_xlabel("density of states\n(modes/meV per cell)")


def _draw_heat(axes: Axes, found: PosteriorPhonons) -> None:
    _fill(axes, found.temperatures_K, found.heat_capacity, BRANCH, None, _style(found))
    axes.set_xlabel("temperature (K)")
    axes.set_ylabel("heat capacity $C_V$\n(J/(mol K), mole of cells)")
    _from_zero(axes, found.heat_capacity)


def _style(found: PosteriorPhonons) -> str:
    return "o" if len(found.temperatures_K) == 1 else "-"


def _from_zero(axes: Axes, band: Band) -> None:
    top = np.nanmax([band.value.max(), band.high90.max(), 0.0])
    axes.set_ylim(0, 1.06 * top if top > 0 else 1.0)
    axes.tick_params(direction="in")


def _draw_motion(axes: Axes, found: PosteriorPhonons) -> None:
    for k, (label, atom) in enumerate(found.distinct_atoms()[: len(ELEMENTS)]):
        band = found.isotropic_A2.select(lambda x, atom=atom: x[:, atom])
        _fill(axes, found.temperatures_K, band, ELEMENTS[k], label, _style(found))
    axes.legend(frameon=False, fontsize=8, handlelength=1.4, loc="upper left")
    axes.set_xlabel("temperature (K)")
    axes.set_ylabel("$U_{iso}$ ($\\mathrm{\\AA}^2$)")
    _from_zero(axes, found.isotropic_A2)


def _draw_elastic(axes: Axes, found: PosteriorPhonons) -> None:
    listed = independent_elastic(found)[:_MOST_LABELS]
    band = found.elastic_GPa
    for k, (_, i, j) in enumerate(listed):
        value, sigma, top = band.value[i, j], band.sigma[i, j], band.high90[i, j]
        label = f"{value:.4g}"
        if np.isfinite(sigma):
            axes.vlines(k, band.low90[i, j], top, color=BRANCH, alpha=0.35, linewidth=7)
            label = "{}\n± {}".format(*rounded(value, sigma))
        axes.plot(k, value, "_", color=BRANCH, markersize=12)
        axes.annotate(
            label,
            (k, np.fmax(value, top)),
            (0, 5),
            textcoords="offset points",
            fontsize=8,
            ha="center",
        )
    axes.set_xticks(
        range(len(listed)), [f"$C_{{{i + 1}{j + 1}}}$" for _, i, j in listed], fontsize=9
    )
    axes.set_xlim(-0.6, max(len(listed), 1) - 0.4)
    axes.margins(y=0.2)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_ylabel("elastic constants (GPa)")
    axes.tick_params(direction="in")


def _columns(name: str) -> list[str]:
    return [name, *(f"{name}_{end}" for end in ("sigma", "p05", "p16", "p84", "p95"))]


def _cells(band: Band) -> FloatArray:
    """Value, sigma and quantiles on a last axis."""
    return np.stack(list(band.content().values()), axis=-1)


def _tables(found: PosteriorPhonons) -> Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]:
    symbols = found.posterior.model.crystal.symbols
    count = found.energies_meV.value.shape[1]
    energies = _cells(found.energies_meV).reshape(len(found.path.hkl), -1)
    labels = [""] * len(found.path.position)
    for k, piece in enumerate(_pieces(found)):
        labels[piece.start] = found.path.tick_labels[k].split("|")[-1]
        labels[piece.stop - 1] = found.path.tick_labels[k + 1].split("|")[0]
    partial = {"total": found.dos, **(found.element_dos if len(found.element_dos) > 1 else {})}
    centres = 0.5 * (found.dos_edges_meV[1:] + found.dos_edges_meV[:-1])
    density = np.concatenate(
        [centres[:, None], *(_cells(band) for band in partial.values())], axis=1
    )
    elastic = _cells(found.elastic_GPa)
    heat, isotropic = _cells(found.heat_capacity), _cells(found.isotropic_A2)
    moved = _cells(found.displacements_A2)
    return {
        "": (
            ["label", "position_inverse_A", "h_rlu", "k_rlu", "l_rlu"]
            + [c for s in range(count) for c in _columns(f"energy_{s + 1}_meV")],
            [
                [label, x, *hkl, *row]
                for label, x, hkl, row in zip(
                    labels, found.path.position, found.path.hkl, energies, strict=True
                )
            ],
        ),
        "-dos": (
            ["energy_meV", *(c for name in partial for c in _columns(f"{name}_per_meV"))],
            density.tolist(),
        ),
        "-elastic": (
            ["constant", *_columns("value_GPa")],
            [[f"C{i + 1}{j + 1}", *elastic[i, j]] for i in range(6) for j in range(i, 6)],
        ),
        "-heat-capacity": (
            ["temperature_K", *_columns("heat_capacity_J_per_mol_K")],
            [[T, *heat[k]] for k, T in enumerate(found.temperatures_K)],
        ),
        "-displacements": (
            ["temperature_K", "atom", "species", *_columns("isotropic_A2")]
            + [c for name in VOIGT_NAMES for c in _columns(f"{name}_A2")],
            [
                [T, atom + 1, symbol, *isotropic[k, atom], *moved[k, atom].ravel()]
                for k, T in enumerate(found.temperatures_K)
                for atom, symbol in enumerate(symbols)
            ],
        ),
    }
