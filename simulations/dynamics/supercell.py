"""Pair force constants to and from the full matrix of a supercell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from simulations.arrays import FloatArray, IntArray
from simulations.crystal import Crystal
from simulations.dynamics.bonds import (
    ELEMENT_NAMES,
    PairForceConstants,
    bond_keys,
    neighbour_bonds,
    supercell_bonds,
    supercell_cells,
)
from simulations.dynamics.dipole import Dipole
from simulations.dynamics.symmetry_elements import bond_orbits
from simulations.errors import InputError

# -------------------------------------------------------------------- full supercell constants


def to_supercell(force_constants: PairForceConstants, supercell: IntArray | None = None) -> Any:
    """Fold bonds into a supercell: constants between home-cell atoms and all supercell atoms.

    Parameters
    ----------
    force_constants : PairForceConstants
    supercell : (3, 3) int64 or None
        Rows in primitive vectors; None: the one the constants came with.

    Returns
    -------
    cells : (cells, 3) int64
        Primitive cells of the supercell in the order used below, the home cell first.
    constants : (atoms, cells, atoms, 3, 3) float64
        eV/angstrom^2, on-site constants from the acoustic sum rule.

    Raises
    ------
    ValueError
        If no supercell is known.
    """
    supercell = force_constants.supercell if supercell is None else np.asarray(supercell)
    if supercell is None:
        raise InputError("supercell is None; expected a 3x3 integer matrix of the supercell wanted")
    cells = supercell_cells(supercell)
    n_atoms = force_constants.crystal.n_atoms
    out = np.zeros((n_atoms, len(cells), n_atoms, 3, 3))
    index = cell_index(force_constants.cell, supercell, cells)
    np.add.at(out, (force_constants.first, index, force_constants.second), force_constants.tensors)
    atoms = np.arange(n_atoms)
    out[atoms, 0, atoms] += force_constants.onsite()
    return cells, out


def cell_index(cell: IntArray, supercell: IntArray, cells: IntArray) -> IntArray:
    """Index into ``cells`` of the primitive cells (N, 3) modulo the supercell, (N,)."""
    count = len(cells)
    inverse = np.linalg.inv(supercell)

    def code(c: IntArray) -> IntArray:
        n = np.rint((c @ inverse) * count).astype(np.int64) % count
        return (n[:, 0] * count + n[:, 1]) * count + n[:, 2]

    known = code(cells)
    order = np.argsort(known)
    return order[np.searchsorted(known[order], code(cell))]


def from_supercell(
    crystal: Crystal,
    supercell: IntArray,
    cells: IntArray,
    constants: FloatArray,
    *,
    dipole: Dipole | None = None,
    source: str = "",
) -> PairForceConstants:
    """Spread supercell constants over equidistant images; the inverse of `to_supercell`.

    Parameters
    ----------
    crystal : Crystal
    supercell : (3, 3) int64
        Rows in primitive vectors.
    cells : (cells, 3) int64
        Primitive cells of the supercell.
    constants : (atoms, cells, atoms, 3, 3) float64
        eV/angstrom^2; on-site entries are ignored, the acoustic sum rule replaces them.
    dipole : Dipole or None
        Born charges; the constants are then the total ones, dipole part included.
    source : str
        Where the numbers come from.
    """
    bonds, multiplicity = supercell_bonds(crystal, supercell)
    index = cell_index(bonds.cell, np.asarray(supercell), cells)
    tensors = constants[bonds.first, index, bonds.second] / multiplicity[:, None, None]
    return replace(bonds, tensors=tensors, dipole=dipole, source=source)


def from_representatives(
    crystal: Crystal,
    shells: Sequence[tuple[int, int, Sequence[int], dict[str, float]]],
    *,
    source: str = "",
) -> PairForceConstants:
    """Force constants from one bond per symmetry class with its independent elements.

    Parameters
    ----------
    crystal : Crystal
    shells : sequence of (first, second, cell, elements)
        Bond from atom ``first`` to atom ``second`` of ``cell`` and its tensor elements by name
        (``xx``, ``xy``, ...), eV/angstrom^2. Elements that the symmetry fixes may be left out.
    source : str
        Where the numbers come from.

    Raises
    ------
    ValueError
        If elements are too few, or contradict each other or the symmetry.
    """
    x = crystal.positions
    ends = [((x[j] - x[i] + np.asarray(c)) @ crystal.lattice) for i, j, c, _ in shells]
    bonds = neighbour_bonds(crystal, float(np.max(np.linalg.norm(ends, axis=1))))
    keys = bond_keys(bonds.first, bonds.second, bonds.cell, crystal.n_atoms)
    orbits, _ = bond_orbits(bonds)
    owner = np.empty(len(keys), dtype=np.int64)
    position = np.empty(len(keys), dtype=np.int64)
    for o, orbit in enumerate(orbits):
        owner[orbit.members] = o
        position[orbit.members] = np.arange(len(orbit.members))
    tensors = np.zeros((len(keys), 9))
    listed = np.zeros(len(keys), dtype=bool)
    for i, j, cell, elements in shells:
        key = bond_keys(
            np.array([i]), np.array([j]), np.array([cell], dtype=np.int64), crystal.n_atoms
        )
        b = int(np.flatnonzero(keys == key[0])[0])
        orbit = orbits[owner[b]]
        rows = [ELEMENT_NAMES.index(name) for name in elements]
        wanted = np.array([float(elements[ELEMENT_NAMES[r]]) for r in rows])
        table = orbit.carry[position[b]] @ orbit.basis.reshape(-1, 9).T  # (9, elements)
        solution, _, rank, _ = np.linalg.lstsq(table[rows], wanted, rcond=None)
        wrong = np.abs(table[rows] @ solution - wanted).max(initial=0.0)
        if rank < table.shape[1] or wrong > 1e-6 * max(1.0, np.abs(wanted).max(initial=0.0)):
            raise InputError(
                f"shell from atom {i} to atom {j} of cell {list(cell)} lists {elements}; expected "
                f"{table.shape[1]} independent elements such as {orbit.elements} that agree with "
                "the space group"
            )
        tensors[orbit.members] = orbit.carry @ (orbit.basis.reshape(-1, 9).T @ solution)
        listed[orbit.members] = True
    return PairForceConstants(
        crystal=crystal,
        first=bonds.first[listed],
        second=bonds.second[listed],
        cell=bonds.cell[listed],
        tensors=tensors[listed].reshape(-1, 3, 3),
        source=source,
    )
