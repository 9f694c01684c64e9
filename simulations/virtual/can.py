"""The can around a virtual sample: its material and its powder lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.arrays import FloatArray
from simulations.crystal import Crystal
from simulations.errors import InputError
from simulations.scattering import (
    CAN_MATERIALS,
)
from simulations.virtual.walk import ENERGY_PER_K2

CUBIC_METALS = {
    "aluminium": (4.0496, "fcc"),
    "vanadium": (3.0240, "bcc"),
    "stainless steel": (3.59, "fcc"),
}
"""Cubic lattice constant (angstrom, 293 K, textbook values) and centring of can materials."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VirtualCan:
    """Powder that surrounds the sample, at the sample's place and temperature."""

    atoms: float  # in the beam, per primitive cell of the sample
    material: str = "aluminium"
    line_width: float = 0.02  # 1/angstrom, standard deviation of |Q| in a powder line

    def __post_init__(self) -> None:
        """Refuse what is unknown."""
        if self.material not in CUBIC_METALS:
            raise InputError(
                f"can material is {self.material!r}; expected one of {', '.join(CUBIC_METALS)}"
            )
        for name in ("atoms", "line_width"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"can {name} is {getattr(self, name)}; expected above 0")

    @property
    def atom(self) -> Crystal:
        """The primitive cell, one atom."""
        a, centring = CUBIC_METALS[self.material]
        half = {
            "fcc": [[0, 1, 1], [1, 0, 1], [1, 1, 0]],
            "bcc": [[-1, 1, 1], [1, -1, 1], [1, 1, -1]],
        }
        metal = CAN_MATERIALS[self.material]
        mass, length, incoherent = metal.atom
        return Crystal(
            lattice=0.5 * a * np.array(half[centring], dtype=float),
            positions=np.zeros((1, 3)),
            symbols=(metal.symbol,),
            masses_u=mass,
            scattering_length=length,
            incoherent_barn=incoherent,
            conventional_lattice=a * np.eye(3),
        )


def powder_lines(
    can: VirtualCan, ei_meV: float, mean_square: float
) -> tuple[FloatArray, FloatArray]:
    """Where the can's powder lines lie and how strong they are.

    Returns
    -------
    modulus : (lines,) float64
        |G| up to 2 k, 1/angstrom.
    barn : (lines,) float64
        Integral over |Q| of the cross section per steradian and can atom, barn/(angstrom sr):
        ``(2 pi)^3 / v0 m b^2 exp(-G^2 <u^2>) / (4 pi G^2)`` with multiplicity m.

    References
    ----------
    G. L. Squires, Introduction to the Theory of Thermal Neutron Scattering (1978), section 3.4.
    """
    atom = can.atom
    k = np.sqrt(ei_meV / ENERGY_PER_K2)
    a = atom.conventional_lattice[0, 0]
    most = int(np.ceil(2 * k * a / (2 * np.pi)))
    axis = np.arange(-most, most + 1)
    hkl = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    primitive = hkl @ np.linalg.inv(atom.conventional_lattice).T @ atom.lattice.T
    kept = np.all(np.abs(primitive - np.rint(primitive)) < 1e-6, axis=1) & np.any(hkl != 0, axis=1)
    square, multiplicity = np.unique(np.sum(hkl[kept] ** 2, axis=1), return_counts=True)
    modulus = 2 * np.pi / a * np.sqrt(square)
    volume = abs(np.linalg.det(atom.lattice))
    barn = (2 * np.pi) ** 3 / volume * multiplicity * atom.scattering_length[0] ** 2
    barn = barn * np.exp(-(modulus**2) * mean_square) / (4 * np.pi * modulus**2)
    inside = modulus < 2 * k
    return modulus[inside], barn[inside]
