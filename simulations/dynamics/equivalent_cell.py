"""Force constants of the same crystal in another cell, carried onto the cell of an experiment.

Axes may be permuted, the origin shifted, the cell primitive or conventional: all that is read is
brought to a primitive cell first, and two of those differ by a rotation, the choice of lattice
vectors and an origin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from simulations.arrays import FloatArray, IntArray
from simulations.crystal import Crystal, is_natural, reduced_vectors
from simulations.dynamics.bonds import PairForceConstants
from simulations.errors import InputError

LARGEST_STRAIN = 0.03
LARGEST_SHIFT_A = 0.3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Match:
    """How the other crystal lies on ours: ``r = rotation @ r_other + shift``."""

    whole: IntArray  # (3, 3) our lattice vectors in theirs, rows
    rotation: FloatArray  # (3, 3) orthogonal
    atom: IntArray  # (atoms,) ours, of each of theirs
    cell: IntArray  # (atoms, 3) ours, in which the images of their home atoms lie
    strain: float
    shift_A: float  # largest distance of an atom from ours

    @property
    def cost(self) -> float:
        return self.strain + self.shift_A


def carried_onto(crystal: Crystal, constants: PairForceConstants) -> PairForceConstants:
    """Force constants on another cell of the crystal that they belong to.

    Parameters
    ----------
    crystal : Crystal
        Cell wanted. Where its species are the natural ones, those of the constants are used.
    constants : PairForceConstants

    Returns
    -------
    PairForceConstants
        Of ``crystal``; its notes say how far the two cells differ.

    Raises
    ------
    InputError
        If the two are not the same crystal within 3 % of strain and 0.3 angstrom.
    """
    other = constants.crystal
    match = _best_match(crystal, other)
    if match is None:
        raise InputError(
            f"force constants ({constants.source or 'given'}) belong to another crystal: "
            f"{_formula(other)} with lattice vectors of "
            f"{np.round(np.linalg.norm(other.lattice, axis=1), 3).tolist()} angstrom, the "
            f"structure is {_formula(crystal)} with "
            f"{np.round(np.linalg.norm(crystal.lattice, axis=1), 3).tolist()}; expected cells of "
            f"one crystal within {100 * LARGEST_STRAIN:g} % and {LARGEST_SHIFT_A} angstrom"
        )
    back = np.rint(np.linalg.inv(match.whole)).astype(np.int64)
    R = match.rotation
    dipole = constants.dipole
    if dipole is not None:
        born = np.empty_like(dipole.born)
        born[match.atom] = np.einsum("ac,bd,icd->iab", R, R, dipole.born)
        dipole = replace(dipole, born=born, dielectric=R @ dipole.dielectric @ R.T)
    i, j = constants.first, constants.second
    note = (
        f"force constants of an equivalent cell: strained by {100 * match.strain:.2g} %, atoms "
        f"moved by up to {match.shift_A:.2g} angstrom"
    )
    supercell = None if constants.supercell is None else constants.supercell @ back
    return replace(
        constants,
        crystal=_with_species_of(crystal, other, match.atom),
        first=match.atom[i],
        second=match.atom[j],
        cell=constants.cell @ back + match.cell[j] - match.cell[i],
        tensors=np.einsum("ac,bd,ncd->nab", R, R, constants.tensors, optimize=True),
        supercell=supercell,
        dipole=dipole,
        notes=(*constants.notes, note),
    )


def _formula(crystal: Crystal) -> str:
    counts = {s: crystal.elements.count(s) for s in sorted(set(crystal.elements))}
    return "".join(f"{s}{n if n > 1 else ''}" for s, n in counts.items())


def _with_species_of(crystal: Crystal, other: Crystal, atom: IntArray) -> Crystal:
    """Our crystal with their species on sites where ours are the natural ones."""
    theirs = np.argsort(atom)
    symbols = list(crystal.symbols)
    masses = crystal.masses_u.copy()
    length, incoherent = crystal.scattering_length.copy(), crystal.incoherent_barn.copy()
    for a, b in enumerate(theirs):
        if not is_natural(crystal, a):
            continue
        symbols[a], masses[a] = other.symbols[b], other.masses_u[b]
        length[a], incoherent[a] = other.scattering_length[b], other.incoherent_barn[b]
    return replace(
        crystal,
        symbols=tuple(symbols),
        masses_u=masses,
        scattering_length=length,
        incoherent_barn=incoherent,
    )


def _best_match(crystal: Crystal, other: Crystal) -> _Match | None:
    if sorted(crystal.elements) != sorted(other.elements):
        return None
    ours, our_steps = reduced_vectors(crystal.lattice)
    theirs, their_steps = reduced_vectors(other.lattice)
    best: _Match | None = None
    for whole in _alignments(ours, theirs):
        full = np.rint(np.linalg.inv(our_steps) @ whole @ their_steps).astype(np.int64)
        found = _placed(crystal, other, full)
        if found is not None and (best is None or found.cost < best.cost - 1e-9):
            best = found
            if best.cost < 1e-6:
                break
    return best


def _alignments(ours: FloatArray, theirs: FloatArray) -> list[IntArray]:
    """Whole numbers of their vectors whose lengths and angles are ours within the strain."""
    grid = np.array(list(product(range(-2, 3), repeat=3)))
    vectors = grid @ theirs
    lengths = np.linalg.norm(vectors, axis=1)
    metric = ours @ ours.T
    wanted = np.sqrt(np.diagonal(metric))
    near = [np.flatnonzero(np.abs(lengths / w - 1) < 1.5 * LARGEST_STRAIN) for w in wanted]
    found = []
    limit = 3 * LARGEST_STRAIN
    for a in near[0]:
        for b in near[1]:
            if abs(vectors[a] @ vectors[b] - metric[0, 1]) > limit * wanted[0] * wanted[1]:
                continue
            for c in near[2]:
                if abs(vectors[a] @ vectors[c] - metric[0, 2]) > limit * wanted[0] * wanted[2]:
                    continue
                if abs(vectors[b] @ vectors[c] - metric[1, 2]) > limit * wanted[1] * wanted[2]:
                    continue
                whole = grid[[a, b, c]]
                if abs(round(float(np.linalg.det(whole)))) == 1:
                    found.append(whole)
    # rotations before mirrors, so that a crystal without handedness is turned and no more
    handed = np.sign(np.linalg.det(ours))
    return sorted(found, key=lambda w: -handed * np.sign(np.linalg.det(w @ theirs)))


def _placed(crystal: Crystal, other: Crystal, whole: IntArray) -> _Match | None:
    """Atoms of the other crystal on ours, for one way to lay lattice on lattice."""
    deformation = np.linalg.solve(whole @ other.lattice, crystal.lattice).T  # r = deformation r'
    u, stretch, vt = np.linalg.svd(deformation)
    strain = float(np.abs(stretch - 1).max())
    if strain > LARGEST_STRAIN:
        return None
    x = other.positions @ np.linalg.inv(whole)
    ours, theirs = np.array(crystal.elements), np.array(other.elements)
    rarest = min(set(ours.tolist()), key=lambda s: int(np.sum(ours == s)))
    anchor = int(np.flatnonzero(theirs == rarest)[0])
    different = theirs[:, None] != ours[None]
    best: _Match | None = None
    for target in np.flatnonzero(ours == rarest):
        y = x + (crystal.positions[target] - x[anchor])
        for _ in range(2):  # the second time with the origin in the mean of all atoms
            step = y[:, None] - crystal.positions[None]
            cell = np.rint(step)
            distance = np.linalg.norm((step - cell) @ crystal.lattice, axis=-1)
            distance[different] = np.inf
            atom = np.argmin(distance, axis=1)
            rows = np.arange(len(y))
            y = y - (step - cell)[rows, atom].mean(axis=0)
        worst = float(distance[rows, atom].max())
        if worst > LARGEST_SHIFT_A or len(set(atom.tolist())) < len(atom):
            continue
        found = _Match(
            whole=whole,
            rotation=u @ vt,
            atom=atom.astype(np.int64),
            cell=cell[rows, atom].astype(np.int64),
            strain=strain,
            shift_A=worst,
        )
        if best is None or found.cost < best.cost - 1e-9:
            best = found
    return best
