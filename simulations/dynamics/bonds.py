"""Pairs of atoms and the force constants between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import spglib

from simulations.arrays import FloatArray, IntArray
from simulations.crystal import Crystal, quiet_spglib
from simulations.dynamics.dipole import Dipole
from simulations.errors import InputError

_AXES = "xyz"
ELEMENT_NAMES = [a + b for a in _AXES for b in _AXES]
LENGTH_TOLERANCE_A = 1e-5


# --------------------------------------------------------------------------------------- bonds


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairForceConstants:
    """Force constants of every bond of the infinite crystal, a bond and its reverse both listed.

    Bond b goes from atom ``first[b]`` of the home cell to atom ``second[b]`` of cell ``cell[b]``.
    On-site constants are not stored: they follow from the acoustic sum rule.
    """

    crystal: Crystal
    first: IntArray  # (bonds,)
    second: IntArray  # (bonds,)
    cell: IntArray  # (bonds, 3) in primitive lattice vectors
    tensors: FloatArray  # (bonds, 3, 3) Phi = d2E/du_first du_second, eV/angstrom^2
    supercell: IntArray | None = None  # (3, 3) rows in primitive vectors; None: a list by distance
    dipole: Dipole | None = None
    source: str = ""
    notes: tuple[str, ...] = ()  # what was inferred or checked when they were read

    @property
    def vectors(self) -> FloatArray:
        """Bond vectors, Cartesian, angstrom, (bonds, 3)."""
        x = self.crystal.positions
        return (x[self.second] - x[self.first] + self.cell) @ self.crystal.lattice

    @property
    def lengths(self) -> FloatArray:
        """Bond lengths, angstrom, (bonds,)."""
        return np.linalg.norm(self.vectors, axis=1)

    def onsite(self) -> FloatArray:
        """On-site constants by the acoustic sum rule, (atoms, 3, 3), eV/angstrom^2."""
        out = np.zeros((self.crystal.n_atoms, 3, 3))
        np.subtract.at(out, self.first, self.tensors)
        return out


def bond_keys(first: IntArray, second: IntArray, cell: IntArray, n_atoms: int) -> IntArray:
    """One integer per bond; cells up to +-499 along each vector."""
    c = cell + 500
    return (((first * n_atoms + second) * 1000 + c[..., 0]) * 1000 + c[..., 1]) * 1000 + c[..., 2]


def neighbour_bonds(crystal: Crystal, cutoff_A: float) -> PairForceConstants:
    """All bonds up to a length, with zero force constants.

    Parameters
    ----------
    crystal : Crystal
    cutoff_A : float
        Longest bond, angstrom, inclusive.

    Raises
    ------
    ValueError
        If the cutoff is not positive or holds no bond.
    """
    if not cutoff_A > 0:
        raise InputError(f"parameters.cutoff_A is {cutoff_A}; expected a positive length")
    heights = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
    reach = np.ceil((cutoff_A + 1e-3) / heights).astype(int) + 1
    cells = np.stack(
        np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    x = crystal.positions
    spread = x[None, :, None] - x[:, None, None] + cells
    lengths = np.linalg.norm(spread @ crystal.lattice, axis=-1)
    i, j, c = np.nonzero((lengths <= cutoff_A + LENGTH_TOLERANCE_A) & (lengths > 1e-3))
    if len(i) == 0:
        shortest = np.sort(lengths[lengths > 1e-3])[0]
        raise InputError(
            f"parameters.cutoff_A is {cutoff_A} angstrom and holds no bond; "
            f"expected at least the shortest bond, {shortest:.3f} angstrom"
        )
    return PairForceConstants(
        crystal=crystal,
        first=i.astype(np.int64),
        second=j.astype(np.int64),
        cell=cells[c].astype(np.int64),
        tensors=np.zeros((len(i), 3, 3)),
    )


def supercell_bonds(crystal: Crystal, supercell: IntArray) -> tuple[PairForceConstants, IntArray]:
    """Shortest bonds of every pair of atoms of a supercell, equidistant images all listed.

    Parameters
    ----------
    crystal : Crystal
    supercell : (3, 3) int64
        Supercell vectors in rows, in primitive lattice vectors.

    Returns
    -------
    bonds : PairForceConstants
        With zero tensors; the atom itself is not listed, its own periodic images are.
    multiplicity : (bonds,) int64
        Number of equidistant images that share one supercell constant.
    """
    supercell = np.asarray(supercell, dtype=np.int64)
    lattice = supercell @ crystal.lattice
    with quiet_spglib():
        reduced = spglib.niggli_reduce(lattice)
    steps_cart = np.asarray(lattice if reduced is None else reduced)
    steps = np.rint(steps_cart @ np.linalg.inv(crystal.lattice)).astype(np.int64)
    steps_cart = steps @ crystal.lattice
    images = np.stack(np.meshgrid(*([np.arange(-2, 3)] * 3), indexing="ij"), axis=-1).reshape(-1, 3)
    coset = supercell_cells(supercell)
    x = crystal.positions
    firsts, seconds, cells, counts = [], [], [], []
    for i in range(crystal.n_atoms):
        for j in range(crystal.n_atoms):
            base = (x[j] - x[i] + coset) @ crystal.lattice @ np.linalg.inv(steps_cart)
            start = coset - np.rint(base).astype(np.int64) @ steps
            cell = start[:, None, :] + (images @ steps)[None]
            length = np.linalg.norm((x[j] - x[i] + cell) @ crystal.lattice, axis=-1)
            shortest = length.min(axis=1)
            hit = length <= shortest[:, None] + LENGTH_TOLERANCE_A
            hit[shortest < 1e-3] = False
            row, column = np.nonzero(hit)
            firsts.append(np.full(len(row), i))
            seconds.append(np.full(len(row), j))
            cells.append(cell[row, column])
            counts.append(hit.sum(axis=1)[row])
    first = np.concatenate(firsts).astype(np.int64)
    bonds = PairForceConstants(
        crystal=crystal,
        first=first,
        second=np.concatenate(seconds).astype(np.int64),
        cell=np.concatenate(cells).astype(np.int64),
        tensors=np.zeros((len(first), 3, 3)),
        supercell=supercell,
    )
    return bonds, np.concatenate(counts).astype(np.int64)


def supercell_cells(supercell: IntArray) -> IntArray:
    """Primitive cells of a supercell, (cells, 3), the home cell first."""
    count = int(round(abs(np.linalg.det(supercell))))
    corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]) @ supercell
    low, high = corners.min(axis=0), corners.max(axis=0)
    grid = np.stack(
        np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True)), indexing="ij"),
        axis=-1,
    ).reshape(-1, 3)
    inside = np.floor(grid @ np.linalg.inv(supercell) + 1e-9)
    cells = np.unique(grid - np.rint(inside).astype(np.int64) @ supercell, axis=0)
    if len(cells) != count:  # pragma: no cover - guards the arithmetic above
        raise InputError(f"supercell {supercell.tolist()} gave {len(cells)} cells, not {count}")
    home = np.flatnonzero(~cells.any(axis=1))[0]
    return np.roll(cells, -home, axis=0).astype(np.int64)
