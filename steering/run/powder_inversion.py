"""A measured powder spectrum and an experiment file into force constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from model_server.powder import (
    InversionSettings,
    PowderFit,
    aluminium_setup,
    at_kelvin,
    fit_powder,
    intensity_of,
    read_reduced,
    reduced_spectrum,
    report,
)
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.instrument import UNKNOWN_RESOLUTION, Resolution
from simulations.progress import Progress, silent
from simulations.scattering import MeasuredSpectrum
from steering.experiment import (
    EI_TOLERANCE,
    Experiment,
    chosen_instrument,
    parameters_of,
    recorded_instrument,
)
from steering.run.powder_folds import PowderFold, fold_powder

MOMENTUM_STEP = 0.1  # 1/angstrom, of runs that are folded here
ELASTIC_SIGMAS = 4.0  # cells within so many standard deviations of the elastic line are left out
POINTS, LEAST_POINTS, SMALL_CELL = 400, 60, 4  # sampled q of a small cell, atoms of such
SUFFIXES = (".nxspe", ".nxs", ".nxs.h5", ".spe")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inverted:
    """Results by spectrum, and what a picture needs."""

    results: tuple[dict[str, Any], ...]
    spectra: tuple[MeasuredSpectrum, ...]
    fits: tuple[PowderFit, ...]


def invert_measured(
    source: str | Path,
    experiment: Experiment,
    *,
    experiment_dir: Path,
    temperature_K: float | None = None,
    settings: InversionSettings | None = None,
    progress: Progress | None = None,
) -> Inverted:
    """Fit the force constants that an experiment names to a powder spectrum.

    Parameters
    ----------
    source : str or Path
        ``aluminium``, NPZ in its layout, a recorded run (NXSPE), or a reduced I(|Q|,E); see
        ``model_server.powder.read_reduced``.
    experiment : Experiment
        Gives structure, force constants, prior, Ei, resolution, energy axis and the can; its
        temperature where the file has none.
    experiment_dir : Path
        Folder that relative paths in the experiment start from.
    temperature_K : float, optional
        Which of several spectra; all by default.
    settings : InversionSettings, optional
    progress : callable, optional
        Called with (message, fraction).

    Raises
    ------
    ValueError
        If the file or the experiment cannot be used; the message says why.
    """
    say = progress or silent
    say("reading", 0.0)
    model, box = parameters_of(experiment, experiment_dir)
    found = _spectra(source, experiment, experiment_dir)
    spectra = at_kelvin(found.spectra, temperature_K, str(source))
    base = settings or InversionSettings(points=_points(model.crystal.n_atoms))
    if found.elastic is not None:
        nominal = float(found.resolution.sigma_meV(np.zeros(1), experiment.instrument.ei_meV)[0])
        base = replace(
            base,
            elastic_meV=found.elastic[0],
            log_width=float(np.log(found.elastic[1] / nominal)),
            log_width_sigma=0.2,
        )
    elif found.resolution == UNKNOWN_RESOLUTION:
        base = replace(base, log_width_sigma=0.5)
    results: list[dict[str, Any]] = []
    fits: list[PowderFit] = []
    for k, spectrum in enumerate(spectra):
        fit = fit_powder(
            spectrum,
            model,
            box,
            found.resolution,
            settings=base,
            can=found.can,
            can_material=experiment.background.can_material,
            progress=lambda label, done, k=k: say(label, (k + done) / len(spectra)),
        )
        fits.append(fit)
        results.append(report(spectrum, model, box, fit))
    return Inverted(results=tuple(results), spectra=spectra, fits=tuple(fits))


def invert_aluminium(
    source: str | Path,
    *,
    temperature_K: float | None = None,
    shells: int = 2,
    progress: Progress | None = None,
) -> Inverted:
    """Fit aluminium without an experiment, to all spectra of a file or to one temperature."""
    say = progress or silent
    spectra = at_kelvin(
        read_reduced(source, temperature_K=np.nan, ei_meV=np.nan, window_meV=(0.0, np.inf)),
        temperature_K,
        str(source),
    )
    if not all(np.isfinite(s.ei_meV) for s in spectra):
        raise InputError(f"spectrum {source} does not say its crystal and Ei; give --experiment")
    results: list[dict[str, Any]] = []
    fits: list[PowderFit] = []
    for k, spectrum in enumerate(spectra):
        model, box, resolution = aluminium_setup(spectrum.temperature_K, shells=shells)
        fit = fit_powder(
            spectrum,
            model,
            box,
            resolution,
            progress=lambda label, done, k=k: say(label, (k + done) / len(spectra)),
        )
        fits.append(fit)
        results.append(report(spectrum, model, box, fit))
    return Inverted(results=tuple(results), spectra=spectra, fits=tuple(fits))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Found:
    """Spectra with what else the files say."""

    spectra: tuple[MeasuredSpectrum, ...]
    resolution: Resolution
    can: FloatArray | None = None  # (energy, |Q|) of the spectra
    elastic: tuple[float, float] | None = None  # centre and standard deviation, meV


def _spectra(source: str | Path, experiment: Experiment, experiment_dir: Path) -> _Found:
    path = Path(source)
    section, axis = experiment.background, experiment.path.energy
    if not str(source).lower().endswith(SUFFIXES):
        if section.can is not None:
            raise InputError(
                f"background.can is {section.can!r}, but {source} is reduced already; expected a "
                "recorded run with a measured can. Leave it out or give can_material."
            )
        resolution = _resolution(experiment, experiment_dir, ())
        low = _elastic_cut(resolution, experiment.instrument.ei_meV, None)
        spectra = read_reduced(
            source,
            temperature_K=experiment.sample.temperature_K,
            ei_meV=experiment.instrument.ei_meV,
            window_meV=(max(low, axis.min_meV), axis.max_meV),
        )
        for spectrum in spectra:
            _refuse_other_ei(spectrum, experiment.instrument.ei_meV)
        return _Found(spectra=spectra, resolution=resolution)
    if not path.is_file():
        raise InputError(f"spectrum {path} is not a file; expected a recorded powder run")
    resolution = _resolution(experiment, experiment_dir, (path,))
    folded = _fold([path], experiment, experiment_dir)
    elastic = elastic_line(folded)
    low = _elastic_cut(resolution, experiment.instrument.ei_meV, elastic)
    spectrum = _spectrum(path.stem, folded, experiment, low)
    can = None
    if section.can is not None:
        files = sorted(experiment_dir.glob(section.can))
        if not files:
            raise InputError(f"background.can is {section.can!r}, which matches no file")
        empty = _spectrum("can", _fold(files, experiment, experiment_dir), experiment, low)
        can = empty.intensity
    return _Found(spectra=(spectrum,), resolution=resolution, can=can, elastic=elastic)


def _refuse_other_ei(spectrum: MeasuredSpectrum, ei_meV: float) -> None:
    """Raise for a spectrum that says to be of another incident energy."""
    if abs(spectrum.ei_meV - ei_meV) > EI_TOLERANCE * ei_meV:
        raise InputError(
            f"spectrum {spectrum.name}: Ei is {spectrum.ei_meV:g} meV in the file; expected "
            f"{ei_meV:g} meV within {EI_TOLERANCE:.0%}, as the experiment has it. Correct ei_meV, "
            "or take the experiment of this file."
        )


def _points(n_atoms: int) -> int:
    """Sampled q: large cells have small zones, so fewer of them fill the shells of |Q| alike."""
    return int(np.clip(POINTS * SMALL_CELL / n_atoms, LEAST_POINTS, POINTS))


def _fold(files: Sequence[Path], experiment: Experiment, experiment_dir: Path) -> PowderFold:
    return fold_powder(
        files, experiment, experiment_dir=experiment_dir, step=MOMENTUM_STEP, psi_deg=0.0
    )


def _spectrum(name: str, folded: PowderFold, experiment: Experiment, low: float):
    sums = folded.sums
    return reduced_spectrum(
        name,
        *intensity_of(sums.signal, sums.variance, sums.exposure),
        folded.momentum_edges,
        folded.energy_edges_meV,
        temperature_K=experiment.sample.temperature_K,
        ei_meV=experiment.instrument.ei_meV,
        window_meV=(low, experiment.path.energy.max_meV),
    )


def _resolution(experiment: Experiment, experiment_dir: Path, files: Sequence[Path]) -> Resolution:
    section = experiment.instrument
    if section.resolution is not None:
        return Resolution(coefficients=section.resolution)
    recorded = recorded_instrument(files, experiment) if files else None
    try:
        return chosen_instrument(experiment, experiment_dir, recorded=recorded).resolution
    except InputError:
        if files:
            raise
        return UNKNOWN_RESOLUTION  # a reduced file brings no pixels


def _elastic_cut(
    resolution: Resolution, ei_meV: float, elastic: tuple[float, float] | None
) -> float:
    """Energy transfer below which the elastic line rules, meV."""
    if elastic is not None:
        return elastic[0] + ELASTIC_SIGMAS * elastic[1]
    return ELASTIC_SIGMAS * float(resolution.sigma_meV(np.zeros(1), ei_meV)[0])


def elastic_line(folded: PowderFold) -> tuple[float, float] | None:
    """Centre and standard deviation of the elastic line, meV; None where the axis lacks it.

    Moments of the intensity summed over |Q|, within 2.5 standard deviations of the centre.
    """
    sums = folded.sums
    intensity, _ = intensity_of(sums.signal, sums.variance, sums.exposure)
    edges = folded.energy_edges_meV
    energy = 0.5 * (edges[1:] + edges[:-1])
    profile = np.nansum(intensity, axis=0)
    if not (energy[0] < 0 < energy[-1]) or not profile.max() > 0:
        return None
    near = np.abs(energy) < -edges[0]
    if near.sum() < 7 or not np.isin(np.argmax(profile), np.flatnonzero(near)):
        return None
    floor = float(np.percentile(profile[near], 10))
    height = np.where(near, np.maximum(profile - floor, 0.0), 0.0)
    centre = float(energy[int(np.argmax(height))])
    above = near & (height > 0.5 * height.max())
    sigma = float(above.sum() * (energy[1] - energy[0])) / 2.3548
    for _ in range(5):
        weight = height * (np.abs(energy - centre) < 2.5 * sigma)
        if not weight.sum() > 0:
            return None
        centre = float(weight @ energy / weight.sum())
    if edges[0] > centre - 3 * sigma:
        return None
    return centre, sigma
