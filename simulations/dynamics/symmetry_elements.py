"""Tensor elements that the space group leaves independent, shell by shell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from simulations.arrays import FloatArray, IntArray
from simulations.crystal import Crystal, SpaceGroup, space_group_operations
from simulations.dynamics.bonds import ELEMENT_NAMES, PairForceConstants, bond_keys
from simulations.errors import InputError

_SHELL_TOLERANCE_A = 1e-3


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
            raise InputError("no independent tensor elements found")
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


def bond_orbits(bonds: PairForceConstants) -> tuple[list[_Orbit], SpaceGroup]:
    """Sort bonds into symmetry classes and name the independent elements of each."""
    crystal = bonds.crystal
    group = _compatible_group(bonds)
    n_atoms = crystal.n_atoms
    keys = bond_keys(bonds.first, bonds.second, bonds.cell, n_atoms)
    order = np.argsort(keys)
    sorted_keys = keys[order]

    def carried(index: IntArray, g: int, reverse: bool) -> IntArray:
        """Index of the image of bonds under operation g, reversed if asked."""
        i, j, cell = bonds.first[index], bonds.second[index], bonds.cell[index]
        to_i, to_j = group.permutation[g, i], group.permutation[g, j]
        to = cell @ group.rotations[g].T + group.shifts[g, j] - group.shifts[g, i]
        if reverse:
            to_i, to_j, to = to_j, to_i, -to
        image = bond_keys(to_i, to_j, to, n_atoms)
        place = np.minimum(np.searchsorted(sorted_keys, image), len(keys) - 1)
        if np.any(sorted_keys[place] != image):
            raise InputError(
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
    elements = crystal.elements  # names of constants do not change with the isotope
    species = list(dict.fromkeys(elements))
    rank = np.array([species.index(s) for s in elements])
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
                elements=tuple(ELEMENT_NAMES[k] for k in chosen),
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
    elements = crystal.elements
    several = len(set(elements)) > 1
    lengths = bonds.lengths
    shells: dict[tuple[str, str], list[list[int]]] = {}
    for b in representatives:
        pair = (elements[bonds.first[b]], elements[bonds.second[b]])
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


def independent_elements(bonds: PairForceConstants) -> _Elements:
    """Named tensor elements that the space group leaves independent, with what they span."""
    orbits, _ = bond_orbits(bonds)
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
    elements = independent_elements(force_constants)
    values = project(force_constants, elements)
    tensors = (elements.spread @ values).reshape(-1, 3, 3)
    change = np.abs(tensors - force_constants.tensors).max(initial=0.0)
    return replace(force_constants, tensors=tensors), float(change)


def project(bonds: PairForceConstants, elements: _Elements) -> FloatArray:
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
