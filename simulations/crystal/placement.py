"""A crystal from lattice and atoms: its primitive cell, its setting, atoms made distinct."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import FloatArray
from simulations.crystal.cell import Crystal
from simulations.crystal.species import Species, neutron_data, told_apart, with_species
from simulations.crystal.symmetry import refuse_unreal, symmetry_dataset
from simulations.errors import InputError

FILE_SYMPREC_A = 1e-4
"""Symmetry tolerance for structures that people write with few digits, angstrom."""
_CLOSEST_A = 0.5
_LISTED_ABOVE = 200  # atoms


def crystal_from_cells(
    lattice: ArrayLike,
    positions: ArrayLike,
    symbols: tuple[str, ...],
    conventional_lattice: ArrayLike,
) -> Crystal:
    """Crystal from cells that share a frame already; species data from the tables.

    Parameters
    ----------
    lattice : (3, 3) float64
        Primitive vectors in rows, angstrom.
    positions : (atoms, 3) float64
        Fractional in the primitive cell.
    symbols : tuple of str
    conventional_lattice : (3, 3) float64
        Rows, angstrom; whole numbers of primitive vectors.

    Raises
    ------
    ValueError
        If shapes disagree, atoms overlap, the conventional vectors are no lattice vectors, or
        species lack neutron data.
    """
    cell = np.asarray(lattice, dtype=float)
    x = np.asarray(positions, dtype=float)
    conventional = np.asarray(conventional_lattice, dtype=float)
    if cell.shape != (3, 3) or conventional.shape != (3, 3) or x.shape != (len(symbols), 3):
        raise InputError(
            f"structure: lattice {cell.shape}, positions {x.shape}, {len(symbols)} symbols; "
            "expected (3, 3), (atoms, 3) and one symbol per atom"
        )
    if not (np.isfinite(cell).all() and np.isfinite(x).all() and abs(np.linalg.det(cell)) > 1e-3):
        raise InputError("structure: lattice or positions are singular or not finite")
    multiple = conventional @ np.linalg.inv(cell)
    if np.abs(multiple - np.rint(multiple)).max() > 1e-4:
        raise InputError(
            "structure: conventional_lattice is not made of whole primitive vectors; expected both "
            "cells of one lattice in one Cartesian frame"
        )
    refuse_overlap(cell, x, symbols)
    masses, lengths, incoherent = neutron_data(tuple(symbols))
    return Crystal(
        lattice=cell,
        positions=x,
        symbols=tuple(symbols),
        masses_u=masses,
        scattering_length=lengths,
        incoherent_barn=incoherent,
        conventional_lattice=conventional,
    )


def refuse_overlap(lattice: FloatArray, x: FloatArray, symbols: tuple[str, ...]) -> None:
    """Raise for atoms nearer than half an angstrom; lattice rows, fractional positions."""
    if len(x) > _LISTED_ABOVE:
        _refuse_listed(lattice, x, symbols)
        return
    images = np.stack(np.meshgrid(*([[-1, 0, 1]] * 3), indexing="ij"), axis=-1).reshape(-1, 3)
    for i in range(len(x)):
        step = x[i:] - x[i]
        step -= np.rint(step)
        length = np.linalg.norm((step[:, None] + images) @ lattice, axis=-1)
        length[0, np.all(images == 0, axis=1)] = np.inf
        if length.min() < _CLOSEST_A:
            j = i + int(np.argmin(length.min(axis=1)))
            raise _overlap(i, j, symbols, float(length.min()))


def _refuse_listed(lattice: FloatArray, x: FloatArray, symbols: tuple[str, ...]) -> None:
    """The same for many atoms, in seconds."""
    from matscipy.neighbours import neighbour_list

    i, j, d = neighbour_list(
        "ijd", cell=lattice, pbc=np.ones(3, dtype=bool), positions=(x % 1.0) @ lattice,
        cutoff=_CLOSEST_A,
    )  # fmt: skip
    if len(d):
        worst = int(np.argmin(d))
        first, second = sorted((int(i[worst]), int(j[worst])))
        raise _overlap(first, second, symbols, float(d[worst]))


def _overlap(i: int, j: int, symbols: tuple[str, ...], apart_A: float) -> InputError:
    return InputError(
        f"structure: atoms {i + 1} ({symbols[i]}) and {j + 1} ({symbols[j]}) are "
        f"{apart_A:.3f} angstrom apart; expected at least {_CLOSEST_A}. Remove the "
        "duplicate or, for a shared site, build an ordered supercell."
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Placement:
    """Where a file's cell lies in the crystal's frame: ``r = rotation @ r_file + shift``."""

    crystal: Crystal
    rotation: FloatArray  # (3, 3) proper
    shift: FloatArray  # (3,) angstrom


def _lattice_of_metric(metric: FloatArray) -> FloatArray:
    """Rows with a given metric tensor: a along x, b in the x-y plane, c_z > 0."""
    rows = np.linalg.cholesky(metric)
    return np.where(np.abs(rows) < 1e-12 * np.abs(rows).max(), 0.0, rows)


def place_structure(
    lattice: FloatArray,
    positions: FloatArray,
    symbols: tuple[str, ...],
    symprec_A: float = FILE_SYMPREC_A,
    species: Sequence[Species] | None = None,
) -> Placement:
    """Standardise a structure; the head of the module says how.

    Parameters
    ----------
    lattice : (3, 3) float64
        Vectors of any cell in rows, angstrom.
    positions : (N, 3) float64
        Fractional in that cell.
    symbols : (N,) tuple of str
    symprec_A : float
        Atoms nearer than this to a symmetric place are moved there, angstrom.
    species : (N,) sequence of Species or None
        What the atoms are made of, in place of the symbols; None: as the tables have the symbols.

    Raises
    ------
    ValueError
        As `read_crystal`.
    """
    try:
        refuse_unreal(lattice, positions)
    except InputError as error:
        raise InputError(f"structure: {error}") from error
    refuse_overlap(lattice, positions, symbols)
    if species is None:
        neutron_data(tuple(dict.fromkeys(symbols)))
    else:
        species = told_apart(species)
        symbols = tuple(s.label for s in species)
    if np.linalg.det(lattice) < 0:  # spglib expects a right-handed basis
        lattice, positions = -lattice, -positions
    data = symmetry_dataset(lattice, positions, symbols, symprec_A)
    if data is None:
        raise InputError(
            f"structure: spglib finds no space group within {symprec_A} angstrom; "
            "expected a crystal without overlapping atoms"
        )
    P = np.asarray(data.transformation_matrix)
    standard = np.linalg.inv(P).T @ lattice  # conventional vectors in the file's frame
    volume_ratio = abs(np.linalg.det(standard) / np.linalg.det(lattice))
    keeps_cell = abs(volume_ratio - 1) < 1e-3 and not _same_up_to_centring(standard, lattice)
    conventional = lattice if keeps_cell else standard
    to_conventional = np.linalg.inv(conventional @ np.linalg.inv(lattice)).T  # x_conv = this @ x
    rotations = np.asarray(data.rotations)
    W = np.einsum(
        "ab,gbc,cd->gad", to_conventional, rotations, np.linalg.inv(to_conventional)
    )  # in conventional coordinates
    metric = conventional @ conventional.T
    metric = np.mean(W.transpose(0, 2, 1) @ metric @ W, axis=0)
    new_conventional = _lattice_of_metric(metric)

    primitive_file = _primitive_lattice(data, standard, lattice, volume_ratio, keeps_cell)
    combination = np.rint(12 * primitive_file @ np.linalg.inv(conventional)) / 12
    new_primitive = combination @ new_conventional
    new_primitive = np.where(np.abs(new_primitive) < 1e-12, 0.0, new_primitive)
    if np.linalg.det(new_primitive) < 0:
        new_primitive = -new_primitive
        combination = -combination

    # origin where spglib puts it, so that translations are simple fractions
    origin = -np.linalg.inv(P) @ np.asarray(data.origin_shift)
    to_primitive = np.linalg.inv(combination @ conventional)
    x_all = (positions - origin) @ lattice @ to_primitive
    atoms, x = _unique_atoms(x_all, symbols, new_primitive, symprec_A)
    names = tuple(symbols[a] for a in atoms)
    x = _symmetrised_positions(new_primitive, x, names, symprec_A)
    crystal = crystal_from_cells(new_primitive, x, names, new_conventional)
    if species is not None:
        crystal = with_species(crystal, [species[a] for a in atoms])
    u, _, vt = np.linalg.svd(new_conventional.T @ np.linalg.inv(conventional.T))
    rotation = u @ vt
    return Placement(
        crystal=crystal,
        rotation=rotation,
        shift=-rotation @ (origin @ lattice),
    )


def _same_up_to_centring(standard: FloatArray, lattice: FloatArray) -> bool:
    return bool(np.allclose(standard, lattice, atol=1e-3))


def _primitive_lattice(
    data: Any, standard: FloatArray, lattice: FloatArray, volume_ratio: float, keeps_cell: bool
) -> FloatArray:
    """Primitive vectors in the file's frame, standard ones unless the file's setting is kept."""
    symbol = data.international[0]
    centring = {
        "F": [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
        "I": [[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]],
        "C": [[0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]],
        "A": [[1, 0, 0], [0, 0.5, -0.5], [0, 0.5, 0.5]],
        "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
    }.get(symbol)
    del volume_ratio, lattice
    if centring is None:
        return np.asarray(data.primitive_lattice) if keeps_cell else standard
    if keeps_cell:
        return np.asarray(data.primitive_lattice)
    return np.array(centring) @ standard


def _unique_atoms(
    x: FloatArray, symbols: tuple[str, ...], lattice: FloatArray, symprec_A: float
) -> tuple[list[int], FloatArray]:
    """Atoms of a bigger cell that differ in the primitive cell, positions within [0, 1)."""
    kept: list[int] = []
    places = np.empty_like(x)
    for a in range(len(x)):
        step = x[a] - places[: len(kept)]
        step -= np.rint(step)
        same = np.flatnonzero(np.linalg.norm(step @ lattice, axis=1) < 20 * symprec_A)
        if len(same):
            b = kept[same[0]]
            if symbols[a] != symbols[b]:
                raise InputError(
                    f"structure: atoms {a + 1} and {b + 1} share a site; expected one atom each"
                )
            continue
        places[len(kept)] = x[a]
        kept.append(a)
    y = x[kept]
    y = y - np.floor(y + 1e-6)
    return kept, y


def _symmetrised_positions(
    lattice: FloatArray, x: FloatArray, symbols: tuple[str, ...], symprec_A: float
) -> FloatArray:
    """Average positions over the space group; translations are rounded to simple fractions."""
    data = symmetry_dataset(lattice, x, symbols, symprec_A)
    if data is None or len(data.rotations) == 1:  # the identity moves nothing
        return x
    W, w = np.asarray(data.rotations), np.asarray(data.translations)
    rounded = np.rint(24 * w) / 24
    near = np.abs(rounded - w).max(axis=1) < 1e-2
    total, count = np.zeros_like(x), 0
    for g in range(len(W)):
        if not near[g]:
            return x
        image = x @ W[g].T + rounded[g]
        step = image[:, None] - x[None]
        shift = np.rint(step)
        distance = np.linalg.norm((step - shift) @ lattice, axis=-1)
        distance[np.array([[a != b for b in symbols] for a in symbols])] = np.inf
        target = np.argmin(distance, axis=1)
        if distance[np.arange(len(x)), target].max() > 20 * symprec_A:
            return x
        total[target] += image - shift[np.arange(len(x)), target]
        count += 1
    return total / count
