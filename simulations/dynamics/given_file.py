"""Force constants as they are given: files of several programs, objects, built-in names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import FloatArray
from simulations.constants import COULOMB_EV_A
from simulations.crystal import (
    FILE_SYMPREC_A,
    builtin_crystal,
    builtin_crystals,
    builtin_entry,
    castep_symbols,
    constants_by_euphonic,
    read_by_euphonic,
    refuse_abinit,
)
from simulations.dynamics.bonds import PairForceConstants
from simulations.dynamics.dipole_sums import FULL_EWALD
from simulations.dynamics.phonopy_file import from_phonopy, load_phonopy
from simulations.dynamics.supercell import from_representatives
from simulations.errors import InputError, NoForceConstantsError


def read_force_constants(
    source: Any,
    *,
    supercell_matrix: ArrayLike | None = None,
    symprec_A: float = FILE_SYMPREC_A,
) -> PairForceConstants:
    """Read force constants, with the crystal that they belong to.

    Parameters
    ----------
    source : str, Path or object
        A phonopy.yaml (force constants, displacements and forces inside, or FORCE_CONSTANTS,
        FORCE_SETS and BORN beside it), a structure with FORCE_CONSTANTS or FORCE_SETS beside it,
        a folder of such, a ``.castep_bin`` or ``.check`` of CASTEP or JSON of Euphonic (where that
        is installed), a built-in name that has force constants, or a ``phonopy.Phonopy`` or
        ``ase.phonons.Phonons`` object.
    supercell_matrix : (3,) or (3, 3) int or None
        Supercell in vectors of the file's cell, for files that do not say it. None: from the file,
        from a phonopy file beside it, or inferred from the forces; in every case it is held
        against them.
    symprec_A : float
        As in `read_crystal`.

    Raises
    ------
    NoForceConstantsError
        If there are none.
    InputError
        If they cannot be read or do not belong to the structure.
    """
    if not isinstance(source, str | Path):
        return _from_object(source, symprec_A)
    entry = builtin_entry(str(source))
    if entry is not None:
        return _built_in(str(source), entry)
    path = Path(source)
    if read_by_euphonic(path):
        return from_euphonic(constants_by_euphonic(path), source=str(path), symprec_A=symprec_A)
    refuse_abinit(path)
    phonon, cell, notes = load_phonopy(path, supercell_matrix=supercell_matrix)
    return from_phonopy(
        phonon, source=str(path), symprec_A=symprec_A, species=cell.species, notes=notes
    )


def _built_in(name: str, entry: dict[str, Any]) -> PairForceConstants:
    crystal = builtin_crystal(entry)
    if "force_constants" not in entry:
        names = builtin_crystals()
        stored = [n for n in names if "force_constants" in (builtin_entry(n) or {})]
        raise NoForceConstantsError(
            f"structure {name!r} has no stored force constants; expected one of {stored}. "
            "Name a stored prior in parameters.prior, or make one with `beamsteer prior`."
        )
    listed = [
        (s["first"], s["second"], s["cell"], s["elements"])
        for s in entry["force_constants"]["shells"]
    ]
    return from_representatives(crystal, listed, source=f"built in: {name}")


def _from_object(given: Any, symprec_A: float) -> PairForceConstants:
    """Force constants of an object of phonopy or ASE, told by its class."""
    kind = f"{type(given).__module__}.{type(given).__name__}"
    if kind.startswith("phonopy."):
        return from_phonopy(given, source="a phonopy object", symprec_A=symprec_A)
    if kind.startswith("ase."):
        return _ase(given, symprec_A)
    raise InputError(
        f"force constants: an object of the class {kind}; expected phonopy.Phonopy or "
        "ase.phonons.Phonons, or a file"
    )


def _ase(given: Any, symprec_A: float) -> PairForceConstants:
    """Force constants of an ``ase.phonons.Phonons`` that was read."""
    from phonopy.structure.atoms import PhonopyAtoms

    if getattr(given, "C_N", None) is None:
        raise NoForceConstantsError(
            "force constants: the Phonons object of ASE has none; expected force constants. Call "
            "its read() first"
        )
    atoms = given.atoms
    repeats = np.asarray(given.supercell, dtype=np.int64)
    n = len(atoms)
    table = np.asarray(given.get_force_constant()).reshape(-1, n, 3, n, 3)
    lattice_vectors = np.asarray(given.compute_lattice_vectors()).T.astype(np.int64)
    cell = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=np.asarray(atoms.cell),
        scaled_positions=atoms.get_scaled_positions(wrap=False),
        masses=atoms.get_masses(),
    )
    return from_cells(cell, np.diag(repeats), lattice_vectors, table, "an ASE object", symprec_A)


def from_cells(
    cell: Any,
    supercell: Any,
    cells: Any,
    table: Any,
    source: str,
    symprec_A: float,
    charges: dict[str, Any] | None = None,
) -> PairForceConstants:
    """Force constants listed from the home cell to every cell of a supercell.

    Parameters
    ----------
    cell : PhonopyAtoms
    supercell : (3, 3) int64
        Rows in vectors of the cell.
    cells : (cells, 3) int64
    table : (cells, atoms, 3, atoms, 3) float64
        Atom of the home cell first, eV/angstrom^2; dipoles included.
    charges : dict or None
        phonopy's ``nac_params``, if polar.
    """
    from phonopy import Phonopy

    phonon: Any = Phonopy(cell, np.asarray(supercell).T, primitive_matrix=np.eye(3), log_level=0)
    x = phonon.supercell.positions @ np.linalg.inv(cell.cell)
    unit = np.array([phonon.supercell.u2u_map[int(u)] for u in phonon.supercell.s2u_map])
    where = np.rint(x - np.asarray(cell.scaled_positions)[unit]).astype(np.int64)
    inverse = np.linalg.inv(np.asarray(supercell, dtype=float))

    def code(c: Any) -> list[tuple[int, ...]]:
        fraction = np.mod(np.round(c @ inverse, 6), 1.0)
        return [tuple(row) for row in np.rint(fraction * 1e5).astype(int) % 100000]

    known = {key: k for k, key in enumerate(code(np.asarray(cells)))}
    full = np.empty((len(x), len(x), 3, 3))
    for s in range(len(x)):
        steps = [known[key] for key in code(where - where[s])]
        full[s] = np.asarray(table)[steps, unit[s], :, unit, :]
    phonon.force_constants = full
    if charges is not None:
        phonon.nac_params = charges
    return from_phonopy(phonon, source=source, symprec_A=symprec_A)


def from_euphonic(
    found: Any, *, source: str = "a Euphonic object", symprec_A: float = FILE_SYMPREC_A
) -> PairForceConstants:
    """Force constants of a ``euphonic.ForceConstants``.

    Where there are Born charges, the object's constants leave out the dipoles of the supercell.
    They are put in again, and our sum is set to the full Ewald sum that such constants are made
    for. Energies are then Euphonic's, but for its acoustic sum rule (``asr``): ours is the one in
    real space, with the symmetry of the space group and neutral charges. Its ``splitting`` at
    Gamma itself is ours a little beside Gamma.
    """
    from phonopy.structure.atoms import PhonopyAtoms

    crystal = found.crystal
    n = crystal.n_atoms
    cell = PhonopyAtoms(
        symbols=castep_symbols(crystal.atom_type),
        cell=crystal.cell_vectors.to("angstrom").magnitude,
        scaled_positions=crystal.atom_r,
        masses=crystal.atom_mass.to("unified_atomic_mass_unit").magnitude,
    )
    table = found.force_constants.to("eV/angstrom**2").magnitude
    charges = None
    if found.born is not None:
        table = table - _without_dipoles(found)
        charges = {
            # Euphonic contracts the second index of a charge with q, phonopy the first
            "born": found.born.to("e").magnitude.transpose(0, 2, 1),
            "dielectric": found.dielectric.to("e**2/(bohr*hartree)").magnitude,
            "factor": COULOMB_EV_A,
        }
    given = from_cells(
        cell,
        found.sc_matrix,
        found.cell_origins,
        table.reshape(-1, n, 3, n, 3),
        source,
        symprec_A,
        charges,
    )
    if given.dipole is None:
        return given
    note = "polar: the file's constants go without dipoles, which a full Ewald sum puts in"
    dipole = replace(given.dipole, ewald=FULL_EWALD)
    return replace(given, dipole=dipole, notes=(*given.notes, note))


def _without_dipoles(found: Any) -> FloatArray:
    """What Euphonic makes of no constants at all: the dipoles of the supercell, negative."""
    zero = type(found).from_total_fc_with_dipole(
        found.crystal,
        0 * found.force_constants,
        found.sc_matrix,
        found.cell_origins,
        born=found.born,
        dielectric=found.dielectric,
    )
    return zero.force_constants.to("eV/angstrom**2").magnitude
