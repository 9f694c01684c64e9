"""Force constants as named tensor elements, and the dynamical matrix that is linear in them.

``D(q; phi) = D0(q) + sum_k phi_k B_k(q)``. The ``phi_k`` are tensor elements of a fixed
representative bond that the space group leaves independent, for example ``1NN xx``. The acoustic
sum rule lives inside ``B_k``; ``D0`` carries far shells, elements held fixed and the dipole-dipole
term.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import spglib
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from simulations.constants import MEV2_PER_FORCE_CONSTANT
from simulations.crystal import Crystal
from simulations.dipole import Dipole, DipoleSum
from simulations.symmetry import SpaceGroup, quiet_spglib, space_group_operations

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ComplexArray = NDArray[np.complex128]

_AXES = "xyz"
_ELEMENTS = [a + b for a in _AXES for b in _AXES]
_LENGTH_TOLERANCE_A = 1e-5
_SHELL_TOLERANCE_A = 1e-3


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


def _bond_keys(first: IntArray, second: IntArray, cell: IntArray, n_atoms: int) -> IntArray:
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
        raise ValueError(f"parameters.cutoff_A is {cutoff_A}; expected a positive length")
    heights = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
    reach = np.ceil((cutoff_A + 1e-3) / heights).astype(int) + 1
    cells = np.stack(
        np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    x = crystal.positions
    spread = x[None, :, None] - x[:, None, None] + cells
    lengths = np.linalg.norm(spread @ crystal.lattice, axis=-1)
    i, j, c = np.nonzero((lengths <= cutoff_A + _LENGTH_TOLERANCE_A) & (lengths > 1e-3))
    if len(i) == 0:
        shortest = np.sort(lengths[lengths > 1e-3])[0]
        raise ValueError(
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
            hit = length <= shortest[:, None] + _LENGTH_TOLERANCE_A
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
        raise ValueError(f"supercell {supercell.tolist()} gave {len(cells)} cells, not {count}")
    home = np.flatnonzero(~cells.any(axis=1))[0]
    return np.roll(cells, -home, axis=0).astype(np.int64)


# ----------------------------------------------------------------------------- orbits and names


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Orbit:
    """One symmetry class of bonds: its representative bond and named elements."""

    representative: int  # index into the bond list
    length_A: float
    label: str
    elements: tuple[str, ...]
    basis: FloatArray  # (elements, 3, 3) tensor of the representative per unit element
    members: IntArray  # (members,) bond indices
    carry: FloatArray  # (members, 9, 9) tensor of a member = carry @ tensor of representative


def _independent_elements(space: FloatArray) -> list[int]:
    """Choose rows of an orthonormal (9, r) basis that determine the rest, in reading order."""
    rank = space.shape[1]
    if rank == len(space):
        return list(range(rank))
    norms = np.linalg.norm(space, axis=1)
    chosen: list[int] = []
    frame = np.zeros((0, rank))
    threshold = 0.5
    while len(chosen) < rank:
        for row in range(len(space)):
            if len(chosen) == rank or row in chosen or norms[row] < 0.1:
                continue
            rest = space[row] - (space[row] @ frame.T) @ frame
            size = np.linalg.norm(rest)
            if size > threshold * norms[row]:
                chosen.append(row)
                frame = np.vstack([frame, rest / size])
        threshold *= 0.6
        if threshold < 1e-6:  # pragma: no cover - a basis of rank r has r independent rows
            raise ValueError("no independent tensor elements found")
    return sorted(chosen)


def _transposed(matrices: FloatArray) -> FloatArray:
    """Append the transposition of the 3x3 tensor to maps (…, 9, 9) acting from the right."""
    order = np.arange(9).reshape(3, 3).T.ravel()
    return matrices[..., order]


def _compatible_group(bonds: PairForceConstants) -> SpaceGroup:
    """Operations that keep the supercell lattice, all of them for a list by distance."""
    group = space_group_operations(bonds.crystal)
    if bonds.supercell is None:
        return group
    columns = bonds.supercell.T
    image = np.linalg.inv(columns) @ (group.rotations @ columns)
    return group.subgroup(np.abs(image - np.rint(image)).max(axis=(1, 2)) < 1e-6)


def _orbits(bonds: PairForceConstants) -> tuple[list[_Orbit], SpaceGroup]:
    """Sort bonds into symmetry classes and name the independent elements of each."""
    crystal = bonds.crystal
    group = _compatible_group(bonds)
    n_atoms = crystal.n_atoms
    keys = _bond_keys(bonds.first, bonds.second, bonds.cell, n_atoms)
    order = np.argsort(keys)
    sorted_keys = keys[order]

    def carried(index: IntArray, g: int, reverse: bool) -> IntArray:
        """Index of the image of bonds under operation g, reversed if asked."""
        i, j, cell = bonds.first[index], bonds.second[index], bonds.cell[index]
        to_i, to_j = group.permutation[g, i], group.permutation[g, j]
        to = cell @ group.rotations[g].T + group.shifts[g, j] - group.shifts[g, i]
        if reverse:
            to_i, to_j, to = to_j, to_i, -to
        image = _bond_keys(to_i, to_j, to, n_atoms)
        place = np.minimum(np.searchsorted(sorted_keys, image), len(keys) - 1)
        if np.any(sorted_keys[place] != image):
            raise ValueError(
                "force constants: the list of bonds is not closed under the space group; expected "
                "every symmetric image of a bond. Take another supercell or a smaller cutoff."
            )
        return order[place]

    everything = np.arange(len(keys))
    label = everything.copy()
    for g in range(len(group)):
        for reverse in (False, True):
            np.minimum(label, carried(everything, g, reverse), out=label)
    # the images of every bond are the whole class, so the smallest index names it

    vectors, lengths = bonds.vectors, bonds.lengths
    species = list(dict.fromkeys(crystal.symbols))
    rank = np.array([species.index(s) for s in crystal.symbols])
    maps = np.einsum("gac,gbd->gabcd", group.cartesian, group.cartesian).reshape(-1, 9, 9)

    rows = []
    for name in np.unique(label):
        members = np.flatnonzero(label == name)
        v = np.round(vectors[members], 4) + 0.0
        pair = (rank[bonds.first[members]], rank[bonds.second[members]])
        best = np.lexsort((bonds.first[members], -v[:, 2], -v[:, 1], -v[:, 0], pair[1], pair[0]))[0]
        rows.append((members, int(members[best])))
    rows.sort(
        key=lambda row: (
            int(np.rint(lengths[row[1]] / _SHELL_TOLERANCE_A)),
            rank[bonds.first[row[1]]],
            rank[bonds.second[row[1]]],
            *(-np.round(vectors[row[1]], 4)),
            bonds.first[row[1]],
        )
    )
    labels = _shell_labels(crystal, bonds, [row[1] for row in rows])

    starts = np.array([row[1] for row in rows], dtype=np.int64)
    images = [
        (step, carried(starts, g, reverse))
        for g in range(len(group))
        for reverse, step in ((False, maps[g]), (True, _transposed(maps[g])))
    ]  # the reversed bond carries the transposed tensor
    position = np.empty(len(keys), dtype=np.int64)
    for members, _ in rows:
        position[members] = np.arange(len(members))

    orbits = []
    for o, ((members, representative), text) in enumerate(zip(rows, labels, strict=True)):
        carry = np.zeros((len(members), 9, 9))
        reached = np.zeros(len(members), dtype=bool)
        projector = np.zeros((9, 9))
        stabiliser = 0
        for step, targets in images:
            target = targets[o]
            if target == representative:
                projector += step
                stabiliser += 1
            k = position[target]
            if not reached[k]:
                carry[k] = step
                reached[k] = True
        values, space = np.linalg.eigh(
            0.5 * (projector + projector.T) / stabiliser
        )  # orthogonal projector: eigenvalues 0 and 1
        space = space[:, values > 0.5]
        chosen = _independent_elements(space) if space.shape[1] else []
        basis = np.linalg.solve(space[chosen].T, space.T) if chosen else np.zeros((0, 9))
        basis[np.abs(basis) < 1e-13] = 0.0
        orbits.append(
            _Orbit(
                representative=representative,
                length_A=float(lengths[representative]),
                label=text,
                elements=tuple(_ELEMENTS[k] for k in chosen),
                basis=basis.reshape(-1, 3, 3),
                members=members,
                carry=carry,
            )
        )
    return orbits, group


def _shell_labels(
    crystal: Crystal, bonds: PairForceConstants, representatives: Sequence[int]
) -> list[str]:
    """Labels like 1NN (one species) or 1NN Mn-O (several), counted within each pair of species.

    Classes of bonds that share species and length get letters: 8NNa, 8NNb.
    """
    several = len(set(crystal.symbols)) > 1
    lengths = bonds.lengths
    shells: dict[tuple[str, str], list[list[int]]] = {}
    for b in representatives:
        pair = (crystal.symbols[bonds.first[b]], crystal.symbols[bonds.second[b]])
        rows = shells.setdefault(pair, [])
        if rows and abs(lengths[rows[-1][0]] - lengths[b]) < _SHELL_TOLERANCE_A:
            rows[-1].append(b)
        else:
            rows.append([b])
    text: dict[int, str] = {}
    for (a, c), rows in shells.items():
        for n, row in enumerate(rows, start=1):
            for k, b in enumerate(row):
                letter = _letters(k) if len(row) > 1 else ""
                text[b] = f"{n}NN{letter}" + (f" {a}-{c}" if several else "")
    return [text[b] for b in representatives]


def _letters(k: int) -> str:
    """Return a, b, ..., z, ba, bb, ... for 0, 1, ..."""
    out = ""
    while True:
        out = chr(ord("a") + k % 26) + out
        k //= 26
        if k == 0:
            return out


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Elements:
    """All elements of a bond list: names, the map to bond tensors, the sum-rule constraint."""

    orbits: list[_Orbit]
    names: tuple[str, ...]
    lengths_A: FloatArray  # (elements,)
    orbit_of: IntArray  # (elements,)
    spread: sparse.csc_matrix  # (bonds * 9, elements)
    gram: sparse.csc_matrix  # (elements, elements), one block per orbit
    constraint: FloatArray  # (rows, elements): on-site tensors stay symmetric when it gives 0


def _elements(bonds: PairForceConstants) -> _Elements:
    orbits, _ = _orbits(bonds)
    names: list[str] = []
    lengths: list[float] = []
    owner: list[int] = []
    rows: list[IntArray] = []
    columns: list[IntArray] = []
    data: list[FloatArray] = []
    for o, orbit in enumerate(orbits):
        for k, element in enumerate(orbit.elements):
            tensors = orbit.carry @ orbit.basis[k].ravel()  # (members, 9)
            tensors[np.abs(tensors) < 1e-14] = 0.0
            rows.append((orbit.members[:, None] * 9 + np.arange(9)).ravel())
            columns.append(np.full(tensors.size, len(names)))
            data.append(tensors.ravel())
            names.append(f"{orbit.label} {element}")
            lengths.append(orbit.length_A)
            owner.append(o)
    n_bonds = len(bonds.first)
    if names:
        spread = sparse.csc_matrix(
            (np.concatenate(data), (np.concatenate(rows), np.concatenate(columns))),
            shape=(9 * n_bonds, len(names)),
        )
    else:
        spread = sparse.csc_matrix((9 * n_bonds, 0))
    spread.eliminate_zeros()
    return _Elements(
        orbits=orbits,
        names=tuple(names),
        lengths_A=np.array(lengths),
        orbit_of=np.array(owner, dtype=np.int64),
        spread=spread,
        gram=sparse.csc_matrix(spread.T @ spread),
        constraint=_onsite_asymmetry(bonds, spread),
    )


def _onsite_map(bonds: PairForceConstants) -> sparse.csr_matrix:
    """Map from bond tensors to on-site tensors, (atoms * 9, bonds * 9): the acoustic sum rule."""
    n_bonds = len(bonds.first)
    rows = (bonds.first[:, None] * 9 + np.arange(9)).ravel()
    return sparse.csr_matrix(
        (-np.ones(9 * n_bonds), (rows, np.arange(9 * n_bonds))),
        shape=(9 * bonds.crystal.n_atoms, 9 * n_bonds),
    )


def _onsite_asymmetry(bonds: PairForceConstants, spread: sparse.csc_matrix) -> FloatArray:
    """Rows that vanish when every on-site tensor is symmetric, (3 atoms, elements)."""
    onsite = sparse.csr_matrix(_onsite_map(bonds) @ spread).toarray()
    onsite = onsite.reshape(bonds.crystal.n_atoms, 3, 3, -1)
    rows = [onsite[:, a, b] - onsite[:, b, a] for a, b in ((0, 1), (0, 2), (1, 2))]
    out = np.concatenate(rows)
    return out[np.abs(out).max(axis=1, initial=0.0) > 1e-9]


def symmetrised(
    force_constants: PairForceConstants,
) -> tuple[PairForceConstants, float]:
    """Project force constants on the space group, index permutation and acoustic sum rule.

    Parameters
    ----------
    force_constants : PairForceConstants

    Returns
    -------
    symmetric : PairForceConstants
    residual : float
        Largest change of a tensor element, eV/angstrom^2.
    """
    elements = _elements(force_constants)
    values = _project(force_constants, elements)
    tensors = (elements.spread @ values).reshape(-1, 3, 3)
    change = np.abs(tensors - force_constants.tensors).max(initial=0.0)
    return replace(force_constants, tensors=tensors), float(change)


def _project(bonds: PairForceConstants, elements: _Elements) -> FloatArray:
    """Element values nearest to given bond tensors that keep on-site tensors symmetric."""
    if not elements.names:
        return np.zeros(0)
    gram = splu(elements.gram)
    values = gram.solve(elements.spread.T @ bonds.tensors.ravel())
    A = elements.constraint
    if len(A):
        lift = gram.solve(np.ascontiguousarray(A.T))
        values = values - lift @ (np.linalg.pinv(A @ lift, rcond=1e-10) @ (A @ values))
    return values


# --------------------------------------------------------------------------------------- model


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Compiled:
    """Bond lists per pair of atoms, ready for one matrix product each."""

    pairs: tuple[tuple[int, int, FloatArray, FloatArray], ...]  # i, j, vectors, (bonds, 9 C)
    onsite: FloatArray  # (atoms, 3, 3, C)


def _compile(bonds: PairForceConstants, columns: FloatArray) -> _Compiled:
    """Sort bond tensors (bonds, 9, C), mass weighted and in meV^2, by pair of atoms i <= j."""
    crystal = bonds.crystal
    mass = crystal.masses_u
    n_columns = columns.shape[2]
    onsite = np.zeros((crystal.n_atoms, 9, n_columns))
    np.subtract.at(onsite, bonds.first, columns)
    onsite *= (MEV2_PER_FORCE_CONSTANT / mass)[:, None, None]
    vectors = bonds.vectors
    used = np.abs(columns).max(axis=(1, 2), initial=0.0) > 0
    pairs = []
    for i in range(crystal.n_atoms):
        for j in range(i, crystal.n_atoms):
            pick = np.flatnonzero((bonds.first == i) & (bonds.second == j) & used)
            if len(pick):
                weight = MEV2_PER_FORCE_CONSTANT / np.sqrt(mass[i] * mass[j])
                table = (columns[pick] * weight).reshape(len(pick), 9 * n_columns)
                pairs.append((i, j, vectors[pick], np.ascontiguousarray(table)))
    return _Compiled(pairs=tuple(pairs), onsite=onsite.reshape(crystal.n_atoms, 3, 3, n_columns))


def _fourier(compiled: _Compiled, q: FloatArray, n_atoms: int) -> ComplexArray:
    """Dynamical matrices (C, Q, n, n) of compiled tensors."""
    n_columns = compiled.onsite.shape[3]
    out = np.zeros((n_columns, len(q), n_atoms, 3, n_atoms, 3), dtype=np.complex128)
    for i, j, vectors, table in compiled.pairs:
        angle = q @ vectors.T
        block = np.empty((len(q), 9 * n_columns), dtype=np.complex128)
        block.real = np.cos(angle) @ table
        block.imag = np.sin(angle) @ table
        block = block.reshape(len(q), 3, 3, n_columns).transpose(3, 0, 1, 2)
        if i == j:
            block = 0.5 * (block + block.conj().swapaxes(-1, -2))
            out[:, :, i, :, j, :] += block
        else:
            out[:, :, i, :, j, :] += block
            out[:, :, j, :, i, :] += block.conj().swapaxes(-1, -2)
    for i in range(n_atoms):
        onsite = compiled.onsite[i].transpose(2, 0, 1)
        out[:, :, i, :, i, :] += 0.5 * (onsite + onsite.swapaxes(-1, -2))[:, None]
    return out.reshape(n_columns, len(q), 3 * n_atoms, 3 * n_atoms)


def _fourier_gradient(compiled: _Compiled, q: FloatArray, n_atoms: int) -> ComplexArray:
    """Derivatives by q, (C, Q, 3, n, n), meV^2 angstrom."""
    n_columns = compiled.onsite.shape[3]
    out = np.zeros((n_columns, len(q), 3, n_atoms, 3, n_atoms, 3), dtype=np.complex128)
    for i, j, vectors, table in compiled.pairs:
        angle = q @ vectors.T
        cos, sin = np.cos(angle), np.sin(angle)
        for axis in range(3):
            moment = vectors[:, axis : axis + 1] * table
            block = np.empty((len(q), 9 * n_columns), dtype=np.complex128)
            block.real = -sin @ moment
            block.imag = cos @ moment
            block = block.reshape(len(q), 3, 3, n_columns).transpose(3, 0, 1, 2)
            if i == j:
                out[:, :, axis, i, :, j, :] += 0.5 * (block + block.conj().swapaxes(-1, -2))
            else:
                out[:, :, axis, i, :, j, :] += block
                out[:, :, axis, j, :, i, :] += block.conj().swapaxes(-1, -2)
    return out.reshape(n_columns, len(q), 3, 3 * n_atoms, 3 * n_atoms)


@dataclass(frozen=True, kw_only=True, eq=False)
class ForceConstantModel:
    """Dynamical matrices linear in named force constants; build it by `force_constant_model`.

    ``elements`` are all independent elements up to the cutoff, ``names`` the free ones among them.
    """

    crystal: Crystal
    cutoff_A: float
    elements: tuple[str, ...]
    element_values: FloatArray  # (elements,) eV/angstrom^2, of the reference
    names: tuple[str, ...]  # free parameters
    reference: PairForceConstants  # symmetrised; includes far shells and dipoles
    spread: sparse.csc_matrix  # (bonds * 9, elements): change of bond tensors per element
    element_bonds: FloatArray  # (elements, 3) representative bond vectors, Cartesian, angstrom
    symmetry_residual: float  # largest change that symmetrisation made, eV/angstrom^2

    @cached_property
    def _free(self) -> IntArray:
        place = {name: k for k, name in enumerate(self.elements)}
        return np.array([place[name] for name in self.names], dtype=np.int64)

    @property
    def values(self) -> FloatArray:
        """Reference values of the free parameters, (K,), eV/angstrom^2."""
        return self.element_values[self._free]

    @property
    def n_modes(self) -> int:
        """Number of modes, three times the number of atoms."""
        return 3 * self.crystal.n_atoms

    def _change(self, step: FloatArray) -> FloatArray:
        """Change of the bond tensors for a change of the free parameters, (bonds, 3, 3)."""
        return (self.spread[:, self._free] @ step).reshape(-1, 3, 3)

    @cached_property
    def _columns(self) -> FloatArray:
        """Bond tensors per unit of each free parameter, (bonds, 9, K)."""
        dense = self.spread[:, self._free].toarray()
        return dense.reshape(len(self.reference.first), 9, len(self.names))

    @cached_property
    def _basis(self) -> _Compiled:
        return _compile(self.reference, self._columns)

    @cached_property
    def _fixed(self) -> _Compiled:
        tensors = (self.reference.tensors - self._change(self.values)).reshape(-1, 9)
        scale = np.abs(self.reference.tensors).max(initial=1e-300)
        tensors[np.abs(tensors) < 1e-15 * scale] = 0.0
        return _compile(self.reference, tensors[:, :, None])

    @cached_property
    def _dipole(self) -> tuple[DipoleSum, _Compiled] | None:
        """Ewald sum, and the part of it that the supercell's constants hold already."""
        bonds = self.reference
        if bonds.dipole is None or bonds.supercell is None:
            return None
        ewald = DipoleSum(self.crystal, bonds.dipole)
        listed, multiplicity = supercell_bonds(self.crystal, bonds.supercell)
        shared = ewald.supercell_constants(
            bonds.supercell, listed.first, listed.second, listed.cell
        )
        tensors = (shared / multiplicity[:, None, None]).reshape(-1, 9, 1)
        return ewald, _compile(listed, tensors)

    def with_free(self, names: Iterable[str]) -> ForceConstantModel:
        """Same reference, other free parameters, in the order given.

        Raises
        ------
        ValueError
            If a name is unknown or given twice.
        """
        names = tuple(names)
        unknown = [name for name in names if name not in set(self.elements)]
        if unknown:
            raise ValueError(
                f"parameters.free holds {unknown}; expected names among {list(self.elements)}"
            )
        if len(set(names)) != len(names):
            raise ValueError(f"parameters.free is {list(names)}; expected each name once")
        return replace(self, names=names)

    def with_elements(self, values: ArrayLike) -> ForceConstantModel:
        """Same model around other reference values of all elements, (elements,), eV/angstrom^2."""
        values = np.asarray(values, dtype=float)
        if values.shape != self.element_values.shape:
            raise ValueError(
                f"values has shape {values.shape}; expected {self.element_values.shape}, "
                "one value per entry of `elements`"
            )
        change = (self.spread @ (values - self.element_values)).reshape(-1, 3, 3)
        return replace(
            self,
            element_values=values,
            reference=replace(self.reference, tensors=self.reference.tensors + change),
        )

    def matrices(self, q_cart: ArrayLike) -> tuple[ComplexArray, ComplexArray]:
        """Fixed part and basis of the dynamical matrix, ``D = fixed + sum_k phi_k basis_k``.

        Parameters
        ----------
        q_cart : (Q, 3) float64
            1/angstrom, any zone.

        Returns
        -------
        fixed : (Q, n, n) complex128
            meV^2, mass weighted, Hermitian, n = 3 atoms, phase exp(i q (r_j - r_i)). In polar
            crystals the non-analytic term is left out at reciprocal-lattice vectors.
        basis : (Q, K, n, n) complex128
            meV^2 per eV/angstrom^2; a view with the parameter axis slowest in memory.
        """
        q = _checked_q(q_cart)
        basis = _fourier(self._basis, q, self.crystal.n_atoms).transpose(1, 0, 2, 3)
        return self.fixed_matrices(q), basis

    def fixed_matrices(self, q_cart: ArrayLike) -> ComplexArray:
        """The part that no free parameter changes, (Q, n, n) complex128, meV^2."""
        q = _checked_q(q_cart)
        return self._with_dipoles(_fourier(self._fixed, q, self.crystal.n_atoms)[0], q)

    def _with_dipoles(self, matrices: ComplexArray, q: FloatArray) -> ComplexArray:
        if self._dipole is None:
            return matrices
        ewald, listed = self._dipole
        matrices = matrices - _fourier(listed, q, self.crystal.n_atoms)[0]
        return matrices + self._weighted(ewald.matrices(q))

    def _weighted(self, blocks: ComplexArray) -> ComplexArray:
        """Mass weighting of (..., atoms, atoms, 3, 3) eV/angstrom^2 to (..., n, n) meV^2."""
        mass = self.crystal.masses_u
        weight = MEV2_PER_FORCE_CONSTANT / np.sqrt(mass[:, None] * mass[None, :])
        out = np.moveaxis(blocks * weight[:, :, None, None], -2, -3)
        return out.reshape(*blocks.shape[:-4], self.n_modes, self.n_modes)

    def dynamical_matrices(self, q_cart: ArrayLike, phi: ArrayLike | None = None) -> ComplexArray:
        """Dynamical matrices at given parameters (default: the reference), (Q, n, n), meV^2."""
        q = _checked_q(q_cart)
        tensors = self.force_constants(phi).tensors.reshape(-1, 9, 1)
        compiled = _compile(self.reference, tensors)
        return self._with_dipoles(_fourier(compiled, q, self.crystal.n_atoms)[0], q)

    def matrix_gradients(self, q_cart: ArrayLike, phi: ArrayLike | None = None) -> ComplexArray:
        """Derivatives of the dynamical matrix by q, (Q, 3, n, n) complex128, meV^2 angstrom."""
        q = _checked_q(q_cart)
        n_atoms = self.crystal.n_atoms
        tensors = self.force_constants(phi).tensors.reshape(-1, 9, 1)
        out = _fourier_gradient(_compile(self.reference, tensors), q, n_atoms)[0]
        if self._dipole is not None:
            ewald, listed = self._dipole
            out = out - _fourier_gradient(listed, q, n_atoms)[0]
            out = out + self._weighted(ewald.gradients(q))
        return out

    def free_gradients(self, q_cart: ArrayLike, phi: ArrayLike) -> ComplexArray:
        """The share of the free parameters in :meth:`matrix_gradients`, which is linear in them.

        Few bonds carry free parameters, and the rest (far shells, dipoles) need be summed once:
        ``matrix_gradients(q, phi) = matrix_gradients(q, 0 * phi) + free_gradients(q, phi)``.
        """
        q = _checked_q(q_cart)
        columns = self._columns @ np.asarray(phi, dtype=float)[:, None]
        return _fourier_gradient(_compile(self.reference, columns), q, self.crystal.n_atoms)[0]

    def force_constants(self, phi: ArrayLike | None = None) -> PairForceConstants:
        """Force constants of all bonds at given parameters (default: the reference)."""
        if phi is None:
            return self.reference
        phi = np.asarray(phi, dtype=float)
        if phi.shape != (len(self.names),):
            raise ValueError(
                f"phi has shape {phi.shape}; expected ({len(self.names)},), one value per free name"
            )
        change = self._change(phi - self.values)
        return replace(self.reference, tensors=self.reference.tensors + change)

    def beyond_elements(self) -> float:
        """Largest force constant that no named element carries, eV/angstrom^2.

        It belongs to shells beyond the cutoff, which stay as they are. At 0 the elements are all
        there is, and force constants survive the way through them.
        """
        rest = self.with_elements(np.zeros(len(self.elements))).reference.tensors
        return float(np.abs(rest).max(initial=0.0))

    def onsite(self, phi: ArrayLike | None = None) -> FloatArray:
        """On-site constants, (atoms, 3, 3), eV/angstrom^2: derived by the acoustic sum rule."""
        return self.force_constants(phi).onsite()

    def onsite_gradient(self) -> FloatArray:
        """Derivative of the on-site constants by the free parameters, (K, atoms, 3, 3)."""
        out = np.zeros((self.crystal.n_atoms, 9, len(self.names)))
        np.subtract.at(out, self.reference.first, self._columns)
        return out.reshape(self.crystal.n_atoms, 3, 3, -1).transpose(3, 0, 1, 2)

    def read_elements(self, force_constants: PairForceConstants) -> FloatArray:
        """Values of this model's elements in other force constants of the same crystal.

        Parameters
        ----------
        force_constants : PairForceConstants
            Symmetrised on the way; bonds are found by their vector.

        Returns
        -------
        (elements,) float64
            eV/angstrom^2.

        Raises
        ------
        ValueError
            If a representative bond is missing, for example in a smaller supercell.
        """
        other = force_constant_model(force_constants.crystal, force_constants, self.cutoff_A)
        found = dict(zip(other.elements, other.element_values, strict=True))
        missing = [name for name in self.elements if name not in found]
        if missing:
            raise ValueError(
                f"force constants ({force_constants.source or 'given'}) lack {missing[:4]}; "
                "expected the same crystal and a supercell that holds the cutoff "
                f"{self.cutoff_A:.3f} angstrom"
            )
        return np.array([found[name] for name in self.elements])


def _checked_q(q_cart: ArrayLike) -> FloatArray:
    q = np.asarray(q_cart, dtype=float)
    if q.ndim != 2 or q.shape[1] != 3:
        raise ValueError(f"q_cart has shape {q.shape}; expected (Q, 3)")
    if not np.isfinite(q).all():
        raise ValueError("q_cart holds NaN or infinity; expected finite vectors in 1/angstrom")
    return q


def force_constant_model(
    crystal: Crystal,
    force_constants: PairForceConstants | None,
    cutoff_A: float | None,
    free: Sequence[str] | None = None,
) -> ForceConstantModel:
    """Name the independent force constants of a crystal up to a cutoff.

    Parameters
    ----------
    crystal : Crystal
    force_constants : PairForceConstants or None
        Reference; symmetrised here. None: all constants start at zero and nothing lies beyond the
        cutoff. Operations that do not keep the supercell's lattice are left out.
    cutoff_A : float or None
        Longest bond whose elements get names, angstrom. None: all bonds of the reference.
    free : sequence of str or None
        Names of the free parameters; None frees all elements.

    Raises
    ------
    ValueError
        If the cutoff exceeds what the reference holds (says the largest allowed), a name is
        unknown, or the reference belongs to another crystal.
    """
    if force_constants is None:
        if cutoff_A is None:
            raise ValueError(
                "cutoff_A is None; expected a length when no force constants are given"
            )
        force_constants = neighbour_bonds(crystal, cutoff_A)
        generated = True
    else:
        generated = False
        _check_same_crystal(crystal, force_constants.crystal)
    lengths = force_constants.lengths
    longest = float(lengths.max(initial=0.0))
    if cutoff_A is None:
        cutoff_A = longest
    elif cutoff_A > longest + _LENGTH_TOLERANCE_A and not generated:
        raise ValueError(
            f"parameters.cutoff_A is {cutoff_A} angstrom; the force constants "
            f"({force_constants.source or 'given'}) reach {longest:.4f} angstrom, the largest "
            "allowed. Lower the cutoff or use a larger supercell."
        )
    every = _elements(force_constants)
    values = _project(force_constants, every)
    tensors = (every.spread @ values).reshape(-1, 3, 3)
    residual = float(np.abs(tensors - force_constants.tensors).max(initial=0.0))
    reference = replace(force_constants, crystal=crystal, tensors=tensors)

    near = np.flatnonzero(every.lengths_A <= cutoff_A + _LENGTH_TOLERANCE_A)
    keep, dependent, follow = _resolve_constraint(every.constraint[:, near])
    spread = every.spread[:, near]
    if len(dependent):
        spread = spread[:, keep] + spread[:, dependent] @ sparse.csc_matrix(follow)
    else:
        spread = spread[:, keep]
    names = tuple(every.names[near[k]] for k in keep)
    vectors = reference.vectors
    bonds = np.array(
        [vectors[every.orbits[every.orbit_of[near[k]]].representative] for k in keep]
    ).reshape(-1, 3)
    model = ForceConstantModel(
        crystal=crystal,
        cutoff_A=float(cutoff_A),
        elements=names,
        element_values=values[near[keep]],
        names=names,
        reference=reference,
        spread=sparse.csc_matrix(spread),
        element_bonds=bonds,
        symmetry_residual=residual,
    )
    return model if free is None else model.with_free(free)


def _resolve_constraint(A: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Split elements into independent ones and ones that follow, so that ``A x = 0``.

    Far elements are made dependent first: names of near shells then never change with the cutoff
    unless they must.

    Returns
    -------
    keep, dependent : int arrays
    follow : (dependent, keep) float64
        ``x[dependent] = follow @ x[keep]``.
    """
    count = A.shape[1]
    if len(A) == 0 or count == 0:
        return np.arange(count), np.zeros(0, dtype=np.int64), np.zeros((0, count))
    scale = np.linalg.norm(A, axis=0).max()
    rank = int(np.sum(np.linalg.svd(A, compute_uv=False) > 1e-9 * max(scale, 1e-300)))
    dependent: list[int] = []
    frame = np.zeros((0, len(A)))
    threshold = 0.2
    while len(dependent) < rank:
        for column in range(count - 1, -1, -1):
            if len(dependent) == rank or column in dependent:
                continue
            rest = A[:, column] - (A[:, column] @ frame.T) @ frame
            size = np.linalg.norm(rest)
            if size > threshold * scale:
                dependent.append(column)
                frame = np.vstack([frame, rest / size])
        threshold *= 0.5
    chosen = np.array(sorted(dependent), dtype=np.int64)
    keep = np.setdiff1d(np.arange(count), chosen)
    follow: FloatArray = -np.asarray(
        np.linalg.lstsq(A[:, chosen], A[:, keep], rcond=None)[0], dtype=np.float64
    )
    follow[np.abs(follow) < 1e-13] = 0.0
    return keep, chosen, follow


def _check_same_crystal(crystal: Crystal, other: Crystal) -> None:
    if crystal is other:
        return
    same = (
        crystal.symbols == other.symbols
        and np.allclose(crystal.lattice, other.lattice, atol=1e-4)
        and np.allclose(
            (crystal.positions - other.positions) - np.rint(crystal.positions - other.positions),
            0,
            atol=1e-4,
        )
    )
    if not same:
        raise ValueError(
            "force constants belong to another crystal (lattice, species or positions differ); "
            "expected the crystal of the model. Read both from the same file."
        )
    if not np.allclose(crystal.positions, other.positions, atol=1e-3):
        raise ValueError(
            "force constants list the same atoms in other cells; expected equal positions"
        )


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
        raise ValueError("supercell is None; expected a 3x3 integer matrix of the supercell wanted")
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
    keys = _bond_keys(bonds.first, bonds.second, bonds.cell, crystal.n_atoms)
    orbits, _ = _orbits(bonds)
    owner = np.empty(len(keys), dtype=np.int64)
    position = np.empty(len(keys), dtype=np.int64)
    for o, orbit in enumerate(orbits):
        owner[orbit.members] = o
        position[orbit.members] = np.arange(len(orbit.members))
    tensors = np.zeros((len(keys), 9))
    listed = np.zeros(len(keys), dtype=bool)
    for i, j, cell, elements in shells:
        key = _bond_keys(
            np.array([i]), np.array([j]), np.array([cell], dtype=np.int64), crystal.n_atoms
        )
        b = int(np.flatnonzero(keys == key[0])[0])
        orbit = orbits[owner[b]]
        rows = [_ELEMENTS.index(name) for name in elements]
        wanted = np.array([float(elements[_ELEMENTS[r]]) for r in rows])
        table = orbit.carry[position[b]] @ orbit.basis.reshape(-1, 9).T  # (9, elements)
        solution, _, rank, _ = np.linalg.lstsq(table[rows], wanted, rcond=None)
        wrong = np.abs(table[rows] @ solution - wanted).max(initial=0.0)
        if rank < table.shape[1] or wrong > 1e-6 * max(1.0, np.abs(wanted).max(initial=0.0)):
            raise ValueError(
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shell:
    """One symmetry class of bonds by its representative bond."""

    label: str  # for example 1NN or 1NN Mn-O
    first: int
    second: int
    cell: tuple[int, int, int]
    vector_A: tuple[float, float, float]  # Cartesian
    length_A: float
    bonds: int  # members of the class, both directions counted, per primitive cell
    elements: dict[str, float]  # independent tensor elements, eV/angstrom^2


def shells(force_constants: PairForceConstants) -> tuple[Shell, ...]:
    """Symmetry classes of bonds by length, with their independent elements."""
    elements = _elements(force_constants)
    values = _project(force_constants, elements)
    vectors = force_constants.vectors
    out = []
    for o, orbit in enumerate(elements.orbits):
        b = orbit.representative
        mine = values[elements.orbit_of == o]
        a, c, d = (int(n) for n in force_constants.cell[b])
        x, y, z = (float(n) for n in vectors[b])
        out.append(
            Shell(
                label=orbit.label,
                first=int(force_constants.first[b]),
                second=int(force_constants.second[b]),
                cell=(a, c, d),
                vector_A=(x, y, z),
                length_A=orbit.length_A,
                bonds=len(orbit.members),
                elements={e: float(v) for e, v in zip(orbit.elements, mine, strict=True)},
            )
        )
    return tuple(out)


# ----------------------------------------------------------------------------------- selection


def _shell_sizes(model: ForceConstantModel) -> FloatArray:
    """Root mean square of the elements of each element's shell, (elements,)."""
    shell = [name.rsplit(" ", 1)[0] for name in model.elements]
    size = {
        s: float(
            np.sqrt(
                np.mean([v**2 for v, t in zip(model.element_values, shell, strict=True) if t == s])
            )
        )
        for s in set(shell)
    }
    out = np.array([size[s] for s in shell])
    return out if out.any() else np.ones_like(out)


def _path_slopes(
    model: ForceConstantModel, q_cart: ArrayLike, scale: ArrayLike | None
) -> tuple[FloatArray, ForceConstantModel]:
    """Change of every energy of a path for a change of every element by its scale, meV."""
    from simulations.dynamics import energy_gradients, modes

    full = model.with_free(model.elements)
    q = _checked_q(q_cart)
    q = q[np.linalg.norm(q, axis=1) > 1e-6] if len(q) > 1 else q
    energies, vectors = modes(full, q, full.values)
    slope = energy_gradients(full, q, energies, vectors).reshape(-1, len(full.elements))
    slope = slope * np.asarray(np.abs(model.element_values) if scale is None else scale)
    return slope[np.isfinite(slope).all(axis=1)], full


def path_sensitivity(
    model: ForceConstantModel, q_cart: ArrayLike, scale: ArrayLike | None = None
) -> FloatArray:
    """How far each element moves the lines of a path: root mean square over all modes, meV.

    Parameters
    ----------
    model : ForceConstantModel
    q_cart : (Q, 3) float64
        Points of the path, 1/angstrom.
    scale : (elements,) float64, optional
        Step of each element, eV/angstrom^2; default: the size of its reference value.

    Returns
    -------
    (elements,) float64
        In the order of ``model.elements``. Elements that do the same to the lines count each by
        itself; `select_free` takes that off.
    """
    slope, _ = _path_slopes(model, q_cart, scale)
    return np.sqrt(np.mean(slope**2, axis=0))


def select_free(
    model: ForceConstantModel,
    how_many: int,
    q_cart: ArrayLike,
    scale: ArrayLike | None = None,
) -> tuple[str, ...]:
    """Names of the parameters that move the phonon energies on a path most.

    Pivoted selection: each step takes the element whose energy changes, for a change by its
    ``scale`` and after removing what the elements taken so far can mimic, have the largest sum of
    squares. Changes are weighted with the root mean square element of the shell, so that near
    shells go first where the scale would not say so.

    Parameters
    ----------
    model : ForceConstantModel
    how_many : int
        Number of names wanted.
    q_cart : (Q, 3) float64
        Points of the path, 1/angstrom.
    scale : (elements,) float64, optional
        How far each element may plausibly move, eV/angstrom^2 (the width of its prior, say);
        default: the size of its reference value.

    Returns
    -------
    tuple of str
        In the order of ``model.elements`` (near shells first).

    Raises
    ------
    ValueError
        If more names are wanted than elements exist.
    """
    if not 1 <= how_many <= len(model.elements):
        raise ValueError(
            f"parameters.free is {how_many}; expected 1 to {len(model.elements)}, the number of "
            f"independent elements within {model.cutoff_A:.3f} angstrom"
        )
    slope, full = _path_slopes(model, q_cart, scale)
    slope = slope * _shell_sizes(full)
    chosen: list[int] = []
    rest = slope.copy()
    for _ in range(how_many):
        size = np.einsum("mk,mk->k", rest, rest)
        size[chosen] = -1.0
        best = int(np.argmax(size))
        chosen.append(best)
        direction = rest[:, best] / max(np.linalg.norm(rest[:, best]), 1e-300)
        rest = rest - np.outer(direction, direction @ rest)
    return tuple(full.elements[k] for k in sorted(chosen))
