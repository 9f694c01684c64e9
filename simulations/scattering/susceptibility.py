"""Dynamic susceptibility chi'' from S(Q,E) and back: the fluctuation-dissipation theorem.

``S(Q,E) = chi''(Q,E) / (pi (1 - exp(-E / kT)))``. chi'' is odd in E and, for harmonic phonons, does
not depend on temperature but through the Debye-Waller factor. Energy resolution breaks the relation
within its width; apply it to data whose bins are wider than that, or to a model before smearing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import FloatArray
from simulations.constants import BOLTZMANN_MEV_PER_K
from simulations.errors import InputError

_LARGEST = 700.0  # exp of it is still a float64


def _emission_share(energy_meV: FloatArray, temperature_K: float) -> FloatArray:
    """``1 - exp(-E / kT)``; minus infinity where neutrons could only gain what is not there."""
    if not (np.isfinite(temperature_K) and temperature_K >= 0):
        raise InputError(f"temperature_K is {temperature_K}; expected a number >= 0")
    if not np.isfinite(energy_meV).all():
        raise InputError("energy_meV holds NaN or infinity; expected finite energy transfers")
    thermal = max(BOLTZMANN_MEV_PER_K * temperature_K, 1e-200)  # the quotient must not overflow
    x = energy_meV / thermal
    return np.where(x < -_LARGEST, -np.inf, -np.expm1(-np.maximum(x, -_LARGEST)))


def susceptibility(intensity: ArrayLike, energy_meV: ArrayLike, temperature_K: float) -> FloatArray:
    """Imaginary part chi'' of the dynamic susceptibility from S(Q,E).

    Parameters
    ----------
    intensity : (..., E) float64
        S(Q,E), any unit, without elastic line.
    energy_meV : (E,) float64
        Energy transfer, positive when the neutron loses energy.
    temperature_K : float

    Returns
    -------
    (..., E) float64
        ``pi (1 - exp(-E / kT)) S``, unit of ``intensity``; 0 at E = 0. NaN at E < 0 where the
        crystal is too cold (E < -700 kT) for any neutron to gain energy: S says nothing there.

    Raises
    ------
    ValueError
        If the temperature is negative, or shapes or numbers are no good.

    References
    ----------
    S. W. Lovesey, Theory of Neutron Scattering from Condensed Matter (1984), section 3.3.
    """
    S, energy = _checked(intensity, energy_meV, "intensity")
    share = _emission_share(energy, temperature_K)
    return np.where(np.isinf(share), np.nan, np.pi * S * np.where(np.isinf(share), 0.0, share))


def scattering_function(chi: ArrayLike, energy_meV: ArrayLike, temperature_K: float) -> FloatArray:
    """S(Q,E) from chi'', the inverse of `susceptibility`.

    Parameters
    ----------
    chi : (..., E) float64
        Imaginary part of the dynamic susceptibility.
    energy_meV : (E,) float64
        Energy transfer, positive when the neutron loses energy.
    temperature_K : float

    Returns
    -------
    (..., E) float64
        ``chi'' / (pi (1 - exp(-E / kT)))``, unit of ``chi``; 0 at E < 0 where the crystal is too
        cold. NaN at E = 0, where the slope of chi'' would be needed.

    Raises
    ------
    ValueError
        If the temperature is negative, or shapes or numbers are no good.
    """
    values, energy = _checked(chi, energy_meV, "chi")
    share = _emission_share(energy, temperature_K)
    out = values / np.where(energy == 0, 1.0, np.pi * share)
    out = np.where(np.isinf(share), 0.0, out)
    return np.where(energy == 0, np.nan, out)


def _checked(values: ArrayLike, energy_meV: ArrayLike, field: str) -> tuple[FloatArray, FloatArray]:
    out, energy = np.asarray(values, dtype=float), np.asarray(energy_meV, dtype=float)
    if energy.ndim != 1 or out.shape[-1:] != energy.shape:
        raise ValueError(
            f"{field} has shape {out.shape} and energy_meV {energy.shape}; expected (..., E) and "
            "(E,)"
        )
    return out, energy
