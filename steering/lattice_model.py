"""A structure as people name it, turned into a force-constant model by one of two routes.

Force constants that are given (phonopy.yaml, a built-in crystal), or one universal force field that
relaxes the structure and computes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from simulations.crystal import Crystal
from simulations.crystal_file import builtin_crystals, read_crystal, read_force_constants
from simulations.force_constants import ForceConstantModel, force_constant_model
from simulations.force_field import (
    FORCE_FIELDS,
    ForceFieldUnavailableError,
    default_supercell,
    force_field_phonons,
)
from simulations.prior import member_force_constants
from simulations.prior_file import load_prior_record, stored_priors
from steering.structure_file import structure_as_file

DEFAULT_FORCE_FIELD = "chgnet-0.3.0"
MAX_ATOMS = 60
MAX_FORCE_FIELD_ATOMS = 20
MAX_SUPERCELL_ATOMS = 250
FORCE_FIELD_REACH_A = 5.0
ROUTES = ("auto", "given", "force_constants", "force_field", *FORCE_FIELDS)
"""Names of routes; ``given`` is ``force_constants``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LatticeModel:
    """A force-constant model and how it was come by."""

    model: ForceConstantModel
    route: dict[str, str]  # kind (force_constants or force_field) and source
    approximations: tuple[str, ...]


@contextmanager
def open_structure(text: str, files: bool) -> Iterator[str | Path]:
    """Name of a built-in crystal, or a file that holds the structure, for as long as it is read.

    Parameters
    ----------
    text : str
        Name of a built-in crystal, or the text of a POSCAR, CIF or phonopy.yaml.
    files : bool
        Whether the text may name a file of this machine.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    name = text.strip()
    if name in builtin_crystals():
        yield name
    elif "\n" in name:
        with structure_as_file(text) as path:
            yield path
    elif files and Path(name).exists():
        yield Path(name)
    else:
        where = " or a file" if files else ""
        raise ValueError(
            f"structure is {name[:80]!r}; expected one of {', '.join(builtin_crystals())}{where}, "
            "or the text of a POSCAR, CIF or phonopy.yaml"
        )


def lattice_model(
    structure: str | Path,
    route: str = "auto",
    *,
    supercell: tuple[int, int, int] | None = None,
) -> LatticeModel:
    """Force-constant model by a route.

    Parameters
    ----------
    structure : str or Path
        From `open_structure`.
    route : str
        One of `ROUTES`, or ``mace:PATH``, ``m3gnet:PATH`` with a weight file. ``auto`` takes given
        force constants, else ``force_field``: the stiffest stable one stored for a built-in
        crystal, for others the default one.
    supercell : (int, int, int) or None
        Supercell of given force constants, in cells of the file, where the file does not say it.

    Raises
    ------
    ValueError
        Too many atoms, no force constants, unknown or missing force field; says what to do.
    """
    if route not in ROUTES and ":" not in route:
        raise ValueError(f"route is {route!r}; expected one of {', '.join(ROUTES)}")
    crystal = read_crystal(structure)
    _refuse_large(crystal, MAX_ATOMS, "structure")
    why = ""
    if route in ("auto", "given", "force_constants"):
        try:
            given = read_force_constants(structure, supercell_matrix=supercell)
        except ValueError as error:
            if route != "auto":
                raise ValueError(
                    f"route is {route!r} but the structure has no usable force constants "
                    f"({error}). Give a phonopy.yaml with them, or take route force_field."
                ) from error
            why = f"no usable force constants came with the structure ({error})"
        else:
            source = given.source or "given"
            return LatticeModel(
                model=force_constant_model(given.crystal, given, None),
                route={"kind": "force_constants", "source": source},
                approximations=(f"harmonic force constants: {source}",),
            )
    name = None if route in ("auto", "force_field") else route
    try:
        found = _stored(structure, crystal, name) or _by_force_field(
            crystal, DEFAULT_FORCE_FIELD if name is None else name
        )
    except ForceFieldUnavailableError as error:
        raise ValueError(f"route: {why + '; ' if why else ''}{error}") from error
    return replace(found, approximations=(*found.approximations, why)) if why else found


def _soft(name: str) -> str:
    return (
        f"harmonic force constants of {name}, cell relaxed in it; universal force fields are soft: "
        "energies come out low by 10 to 50 %, and charges (LO-TO splitting) are left out"
    )


def _stored(structure: str | Path, crystal: Crystal, name: str | None) -> LatticeModel | None:
    """Constants that a force field has of a built-in crystal; without a name, the stiffest's."""
    if not isinstance(structure, str) or structure not in stored_priors():
        return None
    record = load_prior_record(structure)
    if name is None:
        member = max(record.stable_members, key=lambda m: m.highest_meV)
        choice = f"the stiffest of {len(record.stable_members)} stable force fields, all soft"
    else:
        named = [m for m in record.members if m.force_field == name]
        if not named:
            return None
        member, choice = named[0], ""
    note = f"shells beyond {record.cutoff_A:g} angstrom cut off"
    return LatticeModel(
        model=force_constant_model(crystal, record.force_constants(crystal, member.values), None),
        route={"kind": "force_field", "source": f"{member.force_field}, stored"},
        approximations=(_soft(member.force_field), note, *([choice] if choice else [])),
    )


def _by_force_field(crystal: Crystal, name: str) -> LatticeModel:
    """Relax, displace and read the constants."""
    _refuse_large(crystal, MAX_FORCE_FIELD_ATOMS, "structure by a force field")
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        symbols=list(crystal.symbols), cell=crystal.lattice, scaled_positions=crystal.positions
    )
    repeats = default_supercell(crystal.lattice, FORCE_FIELD_REACH_A)
    while np.prod(repeats) * crystal.n_atoms > MAX_SUPERCELL_ATOMS and max(repeats) > 1:
        largest = int(np.argmax(repeats))
        a, b, c = (n - (k == largest) for k, n in enumerate(repeats))
        repeats = (a, b, c)
    try:
        phonons = force_field_phonons(cell, name, supercell=repeats)
        relaxed = _relaxed(crystal, phonons.cell)
        constants = member_force_constants(relaxed, phonons)
    except RuntimeError as error:
        if isinstance(error, ForceFieldUnavailableError):
            raise
        raise ValueError(f"structure: {error}") from error
    return LatticeModel(
        model=force_constant_model(relaxed, constants, None),
        route={"kind": "force_field", "source": name},
        approximations=(_soft(name), f"supercell {' x '.join(map(str, repeats))}"),
    )


def _relaxed(crystal: Crystal, cell: Any) -> Crystal:
    """Crystal in the relaxed cell."""
    whole = np.rint(crystal.conventional_lattice @ np.linalg.inv(crystal.lattice) * 12) / 12
    return replace(
        crystal,
        lattice=np.asarray(cell.cell, dtype=float),
        positions=np.asarray(cell.scaled_positions, dtype=float),
        conventional_lattice=whole @ np.asarray(cell.cell, dtype=float),
    )


def _refuse_large(crystal: Crystal, most: int, what: str) -> None:
    if crystal.n_atoms > most:
        raise ValueError(
            f"{what}: {crystal.n_atoms} atoms in the primitive cell; expected at most {most}"
        )


def formula(crystal: Crystal) -> str:
    """Symbols and numbers of the primitive cell, in the order of its atoms, e.g. ``Al2O3``."""
    counts = {s: crystal.symbols.count(s) for s in dict.fromkeys(crystal.symbols)}
    return "".join(f"{s}{n if n > 1 else ''}" for s, n in counts.items())
