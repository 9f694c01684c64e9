"""Force constants from one powder spectrum: a weighted fit of the full forward model.

One-phonon scattering is exact in |Q| (coherent, all zones); incoherent scattering shares its scale,
two and more phonons nearly so. What enters linearly (scale, multiphonons, can, background) is
eliminated at every step under the condition that nothing is negative; widths and offsets of the
axes are nuisances with priors. The fit starts blurred and ends sharp, because a sharp start from
the middle of the prior rarely finds the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import nnls

from model_server.powder.components import (
    LOG_WIDTH,
    Components,
    Nuisance,
    Shapes,
    usual_nuisances,
)
from simulations.arrays import FloatArray
from simulations.dynamics import ForceConstantModel
from simulations.errors import InputError
from simulations.instrument import Resolution
from simulations.prior import BoxPrior, nearest_stable
from simulations.scattering import (
    LEAST_BINS,
    LEAST_CELLS,
    MOST_EI_MEV,
    MeasuredSpectrum,
    enough_cells,
)

BLUR_STAGES = (0.06, 0.03, 0.0)  # of Ei
BLURRED_POINTS = 150
BLURRED_STEPS = 6
STIFFNESSES = (0.5, 0.63, 0.8, 1.0, 1.25, 1.6, 2.0)  # of the reference, to begin at
MULTIPHONON_SIGMA = 0.5  # relative: also takes up scattering by two nuclei in turn


@dataclass(frozen=True, kw_only=True, slots=True)
class InversionSettings:
    """How the fit is done."""

    points: int = 400  # sampled q of the powder average
    max_order: int = 6  # phonons in the multiphonon part
    log_width: float = 0.3  # expected logarithm of the resolution factor
    log_width_sigma: float = 0.3
    blur_stages: tuple[float, ...] = BLUR_STAGES  # standard deviations over Ei
    steps: int = 40  # most Gauss-Newton steps of a stage
    tolerance: float = 0.1  # fall of chi-square that ends a stage
    elastic_meV: float | None = None  # where the elastic line was seen


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PowderFit:
    """The end of a fit; maps are (energy, |Q|) of the spectrum, NaN where not valid."""

    values: FloatArray  # (parameters,) eV/angstrom^2
    covariance: FloatArray  # (parameters, parameters)
    nuisances: tuple[Nuisance, ...]
    nuisance_values: FloatArray  # (nuisances,)
    nuisance_sigma: FloatArray  # (nuisances,)
    scale: float  # of the phonons
    multiphonon_factor: float  # strength of two and more phonons over what the scale gives
    can_scale: float | None
    offset: float  # constant of either sign; 0 where none was fitted
    phonons: FloatArray  # scaled: coherent and incoherent, all orders
    multiphonons: FloatArray  # part of ``phonons`` with two and more
    can: FloatArray | None
    background: FloatArray  # smooth part with the offset
    fitted: FloatArray  # sum of them
    noise: FloatArray  # standard deviation of a cell, of the file or from neighbouring cells
    residual_variance: float  # of weighted cells, per degree of freedom
    chi_square: float  # per degree of freedom, by ``noise``
    nmse_free: float
    nmse_paper: float
    nmse_phonons: float  # as nmse_free, of the phonons alone, without can and background
    noise_share: float  # of the same: what noise alone leaves
    converged: bool
    steps: int
    # what the verdict looks at: weighted cells of the valid mask
    jacobian: FloatArray = field(repr=False)  # (cells, parameters + nuisances)
    columns: FloatArray = field(repr=False)  # (cells, amplitudes) that are not zero
    parts: Components = field(repr=False)

    @property
    def resolution_factor(self) -> float:
        """Width of the resolution over the instrument's."""
        names = [n.name for n in self.nuisances]
        return float(np.exp(self.nuisance_values[names.index(LOG_WIDTH)]))

    @property
    def sigma(self) -> FloatArray:
        """Standard deviations of the parameters."""
        return np.sqrt(np.diag(self.covariance))


class _Blur:
    """Gaussian smoothing along energy that knows the mask; identity at width 0."""

    def __init__(self, parts: Components, width_meV: float) -> None:
        self.valid, self.sigma = parts.valid, parts.sigma
        energy = parts.energy
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


class _Linear:
    """What enters linearly, at one blur: phonons, multiphonons, can, background, offset."""

    def __init__(self, parts: Components, blur: _Blur) -> None:
        self.blur, self.data = blur, blur(parts.data)
        fixed = [] if parts.can is None else [blur(parts.can)[:, None]]
        fixed.append(blur(parts.background()))
        if parts.spectrum.sigma is None:  # normalised: zero is not where nothing scatters
            ones = blur(np.ones_like(parts.data))[:, None]
            fixed += [ones, -ones]
        self.fixed = np.concatenate(fixed, axis=1)

    def solve(
        self, phonon: FloatArray, multiphonon: FloatArray, variance: float
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Amplitudes, all columns (cells, amplitudes), and what they leave."""
        columns = np.column_stack([self.blur(phonon), self.blur(multiphonon), self.fixed])
        size = np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
        amplitudes, _ = nnls(columns / size, self.data)
        scale = amplitudes[0] / size[0]
        if scale > 0:  # multiphonons follow the phonons within MULTIPHONON_SIGMA
            row = np.zeros(columns.shape[1])
            row[:2] = np.array([-1.0, 1.0]) * np.sqrt(variance) / (MULTIPHONON_SIGMA * scale)
            stacked = np.vstack([columns / size, row / size])
            amplitudes, _ = nnls(stacked, np.append(self.data, 0.0))
        amplitudes = amplitudes / size
        return amplitudes, columns, self.data - columns @ amplitudes


class _Problem:
    """Components with their prior."""

    def __init__(self, parts: Components, prior: BoxPrior, settings: InversionSettings) -> None:
        self.parts, self.settings = parts, settings
        nuisances = parts.nuisances
        self.centre = np.append(prior.mean, [n.centre for n in nuisances])
        self.spread = np.append(prior.sigma, [n.sigma for n in nuisances])
        self.least_variance = 0.0 if parts.spectrum.sigma is None else 1.0

    def penalty(self, x: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """Cost, half gradient and curvature of the Gaussian prior."""
        away = (x - self.centre) / self.spread
        return float(away @ away), away / self.spread, 1 / self.spread**2

    def variance(self, residual: FloatArray, blur: _Blur) -> float:
        """Of weighted cells; blurred ones are not independent: their misfit counts for fewer."""
        misfit = float(residual @ residual) / len(residual) * blur.cells_per_independent
        least = self.least_variance if blur.width_meV == 0 else 1e-12
        return max(misfit, least)


@dataclass(slots=True)
class _State:
    """Where a stage stands."""

    x: FloatArray
    steps: int = 0
    converged: bool = False


def _jacobian(
    problem: _Problem, x: FloatArray, now: Shapes, scale: float, blur: _Blur, coarse: bool
) -> FloatArray:
    """Derivative of weighted cells, (cells, parameters + nuisances)."""
    parts = problem.parts
    K = len(parts.model.names)
    moved = []
    for k, nuisance in enumerate(parts.nuisances):
        there = x.copy()
        there[K + k] += nuisance.step
        other = parts.one_phonon(there, gradient=False, coarse=coarse).one
        moved.append((other - now.one) / nuisance.step)
    assert now.slopes is not None  # noqa: S101 - asked for
    raw = np.concatenate([now.slopes, np.stack(moved, axis=2)], axis=2)
    return scale * blur(raw)


def _without(columns: FloatArray, vectors: FloatArray) -> FloatArray:
    """Part of vectors (cells, ...) that columns (cells, amplitudes) cannot make."""
    basis, _ = np.linalg.qr(columns)
    return vectors - basis @ (basis.T @ vectors)


def _stage(problem: _Problem, state: _State, blur: _Blur) -> _State:
    """Gauss-Newton at one blur."""
    parts, x = problem.parts, state.x
    blurred = blur.width_meV > 0
    most = BLURRED_STEPS if blurred else problem.settings.steps
    linear = _Linear(parts, blur)
    damping, variance = 1e-2, 1.0
    for step in range(most):
        single, many = parts.slow(x)
        now = parts.one_phonon(x, gradient=True, coarse=blurred)
        amplitudes, columns, residual = linear.solve(now.one + single, many, variance)
        variance = problem.variance(residual, blur)
        jacobian = _jacobian(problem, x, now, amplitudes[0], blur, blurred)
        jacobian = _without(columns[:, amplitudes > 0], jacobian)
        cost, pull, stiff = problem.penalty(x)
        cost += float(residual @ residual) / variance
        H = jacobian.T @ jacobian / variance + np.diag(stiff)
        b = jacobian.T @ residual / variance - pull
        fall = 0.0
        while damping < 1e6:
            move = np.linalg.solve(H + damping * np.diag(np.diag(H)), b)
            trial = x + np.clip(move, -problem.spread, problem.spread)
            if not parts.stable(trial):  # outside of what a crystal can be
                damping *= 8
                continue
            other = parts.one_phonon(trial, gradient=False, coarse=blurred)
            amplitudes, _, left = linear.solve(other.one + single, many, variance)
            new = float(left @ left) / variance + problem.penalty(trial)[0]
            if new < cost and amplitudes[0] > 0:
                fall, x, damping = cost - new, trial, max(damping / 10, 1e-6)
                break
            damping *= 8
        if fall < problem.settings.tolerance:
            return _State(x=x, steps=state.steps + step + 1, converged=True)
    return _State(x=x, steps=state.steps + most, converged=False)


def _begin(problem: _Problem, values: FloatArray, blur: _Blur) -> FloatArray:
    """Best multiple of the reference: an ensemble of force fields is soft as a whole."""
    linear = _Linear(problem.parts, blur)
    best, least = values, np.inf
    at_reference = np.append(values, problem.centre[len(values) :])
    if not problem.parts.stable(at_reference):
        n = len(values)
        near = nearest_stable(
            problem.parts.model,
            problem.parts.mesh.q_cart,
            problem.centre[:n],
            problem.spread[:n],
            tolerance_meV=0.0,
        )
        if near is None or not problem.parts.stable(np.append(near, problem.centre[n:])):
            raise InputError(
                "the reference force constants have imaginary modes, and no stable ones were found "
                "near the prior's centre. Give sample.force_constants, take a longer cutoff, or a "
                "prior made for this structure."
            )
        best = values = near
    for stiffness in STIFFNESSES:
        x = problem.centre.copy()
        x[: len(values)] = stiffness * values
        if not problem.parts.stable(x):
            continue
        one = problem.parts.one_phonon(x, gradient=False, coarse=True).one
        single, many = problem.parts.slow(x)
        _, _, left = linear.solve(one + single, many, 1.0)
        variance = problem.variance(linear.data - linear.data.mean(), blur)
        cost = float(left @ left) / variance + problem.penalty(x)[0]
        if cost < least:
            best, least = stiffness * values, cost
    return best


def _check(spectrum: MeasuredSpectrum) -> None:
    """Refuse what no model can be fitted to."""
    name, valid = spectrum.name, spectrum.valid
    if not 0 < spectrum.ei_meV <= MOST_EI_MEV:
        raise InputError(
            f"spectrum {name}: Ei is {spectrum.ei_meV:g} meV; expected above 0 and at most "
            f"{MOST_EI_MEV:g}. Correct it."
        )
    if not 0 <= spectrum.temperature_K < np.inf:
        raise InputError(
            f"spectrum {name}: temperature is {spectrum.temperature_K:g} K; expected a finite one, "
            "0 or more. Correct it."
        )
    if not enough_cells(valid):
        raise InputError(
            f"spectrum {name}: {int(valid.sum())} valid cells; expected at least {LEAST_CELLS} "
            f"over at least {LEAST_BINS} energies and {LEAST_BINS} |Q|. Give more of the spectrum."
        )
    data = spectrum.intensity[valid]
    if not np.isfinite(data).all():
        raise InputError(
            f"spectrum {name}: intensity is not finite in {int((~np.isfinite(data)).sum())} valid "
            "cells; expected numbers. Mask them."
        )
    if np.ptp(data) <= 1e-12 * np.abs(data).max():
        raise InputError(
            f"spectrum {name}: intensity is {data[0]:g} in every valid cell; expected a spectrum "
            "that varies. Check what was written to the file."
        )


def fit_powder(
    spectrum: MeasuredSpectrum,
    model: ForceConstantModel,
    prior: BoxPrior,
    resolution: Resolution,
    *,
    settings: InversionSettings | None = None,
    can: FloatArray | None = None,
    can_material: str | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> PowderFit:
    """Fit force constants to a powder spectrum.

    Parameters
    ----------
    spectrum : MeasuredSpectrum
        Measured spectrum with its mask. Cells count alike unless it has sigma.
    model : ForceConstantModel
        Crystal at the sample's temperature; its free parameters are fitted.
    prior : BoxPrior
        Counts with its mean and standard deviations, as in the refinement of single crystals.
        Restricted to the model's names here.
    resolution : Resolution
        Of the instrument.
    settings : InversionSettings, optional
        How the fit is done.
    can : (energy, |Q|) float64, optional
        Measured empty can on the spectrum's cells; its strength is fitted.
    can_material : str, optional
        aluminium or vanadium, for a can that was not measured.
    progress : callable, optional
        Called with a label and the share finished.

    Returns
    -------
    PowderFit

    Raises
    ------
    ValueError
        If the prior lacks a parameter, the reference is not stable, sigma is not positive, or the
        spectrum has too few cells or does not vary.
    """
    settings = settings or InversionSettings()
    say = progress or (lambda label, share: None)
    _check(spectrum)
    parts = Components(
        spectrum,
        model,
        resolution,
        points=settings.points,
        coarse_points=min(BLURRED_POINTS, settings.points),
        max_order=settings.max_order,
        nuisances=usual_nuisances(
            spectrum,
            log_width=settings.log_width,
            log_width_sigma=settings.log_width_sigma,
            elastic_meV=settings.elastic_meV,
        ),
        can=can,
        can_material=can_material,
    )
    problem = _Problem(parts, prior.restricted(model.names), settings)
    widths = [share * spectrum.ei_meV for share in settings.blur_stages]
    x = problem.centre.copy()
    say("looking for the stiffness", 0.0)
    x[: len(model.values)] = _begin(problem, model.values, _Blur(parts, widths[0]))
    state = _State(x=x)
    for k, width in enumerate(widths):
        state = _stage(problem, state, _Blur(parts, width))
        say(f"fit at blur {width:g} meV", (k + 1) / (len(widths) + 1))
    return _ended(problem, state)


def _ended(problem: _Problem, state: _State) -> PowderFit:
    """Everything about the end point."""
    parts, x = problem.parts, state.x
    K = len(parts.model.names)
    sharp = _Blur(parts, 0.0)
    linear = _Linear(parts, sharp)
    single, many = parts.slow(x)
    now = parts.one_phonon(x, gradient=True)
    amplitudes, columns, residual = linear.solve(now.one + single, many, 1.0)
    amplitudes, columns, residual = linear.solve(
        now.one + single, many, problem.variance(residual, sharp)
    )
    freedom = max(len(residual) - len(x) - int((amplitudes > 0).sum()), 1)
    variance = max(float(residual @ residual) / freedom, problem.least_variance)
    jacobian = _jacobian(problem, x, now, amplitudes[0], sharp, False)
    active = columns[:, amplitudes > 0]
    covariance = _covariance(problem, x, _without(active, jacobian), residual, variance)

    shape = parts.spectrum.intensity.shape

    def whole(values: FloatArray) -> FloatArray:
        full = np.full(shape, np.nan)
        full[:, parts.columns] = np.where(parts.valid, values, np.nan)
        return full

    first = 2 if parts.can is None else 3
    shapes = parts.background()
    n = shapes.shape[2]
    offset = 0.0
    if parts.spectrum.sigma is None:
        offset = float(amplitudes[first + n] - amplitudes[first + n + 1])
    background = shapes @ amplitudes[first : first + n] + offset
    multiphonons = amplitudes[1] * many
    phonons = amplitudes[0] * (now.one + single) + multiphonons
    can = None if parts.can is None else amplitudes[2] * parts.can
    fitted = phonons + background + (0.0 if can is None else can)
    valid = parts.valid
    left = (parts.data - fitted)[valid]
    figures = _misfit(parts.data[valid], phonons[valid], fitted[valid], parts.noise[valid])
    return PowderFit(
        values=x[:K],
        covariance=covariance[:K, :K],
        nuisances=parts.nuisances,
        nuisance_values=x[K:],
        nuisance_sigma=np.sqrt(np.diag(covariance))[K:],
        scale=float(amplitudes[0]),
        multiphonon_factor=float(amplitudes[1] / amplitudes[0]) if amplitudes[0] > 0 else np.nan,
        can_scale=None if can is None else float(amplitudes[2]),
        offset=offset,
        phonons=whole(phonons),
        multiphonons=whole(multiphonons),
        can=None if can is None else whole(can),
        background=whole(background),
        fitted=whole(fitted),
        noise=whole(parts.noise),
        residual_variance=variance,
        chi_square=float(np.sum((left / parts.noise[valid]) ** 2)) / freedom,
        converged=state.converged,
        steps=state.steps,
        jacobian=jacobian,
        columns=active,
        parts=parts,
        **figures,
    )


def _misfit(
    data: FloatArray, phonons: FloatArray, fitted: FloatArray, noise: FloatArray
) -> dict[str, float]:
    """Sums of squared differences over that of the data, all as (x - mean) / (max - min)."""
    measured = data - data.mean()
    power = float(measured @ measured)

    def free(model: FloatArray) -> float:
        columns = np.stack([model, np.ones_like(model)], axis=1)
        solution, *_ = np.linalg.lstsq(columns, data, rcond=None)
        return float(np.sum((data - columns @ solution) ** 2)) / power

    own = float(np.ptp(fitted))
    alike = (fitted - fitted.mean()) / (own if own > 0 else 1.0) * float(np.ptp(data))
    return {
        "nmse_paper": float(np.sum((alike - measured) ** 2)) / power,
        "nmse_free": free(fitted),
        "nmse_phonons": free(phonons),
        "noise_share": float(np.sum(noise**2)) / power,
    }


def _covariance(
    problem: _Problem, x: FloatArray, jacobian: FloatArray, residual: FloatArray, variance: float
) -> FloatArray:
    """Misfit-scaled covariance, widened where the misfit is correlated inside blocks of cells.

    References
    ----------
    H. White, Econometrica 48, 817 (1980); K.-Y. Liang and S. L. Zeger, Biometrika 73, 13 (1986):
    the sandwich with clusters.
    """
    _, _, stiff = problem.penalty(x)
    information = jacobian.T @ jacobian / variance + np.diag(stiff)
    bread = np.linalg.inv(information)
    _, block = np.unique(problem.parts.blocks, return_inverse=True)
    scores = np.zeros((int(block.max()) + 1, jacobian.shape[1]))
    np.add.at(scores, block, jacobian * residual[:, None] / variance)
    sandwich = bread @ (scores.T @ scores + np.diag(stiff)) @ bread
    # never below the plain misfit-scaled one: few blocks can agree by chance
    widen = np.sqrt(np.maximum(np.diag(sandwich) / np.diag(bread), 1.0))
    widened = bread * np.outer(widen, widen)
    # nor above what the prior says
    most = np.minimum(1.0, problem.spread / np.sqrt(np.diag(widened)))
    return np.asarray(widened * np.outer(most, most), dtype=float)
