"""Powder spectra inverted and reported: force constants, misfit and trust as JSON-ready values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from model_server.powder.aluminium import aluminium_setup
from model_server.powder.fit import InversionSettings, PowderFit, fit_powder
from model_server.powder.verdict import judge
from simulations.arrays import FloatArray
from simulations.constants import Z90
from simulations.dynamics import ForceConstantModel, modes
from simulations.errors import InputError
from simulations.prior import BoxPrior
from simulations.scattering import SHIPPED, MeasuredSpectrum, read_powder_spectra

INFORMED = 0.8  # of the prior's sigma: what is above is still the prior's
DEGENERATE_MEV = 1e-3

ERROR_BARS = (
    "Scaled by the misfit where the forward model does not describe the spectrum within counting "
    "noise: then sigma says how far a parameter can move before the fit worsens by as much as it "
    "is bad already, with misfit correlated over blocks of Ei/10 x 1 1/angstrom. The prior counts "
    "with its mean and width. Not covered is what the model lacks: shells beyond the cutoff, "
    "anharmonic shifts, multiple scattering."
)

APPROXIMATIONS = (
    "one phonon: coherent, harmonic, powder average over sampled q and all G; incoherent with the "
    "same scale",
    "two and more phonons: incoherent approximation with the total cross section, strength free "
    "within 50 %, which also takes up multiple scattering",
    "resolution: Gaussian, the instrument's polynomial times one free factor; lines have a width "
    "of their own in proportion to E",
    "background: six non-negative terms, smooth in E and |Q|",
)


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
        As ``report``.

    Raises
    ------
    ValueError
        If the file cannot be read or has no such temperature.
    """
    if not isinstance(spectrum, MeasuredSpectrum):
        found = read_powder_spectra(SHIPPED if str(spectrum) == "aluminium" else spectrum)
        spectrum = at_kelvin(found, temperature_K, str(spectrum))[0]
    model, prior, resolution = aluminium_setup(spectrum.temperature_K, shells=shells)
    fit = fit_powder(spectrum, model, prior, resolution, settings=settings, progress=progress)
    return report(spectrum, model, prior, fit)


def at_kelvin(
    spectra: tuple[MeasuredSpectrum, ...], temperature_K: float | None, name: str
) -> tuple[MeasuredSpectrum, ...]:
    """Spectra of a file at a temperature, within 1 K; all of them where it is None."""
    if temperature_K is None:
        return spectra
    near = tuple(s for s in spectra if abs(s.temperature_K - temperature_K) <= 1.0)
    if not near:
        raise InputError(
            f"temperature_K is {temperature_K:g}; {name} has "
            f"{', '.join(f'{s.temperature_K:g}' for s in spectra)} K. Choose one of them."
        )
    return near


def report(
    spectrum: MeasuredSpectrum, model: ForceConstantModel, prior: BoxPrior, fit: PowderFit
) -> dict[str, Any]:
    """Result of a fit as JSON-ready values.

    Returns
    -------
    dict
        ``parameters`` as in ``result.json`` (name, unit, value, sigma, interval90, informed) and
        ``covariance``; ``derived``: on-site constants and modes of the zone centre; the figures of
        misfit ``nmse_paper`` (model and data as (x - mean)/(max - min)), ``nmse_free`` (scale and
        offset free) and ``nmse_phonons`` (that of the phonons alone, without can and background),
        all sum of squares over sum of squared data; ``nmse_noise``, what noise alone leaves;
        ``chi_square`` per degree of freedom, with ``noise`` telling where errors come from;
        ``trusted`` with ``reasons``, ``goodness_of_fit``, ``nuisances``, ``outside_prior``,
        ``error_bars`` and ``approximations``.
    """
    box = prior.restricted(model.names)
    verdict = judge(fit, box)
    inside = box.contains(fit.values)
    return {
        "spectrum": spectrum.name,
        "temperature_K": spectrum.temperature_K,
        "ei_meV": spectrum.ei_meV,
        "parameters": [
            {**_entry(name, value, width), "informed": bool(width < INFORMED * known)}
            for name, value, width, known in zip(
                model.names, fit.values, fit.sigma, box.sigma, strict=True
            )
        ],
        "covariance": fit.covariance.tolist(),
        "derived": [*_onsite(model, fit), *_zone_centre(model, fit)],
        "nmse_free": fit.nmse_free,
        "nmse_paper": fit.nmse_paper,
        "nmse_phonons": fit.nmse_phonons,
        "nmse_noise": fit.noise_share,
        "chi_square": fit.chi_square,
        "noise": "of the file" if spectrum.sigma is not None else "from neighbouring cells",
        "trusted": verdict.trusted,
        "reasons": list(verdict.reasons),
        "goodness_of_fit": {
            "chi_square": verdict.chi_square,
            "degrees_of_freedom": verdict.degrees_of_freedom,
            "reduced_chi_square": fit.chi_square,
            "allowed": verdict.allowed,
            "phonon_share": verdict.phonon_share,
        },
        "error_bars": ERROR_BARS,
        "outside_prior": [n for n, ok in zip(model.names, inside, strict=True) if not ok],
        "nuisances": {
            "scale": fit.scale,
            "multiphonon_factor": fit.multiphonon_factor,
            "can_scale": fit.can_scale,
            "offset": fit.offset,
            "resolution_factor": fit.resolution_factor,
            "fitted": [
                {
                    "name": nuisance.name,
                    "unit": nuisance.unit,
                    "value": float(value),
                    "sigma": float(sigma),
                    "prior_sigma": nuisance.sigma,
                }
                for nuisance, value, sigma in zip(
                    fit.nuisances, fit.nuisance_values, fit.nuisance_sigma, strict=True
                )
            ],
        },
        "approximations": list(APPROXIMATIONS),
        "converged": fit.converged,
        "steps": fit.steps,
    }


def _entry(name: str, value: float, sigma: float, unit: str = "eV/angstrom^2") -> dict[str, Any]:
    return {
        "name": name,
        "unit": unit,
        "value": float(value),
        "sigma": float(sigma),
        "interval90": [float(value - Z90 * sigma), float(value + Z90 * sigma)],
    }


def _onsite(model: ForceConstantModel, fit: PowderFit) -> list[dict[str, Any]]:
    """On-site constants, which the acoustic sum rule ties to the bonds."""
    onsite, slope = model.onsite(fit.values), model.onsite_gradient()
    out = []
    for atom, symbol in enumerate(model.crystal.symbols):
        by = slope[:, atom, 0, 0]
        sigma = float(np.sqrt(by @ fit.covariance @ by))
        out.append(_entry(f"on-site {symbol}{atom + 1} xx", onsite[atom, 0, 0], sigma))
    return out


def _zone_centre(model: ForceConstantModel, fit: PowderFit) -> list[dict[str, Any]]:
    """Optic modes at Gamma with their errors, those of one energy together."""
    if model.crystal.n_atoms == 1:
        return []

    def energies(phi: FloatArray) -> FloatArray:
        return modes(model, np.zeros((1, 3)), phi)[0][0]

    centre = energies(fit.values)
    slopes = []
    for k, sigma in enumerate(fit.sigma):
        step = np.zeros(len(fit.values))
        step[k] = 0.01 * sigma
        slopes.append((energies(fit.values + step) - energies(fit.values - step)) / (0.02 * sigma))
    jacobian = np.array(slopes)
    sigma = np.sqrt(np.einsum("km,kl,lm->m", jacobian, fit.covariance, jacobian))
    out: list[dict[str, Any]] = []
    start = 3
    while start < len(centre):
        end = start + 1
        while end < len(centre) and centre[end] - centre[start] < DEGENERATE_MEV:
            end += 1
        name = f"Gamma mode {start + 1}" if end == start + 1 else f"Gamma modes {start + 1}-{end}"
        width = float(np.sqrt(np.mean(sigma[start:end] ** 2)))
        out.append(_entry(name, float(centre[start:end].mean()), width, "meV"))
        start = end
    return out
