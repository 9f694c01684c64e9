"""What is known of force constants before a measurement: a box, and samples of it.

The box comes from an ensemble of universal force fields. Its spread is not an error bar: the
ensemble is soft as a whole, so the range of its stable members is widened, far more on the side of
stiffer bonds than on the other (``widened_box``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from phonopy.structure.atoms import PhonopyAtoms

from simulations.arrays import ComplexArray, FloatArray
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
from simulations.prior.force_field import (
    FORCE_FIELDS,
    ForceFieldPhonons,
    default_supercell,
    force_field_phonons,
)

TOWARDS_ZERO = 0.25
"""Share of the members' range added to the box on the side of zero."""

TOWARDS_STIFF = 1.5
"""Share of the members' range added to the box on the side of larger magnitude."""


_LARGEST_SHIFT = 0.1  # fractional; an atom further away might be another one


class PriorRejectsAllError(RuntimeError):
    """Almost no set of a box is dynamically stable, so it cannot be sampled."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PriorSample:
    """Dynamically stable sets of a box, and how many had to be drawn for them."""

    values: FloatArray  # (sets, parameters) eV/angstrom^2
    drawn: int

    @property
    def acceptance(self) -> float:
        """Share of the drawn sets that were stable."""
        return len(self.values) / self.drawn if self.drawn else float("nan")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BoxPrior:
    """Uniform prior: every named parameter between two bounds, eV/angstrom^2."""

    names: tuple[str, ...]  # (parameters,)
    lower: FloatArray  # (parameters,)
    upper: FloatArray  # (parameters,)

    def __post_init__(self) -> None:
        for field, values in (("lower", self.lower), ("upper", self.upper)):
            if values.shape != (len(self.names),):
                raise ValueError(
                    f"prior: {field} has shape {values.shape}; expected one bound for each of the "
                    f"{len(self.names)} names"
                )
        wrong = [n for n, a, b in zip(self.names, self.lower, self.upper, strict=True) if not a < b]
        if wrong:
            raise InputError(f"prior: lower is not below upper for {', '.join(wrong)}")

    @property
    def mean(self) -> FloatArray:
        """Centre of the box, (parameters,)."""
        return (self.lower + self.upper) / 2

    @property
    def sigma(self) -> FloatArray:
        """Standard deviation of the uniform density, width / sqrt(12), (parameters,)."""
        return (self.upper - self.lower) / np.sqrt(12.0)

    def contains(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Which parameters lie inside.

        Parameters
        ----------
        values : (..., parameters) array_like
            eV/angstrom^2.

        Returns
        -------
        (..., parameters) bool
        """
        x = np.asarray(values, dtype=float)
        return (x >= self.lower) & (x <= self.upper)

    def restricted(self, names: Sequence[str]) -> BoxPrior:
        """The box of some parameters, in the order asked for.

        Raises
        ------
        ValueError
            If the box lacks one of the names; the message lists what it has.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise InputError(
                f"prior has no bounds for {', '.join(missing)}; it has {', '.join(self.names)}. "
                "Free other parameters or store a prior with a larger cutoff."
            )
        order = [self.names.index(name) for name in names]
        return BoxPrior(names=tuple(names), lower=self.lower[order], upper=self.upper[order])

    def sample(
        self,
        n: int,
        rng: np.random.Generator,
        model: ForceConstantModel | None = None,
        q_cart: ArrayLike | None = None,
        *,
        tolerance_meV: float = 0.5,
        least_acceptance: float = 1e-3,
    ) -> PriorSample:
        """Draw sets uniformly and keep the dynamically stable ones.

        Parameters
        ----------
        n : int
            Sets wanted.
        rng : numpy.random.Generator
            Source of randomness; the same state gives the same sets.
        model : ForceConstantModel, optional
            Model whose free parameters are this prior's, in this order. Without it nothing is
            rejected.
        q_cart : (Q, 3) array_like, optional
            Where stability is looked at, 1/angstrom; needed with ``model``.
        tolerance_meV : float
            How far below zero a mode may come out (imaginary, counted negative).
        least_acceptance : float
            Give up when fewer sets than this share are stable.

        Returns
        -------
        PriorSample
            ``values`` (n, parameters) and the number drawn.

        Raises
        ------
        ValueError
            If the model's parameters are not this prior's, or ``q_cart`` is missing.
        PriorRejectsAllError
            If the acceptance stays below ``least_acceptance``.
        """
        if model is None:
            values = rng.uniform(self.lower, self.upper, (n, len(self.names)))
            return PriorSample(values=values, drawn=n)
        if tuple(model.names) != self.names:
            raise InputError(
                f"prior is for {', '.join(self.names)} but the model frees "
                f"{', '.join(model.names)}; restrict the prior to the model's names"
            )
        if q_cart is None:
            raise InputError("prior: q_cart is missing; give the q points that decide on stability")
        fixed, basis = model.matrices(np.asarray(q_cart, dtype=float))
        kept: list[FloatArray] = []
        found = drawn = 0
        while found < n:
            for phi in rng.uniform(self.lower, self.upper, (256, len(self.names))):
                drawn += 1
                if _is_stable(fixed, basis, phi, tolerance_meV):
                    kept.append(phi)
                    found += 1
                    if found == n:
                        break
            if found < least_acceptance * drawn:
                raise PriorRejectsAllError(
                    f"only {found} of {drawn} sets drawn from the prior are dynamically stable; "
                    "narrow the box or free fewer parameters"
                )
        return PriorSample(values=np.array(kept), drawn=drawn)


def _is_stable(
    fixed: ComplexArray, basis: ComplexArray, phi: FloatArray, tolerance_meV: float
) -> bool:
    """Whether no eigenvalue of any D(q; phi) lies below -tolerance^2."""
    matrices = fixed + np.tensordot(phi, basis, axes=(0, 1))
    shifted = matrices + tolerance_meV**2 * np.eye(matrices.shape[-1])
    try:
        np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        return False
    return True


def widened_box(values: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Box of an ensemble whose members are all too soft.

    With ``w = max - min`` over the members, ``0.25 w`` is added on the side of zero and ``1.5 w``
    on the side of larger magnitude; where the range holds zero, the end of larger magnitude is the
    stiff side.

    Parameters
    ----------
    values : (members, parameters) array_like
        Of the stable members, eV/angstrom^2; at least two.

    Returns
    -------
    lower, upper : (parameters,) float64

    Raises
    ------
    ValueError
        If there are fewer than two members: one has no range.

    References
    ----------
    Sable (2026): training box of -25 % and +150 % around an ensemble of universal force fields.
    """
    members = np.asarray(values, dtype=float)
    if members.ndim != 2 or len(members) < 2:
        raise ValueError(
            f"prior: values has shape {members.shape}; expected at least two stable members, "
            "because the box is made from their range. Add force fields."
        )
    low, high = members.min(axis=0), members.max(axis=0)
    width = high - low
    stiff_is_high = np.abs(high) >= np.abs(low)
    below = np.where(stiff_is_high, TOWARDS_ZERO, TOWARDS_STIFF)
    above = np.where(stiff_is_high, TOWARDS_STIFF, TOWARDS_ZERO)
    return low - below * width, high + above * width


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
    bonds: tuple[tuple[int, int, tuple[int, int, int]], ...]  # (parameters,) bond of each name
    members: tuple[PriorMember, ...]
    moved_bounds: dict[str, str]  # parameters whose box the rule did not make, and why

    @property
    def stable_members(self) -> tuple[PriorMember, ...]:
        """Members that the box is made from."""
        return tuple(m for m in self.members if m.stable)

    @property
    def reference_values(self) -> FloatArray:
        """A dynamically stable set near the centre of the box, (parameters,), eV/angstrom^2.

        The multiple of the stable members' mean that is nearest to the centre. Dynamical matrices
        are linear in the force constants, so a positive multiple of a mean of stable sets is
        stable; the centre itself need not be, because it moves every element on its own.
        """
        mean = np.mean([m.values for m in self.stable_members], axis=0)
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
        shells: dict[tuple[int, int, tuple[int, int, int]], dict[str, float]] = {}
        for name, bond, value in zip(self.box.names, self.bonds, phi, strict=True):
            shells.setdefault(bond, {})[name.rsplit(" ", 1)[1]] = float(value)
        return from_representatives(
            crystal,
            [(i, j, cell, elements) for (i, j, cell), elements in shells.items()],
            source=f"force-field prior of {self.crystal}",
        )


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
) -> PriorRecord:
    """Make a prior from what several force fields say about a crystal.

    Parameters
    ----------
    name : str
        Name of the crystal, kept in the record.
    crystal : Crystal
        Crystal whose named force constants are wanted.
    members : sequence of ForceFieldPhonons
        Unstable ones are recorded but do not shape the box.
    cutoff_A : float
        Longest bond with a box, angstrom.
    must_hold : mapping of str to (float, str), optional
        Values known otherwise, and their source. Where one lies outside its box, the bound is moved
        to 0.25 of the members' range beyond it, and the record says so.

    Returns
    -------
    PriorRecord

    Raises
    ------
    ValueError
        If fewer than two members are stable or the cutoff does not fit their supercells.
    """
    rows: list[PriorMember] = []
    model: ForceConstantModel | None = None
    for phonons in members:
        model = force_constant_model(crystal, member_force_constants(crystal, phonons), cutoff_A)
        rows.append(
            PriorMember(
                force_field=phonons.force_field,
                versions=phonons.versions,
                stable=phonons.stable,
                relaxed_lattice_A=np.asarray(phonons.cell.cell),
                supercell_matrix=phonons.supercell_matrix,
                displacement_A=phonons.displacement_A,
                lowest_meV=phonons.lowest_meV,
                highest_meV=phonons.highest_meV,
                values=model.element_values,
            )
        )
    values = np.array([row.values for row in rows if row.stable])
    lower, upper = widened_box(values)
    if model is None:  # widened_box has raised already
        raise InputError("prior: members is empty")
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
        bonds=tuple(
            _bond(crystal, vector, element)
            for vector, element in zip(model.element_bonds, model.elements, strict=True)
        ),
        members=tuple(rows),
        moved_bounds=moved,
    )


def force_field_prior(
    name: str,
    crystal: Crystal,
    *,
    cutoff_A: float,
    force_fields: Sequence[str] = tuple(FORCE_FIELDS),
    supercell: tuple[int, int, int] | None = None,
    must_hold: Mapping[str, tuple[float, str]] | None = None,
    finished: Callable[[ForceFieldPhonons], None] | None = None,
) -> PriorRecord:
    """Ask force fields about a crystal and make a prior of what they say.

    Parameters
    ----------
    name : str
        Name of the crystal, kept in the record.
    crystal : Crystal
    cutoff_A : float
        Longest bond with a box, angstrom.
    force_fields : sequence of str
        Names that `load_calculator` knows.
    supercell : tuple of int, optional
        Repeats of the primitive cell; by default so many that a sphere of ``cutoff_A`` fits.
    must_hold : mapping, optional
        As `prior_from_members`.
    finished : callable, optional
        Told of every member when it is done, for progress.

    Raises
    ------
    ValueError, ForceFieldUnavailableError, RuntimeError
        As `force_field_phonons` and `prior_from_members`.
    """
    cell = PhonopyAtoms(
        symbols=list(crystal.elements), cell=crystal.lattice, scaled_positions=crystal.positions
    )
    repeats = supercell or default_supercell(crystal.lattice, 1.05 * cutoff_A)
    members = []
    for force_field in force_fields:
        members.append(force_field_phonons(cell, force_field, supercell=repeats))
        if finished is not None:
            finished(members[-1])
    return prior_from_members(name, crystal, members, cutoff_A=cutoff_A, must_hold=must_hold)


def _bond(
    crystal: Crystal, vector: FloatArray, element: str
) -> tuple[int, int, tuple[int, int, int]]:
    """Atoms and cell of a representative bond; the first pair of the right species wins."""
    wanted = element.split(" ")[1].split("-") if "-" in element else None
    inverse = np.linalg.inv(crystal.lattice)
    for i in range(crystal.n_atoms):
        for j in range(crystal.n_atoms):
            if wanted is not None and [crystal.elements[i], crystal.elements[j]] != wanted:
                continue
            cell = vector @ inverse - (crystal.positions[j] - crystal.positions[i])
            whole = np.rint(cell).astype(int)
            if np.abs(cell - whole).max() < 1e-4:
                return i, j, (int(whole[0]), int(whole[1]), int(whole[2]))
    raise InputError(f"prior: no bond of the crystal runs along {vector} for {element}")
