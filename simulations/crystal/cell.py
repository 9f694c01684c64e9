"""A crystal: primitive cell, conventional cell, masses and scattering lengths."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from simulations.arrays import FloatArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Crystal:
    """A perfect crystal. Vectors are Cartesian, angstrom; both cells share one Cartesian frame."""

    lattice: FloatArray  # (3, 3) rows are primitive lattice vectors, angstrom
    positions: FloatArray  # (atoms, 3) fractional coordinates of the primitive cell
    symbols: tuple[str, ...]  # (atoms,) species: chemical symbols, or isotopes such as 28Si and D
    masses_u: FloatArray  # (atoms,)
    scattering_length: FloatArray  # (atoms,) coherent b in sqrt(barn), 10 fm = 1 sqrt(barn)
    incoherent_barn: FloatArray  # (atoms,) incoherent cross section 4 pi b_inc^2
    conventional_lattice: FloatArray  # (3, 3) rows; hkl in r.l.u. refers to this cell

    @property
    def n_atoms(self) -> int:
        """Atoms in the primitive cell."""
        return len(self.symbols)

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols of the atoms, whatever the isotope."""
        return tuple(element_of(symbol) for symbol in self.symbols)

    @property
    def reciprocal(self) -> FloatArray:
        """Primitive reciprocal vectors in rows, 1/angstrom, with the 2 pi."""
        return np.asarray(2 * np.pi * np.linalg.inv(self.lattice).T, dtype=np.float64)

    @property
    def conventional_reciprocal(self) -> FloatArray:
        """Conventional reciprocal vectors in rows, 1/angstrom: ``Q = hkl @ this``."""
        return np.asarray(2 * np.pi * np.linalg.inv(self.conventional_lattice).T, dtype=np.float64)


def element_of(label: str) -> str:
    """Chemical symbol of a species, e.g. Si of 28Si and H of D."""
    if label in ("D", "T"):
        return "H"
    found = re.match(r"^\d*([A-Z][a-z]?)(?:\d+|@.*)?$", label)
    return found[1] if found else label
