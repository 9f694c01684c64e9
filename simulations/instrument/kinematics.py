"""Neutron energy ``E = hbar^2 k^2 / 2 m_n``, wave vector and time of flight."""

from __future__ import annotations

import numpy as np

from simulations.arrays import FloatArray
from simulations.constants import METRE_PER_SECOND_PER_SQRT_MEV
from simulations.constants import NEUTRON_MEV_A2 as MEV_PER_K2


def wave_vector(energy_meV: FloatArray | float) -> FloatArray:
    """K in 1/angstrom of a neutron of the given kinetic energy (meV)."""
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
