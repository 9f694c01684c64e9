"""What the direct route learns from: site densities of states of the crystals of a database."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from simulations.arrays import FloatArray, IntArray
from simulations.constants import MEV_PER_THZ
from simulations.errors import InputError
from steering.database import Entry, phonopy_object

UNSTABLE_MEV = -3.0
"""Entries with a lower mode than this are left out: their density is not that of the crystal."""
MOST_ATOMS = 40
"""In the primitive cell."""
WIDTH_MEV = 0.8
"""Gaussian that every mode of the mesh is widened by."""
_STEP = 0.20  # 1/angstrom
_LEAST_STEP = 0.45
_MOST_WORK = 4e6  # irreducible points times modes cubed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SiteDensities:
    """A crystal and how the modes of each of its atoms are spread over energy."""

    id: str
    formula: str  # reduced
    lattice: FloatArray  # (3, 3) rows, angstrom
    positions: FloatArray  # (atoms, 3) fractional
    numbers: IntArray  # (atoms,)
    shares: FloatArray  # (atoms, bins); an atom sums to 1
    lowest_meV: float


def part_of(formula: str) -> str:
    """``train`` (80 %), ``calibration`` (10 %) or ``unseen`` (10 %), by the reduced formula alone.

    A formula is never in two parts, whatever the database and the order of its entries.
    """
    draw = int(hashlib.sha256(formula.encode()).hexdigest()[:8], 16) % 10
    return ("unseen", "calibration")[draw] if draw < 2 else "train"


def site_densities(
    entry: Entry, edges_meV: FloatArray, *, most_atoms: int = MOST_ATOMS, fineness: float = 1.0
) -> SiteDensities:
    """Site densities of an entry on a mesh of the zone.

    Parameters
    ----------
    entry : Entry
    edges_meV : (bins + 1,) float64
        From zero; what lies above counts in the last bin.
    most_atoms : int
        In the primitive cell.
    fineness : float
        Above 1 for a finer mesh.

    Raises
    ------
    InputError
        If it is too large, phonopy cannot use it, or a mode lies below `UNSTABLE_MEV`.
    """
    from pymatgen.core import Composition

    expected = round(len(entry.symbols) * abs(float(np.linalg.det(entry.primitive_matrix))))
    if expected > most_atoms:
        raise InputError(f"{expected} atoms in the primitive cell; expected at most {most_atoms}")
    phonon = phonopy_object(entry)
    cell = phonon.primitive
    n = len(cell)
    if n > most_atoms:
        raise InputError(f"{n} atoms in the primitive cell; expected at most {most_atoms}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # phonopy's advice to its own users
        mesh = _mesh(phonon, cell.cell, n, fineness)
    energies = mesh.frequencies * MEV_PER_THZ  # (Q, 3n)
    lowest = float(energies.min())
    if lowest < UNSTABLE_MEV:
        raise InputError(f"a mode lies at {lowest:.3g} meV; expected none below {UNSTABLE_MEV:g}")
    vectors = mesh.eigenvectors.reshape(len(energies), n, 3, -1)
    weight = (np.abs(vectors) ** 2).sum(axis=2)  # (Q, n, 3n)
    weight *= (mesh.weights / mesh.weights.sum())[:, None, None]
    spread = _spread(np.abs(energies).ravel(), edges_meV)  # (Q 3n, bins)
    shares = weight.transpose(1, 0, 2).reshape(n, -1) @ spread / 3.0
    shares = _over_equivalents(shares, phonon.primitive_symmetry.get_map_atoms())
    return SiteDensities(
        id=entry.id,
        formula=Composition("".join(cell.symbols)).reduced_formula,
        lattice=np.asarray(cell.cell, dtype=float),
        positions=np.asarray(cell.scaled_positions, dtype=float),
        numbers=np.asarray(cell.numbers, dtype=np.int64),
        shares=shares / shares.sum(axis=1, keepdims=True),
        lowest_meV=lowest,
    )


def _mesh(phonon: Any, lattice: FloatArray, n: int, fineness: float) -> Any:
    """Modes on the finest mesh that the work allows."""
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(lattice), axis=0)
    step = _STEP
    points = np.prod(np.ceil(lengths / step))
    order = max(1, len(phonon.primitive_symmetry.pointgroup_operations))
    while points / order * (3.0 * n) ** 3 > _MOST_WORK and step < _LEAST_STEP:
        step *= 1.1
        points = np.prod(np.ceil(lengths / step))
    divisions = np.maximum(2, np.ceil(fineness * lengths / step)).astype(int)
    phonon.run_mesh(divisions, with_eigenvectors=True)
    return phonon.mesh


def _spread(energies: FloatArray, edges: FloatArray) -> FloatArray:
    """Share of each widened mode in every bin, (modes, bins); tails below zero are folded back."""
    below = ndtr((edges - energies[:, None]) / WIDTH_MEV)
    below -= ndtr((-edges - energies[:, None]) / WIDTH_MEV)
    out = np.diff(below, axis=1)
    out[:, -1] += 1 - below[:, -1]
    return np.asarray(out, dtype=np.float64)


def _over_equivalents(shares: FloatArray, first: Any) -> FloatArray:
    """Mean over atoms that symmetry makes equal: an irreducible mesh spreads them unevenly."""
    first = np.asarray(first)
    out = np.empty_like(shares)
    for one in np.unique(first):
        out[first == one] = shares[first == one].mean(axis=0)
    return out
