"""Space group of a crystal: what its operations do to atoms, lattice vectors and bonds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray

from simulations.arrays import FloatArray, IntArray
from simulations.crystal.cell import Crystal
from simulations.errors import InputError

SYMPREC_A = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpaceGroup:
    """Operations ``x' = W x + w`` on column vectors of primitive fractional coordinates.

    Operation g carries atom i of the home cell to atom ``permutation[g, i]`` of the cell
    ``shifts[g, i]``, and the vector v (Cartesian) to ``cartesian[g] @ v``.
    """

    rotations: IntArray  # (operations, 3, 3)
    translations: FloatArray  # (operations, 3)
    cartesian: FloatArray  # (operations, 3, 3)
    permutation: IntArray  # (operations, atoms)
    shifts: IntArray  # (operations, atoms, 3)

    def __len__(self) -> int:
        """Return the number of operations."""
        return len(self.rotations)

    def subgroup(self, keep: NDArray[np.bool_]) -> SpaceGroup:
        """Operations selected by a mask that the caller knows to be a group."""
        return SpaceGroup(
            rotations=self.rotations[keep],
            translations=self.translations[keep],
            cartesian=self.cartesian[keep],
            permutation=self.permutation[keep],
            shifts=self.shifts[keep],
        )


def species_numbers(symbols: tuple[str, ...]) -> list[int]:
    """Number every distinct symbol, so that isotopes count as different species."""
    order = {s: k + 1 for k, s in enumerate(dict.fromkeys(symbols))}
    return [order[s] for s in symbols]


@contextmanager
def quiet_spglib() -> Iterator[None]:
    """Silence spglib's notice that its error handling will change; its None is handled here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Set OLD_ERROR_HANDLING", DeprecationWarning)
        yield


MOST_SLENDER = 300  # longest vector of a cell over its least height


def refuse_unreal(lattice: FloatArray, positions: FloatArray) -> None:
    """Raise for numbers that no program after this one could use."""
    for name, values in (("cell", lattice), ("positions", positions)):
        if not np.all(np.abs(values) < 1e6):
            raise InputError(f"{name} {np.asarray(values).tolist()!r:.80}; expected finite numbers")
    volume = abs(float(np.linalg.det(lattice)))
    if volume < 1e-3:
        raise InputError(f"cell of {volume:.3g} cubic angstrom; expected three directions")
    longest = float(np.linalg.norm(lattice, axis=1).max())
    thinnest = float(1 / np.linalg.norm(np.linalg.inv(lattice), axis=0).max())
    if longest > MOST_SLENDER * thinnest:
        raise InputError(
            f"cell is a needle, {longest:.4g} angstrom long and {thinnest:.3g} thin; expected at "
            f"most {MOST_SLENDER} times as long as thin. Check its vectors"
        )


def symmetry_dataset(
    lattice: FloatArray, positions: FloatArray, symbols: tuple[str, ...], symprec_A: float
) -> Any:
    """Return spglib's dataset of a structure, or None where it finds no space group.

    Raises
    ------
    InputError
        If lattice or positions are not finite, or the cell is flat: spglib would not come back.
    """
    refuse_unreal(lattice, positions)
    cell: Any = (lattice, positions, species_numbers(symbols))
    with quiet_spglib():
        return spglib.get_symmetry_dataset(cell, symprec=symprec_A)


@lru_cache(maxsize=16)
def space_group_operations(crystal: Crystal, symprec_A: float = SYMPREC_A) -> SpaceGroup:
    """Space group of the primitive cell.

    Parameters
    ----------
    crystal : Crystal
    symprec_A : float
        Distance within which two atoms count as equivalent, angstrom.

    Raises
    ------
    ValueError
        If spglib finds no symmetry or an operation does not map the atoms onto themselves.
    """
    dataset = symmetry_dataset(crystal.lattice, crystal.positions, crystal.symbols, symprec_A)
    if dataset is None:
        raise InputError(
            f"crystal: spglib finds no space group within {symprec_A} angstrom; "
            "expected at least the identity. Check for overlapping atoms."
        )
    rotations = np.asarray(dataset.rotations, dtype=np.int64)
    translations = np.asarray(dataset.translations, dtype=float)
    x = crystal.positions
    image = np.einsum("gab,nb->gna", rotations, x) + translations[:, None, :]
    difference = image[:, :, None, :] - x[None, None, :, :]
    shift = np.rint(difference)
    distance = np.linalg.norm((difference - shift) @ crystal.lattice, axis=-1)
    same = np.array([[a == b for b in crystal.symbols] for a in crystal.symbols])
    distance = np.where(same[None], distance, np.inf)
    permutation = np.argmin(distance, axis=2)
    worst = np.take_along_axis(distance, permutation[..., None], axis=2).max()
    if worst > 10 * symprec_A:
        raise InputError(
            f"crystal: a symmetry operation misses an atom by {worst:.2e} angstrom; "
            f"expected at most {10 * symprec_A:.0e}. Symmetrise the structure."
        )
    shifts = np.take_along_axis(shift, permutation[..., None, None], axis=2)[:, :, 0, :]
    return SpaceGroup(
        rotations=rotations,
        translations=translations,
        cartesian=cartesian_rotations(crystal.lattice, rotations),
        permutation=permutation.astype(np.int64),
        shifts=shifts.astype(np.int64),
    )


def cartesian_rotations(lattice: FloatArray, rotations: IntArray) -> FloatArray:
    """Cartesian matrices of integer rotations, ``R = A W A^-1`` with A the vectors in columns.

    Parameters
    ----------
    lattice : (3, 3) float64
        Lattice vectors in rows, angstrom.
    rotations : (operations, 3, 3) int64

    Returns
    -------
    (operations, 3, 3) float64
    """
    columns = lattice.T
    return np.einsum("ab,gbc,cd->gad", columns, rotations, np.linalg.inv(columns))


def laue_rotations(crystal: Crystal) -> tuple[IntArray, FloatArray]:
    """Rotations of the Laue group: the point group and its products with the inversion.

    Parameters
    ----------
    crystal : Crystal

    Returns
    -------
    integer : (operations, 3, 3) int64
        W on columns of primitive fractional coordinates.
    cartesian : (operations, 3, 3) float64
        R on Cartesian columns; a reciprocal vector q goes to ``R @ q``.
    """
    point = np.unique(space_group_operations(crystal).rotations, axis=0)
    integer = np.unique(np.concatenate([point, -point]), axis=0)
    identity = np.eye(3, dtype=np.int64)
    first = np.argsort([not np.array_equal(w, identity) for w in integer], kind="stable")
    integer = integer[first]
    return integer, cartesian_rotations(crystal.lattice, integer)
