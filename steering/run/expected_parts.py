"""What a run expects beside one coherent phonon and its can, predicted from its own crystal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulations.arrays import FloatArray
from simulations.constants import NEUTRON_MEV_A2
from simulations.dynamics import phonon_dos
from simulations.errors import InputError
from simulations.fold import ExpectedPart
from simulations.scattering import (
    can_background,
    converged_displacements,
    incoherent_spectrum,
    pocketed,
)
from steering.experiment import Measurement

OWN = "incoherent and multiphonon"
CRYOSTAT = "cryostat"
MOMENTUM_STEP = 0.05  # 1/angstrom
MOST_IMAGINARY = 0.01  # of the modes; more, and the density is not that of the crystal


def expected_parts(
    measurement: Measurement, values: FloatArray | None = None
) -> tuple[ExpectedPart, ...]:
    """Parts that the experiment's background section asks for; none by default.

    Incoherent and multiphonon scattering of the sample is that of the density of states that its
    force constants give; the fit's scale takes up what is wrong of it. A cryostat counts as if it
    stood where the sample is, in the incoherent approximation.

    Parameters
    ----------
    measurement : Measurement
    values : (K,) float64, optional
        Force constants of an estimate; the middle of the prior without one.

    Raises
    ------
    InputError
        If the crystal is not stable with them.
    """
    section = measurement.experiment.background
    found: list[ExpectedPart] = []
    if section.own:
        found.append(_part(OWN, section.own_relative_sigma, own_scattering(measurement, values)))
    if section.cryostat is not None:
        walls = section.cryostat
        metal = can_background(
            walls.material,
            _momentum(measurement),
            measurement.energy.edges_meV,
            temperature_K=walls.temperature_K,
            resolution=measurement.instrument.resolution,
            ei_meV=measurement.ei_meV,
        )
        seen = walls.atoms * metal.inelastic
        found.append(_part(CRYOSTAT, walls.relative_sigma, seen))
    return tuple(found)


def own_scattering(measurement: Measurement, values: FloatArray | None = None) -> FloatArray:
    """Incoherent one-phonon and all multiphonon scattering of the sample.

    Parameters
    ----------
    measurement, values
        As of `expected_parts`.

    Returns
    -------
    (Q, E) float64
        barn/meV/sr per primitive cell, at the bins of the fold and steps of `MOMENTUM_STEP`.

    Raises
    ------
    InputError
        As `expected_parts`.
    """
    model, phi = measurement.model, measurement.prior.mean if values is None else values
    temperature = measurement.experiment.sample.temperature_K
    dos = phonon_dos(model, phi=phi)
    if measurement.pockets is not None and dos.imaginary is not None:
        dos = pocketed(dos, measurement.pockets)
    elif dos.imaginary_share > MOST_IMAGINARY:
        raise InputError(
            f"background.own is true, and {100 * dos.imaginary_share:.2g} % of the modes are "
            "imaginary where it is predicted from; expected a stable crystal. Give another prior, "
            "or own: false"
        )
    else:
        dos = replace(dos, imaginary_share=0.0)
    moved = converged_displacements(model, temperature, phi, pockets=measurement.pockets)
    spectrum = incoherent_spectrum(
        measurement.crystal,
        dos,
        _momentum(measurement),
        measurement.energy.edges_meV,
        temperature_K=temperature,
        resolution=measurement.instrument.resolution,
        ei_meV=measurement.ei_meV,
        displacement=moved.tensors,
    )
    return spectrum.inelastic


def _momentum(measurement: Measurement) -> FloatArray:
    """Edges of |Q| up to all that any neutron can have lost or gained."""
    ends = np.array([0.0, measurement.energy.edges_meV[0]])
    ki, kf = np.sqrt((measurement.ei_meV - np.minimum(ends, 0.0)) / NEUTRON_MEV_A2)
    return np.arange(0.0, ki + kf + 2 * MOMENTUM_STEP, MOMENTUM_STEP)


def _part(name: str, sigma: float, seen: FloatArray) -> ExpectedPart:
    return ExpectedPart(
        name=name, relative_sigma=sigma, momentum_step=MOMENTUM_STEP, intensity=seen
    )
