"""An entry of a database: what a program of force constants was given and found, and its card."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulations.arrays import FloatArray, IntArray
from simulations.crystal import (
    FILE_SYMPREC_A,
    Species,
    element_of,
    neutron_data,
    quiet_spglib,
    refuse_overlap,
    refuse_unreal,
    symmetry_dataset,
)
from simulations.dynamics import (
    PairForceConstants,
    force_constant_model,
    from_phonopy,
    modes,
)
from simulations.errors import InputError

MOST_ATOMS = 300
"""In the primitive cell of an entry."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Entry:
    """One crystal with its displaced atoms and forces, or with its force constants.

    Lengths, forces and constants are in the units of ``calculator``, as phonopy has them;
    ``supercell_matrix`` and ``primitive_matrix`` are phonopy's, vectors in columns.
    """

    id: str
    lattice: FloatArray  # (3, 3) rows
    positions: FloatArray  # (atoms, 3) fractional
    symbols: tuple[str, ...]  # (atoms,) chemical symbols
    masses_u: FloatArray | None  # (atoms,); None: natural ones
    supercell_matrix: IntArray  # (3, 3)
    primitive_matrix: FloatArray  # (3, 3)
    symprec_A: float
    calculator: str | None = None
    moved: IntArray | None = None  # (displacements,) atoms of the supercell
    steps: FloatArray | None = None  # (displacements, 3)
    forces: FloatArray | None = None  # (displacements, supercell atoms, 3)
    constants: FloatArray | None = None  # (rows, supercell atoms, 3, 3)
    born: FloatArray | None = None  # (primitive atoms, 3, 3) elementary charges
    dielectric: FloatArray | None = None  # (3, 3)
    coulomb: float | None = None  # phonopy's factor; None: phonopy's own
    species: tuple[Species, ...] | None = None  # (atoms,); None: by symbols and masses
    notes: tuple[str, ...] = ()  # what was inferred or checked when it was read


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What an index knows of an entry."""

    id: str
    source: str  # name of the file or folder
    formula: str  # reduced
    elements: tuple[str, ...]  # sorted
    atoms: int  # primitive cell
    supercell_atoms: int
    space_group: int
    space_group_symbol: str
    volume_A3: float  # per atom
    lowest_meV: float  # at the supercell's own wave vectors; negative: imaginary
    highest_meV: float
    polar: bool

    @property
    def words(self) -> str:
        """In one line."""
        charges = ", with Born charges" if self.polar else ""
        return (
            f"{self.id}: {self.formula}, {self.space_group_symbol} ({self.space_group}), "
            f"{self.atoms} atoms, {self.lowest_meV:.3g} to {self.highest_meV:.4g} meV{charges}"
        )


def phonopy_object(entry: Entry) -> Any:
    """The entry as a ``phonopy.Phonopy`` with force constants.

    Raises
    ------
    InputError
        If there are neither forces nor constants, or phonopy cannot use them.
    """
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    refuse_bad_cell(entry)
    try:
        with quiet_spglib(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # phonopy's advice to its own users
            cell = PhonopyAtoms(
                symbols=list(entry.symbols),
                cell=entry.lattice,
                scaled_positions=entry.positions,
                masses=entry.masses_u,
            )
            phonon: Any = Phonopy(
                cell,
                entry.supercell_matrix,
                primitive_matrix=entry.primitive_matrix,
                symprec=entry.symprec_A,
                calculator=entry.calculator,
                log_level=0,
            )
            if entry.constants is not None:
                phonon.force_constants = entry.constants
            else:
                phonon.dataset = _dataset(entry, len(phonon.supercell))
                phonon.produce_force_constants(calculate_full_force_constants=False)
            if entry.born is not None:
                phonon.nac_params = {
                    "born": entry.born,
                    "dielectric": entry.dielectric,
                    "factor": _own_factor(phonon) if entry.coulomb is None else entry.coulomb,
                }
    except InputError:
        raise
    except Exception as error:  # phonopy raises many kinds
        raise InputError(
            f"phonopy cannot use its forces ({type(error).__name__}: {error})"
        ) from error
    return phonon


def refuse_bad_cell(entry: Entry) -> None:
    """Raise for a cell that phonopy would take long or fail on without saying why.

    Raises
    ------
    InputError
        Not finite or flat, an unknown species, atoms that overlap.
    """
    refuse_unreal(entry.lattice, entry.positions)
    neutron_data(tuple(dict.fromkeys(entry.symbols)))
    refuse_overlap(entry.lattice, entry.positions, entry.symbols)


def _own_factor(phonon: Any) -> float:
    """What a BORN file without a factor means to phonopy."""
    from phonopy.physical_units import get_calculator_physical_units

    return float(get_calculator_physical_units(phonon.calculator).nac_factor)


def _dataset(entry: Entry, n_atoms: int) -> dict[str, Any]:
    """Displacements and forces as phonopy takes them, held against the supercell."""
    moved, steps, forces = entry.moved, entry.steps, entry.forces
    if moved is None or steps is None or forces is None or len(moved) == 0:
        raise InputError("no displacements with forces; expected at least one")
    if forces.shape != (len(moved), n_atoms, 3) or steps.shape != (len(moved), 3):
        raise InputError(
            f"forces are {forces.shape} of {len(moved)} displacements; expected "
            f"{(len(moved), n_atoms, 3)}, the {n_atoms} atoms of the supercell"
        )
    if not (np.isfinite(forces).all() and np.isfinite(steps).all()):
        raise InputError("forces or displacements hold NaN or infinity; expected finite numbers")
    if moved.min() < 0 or moved.max() >= n_atoms:
        raise InputError(f"atom {int(moved.max())} is displaced; expected one of {n_atoms}")
    return {
        "natom": n_atoms,
        "first_atoms": [
            {"number": int(a), "displacement": d, "forces": f}
            for a, d, f in zip(moved, steps, forces, strict=True)
        ],
    }


def charges_of(text: str, entry: Entry) -> tuple[FloatArray, FloatArray]:
    """Born charges (primitive atoms, 3, 3) and dielectric tensor (3, 3) of the text of a BORN file.

    Raises
    ------
    InputError
        If it cannot be read or does not fit the crystal.
    """
    refuse_bad_cell(entry)
    from phonopy import Phonopy
    from phonopy.file_IO import get_born_parameters
    from phonopy.structure.atoms import PhonopyAtoms

    try:
        with quiet_spglib(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cell = PhonopyAtoms(
                symbols=list(entry.symbols), cell=entry.lattice, scaled_positions=entry.positions
            )
            phonon = Phonopy(
                cell,
                entry.supercell_matrix,
                primitive_matrix=entry.primitive_matrix,
                symprec=entry.symprec_A,
                log_level=0,
            )
            found: Any = get_born_parameters(
                io.StringIO(text), phonon.primitive, phonon.primitive_symmetry
            )
    except Exception as error:
        raise InputError(
            f"its Born charges cannot be read ({type(error).__name__}: {error})"
        ) from error
    return np.asarray(found["born"]), np.asarray(found["dielectric"])


def constants_of(entry: Entry, source: str) -> PairForceConstants:
    """Force constants of an entry with the crystal that they belong to, as files of phonopy give.

    Raises
    ------
    InputError
        If they cannot be used; says why.
    """
    return from_phonopy(
        phonopy_object(entry), source=source, species=entry.species, notes=entry.notes
    )


def card_of(entry: Entry, source: str) -> Card:
    """Look at an entry: is it usable, what is it, and where do its phonons lie.

    Raises
    ------
    InputError
        Why it is not usable.
    """
    from phonopy.harmonic.dynmat_to_fc import get_commensurate_points

    constants = constants_of(entry, source)
    crystal = constants.crystal
    if crystal.n_atoms > MOST_ATOMS:
        raise InputError(f"{crystal.n_atoms} atoms in the primitive cell; expected {MOST_ATOMS}")
    model = force_constant_model(crystal, constants, None)
    supercell = constants.supercell
    if supercell is None:
        raise InputError("its supercell is not known; expected one")
    q = np.asarray(get_commensurate_points(np.asarray(supercell).T)) @ crystal.reciprocal
    energies, _ = modes(model, q)
    found = symmetry_dataset(crystal.lattice, crystal.positions, crystal.elements, FILE_SYMPREC_A)
    if found is None:
        raise InputError("spglib finds no space group; expected at least the identity")
    return Card(
        id=entry.id,
        source=source,
        formula=reduced_formula(crystal.elements),
        elements=tuple(sorted(set(crystal.elements))),
        atoms=crystal.n_atoms,
        supercell_atoms=crystal.n_atoms * round(abs(float(np.linalg.det(supercell)))),
        space_group=int(found.number),
        space_group_symbol=str(found.international),
        volume_A3=abs(float(np.linalg.det(crystal.lattice))) / crystal.n_atoms,
        lowest_meV=round(float(energies.min()), 4) + 0.0,
        highest_meV=round(float(energies.max()), 4),
        polar=constants.dipole is not None,
    )


def reduced_formula(elements: tuple[str, ...]) -> str:
    """Reduced formula of atoms, elements in the usual order, e.g. ``BaTiO3``."""
    from pymatgen.core import Composition

    counts = {s: elements.count(s) for s in dict.fromkeys(elements)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements without an electronegativity
        return str(Composition(counts).reduced_formula)


def read_formula(text: str) -> str:
    """Reduced formula of what a person typed.

    Raises
    ------
    InputError
        If it is no formula.
    """
    from pymatgen.core import Composition, Element

    try:
        found = Composition(text)
        known = all(Element.is_valid_symbol(str(s)) for s in found)
    except Exception:
        found, known = None, False
    if not known or not found:
        raise InputError(f"formula is {text!r}; expected one such as BaTiO3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(found.reduced_formula)


def element_named(text: str) -> str:
    """Chemical symbol of what a person typed.

    Raises
    ------
    InputError
        If there is no such element.
    """
    from pymatgen.core import Element

    symbol = element_of(text.strip().capitalize())
    if not Element.is_valid_symbol(symbol):
        raise InputError(f"elements name {text!r}; expected chemical symbols such as Ba,Ti,O")
    return symbol
