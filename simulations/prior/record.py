"""What several force fields say about a crystal, and the box of force constants made from it.

The ensemble's spread is not an error bar: it is soft as a whole, so the range of its stable members
is widened, far more on the side of stiffer bonds than on the other (`widened_box`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import FloatArray
from simulations.crystal import Crystal
from simulations.dynamics import (
    ForceConstantModel,
    PairForceConstants,
    cell_index,
    force_constant_model,
    from_representatives,
    from_supercell,
)
from simulations.errors import InputError
from simulations.prior.box import BoxPrior
from simulations.prior.force_field import (
    ForceFieldPhonons,
)
from simulations.prior.widening import MEASURED, RANGE_ALONE, TOWARDS_ZERO, Widening, widened_box

Bond = tuple[int, int, tuple[int, int, int]]
"""First atom, second atom, cell of the second."""

_LARGEST_SHIFT = 0.1  # fractional; an atom further away might be another one


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PriorMember:
    """One force field's part in a stored prior."""

    force_field: str
    versions: dict[str, str]
    stable: bool
    relaxed_lattice_A: FloatArray  # (3, 3) rows, primitive cell in that force field
    supercell_matrix: tuple[int, int, int]
    displacement_A: float
    lowest_meV: float
    highest_meV: float
    values: FloatArray  # (parameters,) eV/angstrom^2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PriorRecord:
    """A prior with everything that it was made from."""

    crystal: str  # name of the built-in crystal, or a formula
    cutoff_A: float
    box: BoxPrior
    bonds: tuple[Bond, ...]  # (parameters,) representative bond of each name
    members: tuple[PriorMember, ...]
    moved_bounds: dict[str, str]  # parameters whose box the rule did not make, and why
    widening: Widening = RANGE_ALONE
    stabilised: FloatArray | None = None  # (parameters,) the reference where the rule's is unstable

    @property
    def stable_members(self) -> tuple[PriorMember, ...]:
        """Members in which the crystal is dynamically stable."""
        return tuple(m for m in self.members if m.stable)

    @property
    def used_members(self) -> tuple[PriorMember, ...]:
        """Members that the box is made from: the stable ones, or all where fewer than two are."""
        return _used(self.members)

    @property
    def reference_values(self) -> FloatArray:
        """A dynamically stable set near the centre of the box, (parameters,), eV/angstrom^2.

        The multiple of the used members' mean that is nearest to the centre. Dynamical matrices
        are linear in the force constants, so a positive multiple of a mean of stable sets is
        stable; the centre itself need not be, because it moves every element on its own. Where it
        is not stable all the same (unstable members, bonds cut off), it is ``stabilised``.
        """
        if self.stabilised is not None:
            return self.stabilised
        mean = np.mean([m.values for m in self.used_members], axis=0)
        return mean * float(self.box.mean @ mean) / float(mean @ mean)

    def force_constants(
        self, crystal: Crystal, values: ArrayLike | None = None
    ) -> PairForceConstants:
        """Force constants of the crystal at given values, by default ``reference_values``.

        Parameters
        ----------
        crystal : Crystal
            The crystal that the prior is for; its lattice may differ from the relaxed ones.
        values : (parameters,) array_like, optional
            eV/angstrom^2.

        Returns
        -------
        PairForceConstants
            All bonds up to ``cutoff_A``; nothing lies beyond.
        """
        phi = self.reference_values if values is None else np.asarray(values, dtype=float)
        model = force_constant_model(crystal, None, self.cutoff_A)
        if model.elements == self.box.names:
            return replace(
                model.with_elements(phi).reference,
                source=f"force-field prior of {self.crystal}",
            )
        shells: dict[tuple[int, int, tuple[int, int, int]], dict[str, float]] = {}
        for name, bond, value in zip(self.box.names, self.bonds, phi, strict=True):
            shells.setdefault(bond, {})[name.rsplit(" ", 1)[1]] = float(value)
        return from_representatives(
            crystal,
            [(i, j, cell, elements) for (i, j, cell), elements in shells.items()],
            source=f"force-field prior of {self.crystal}",
        )


def _used(members: Sequence[PriorMember]) -> tuple[PriorMember, ...]:
    stable = tuple(m for m in members if m.stable)
    return stable if len(stable) >= 2 else tuple(members)


def member_force_constants(crystal: Crystal, phonons: ForceFieldPhonons) -> PairForceConstants:
    """Attach a force field's constants to a crystal with the same atoms and another lattice.

    Parameters
    ----------
    crystal : Crystal
        Its primitive cell is the one that was relaxed; free coordinates may have moved by up to a
        tenth of a lattice vector.
    phonons : ForceFieldPhonons

    Returns
    -------
    PairForceConstants
        eV/angstrom^2, unchanged; only the bond lengths are the crystal's.

    Raises
    ------
    ValueError
        If the atoms are not the same.
    """
    from phonopy.structure.cells import get_supercell

    repeats = np.diag(phonons.supercell_matrix)
    supercell = get_supercell(phonons.cell, repeats)
    atom_of = {int(u): k for k, u in enumerate(supercell.u2s_map)}
    atoms = np.array([atom_of[int(u)] for u in supercell.s2u_map])
    offset = supercell.scaled_positions @ repeats - crystal.positions[atoms]
    place = np.rint(offset).astype(np.int64)
    if (
        tuple(phonons.cell.symbols) != crystal.elements
        or np.abs(offset - place).max() > _LARGEST_SHIFT
    ):
        raise InputError(
            f"force field {phonons.force_field}: its cell holds other atoms than the crystal, or "
            f"they moved by more than {_LARGEST_SHIFT} of a lattice vector; expected the crystal's "
            "own primitive cell, relaxed. Leave that force field out"
        )
    cells = place[atoms == 0]
    index = cell_index(place, repeats, cells)
    constants = np.zeros((crystal.n_atoms, len(cells), crystal.n_atoms, 3, 3))
    constants[:, index, atoms] = phonons.force_constants
    return from_supercell(crystal, repeats, cells, constants, source=phonons.force_field)


def prior_from_members(
    name: str,
    crystal: Crystal,
    members: Sequence[ForceFieldPhonons],
    *,
    cutoff_A: float,
    must_hold: Mapping[str, tuple[float, str]] | None = None,
    widening: Widening = MEASURED,
) -> PriorRecord:
    """Make a prior from what several force fields say about a crystal.

    Parameters
    ----------
    name : str
        Name of the crystal, kept in the record.
    crystal : Crystal
        Crystal whose named force constants are wanted.
    members : sequence of ForceFieldPhonons
        Unstable ones are recorded but do not shape the box, unless fewer than two are stable.
    cutoff_A : float
        Longest bond with a box, angstrom.
    must_hold : mapping of str to (float, str), optional
        Values known otherwise, and their source. Where one lies outside its box, the bound is moved
        to 0.25 of the members' range beyond it, and the record says so.
    widening : Widening
        How the box grows beyond the members.

    Returns
    -------
    PriorRecord

    Raises
    ------
    ValueError
        If there are fewer than two members.
    """
    model = force_constant_model(crystal, None, cutoff_A)
    rows = tuple(
        PriorMember(
            force_field=phonons.force_field,
            versions=phonons.versions,
            stable=phonons.stable,
            relaxed_lattice_A=np.asarray(phonons.cell.cell),
            supercell_matrix=phonons.supercell_matrix,
            displacement_A=phonons.displacement_A,
            lowest_meV=phonons.lowest_meV,
            highest_meV=phonons.highest_meV,
            values=element_values(model, member_force_constants(crystal, phonons)),
        )
        for phonons in members
    )
    bonds = _bonds_of(model)
    values = np.array([row.values for row in _used(rows)]).reshape(-1, len(model.elements))
    lower, upper = widened_box(values, widening, bonds)
    moved: dict[str, str] = {}
    width = np.ptp(values, axis=0)
    for k, element in enumerate(model.elements):
        if not must_hold or element not in must_hold:
            continue
        value, source = must_hold[element]
        if lower[k] <= value <= upper[k]:
            continue
        bound = "lower" if value < lower[k] else "upper"
        rule = (lower if bound == "lower" else upper)[k]
        if bound == "lower":
            lower[k] = value - TOWARDS_ZERO * width[k]
        else:
            upper[k] = value + TOWARDS_ZERO * width[k]
        moved[element] = (
            f"{bound} bound moved from {rule:.5f}: {source} has {value:.5f}, which the widened "
            "range of the force fields does not hold"
        )
    return PriorRecord(
        crystal=name,
        cutoff_A=cutoff_A,
        box=BoxPrior(names=model.elements, lower=lower, upper=upper),
        bonds=bonds,
        members=rows,
        moved_bounds=moved,
        widening=widening,
    )


def element_values(model: ForceConstantModel, force_constants: PairForceConstants) -> FloatArray:
    """Values of a model's elements in force constants that list other bonds.

    Every bond of the model takes the tensor of the same bond in the other list, or zero where that
    does not have it; the crystal's whole space group is then put upon them, also where the other
    list comes from a supercell of lower symmetry.

    Parameters
    ----------
    model : ForceConstantModel
        Of the crystal alone (`force_constant_model` without force constants).
    force_constants : PairForceConstants
        Of the same crystal.

    Returns
    -------
    (elements,) float64
        eV/angstrom^2.
    """
    other = force_constant_model(force_constants.crystal, force_constants, None).reference
    place = {
        (int(i), int(j), *(int(c) for c in cell)): k
        for k, (i, j, cell) in enumerate(zip(other.first, other.second, other.cell, strict=True))
    }
    bonds = model.reference
    tensors = np.zeros((len(bonds.first), 3, 3))
    for k, (i, j, cell) in enumerate(zip(bonds.first, bonds.second, bonds.cell, strict=True)):
        found = place.get((int(i), int(j), *(int(c) for c in cell)))
        if found is not None:
            tensors[k] = other.tensors[found]
    known = replace(bonds, tensors=tensors, source=force_constants.source)
    return force_constant_model(model.crystal, known, None).element_values


def _bonds_of(model: ForceConstantModel) -> tuple[Bond, ...]:
    """Representative bond of every element: atoms and cell of the second."""
    bonds = model.reference
    vectors = bonds.vectors
    found: list[Bond] = []
    for k, vector in enumerate(model.element_bonds):
        moved = np.unique(model.spread[:, [k]].nonzero()[0] // 9)
        b = moved[np.argmin(np.linalg.norm(vectors[moved] - vector, axis=1))]
        cell = bonds.cell[b]
        found.append(
            (int(bonds.first[b]), int(bonds.second[b]), (int(cell[0]), int(cell[1]), int(cell[2])))
        )
    return tuple(found)
