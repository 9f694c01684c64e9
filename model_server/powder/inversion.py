"""Force constants from one powder spectrum: a weighted fit of the full forward model.

One-phonon scattering is exact in |Q| (coherent, all zones); the incoherent and multiphonon parts
come from the density of states of the same force constants and share their scale. Scale and offset
are free and eliminated at every step, the width of the resolution is free too. The fit starts
blurred and ends sharp, because a sharp start from the middle of the prior rarely finds the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from simulations.arrays import FloatArray
from simulations.constants import BOLTZMANN_MEV_PER_K, Z90
from simulations.crystal import Crystal
from simulations.dynamics import ForceConstantModel, force_constant_model, phonon_dos
from simulations.errors import InputError
from simulations.instrument import Resolution
from simulations.prior import BoxPrior
from simulations.reciprocal import ZonePoints, quasi_random_points
from simulations.scattering import (
    SHIPPED,
    MeasuredSpectrum,
    displacement_tensors,
    incoherent_spectrum,
    powder_spectrum,
    read_powder_spectra,
)

BLUR_STAGES_meV = (3.0, 1.5, 0.0)
BLURRED_POINTS = 150
BLURRED_STEPS = 6
DOS_TOLERANCE = 0.02  # of the incoherent and multiphonon part, which is smooth
BLURRED_WALLS = 25.0  # a blurred spectrum must not carry the fit out of the box

ERROR_BARS = (
    "Scaled by the misfit: the forward model does not describe the spectrum within counting noise, "
    "so sigma says how far a parameter can move before the fit worsens by as much as it is bad "
    "already, with misfit correlated over blocks of 5 meV x 1 1/angstrom. It does not cover what "
    "the model lacks: shells beyond the cutoff, anharmonic widths, multiple scattering."
)

APPROXIMATIONS = (
    "one phonon: coherent, harmonic, powder average over sampled q and all G",
    "two and more phonons: incoherent approximation with the total cross section",
    "resolution: Gaussian, the instrument's polynomial times one free factor, which also takes up "
    "anharmonic widths and the sampling of the powder average",
)

ALUMINIUM_LATTICE_A = (
    (0.0, 4.0327),
    (100.0, 4.0345),
    (200.0, 4.0414),
    (293.0, 4.0495),
    (400.0, 4.0602),
    (500.0, 4.0703),
    (600.0, 4.0812),
    (700.0, 4.0928),
)
"""Lattice parameter of aluminium by temperature (K), angstrom: 4.0495 at 293 K and the recommended
linear expansion of Touloukian et al., Thermophysical Properties of Matter 12 (1975), rounded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InversionSettings:
    """How the fit is done."""

    points: int = 400  # sampled q of the powder average
    max_order: int = 6  # phonons in the multiphonon part
    log_width: float = 0.3  # expected logarithm of the resolution factor
    log_width_sigma: float = 0.3
    blur_stages_meV: tuple[float, ...] = BLUR_STAGES_meV
    steps: int = 30  # most Gauss-Newton steps of a stage
    tolerance: float = 0.01  # fall of chi-square that ends a stage


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PowderFit:
    """The end of a fit, with arrays on the grid of the spectrum."""

    values: FloatArray  # (parameters,) eV/angstrom^2
    covariance: FloatArray  # (parameters, parameters)
    resolution_factor: float
    scale: float
    offset: float
    fitted: FloatArray  # (energy, |Q|) scale * model + offset; NaN where not valid
    forward: FloatArray  # (energy, |Q|) model alone; NaN where not valid
    residual_variance: float
    chi_square: float | None  # per degree of freedom, where the file has sigma
    nmse_free: float
    nmse_paper: float
    steps: int


class _Problem:
    """One spectrum with everything that the fit needs again and again."""

    def __init__(
        self,
        spectrum: MeasuredSpectrum,
        model: ForceConstantModel,
        prior: BoxPrior,
        resolution: Resolution,
        settings: InversionSettings,
    ) -> None:
        self.spectrum, self.model, self.prior = spectrum, model, prior
        self.resolution, self.settings = resolution, settings
        columns = np.flatnonzero(spectrum.valid.any(axis=0))
        self.columns = slice(int(columns[0]), int(columns[-1]) + 1)
        self.valid = spectrum.valid[:, self.columns]
        q = spectrum.q_inverse_A
        dq, de = q[1] - q[0], spectrum.energy_meV[1] - spectrum.energy_meV[0]
        inside = q[self.columns]
        self.q_edges = np.append(inside - dq / 2, inside[-1] + dq / 2)
        self.e_edges = np.append(spectrum.energy_meV - de / 2, spectrum.energy_meV[-1] + de / 2)
        self.zone: ZonePoints = quasi_random_points(model.crystal, settings.points)
        self.coarse_zone: ZonePoints = quasi_random_points(model.crystal, BLURRED_POINTS)
        data = np.where(self.valid, spectrum.intensity[:, self.columns], 0.0)
        self.data = data
        sigma = np.ones_like(data)
        if spectrum.sigma is not None:
            sigma = np.where(self.valid, spectrum.sigma[:, self.columns], 1.0)
        if not np.all(np.isfinite(sigma) & (sigma > 0)):
            raise InputError(f"{spectrum.name}: sigma is not positive in every valid cell")
        self.sigma = sigma
        # S(Q,E) -> chi'': detailed balance turned into one factor per energy
        self.factor = np.ones(len(spectrum.energy_meV))
        if spectrum.susceptibility and spectrum.temperature_K > 0:
            thermal = BOLTZMANN_MEV_PER_K * spectrum.temperature_K
            self.factor = -np.expm1(-spectrum.energy_meV / thermal)
        rows = np.repeat(np.arange(len(spectrum.energy_meV))[:, None], data.shape[1], axis=1)
        blocks = np.floor((rows * de) / 5.0) * 1000 + np.floor(inside / 1.0)
        self.blocks = blocks[self.valid]

    def width(self, x: FloatArray) -> Callable[[FloatArray], FloatArray]:
        """Standard deviation by energy transfer at the current resolution factor."""
        factor = float(np.exp(x[-1]))
        return lambda energy: factor * self.resolution.sigma_meV(energy, self.spectrum.ei_meV)

    def slow_part(self, x: FloatArray) -> FloatArray:
        """Incoherent and multiphonon part, (energy, |Q|); follows the parameters step by step."""
        phi = x[:-1]
        dos = phonon_dos(self.model, phi=phi, tolerance=DOS_TOLERANCE)
        out = incoherent_spectrum(
            self.model.crystal,
            dos,
            self.q_edges,
            self.e_edges,
            temperature_K=self.spectrum.temperature_K,
            resolution=self.width(x),
            ei_meV=self.spectrum.ei_meV,
            max_order=self.settings.max_order,
            displacement=displacement_tensors(self.model, self.spectrum.temperature_K, phi),
        )
        return out.inelastic.T * self.factor[:, None]

    def one_phonon(
        self, x: FloatArray, gradient: bool, coarse: bool = False
    ) -> tuple[FloatArray, FloatArray | None]:
        """Coherent one-phonon part (energy, |Q|) and its derivatives (energy, |Q|, parameters)."""
        out = powder_spectrum(
            self.model,
            self.q_edges,
            self.e_edges,
            temperature_K=self.spectrum.temperature_K,
            resolution=self.width(x),
            ei_meV=self.spectrum.ei_meV,
            phi=x[:-1],
            zone=self.coarse_zone if coarse else self.zone,
            gradient=gradient,
        )
        slopes = None
        if out.gradient is not None:
            slopes = out.gradient.transpose(2, 1, 0) * self.factor[:, None, None]
        return out.intensity.T * self.factor[:, None], slopes

    def prior_terms(
        self, x: FloatArray, walls: float = 1.0
    ) -> tuple[float, FloatArray, FloatArray]:
        """Cost, half gradient and curvature of the soft walls and of the width's prior."""
        low, high = self.prior.lower, self.prior.upper
        beyond = np.minimum(x[:-1] - low, 0.0) + np.maximum(x[:-1] - high, 0.0)
        wall = walls / self.prior.sigma**2
        s = self.settings
        width = (x[-1] - s.log_width) / s.log_width_sigma
        cost = float(np.sum(beyond**2 * wall) + width**2)
        gradient = np.append(beyond * wall, width / s.log_width_sigma)
        curvature = np.append(np.where(beyond != 0, wall, 0.0), 1 / s.log_width_sigma**2)
        return cost, gradient, curvature


class _Blur:
    """Gaussian smoothing along energy that knows the mask; identity at width 0."""

    def __init__(self, problem: _Problem, width_meV: float) -> None:
        self.valid, self.sigma = problem.valid, problem.sigma
        energy = problem.spectrum.energy_meV
        self.width_meV = width_meV
        self.kernel = None
        step = float(energy[1] - energy[0])
        self.cells_per_independent = max(1.0, 2 * np.sqrt(np.pi) * width_meV / step)
        if width_meV > 0:
            self.kernel = np.exp(-0.5 * ((energy[:, None] - energy[None]) / width_meV) ** 2)
            self.norm = np.maximum(self.kernel @ self.valid, 1e-12)

    def __call__(self, values: FloatArray) -> FloatArray:
        """Weighted valid cells of (energy, |Q|, ...) after smoothing, (cells, ...)."""
        extra = (None,) * (values.ndim - 2)
        if self.kernel is not None:
            known = values * self.valid[(..., *extra)]
            values = np.tensordot(self.kernel, known, axes=(1, 0)) / self.norm[(..., *extra)]
        return (values / self.sigma[(..., *extra)])[self.valid]


def _linear(columns: FloatArray, data: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Best scale and offset, and what they leave."""
    solution, *_ = np.linalg.lstsq(columns, data, rcond=None)
    return np.asarray(solution, dtype=float), data - columns @ solution


def _stage(
    problem: _Problem, x: FloatArray, blur: _Blur
) -> tuple[FloatArray, int, FloatArray, FloatArray]:
    """Gauss-Newton at one blur: (end point, steps, jacobian (cells, parameters + 1), residual)."""
    blurred = blur.width_meV > 0
    walls = BLURRED_WALLS if blurred else 1.0
    most = BLURRED_STEPS if blurred else problem.settings.steps
    data, ones = blur(problem.data), blur(np.ones_like(problem.data))
    damping = 1e-2
    steps = 0
    while True:
        slow = problem.slow_part(x)
        signal, slopes = problem.one_phonon(x, True, blurred)
        if slopes is None:  # pragma: no cover - asked for above
            raise RuntimeError("the powder model gave no gradient")
        columns = np.stack([blur(signal + slow), ones], axis=1)
        linear, residual = _linear(columns, data)
        # blurred cells are not independent: their misfit counts for fewer
        variance = float(residual @ residual) / len(residual) * blur.cells_per_independent
        wider = x.copy()
        wider[-1] += 0.01
        by_width = (problem.one_phonon(wider, False, blurred)[0] - signal) / 0.01
        raw = np.concatenate([slopes, by_width[..., None]], axis=2)
        jacobian = linear[0] * blur(raw)
        basis, _ = np.linalg.qr(columns)
        jacobian = jacobian - basis @ (basis.T @ jacobian)
        if steps == most:
            return x, steps, jacobian, residual
        penalty, pull, stiff = problem.prior_terms(x, walls)
        cost = float(residual @ residual) / variance + penalty
        H = jacobian.T @ jacobian / variance + np.diag(stiff)
        b = jacobian.T @ residual / variance - pull
        fall = 0.0
        while damping < 1e6:
            move = np.linalg.solve(H + damping * np.diag(np.diag(H)), b)
            limit = np.append(problem.prior.sigma, 0.3)
            trial = x + np.clip(move, -limit, limit)
            try:
                new_signal, _ = problem.one_phonon(trial, False, blurred)
            except ValueError:  # imaginary modes: outside of what a crystal can be
                damping *= 8
                continue
            columns = np.stack([blur(new_signal + slow), ones], axis=1)
            new_linear, left = _linear(columns, data)
            new_cost = float(left @ left) / variance + problem.prior_terms(trial, walls)[0]
            if new_cost < cost and new_linear[0] > 0:
                fall = cost - new_cost
                x, damping = trial, max(damping / 10, 1e-6)
                break
            damping *= 8
        steps += 1
        if fall < problem.settings.tolerance:
            return x, steps, jacobian, residual


def fit_powder(
    spectrum: MeasuredSpectrum,
    model: ForceConstantModel,
    prior: BoxPrior,
    resolution: Resolution,
    *,
    settings: InversionSettings | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> PowderFit:
    """Fit force constants to a powder spectrum.

    Parameters
    ----------
    spectrum : MeasuredSpectrum
        Measured spectrum with its mask. Cells count alike unless it has sigma.
    model : ForceConstantModel
        Crystal at the sample's temperature; its free parameters are fitted, starting from its
        reference values.
    prior : BoxPrior
        Soft walls: beyond a bound the penalty grows as the square of the distance in units of the
        box's standard deviation. Restricted to the model's names here.
    resolution : Resolution
        Of the instrument.
    settings : InversionSettings, optional
        How the fit is done.
    progress : callable, optional
        Called with a label and the share finished.

    Returns
    -------
    PowderFit

    Raises
    ------
    ValueError
        If the prior lacks a parameter, the reference is not stable, or sigma is not positive.
    """
    settings = settings or InversionSettings()
    box = prior.restricted(model.names)
    problem = _Problem(spectrum, model, box, resolution, settings)
    x = np.append(model.values, settings.log_width)
    steps = 0
    jacobian = residual = np.zeros((0,))
    for k, width in enumerate(settings.blur_stages_meV):
        x, used, jacobian, residual = _stage(problem, x, _Blur(problem, width))
        steps += used
        if progress is not None:
            progress(f"fit at blur {width:g} meV", (k + 1) / len(settings.blur_stages_meV))
    sharp = _Blur(problem, 0.0)
    forward = problem.one_phonon(x, False)[0] + problem.slow_part(x)
    data = sharp(problem.data)
    columns = np.stack([sharp(forward), sharp(np.ones_like(forward))], axis=1)
    linear, residual = _linear(columns, data)
    variance = float(residual @ residual) / max(len(residual) - len(x) - 2, 1)
    covariance = _covariance(problem, x, jacobian, residual, variance)
    shape = spectrum.intensity.shape
    full = np.full(shape, np.nan)
    full[:, problem.columns] = np.where(problem.valid, forward, np.nan)
    measured = problem.data[problem.valid]
    model_cells = forward[problem.valid]
    normalised = (model_cells - model_cells.mean()) / np.ptp(model_cells)
    best = np.stack([model_cells, np.ones_like(model_cells)], axis=1)
    _, plain = _linear(best, measured)
    power = float(measured @ measured)
    return PowderFit(
        values=x[:-1],
        covariance=covariance[:-1, :-1],
        resolution_factor=float(np.exp(x[-1])),
        scale=float(linear[0]),
        offset=float(linear[1]),
        fitted=linear[0] * full + linear[1],
        forward=full,
        residual_variance=variance,
        chi_square=variance if spectrum.sigma is not None else None,
        nmse_free=float(plain @ plain) / power,
        nmse_paper=float(np.sum((normalised - measured) ** 2)) / power,
        steps=steps,
    )


def _covariance(
    problem: _Problem, x: FloatArray, jacobian: FloatArray, residual: FloatArray, variance: float
) -> FloatArray:
    """Misfit-scaled covariance, widened where the misfit is correlated inside blocks of cells.

    References
    ----------
    H. White, Econometrica 48, 817 (1980); K.-Y. Liang and S. L. Zeger, Biometrika 73, 13 (1986):
    the sandwich with clusters.
    """
    _, _, stiff = problem.prior_terms(x)
    information = jacobian.T @ jacobian / variance + np.diag(stiff)
    bread = np.linalg.inv(information)
    _, block = np.unique(problem.blocks, return_inverse=True)
    scores = np.zeros((int(block.max()) + 1, jacobian.shape[1]))
    np.add.at(scores, block, jacobian * residual[:, None] / variance)
    sandwich = bread @ (scores.T @ scores + np.diag(stiff)) @ bread
    # never below the plain misfit-scaled one: few blocks can agree by chance
    widen = np.sqrt(np.maximum(np.diag(sandwich) / np.diag(bread), 1.0))
    return np.asarray(bread * np.outer(widen, widen), dtype=float)


def invert_powder(
    spectrum: MeasuredSpectrum | str | Path = "aluminium",
    *,
    temperature_K: float | None = None,
    shells: int = 2,
    settings: InversionSettings | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Fit the force constants of aluminium to a measured powder spectrum and report them.

    For another crystal call ``fit_powder`` and ``report`` with its model.

    Parameters
    ----------
    spectrum : MeasuredSpectrum, str or Path
        ``"aluminium"`` for the shipped measurement, an NPZ file in its layout, or a spectrum.
    temperature_K : float, optional
        Which temperature of a file; its first by default.
    shells : int
        Neighbour shells with free constants; see ``aluminium_setup``.
    settings : InversionSettings, optional
        How the fit is done.
    progress : callable, optional
        Called with a label and the share finished.

    Returns
    -------
    dict
        ``parameters`` and ``derived`` (lists of name, unit, value, sigma, interval90), the two
        figures of misfit ``nmse_paper`` (model and data both normalised as (x - mean)/(max - min))
        and ``nmse_free`` (scale and offset free), both sum of squares over sum of squared data,
        ``chi_square`` per degree of freedom or None without sigma, ``error_bars`` (what sigma
        means), ``nuisances``, ``outside_prior`` and ``approximations``.

    Raises
    ------
    ValueError
        If the file cannot be read or has no such temperature.
    """
    if not isinstance(spectrum, MeasuredSpectrum):
        spectrum = _chosen(spectrum, temperature_K)
    model, prior, resolution = aluminium_setup(spectrum.temperature_K, shells=shells)
    fit = fit_powder(spectrum, model, prior, resolution, settings=settings, progress=progress)
    return report(spectrum, model, prior, fit)


def _chosen(name: str | Path, temperature_K: float | None) -> MeasuredSpectrum:
    """Spectrum of a file at a temperature, within 1 K."""
    spectra = read_powder_spectra(SHIPPED if str(name) == "aluminium" else name)
    if temperature_K is None:
        return spectra[0]
    near = [s for s in spectra if abs(s.temperature_K - temperature_K) <= 1.0]
    if not near:
        raise InputError(
            f"temperature_K is {temperature_K:g}; {name} has "
            f"{', '.join(f'{s.temperature_K:g}' for s in spectra)} K. Choose one of them."
        )
    return near[0]


def report(
    spectrum: MeasuredSpectrum, model: ForceConstantModel, prior: BoxPrior, fit: PowderFit
) -> dict[str, Any]:
    """Result of a fit as JSON-ready values; see ``invert_powder`` for what it holds."""

    def entry(name: str, value: float, sigma: float) -> dict[str, Any]:
        return {
            "name": name,
            "unit": "eV/angstrom^2",
            "value": float(value),
            "sigma": float(sigma),
            "interval90": [float(value - Z90 * sigma), float(value + Z90 * sigma)],
        }

    sigma = np.sqrt(np.diag(fit.covariance))
    onsite = model.onsite(fit.values)
    slope = model.onsite_gradient()
    derived = []
    for atom, symbol in enumerate(model.crystal.symbols):
        by = slope[:, atom, 0, 0]
        derived.append(
            entry(
                f"on-site {symbol}{atom + 1} xx",
                onsite[atom, 0, 0],
                float(np.sqrt(by @ fit.covariance @ by)),
            )
        )
    box = prior.restricted(model.names)
    inside = box.contains(fit.values)
    return {
        "spectrum": spectrum.name,
        "temperature_K": spectrum.temperature_K,
        "ei_meV": spectrum.ei_meV,
        "parameters": [
            entry(name, value, width)
            for name, value, width in zip(model.names, fit.values, sigma, strict=True)
        ],
        "derived": derived,
        "nmse_free": fit.nmse_free,
        "nmse_paper": fit.nmse_paper,
        "chi_square": fit.chi_square,
        "error_bars": ERROR_BARS,
        "outside_prior": [n for n, ok in zip(model.names, inside, strict=True) if not ok],
        "nuisances": {
            "scale": fit.scale,
            "offset": fit.offset,
            "resolution_factor": fit.resolution_factor,
        },
        "approximations": list(APPROXIMATIONS),
        "steps": fit.steps,
    }


def at_temperature(crystal: Crystal, lattice_parameter_A: float) -> Crystal:
    """Scale a cubic crystal to another lattice parameter, fractional positions kept."""
    factor = lattice_parameter_A / float(np.linalg.norm(crystal.conventional_lattice[0]))
    return replace(
        crystal,
        lattice=crystal.lattice * factor,
        conventional_lattice=crystal.conventional_lattice * factor,
    )


def aluminium_setup(
    temperature_K: float, *, shells: int = 2
) -> tuple[ForceConstantModel, BoxPrior, Resolution]:
    """What ``invert_powder`` needs for the shipped aluminium spectra.

    Two shells have five parameters: the four off-site elements ``1NN xy``, ``1NN zz``, ``2NN xx``,
    ``2NN yy`` that Su and Li (2024) vary together with the on-site constant, and ``1NN xx``, which
    the acoustic sum rule ties to the latter.

    Parameters
    ----------
    temperature_K : float
        Sets the lattice parameter.
    shells : int
        Neighbour shells with free constants, 1 to 5; nothing lies beyond them.

    Returns
    -------
    model : ForceConstantModel
        All elements free; the reference comes from the force-field prior.
    prior : BoxPrior
        Stored prior of aluminium.
    resolution : Resolution
        Of ARCS.

    Raises
    ------
    ValueError
        If ``shells`` is out of range.
    """
    from simulations.crystal import read_crystal
    from simulations.instrument import load_instrument
    from simulations.prior import load_prior_record

    record = load_prior_record("aluminium")
    if not 1 <= shells <= 5:
        raise InputError(f"shells is {shells}; expected 1 to 5, what the stored prior holds")
    kelvin, lattice = zip(*ALUMINIUM_LATTICE_A, strict=True)
    crystal = at_temperature(
        read_crystal("aluminium"), float(np.interp(temperature_K, kelvin, lattice))
    )
    far = float(np.linalg.norm(crystal.conventional_lattice[0])) * np.sqrt(shells / 2) * 1.001
    near = [
        name.startswith(tuple(f"{k + 1}NN" for k in range(shells))) for name in record.box.names
    ]
    values = np.where(near, record.reference_values, 0.0)
    model = force_constant_model(crystal, record.force_constants(crystal, values), far)
    return model, record.box, load_instrument("ARCS").resolution
