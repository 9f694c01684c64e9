"""Whether a fit explains a powder spectrum, and if not, what is missing.

A harmonic one-phonon model with a smooth background is never right to the last count, so it may be
off by ``MODEL_ERROR`` of the phonons. Beyond that a fit is not trusted. Score tests then look along
shapes that nothing in the fit can make: what falls with |Q| as magnetic scattering does, bands of
energy that are too strong or too weak, the lines of an aluminium can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.special import chdtri

from model_server.powder.fit import PowderFit
from simulations.arrays import FloatArray
from simulations.prior import BoxPrior

MODEL_ERROR = (
    0.10  # rms over that of the phonons: multiple scattering, anharmonic widths, harmonics
)
BANDS = 12  # of energy, in the score tests
MAGNETIC_FALL = 3.0  # 1/angstrom: exp(-(Q / this)^2 / 2), about a form factor squared
EXCESS_SHARE = 0.10  # of the scattered intensity that an excess must have to be told
FOUND = 0.25  # share of the misfit that a shape must explain to be named
CAN_FOUND = 0.15
MOST_MULTIPHONON = 2.5  # times what the scale gives: three standard deviations of its prior
PULL = 3.0  # standard deviations of a nuisance's prior
OUTSIDE = 1.5  # half-widths from the middle of a parameter's box
LEAST_PHONONS = 0.3  # share of what can and background leave over that phonons must explain
NOTICED = 30.0  # fall of chi-square beyond one per parameter that makes phonons more than chance
ALPHA = 1e-3
SPARSE = 0.05  # of the cells, where nothing was counted: these have the error of one count
OVERSTATED = 1.25  # times too large, beyond chance: errors of a file that can prove nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Trusted or not, and why."""

    trusted: bool
    reasons: tuple[str, ...]
    chi_square: float
    degrees_of_freedom: int
    allowed: float  # chi-square per degree of freedom that a model may have
    phonon_share: float  # of what varies beyond can and background, explained by phonons


def judge(fit: PowderFit, prior: BoxPrior) -> Verdict:
    """Judge a fit.

    Parameters
    ----------
    fit : PowderFit
    prior : BoxPrior
        Of the fitted parameters, in their order.
    """
    parts = fit.parts
    valid = parts.valid
    noise = parts.noise[valid]

    def cells(values: FloatArray) -> FloatArray:
        return values[:, parts.columns][valid] / noise

    residual = parts.data[valid] / noise - cells(fit.fitted)
    phonons = cells(fit.phonons)
    n = len(residual)
    freedom = max(n - fit.jacobian.shape[1] - fit.columns.shape[1], 1)
    statistic = float(residual @ residual)
    allowed = 1 + MODEL_ERROR**2 * float(phonons @ phonons) / n
    limit = allowed * float(chdtri(freedom, ALPHA)) / freedom
    share = _phonon_share(fit)
    reasons: list[str] = []
    if statistic / freedom > limit:
        reasons.append(
            f"goodness of fit: chi-square {statistic / freedom:.2f} per degree of freedom; at most "
            f"{limit:.2f} would be explained by noise and a model that is right within "
            f"{MODEL_ERROR:.0%}"
        )
        reasons += _missing(fit, residual, noise)
    least = float(chdtri(freedom, 1 - ALPHA)) / freedom / OVERSTATED**2
    sparse = float(np.mean(parts.data[valid] == 0)) > SPARSE
    if parts.spectrum.sigma is not None and not sparse and statistic / freedom < least:
        times = float(np.sqrt(freedom / max(statistic, 1e-300)))
        reasons.append(
            f"errors are {times:.3g} times too large for this spectrum: chi-square "
            f"{statistic / freedom:.2g} per degree of freedom, at least {least:.2g} expected; a "
            "wrong model would pass as well. Give standard deviations of one cell"
        )
    if not (np.isfinite(share) and share >= LEAST_PHONONS):
        reasons.append(
            f"phonons of this model explain {max(share, 0.0):.0%} of what varies beyond a smooth "
            "background: the structure is wrong, or the signal is no phonons"
        )
    if fit.multiphonon_factor > MOST_MULTIPHONON:
        reasons.append(
            f"{fit.multiphonon_factor:.1f} times the multiphonons that the model expects: multiple "
            "scattering, or a background that grows with |Q| faster than the smooth one can"
        )
    if not fit.converged:
        reasons.append("the fit did not converge")
    if fit.scale <= 0:
        reasons.append("no phonon intensity was found: the scale is zero")
    away = np.abs(fit.values - prior.mean) / (prior.sigma * np.sqrt(3.0))
    for name, value, distance in zip(prior.names, fit.values, away, strict=True):
        if distance > OUTSIDE:
            reasons.append(
                f"parameter {name} = {value:.3g} eV/A^2 lies {distance:.1f} half-widths from the "
                "middle of its prior box: the model or the structure is doubtful"
            )
    for nuisance, value in zip(fit.nuisances, fit.nuisance_values, strict=True):
        pull = (value - nuisance.centre) / nuisance.sigma
        if abs(pull) > PULL:
            reasons.append(
                f"{nuisance.name} is {value:+.3g} {nuisance.unit}, {pull:+.1f} standard deviations "
                "from what was expected: check the axes and the resolution"
            )
    return Verdict(
        trusted=not reasons,
        reasons=tuple(reasons) or ("the model explains the spectrum",),
        chi_square=statistic,
        degrees_of_freedom=freedom,
        allowed=limit,
        phonon_share=share,
    )


def _phonon_share(fit: PowderFit) -> float:
    """Share of the squares that can and background leave over which the phonons explain."""
    if fit.scale <= 0:
        return 0.0
    parts = fit.parts
    valid = parts.valid
    sigma = parts.sigma[valid]
    data = parts.data[valid] / sigma
    shapes = [parts.background()[valid] / sigma[:, None]]
    if parts.can is not None:
        shapes.append((parts.can[valid] / sigma)[:, None])
    if parts.spectrum.sigma is None:
        ones = (1 / sigma)[:, None]
        shapes += [ones, -ones]
    columns = np.concatenate(shapes, axis=1)
    _, without = nnls(columns / np.linalg.norm(columns, axis=0), data)
    left = data - fit.fitted[:, parts.columns][valid] / sigma
    noise = float(np.sum((parts.noise[valid] / sigma) ** 2))
    before, after = without**2, float(left @ left)
    by_chance = noise / len(data) * (fit.jacobian.shape[1] + NOTICED)
    if before - after < by_chance:
        return 0.0
    return (before - after) / max(before - min(noise, after), 1e-300)


def _missing(fit: PowderFit, residual: FloatArray, noise: FloatArray) -> list[str]:
    """What the residual looks like, in words; empty where no shape is found in it."""
    parts = fit.parts
    valid = parts.valid
    fitted = np.concatenate([fit.columns, fit.jacobian], axis=1)
    fitted = fitted * (parts.sigma[valid] / noise)[:, None]
    basis, _ = np.linalg.qr(fitted / np.maximum(np.linalg.norm(fitted, axis=0), 1e-300))
    beyond = max(float(residual @ residual) - len(residual), 1e-300)
    total = float(np.nansum(np.abs(parts.data[valid])))

    def explained(shapes: FloatArray) -> tuple[float, FloatArray]:
        """Share of the misfit beyond noise that non-negative shapes explain, and the strengths."""
        weighted = shapes[valid] / noise[:, None]
        own = weighted - basis @ (basis.T @ weighted)
        size = np.maximum(np.linalg.norm(own, axis=0), 1e-300)
        strengths, left = nnls(own / size, residual)
        gain = float(residual @ residual) - left**2 - (strengths > 0).sum()
        return gain / beyond, strengths / size

    energy, q = parts.energy, parts.q
    centres = np.linspace(energy[0], energy[-1], BANDS)
    width = centres[1] - centres[0]
    bands = np.maximum(1 - np.abs(energy[:, None] - centres) / width, 0.0)
    falling = np.exp(-0.5 * (q / MAGNETIC_FALL) ** 2)
    told: list[str] = []
    share, strengths = explained(bands[:, None, :] * falling[None, :, None])
    excess = (bands * strengths).sum(axis=1)[:, None] * falling
    part = float(excess[valid].sum()) / max(total, 1e-300)
    # zero is not known of normalised spectra, so nothing can be called an excess there
    if parts.spectrum.sigma is not None and share > FOUND and part > EXCESS_SHARE:
        at = centres[int(np.argmax(strengths))]
        told.append(
            f"an excess at low |Q| that falls with |Q|, {part:.0%} of the intensity and strongest "
            f"near {at:.3g} meV, as magnetic scattering or crystal-field levels would: no phonons"
        )
    if parts.can is None and set(parts.model.crystal.symbols) != {"Al"}:
        share, _ = explained(parts.can_of("aluminium")[..., None])
        if share > CAN_FOUND:
            told.append(
                f"the lines of aluminium explain {share:.0%} of what is left: a sample can? Set "
                "background.can_material: aluminium, or give the measured can"
            )
    growing = (q / q[-1]) ** 2
    share, strengths = explained(
        np.concatenate([bands, -bands], axis=1)[:, None, :] * growing[None, :, None]
    )
    if share > FOUND:
        change = strengths[:BANDS] - strengths[BANDS:]
        more, less = centres[int(np.argmax(change))], centres[int(np.argmin(change))]
        told.append(
            f"the density of states is wrong: {share:.0%} of what is left is intensity that grows "
            f"as |Q|^2, missing near {more:.3g} meV and too much near {less:.3g} meV"
        )
    if not told:
        told.append(f"what is left {_place(fit, residual)}")
    return told


def _place(fit: PowderFit, residual: FloatArray) -> str:
    """Where the misfit is largest, in words."""
    parts = fit.parts
    square = np.zeros(parts.valid.shape)
    square[parts.valid] = residual**2 - 1
    by_energy = square.sum(axis=1)
    by_momentum = square.sum(axis=0)
    at_energy = parts.energy[int(np.argmax(np.convolve(by_energy, np.ones(5), "same")))]
    at_momentum = parts.q[int(np.argmax(np.convolve(by_momentum, np.ones(5), "same")))]
    return f"is largest near {at_energy:.3g} meV and near |Q| = {at_momentum:.3g} 1/A"
