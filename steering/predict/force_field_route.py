"""Route of universal force fields: relax the atoms, displace them, read the constants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulations.crystal import Crystal
from simulations.dynamics import PairForceConstants, force_constant_model, phonon_dos
from simulations.errors import InputError
from simulations.prior import (
    ForceFieldUnavailableError,
    default_supercell,
    force_field_phonons,
    load_prior_record,
    member_force_constants,
    stored_priors,
)
from steering.predict.density_bands_file import bands_of, density_band
from steering.predict.field_softness_file import is_alone, softness_of, stiffened
from steering.predict.force_constants_route import MAX_ATOMS
from steering.predict.route import RouteUnavailableError, Structure, refuse_large
from steering.predict.vibrations import Uncertainty, Vibrations

DEFAULT_FORCE_FIELD = "sevennet-mf-0"
MAX_COMPUTED_ATOMS = 40
MAX_SUPERCELL_ATOMS = 250
REACH_A = 5.0

SOFT = Uncertainty(
    words="universal force fields are soft: energies come out low by 10 to 50 %, and charges "
    "(LO-TO splitting) are left out",
    energies=(-0.5, -0.1),
)
"""Where the cell is relaxed as well, as in what is stored."""
IN_GIVEN_CELL = Uncertainty(
    words="universal force fields are soft: in the given cell energies come out up to 30 % low, "
    "and charges (LO-TO splitting) are left out",
    energies=(-0.3, 0.05),
)
"""Of fields that nothing was learned of."""
ALONE = Uncertainty(
    words="universal force fields are soft, most of all of crystals of one element: energies of "
    "nineteen of these came out 40 % low to 10 % high in the given cell",
    energies=(-0.4, 0.1),
)
"""The same of crystals of one element."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForceField:
    """Force constants of one universal force field.

    Without a force field named, those of the stiffest stable one that is stored for a built-in
    crystal, and of the default one for others.
    """

    name: str
    force_field: str | None  # or mace:PATH, m3gnet:PATH with a weight file

    @property
    def needs(self) -> str:
        """Packages, but for what is stored."""
        return (
            f"the structure alone, of at most {MAX_COMPUTED_ATOMS} atoms, and the packages of "
            "beamsteer[forcefields]; neither for what is stored of built-in crystals"
        )

    @property
    def approximation(self) -> str:
        """Of all answers."""
        if self.force_field is None:
            return _soft("a universal force field")
        return f"harmonic force constants of {self.force_field}; {_off(self.force_field).words}"

    @property
    def uncertainty(self) -> Uncertainty | None:
        """As the field was found to be over many crystals, or force fields are as such."""
        return SOFT if self.force_field is None else _off(self.force_field)

    def vibrations(self, structure: Structure) -> Vibrations:
        """Look them up, or compute them.

        Raises
        ------
        RouteUnavailableError
            If the force field is unknown or its package or weights are missing; says what to do.
        InputError
            If there are too many atoms, or the force field finds no stable cell.
        """
        refuse_large(structure.crystal, MAX_ATOMS, "structure")
        stored = _stored(structure, self.force_field)
        if stored is not None:
            return stored
        try:
            return _computed(structure.crystal, self.force_field or DEFAULT_FORCE_FIELD)
        except ForceFieldUnavailableError as error:
            raise RouteUnavailableError(f"route: {error}", why=str(error)) from error


def _off(name: str, alone: bool = False) -> Uncertainty:
    """How far a field is off that computes a structure; alone: of one element."""
    softness = softness_of(name)
    if softness is None:
        return ALONE if alone else IN_GIVEN_CELL
    if alone:
        return Uncertainty(words=softness.words_alone, energies=softness.alone_energies)
    return Uncertainty(
        words=f"{softness.words}; charges (LO-TO splitting) are left out",
        energies=softness.energies,
    )


def _soft(name: str) -> str:
    return f"harmonic force constants of {name}, cell relaxed in it; {SOFT.words}"


def _stored(structure: Structure, name: str | None) -> Vibrations | None:
    """Constants that a force field has of a built-in crystal; without a name, the stiffest's."""
    if not isinstance(structure.source, str) or structure.source not in stored_priors():
        return None
    record = load_prior_record(structure.source)
    if name is None:
        member = max(record.stable_members, key=lambda m: m.highest_meV)
        choice = f"the stiffest of {len(record.stable_members)} stable force fields, all soft"
    else:
        named = [m for m in record.members if m.force_field == name]
        if not named:
            return None
        member, choice = named[0], ""
    constants = record.force_constants(structure.crystal, member.values)
    model = force_constant_model(structure.crystal, constants, None)
    note = f"shells beyond {record.cutoff_A:g} angstrom cut off"
    return Vibrations(
        crystal=model.crystal,
        dos=phonon_dos(model),
        model=model,
        route={"kind": "force_field", "source": f"{member.force_field}, stored"},
        approximations=(_soft(member.force_field), note, *([choice] if choice else [])),
        uncertainty=SOFT,
    )


def _computed(crystal: Crystal, name: str) -> Vibrations:
    constants, repeats = field_constants(crystal, name)
    alone = is_alone(crystal)
    softness, off = softness_of(name), _off(name, alone)
    if softness is not None:
        constants = stiffened(constants, softness)
    model = force_constant_model(constants.crystal, constants, None)
    dos, known = phonon_dos(model), None if alone else bands_of(name)
    return Vibrations(
        crystal=model.crystal,
        dos=dos,
        model=model,
        band=None if known is None else density_band(dos, known),
        route={"kind": "force_field", "source": name},
        approximations=(
            f"harmonic force constants of {name}, atoms relaxed in the given cell; {off.words}",
            f"supercell {' x '.join(map(str, repeats))}",
        ),
        uncertainty=off,
    )


def field_constants(
    crystal: Crystal, name: str, *, keep_cell: bool = True
) -> tuple[PairForceConstants, tuple[int, int, int]]:
    """Relax a crystal in a force field, displace its atoms and read the constants, as they are.

    The cell stays as it was given: fields swell it by some 5 % in volume against a database of
    PBEsol, which alone makes phonons softer than anything else does that they get wrong.

    Parameters
    ----------
    crystal : Crystal
    name : str
        Of a force field.
    keep_cell : bool
        If not, the cell is relaxed as well.

    Returns
    -------
    PairForceConstants
        Of the relaxed crystal, eV/angstrom^2.
    tuple of int
        Repeats of the supercell.

    Raises
    ------
    InputError
        If there are too many atoms, or the force field finds no stable cell.
    ForceFieldUnavailableError
        If the force field's package or weights are missing.
    """
    refuse_large(crystal, MAX_COMPUTED_ATOMS, "structure by a force field")
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        symbols=list(crystal.elements), cell=crystal.lattice, scaled_positions=crystal.positions
    )
    repeats = default_supercell(crystal.lattice, REACH_A)
    while np.prod(repeats) * crystal.n_atoms > MAX_SUPERCELL_ATOMS and max(repeats) > 1:
        largest = int(np.argmax(repeats))
        a, b, c = (n - (k == largest) for k, n in enumerate(repeats))
        repeats = (a, b, c)
    try:
        phonons = force_field_phonons(cell, name, supercell=repeats, keep_cell=keep_cell)
        relaxed = _relaxed(crystal, phonons.cell)
        return member_force_constants(relaxed, phonons), repeats
    except RuntimeError as error:
        if isinstance(error, ForceFieldUnavailableError):
            raise
        raise InputError(f"structure: {error}") from error


def _relaxed(crystal: Crystal, cell: Any) -> Crystal:
    """Crystal in the relaxed cell."""
    whole = np.rint(crystal.conventional_lattice @ np.linalg.inv(crystal.lattice) * 12) / 12
    return replace(
        crystal,
        lattice=np.asarray(cell.cell, dtype=float),
        positions=np.asarray(cell.scaled_positions, dtype=float),
        conventional_lattice=whole @ np.asarray(cell.cell, dtype=float),
    )
