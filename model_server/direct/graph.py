"""Which atoms see which: the graph of a crystal that the network reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matscipy.neighbours import neighbour_list

from simulations.arrays import FloatArray, IntArray
from simulations.errors import InputError

REACH_A = 5.0
"""Radius of a neighbourhood."""
MOST_NEIGHBOURS = 400
"""Of one atom, on average: twice those of the densest elements. More are no crystal."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Graph:
    """Atoms and the vectors between neighbours."""

    numbers: IntArray  # (atoms,)
    volume_A3: float  # per atom
    sender: IntArray  # (edges,)
    receiver: IntArray  # (edges,) sorted
    vector_A: FloatArray  # (edges, 3) from receiver to sender


def crystal_graph(
    lattice: FloatArray, positions: FloatArray, numbers: IntArray, reach_A: float = REACH_A
) -> Graph:
    """Graph of a periodic crystal.

    Parameters
    ----------
    lattice : (3, 3) float64
        Rows, angstrom.
    positions : (atoms, 3) float64
        Fractional.
    numbers : (atoms,) int64
        Atomic numbers.
    reach_A : float

    Raises
    ------
    InputError
        If atoms overlap or lie too dense for a solid.
    """
    lattice = np.asarray(lattice, dtype=float)
    volume = abs(float(np.linalg.det(lattice))) / len(numbers)
    expected = 4 / 3 * np.pi * reach_A**3 / volume if volume > 0 else np.inf
    if not expected < MOST_NEIGHBOURS:
        raise InputError(
            f"structure: {volume:.3g} cubic angstrom per atom; expected at least "
            f"{4 / 3 * np.pi * reach_A**3 / MOST_NEIGHBOURS:.2g}. Look at its lattice"
        )
    inside = np.asarray(positions, dtype=float) % 1.0
    i, j, d, D = neighbour_list(
        "ijdD", cell=lattice, pbc=np.ones(3, dtype=bool), positions=inside @ lattice, cutoff=reach_A
    )
    if len(d) and d.min() < 0.3:
        raise InputError(
            f"structure: two atoms lie {d.min():.3g} angstrom apart; expected at least 0.3"
        )
    order = np.argsort(i, kind="stable")
    return Graph(
        numbers=np.asarray(numbers, dtype=np.int64),
        volume_A3=volume,
        sender=np.asarray(j[order], dtype=np.int64),
        receiver=np.asarray(i[order], dtype=np.int64),
        vector_A=np.asarray(D[order], dtype=np.float64),
    )
