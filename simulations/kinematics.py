"""Neutron energy, wave vector and time of flight.

CODATA 2018: ``E = hbar^2 k^2 / 2 m_n`` and ``v = hbar k / m_n``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

MEV_PER_K2 = 2.0721248  # E[meV] = this * k^2, k in 1/angstrom
METRE_PER_SECOND_PER_SQRT_MEV = 437.39337  # v[m/s] = this * sqrt(E[meV])
HBAR2_OVER_2U = 2.0900765  # hbar^2 / 2u in meV angstrom^2


def wave_vector(energy_meV: FloatArray | float) -> FloatArray:
    """k in 1/angstrom of a neutron of the given kinetic energy (meV)."""
    return np.sqrt(np.asarray(energy_meV, dtype=float) / MEV_PER_K2)


def flight_time_us(distance_m: FloatArray | float, energy_meV: FloatArray | float) -> FloatArray:
    """Microseconds to fly ``distance_m`` with kinetic energy ``energy_meV``."""
    speed = METRE_PER_SECOND_PER_SQRT_MEV * np.sqrt(np.asarray(energy_meV, dtype=float))
    return np.asarray(distance_m, dtype=float) / speed * 1e6


def momentum_transfer(
    direction: FloatArray, energy_transfer_meV: FloatArray, ei_meV: float
) -> FloatArray:
    """``Q = k_i - k_f`` in the laboratory frame (z along the beam), 1/angstrom.

    Parameters
    ----------
    direction : (..., 3)
        Unit vectors from the sample to the detector.
    energy_transfer_meV : (...)
        Positive when the neutron loses energy; must stay below ``ei_meV``.
    ei_meV : float
        Incident energy.

    Returns
    -------
    (..., 3) float64
    """
    kf = wave_vector(ei_meV - np.asarray(energy_transfer_meV))
    Q = -kf[..., None] * np.asarray(direction)
    Q[..., 2] += wave_vector(ei_meV)
    return Q
