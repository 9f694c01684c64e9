"""Aluminium by temperature: the shipped spectra's sample, and what most sample cans are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulations.arrays import FloatArray
from simulations.crystal import Crystal, read_crystal
from simulations.dynamics import ForceConstantModel, default_dos_zone, phonon_dos
from simulations.errors import InputError
from simulations.instrument import Resolution, load_instrument
from simulations.prior import BoxPrior, load_prior_record
from simulations.reciprocal import quasi_random_points
from simulations.scattering import (
    SigmaOfEnergy,
    can_background,
    displacement_tensors,
    incoherent_spectrum,
    powder_spectrum,
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

CAN_CONSTANTS = (-0.62, -0.68, 0.155, -0.094, -0.016)
"""eV/angstrom^2, two shells: what the shipped spectrum at 50 K gives."""
CAN_POINTS = 800  # sampled q of a can's powder average


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
    from simulations.dynamics import force_constant_model

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


def can_map(
    material: str,
    momentum_edges: FloatArray,
    energy_edges_meV: FloatArray,
    *,
    temperature_K: float,
    resolution: SigmaOfEnergy,
) -> FloatArray:
    """Expected inelastic scattering of a can per atom, (Q, E), barn/meV/sr.

    Aluminium scatters coherently: its one-phonon part has structure in |Q|, which the incoherent
    approximation of `can_background` lacks. Vanadium does not.

    Parameters
    ----------
    material : str
        "aluminium" or "vanadium".
    momentum_edges : (Q + 1,) float64
        1/angstrom.
    energy_edges_meV : (E + 1,) float64
    temperature_K : float
    resolution : callable
        Standard deviation in meV by energy transfer.

    Raises
    ------
    ValueError
        If the material is unknown.
    """
    if material != "aluminium":
        return can_background(
            material,
            momentum_edges,
            energy_edges_meV,
            temperature_K=temperature_K,
            resolution=resolution,
        ).inelastic
    model, _, _ = aluminium_setup(temperature_K)
    phi = np.array(CAN_CONSTANTS)
    mesh = default_dos_zone(model.crystal)
    displacement = displacement_tensors(model, temperature_K, phi, mesh)
    common = {"temperature_K": temperature_K, "resolution": resolution}
    one = powder_spectrum(
        model,
        momentum_edges,
        energy_edges_meV,
        phi=phi,
        zone=quasi_random_points(model.crystal, CAN_POINTS),
        displacement=displacement,
        **common,
    )
    rest = incoherent_spectrum(
        model.crystal,
        phonon_dos(model, phi=phi, zone=mesh),
        momentum_edges,
        energy_edges_meV,
        displacement=displacement,
        **common,
    )
    return one.intensity + rest.inelastic
