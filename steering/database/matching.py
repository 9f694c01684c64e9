"""Entries that are the same crystal as a structure, however its cell was chosen, and how far off.

Formula and volume per atom come from the index, so that few entries are compared at all. Both cells
are made primitive within a tenth of an angstrom; pymatgen's StructureMatcher lays one on the other.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulations.arrays import FloatArray
from steering.database.database import Database
from steering.database.entry import Card, Entry, reduced_formula

LARGEST_STRAIN = 0.05
LARGEST_SHIFT_A = 0.5
_PRIMITIVE_A = 0.1
_LENGTHS, _SITES, _ANGLES_DEG = 0.1, 0.25, 5.0
"""Of StructureMatcher: looser than the bounds above, which are judged afterwards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """An entry that has the structure, and how far the structure is from it."""

    card: Card
    strain: float  # largest principal strain of the structure against the entry
    volume: float  # of the structure over that of the entry, less one
    rms_A: float  # of the atoms, after the strain
    largest_A: float

    @property
    def words(self) -> str:
        """In a line."""
        return (
            f"strained by up to {100 * self.strain:.2f} %, volume {100 * self.volume:+.2f} %, "
            f"atoms moved by {self.rms_A:.3f} angstrom (rms), {self.largest_A:.3f} at most"
        )

    @property
    def cost(self) -> float:
        """What matches are sorted by: a percent of strain weighs as much as 0.01 angstrom."""
        return self.strain + self.rms_A


def matches(
    database: Database,
    lattice: FloatArray,
    positions: FloatArray,
    elements: tuple[str, ...],
    *,
    largest_strain: float = LARGEST_STRAIN,
    largest_shift_A: float = LARGEST_SHIFT_A,
) -> tuple[Match, ...]:
    """Entries that have a structure, the nearest first.

    Parameters
    ----------
    database : Database
    lattice : (3, 3) float64
        Vectors of any cell in rows, angstrom.
    positions : (atoms, 3) float64
        Fractional.
    elements : (atoms,) tuple of str
    largest_strain : float
        Of any principal strain, volume change included.
    largest_shift_A : float
        Of any atom, angstrom.
    """
    low, high = (1 - largest_strain) ** 3, (1 + largest_strain) ** 3
    volume = abs(float(np.linalg.det(lattice))) / len(elements)
    near = database.search(
        formula=reduced_formula(elements), volume_A3=(volume / high, volume / low)
    )
    if not near:
        return ()
    ours = _primitive(lattice, positions, elements)
    found = []
    for one in near:
        match = _compared(ours, database.read(one), one.card)
        if (
            match is not None
            and match.strain <= largest_strain
            and match.largest_A <= largest_shift_A
        ):
            found.append(match)
    return tuple(sorted(found, key=lambda match: match.cost))


def _primitive(lattice: FloatArray, positions: FloatArray, elements: tuple[str, ...]) -> Any:
    """Pymatgen's structure of the primitive cell."""
    from pymatgen.core import Lattice, Structure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = Structure(Lattice(lattice), list(elements), positions)
        return whole.get_primitive_structure(tolerance=_PRIMITIVE_A)


def _compared(ours: Any, entry: Entry, card: Card) -> Match | None:
    """Lay the structure on an entry; None where it does not fit."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    length_A = _length_A(entry.calculator)
    theirs = _primitive(length_A * entry.lattice, entry.positions, entry.symbols)
    if len(ours) != len(theirs):
        return None
    matcher = StructureMatcher(
        ltol=_LENGTHS, stol=_SITES, angle_tol=_ANGLES_DEG, primitive_cell=False, scale=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distances = matcher.get_rms_dist(ours, theirs)
        if distances is None:
            return None
        laid: Any = matcher.get_transformation(ours, theirs)
    if laid is None:
        return None
    deformation = np.linalg.solve(np.asarray(laid[0]) @ theirs.lattice.matrix, ours.lattice.matrix)
    stretch = np.linalg.svd(deformation, compute_uv=False)
    size = float((ours.volume / len(ours)) ** (1 / 3))
    return Match(
        card=card,
        strain=float(np.abs(stretch - 1).max()),
        volume=float(ours.volume / theirs.volume - 1),
        rms_A=float(distances[0]) * size,
        largest_A=float(distances[1]) * size,
    )


def _length_A(calculator: str | None) -> float:
    """Angstrom in the length of a calculator."""
    from phonopy.physical_units import get_calculator_physical_units

    return float(get_calculator_physical_units(calculator).distance_to_A)
