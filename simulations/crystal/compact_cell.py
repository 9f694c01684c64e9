"""Short vectors of a lattice, and the same crystal in a cell of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import spglib

from simulations.arrays import FloatArray, IntArray
from simulations.crystal.cell import Crystal
from simulations.crystal.symmetry import quiet_spglib

SKEWED = 1.05  # times the squares of the shortest vectors


def reduced_vectors(lattice: FloatArray) -> tuple[FloatArray, IntArray]:
    """Niggli-reduced vectors (3, 3), and their whole numbers (3, 3) of the lattice's.

    References
    ----------
    I. Krivy and B. Gruber, Acta Cryst. A 32, 297 (1976), as spglib has it.
    """
    with quiet_spglib():
        reduced = spglib.niggli_reduce(lattice)
    steps = np.rint(np.asarray(reduced) @ np.linalg.inv(lattice)).astype(np.int64)
    return steps @ lattice, steps


def compact_cell(crystal: Crystal) -> Crystal:
    """The same crystal with reduced vectors, where its own are skewed; itself where they are not.

    A mesh of few divisions along skewed vectors is coarse across them. Atoms keep their order, the
    conventional cell and the Cartesian axes stay.
    """
    vectors, steps = reduced_vectors(crystal.lattice)
    if np.sum(crystal.lattice**2) < SKEWED * np.sum(vectors**2):
        return crystal
    positions = crystal.positions @ np.linalg.inv(steps)
    return replace(crystal, lattice=vectors, positions=positions - np.floor(positions))
