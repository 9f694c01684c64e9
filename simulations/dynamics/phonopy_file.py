"""Force constants as phonopy writes them, and ours as phonopy reads them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulations.arrays import FloatArray, IntArray
from simulations.constants import COULOMB_EV_A
from simulations.crystal import (
    FILE_SYMPREC_A,
    Crystal,
    FileCell,
    Placement,
    Species,
    element_of,
    is_phonopy_file,
    parse_structure,
    phonopy_species,
    place_structure,
    quiet_spglib,
    read_structure_text,
    refuse_announced_atoms,
    refuse_tags,
)
from simulations.dynamics.bonds import PairForceConstants, bond_keys, supercell_cells
from simulations.dynamics.dipole import Dipole
from simulations.dynamics.given_forces_file import (
    given_forces,
    refuse_odd_charges,
    refuse_odd_constants,
    refuse_odd_dipoles,
    refuse_odd_forces,
    supercell_beside,
)
from simulations.dynamics.supercell import cell_index, from_supercell, to_supercell
from simulations.dynamics.supercell_check import (
    GivenForces,
    as_matrix,
    checked_supercell,
    supercell_words,
    with_constants,
)
from simulations.errors import InputError, NoForceConstantsError

PHONOPY_SYMPREC_A = 1e-5
"""Phonopy's own tolerance."""
_LARGEST_DIELECTRIC = 1000.0
_LOST = 1e-9  # of the largest constant: what a supercell may lose of a set

# ------------------------------------------------------------------------------ force constants


def load_phonopy(
    path: Path, *, supercell_matrix: ArrayLike | None = None
) -> tuple[Any, FileCell, tuple[str, ...]]:
    """Load a phonopy object with force constants; see `read_force_constants`.

    Returns
    -------
    phonon : phonopy.Phonopy
    cell : FileCell
        Its unit cell, with the species that the file names.
    notes : tuple of str
        What was inferred or checked.

    Raises
    ------
    NoForceConstantsError
        If none lie beside the structure and none in it.
    InputError
        If displacements are there without forces, the supercell cannot be told, or it does not fit.
    """
    yaml_file = _structure_in(Path(path))
    folder = yaml_file.parent
    text = read_structure_text(yaml_file)
    phonopy_file = is_phonopy_file(text)
    if phonopy_file:
        refuse_tags(text)
        refuse_announced_atoms(text, "phonopy")
    names = ("FORCE_CONSTANTS", "force_constants.hdf5", "FORCE_SETS")
    beside = [folder / name for name in names if (folder / name).is_file()]
    born = folder / "BORN"
    if not phonopy_file and not beside:
        raise _none_found(yaml_file)
    cell = parse_structure(yaml_file)
    matrix = None if supercell_matrix is None else as_matrix(supercell_matrix)
    try:
        with quiet_spglib(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # phonopy's advice to its own users
            if phonopy_file:
                phonon, params, notes = _from_yaml(yaml_file, beside, matrix)
            else:
                phonon, notes = _from_parts(yaml_file, cell, beside, matrix)
                params = None
                cell = replace(cell, species=_phonopy_masses(cell, phonon.unitcell))
            _set_charges(phonon, params, born if born.is_file() else None, yaml_file)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"force constants: {yaml_file} cannot be read by phonopy "
            f"({type(error).__name__}: {error})"
        ) from error
    return phonon, cell, notes


def _structure_in(path: Path) -> Path:
    """The structure that a path names, itself or within a folder."""
    if not path.is_dir():
        return path
    names = ("phonopy_params.yaml", "phonopy.yaml", "phonopy_disp.yaml", "POSCAR")
    for name in (*names, "POSCAR-unitcell"):
        if (path / name).is_file():
            return path / name
    raise InputError(f"force constants: {path} holds no phonopy.yaml and no POSCAR; expected one")


def _none_found(path: Path) -> NoForceConstantsError:
    return NoForceConstantsError(
        f"force constants: none found with {path}; expected FORCE_CONSTANTS or FORCE_SETS "
        "beside it, or inside it"
    )


def _from_yaml(path: Path, beside: list[Path], matrix: Any) -> tuple[Any, Any, tuple[str, ...]]:
    """Phonopy object of a phonopy file, its Born charges if any, and what was read.

    Not phonopy's own loader: that one would also take FORCE_SETS and BORN of the folder in which
    the program runs.
    """
    from phonopy import Phonopy
    from phonopy.interface.phonopy_yaml import PhonopyYaml

    reader: Any = PhonopyYaml()
    reader.read(path)
    if reader.unitcell is None:
        raise InputError(f"force constants: {path} has no unit_cell; expected phonopy's own file")
    own = np.eye(3, dtype=np.int64) if reader.supercell_matrix is None else reader.supercell_matrix
    own = np.asarray(own, dtype=np.int64)
    if matrix is not None and not np.array_equal(own, matrix):
        raise InputError(
            f"force constants: supercell is {supercell_words(matrix)}, but {path} says "
            f"{supercell_words(own)}; expected both to agree. Leave --supercell out"
        )
    centring = "auto" if reader.primitive_matrix is None else reader.primitive_matrix
    phonon: Any = Phonopy(
        reader.unitcell,
        own,
        primitive_matrix=centring,
        symprec=PHONOPY_SYMPREC_A,
        calculator=reader.calculator,
        log_level=0,
    )
    words = f"supercell {supercell_words(own)} and "
    if reader.force_constants is not None:
        phonon.force_constants = reader.force_constants
        return phonon, reader.nac_params, (f"{words}force constants from {path.name}",)
    if _has_forces(reader.dataset):
        refuse_odd_forces(reader.dataset, path)
        phonon.dataset = reader.dataset
        phonon.produce_force_constants(calculate_full_force_constants=False)
        return phonon, reader.nac_params, (f"{words}forces from {path.name}",)
    if not beside:
        if reader.dataset is None:
            raise _none_found(path)
        raise InputError(
            f"force constants: {path} holds displacements but no forces; expected FORCE_SETS "
            "beside it (phonopy -f ...), or forces inside. Compute the forces and put them there, "
            "or ask for a force field by its route"
        )
    forces = given_forces(beside[0], len(phonon.supercell))
    if forces.n_atoms != len(phonon.supercell):
        raise InputError(
            f"force constants: {forces.name} is for {forces.n_atoms} atoms, but the supercell "
            f"{supercell_words(own)} of {path.name} has {len(phonon.supercell)}; expected both to "
            "agree"
        )
    if forces.dataset is not None:
        _refuse_other_displacements(reader.dataset, forces, path)
        sets: Any = forces.dataset
        phonon.dataset = sets
        phonon.produce_force_constants(calculate_full_force_constants=False)
    elif len(forces.constants) == forces.n_atoms:  # type: ignore[arg-type]
        phonon.force_constants = forces.constants[np.argsort(forces.rows)]  # type: ignore
    else:
        phonon, full = with_constants(
            reader.unitcell, own, forces, PHONOPY_SYMPREC_A, first=centring
        )
        phonon.force_constants = full
    told = f"supercell {supercell_words(own)} from {path.name}, {forces.name} beside it"
    return phonon, reader.nac_params, (told,)


def _has_forces(dataset: Any) -> bool:
    if dataset is None:
        return False
    if "first_atoms" in dataset:
        return all("forces" in move for move in dataset["first_atoms"])
    return "forces" in dataset


def _refuse_other_displacements(ours: Any, forces: GivenForces, path: Path) -> None:
    """Raise where a phonopy file and a FORCE_SETS list other displacements."""
    theirs: Any = forces.dataset
    if ours is None or "first_atoms" not in ours or "first_atoms" not in theirs:
        return
    pairs = list(zip(ours["first_atoms"], theirs["first_atoms"], strict=False))
    same = len(ours["first_atoms"]) == len(theirs["first_atoms"]) and all(
        a["number"] == b["number"]
        and np.allclose(a["displacement"], b["displacement"], rtol=1e-3, atol=1e-6)
        for a, b in pairs
    )
    if not same:
        raise InputError(
            f"force constants: {forces.name} lists {len(theirs['first_atoms'])} displacements that "
            f"are not the {len(ours['first_atoms'])} of {path.name}; expected those of the same "
            "calculation"
        )


def _from_parts(
    path: Path, cell: FileCell, beside: list[Path], matrix: Any
) -> tuple[Any, tuple[str, ...]]:
    """A structure with force constants or forces beside it, whose supercell no file says."""
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    unit = PhonopyAtoms(
        symbols=[element_of(s) for s in cell.symbols],
        cell=cell.lattice,
        scaled_positions=cell.positions,
    )
    forces = given_forces(beside[0], None)
    told_beside, note = supercell_beside(path, cell, forces)
    if matrix is None:
        matrix = told_beside
    else:
        note = ""
    try:
        matrix, told = checked_supercell(unit, forces, matrix, PHONOPY_SYMPREC_A)
        symprec = PHONOPY_SYMPREC_A
    except InputError:  # a structure of few digits: phonopy sees too little symmetry to solve
        matrix, told = checked_supercell(unit, forces, matrix, FILE_SYMPREC_A)
        symprec = FILE_SYMPREC_A
    if forces.constants is not None:
        phonon, full = with_constants(unit, matrix, forces, symprec)
        phonon.force_constants = full
    else:
        phonon: Any = Phonopy(unit, matrix, primitive_matrix="auto", symprec=symprec, log_level=0)
        phonon.dataset = forces.dataset
        phonon.produce_force_constants(calculate_full_force_constants=False)
    return phonon, (f"{told}{note}",)


def _phonopy_masses(cell: FileCell, unit: Any) -> tuple[Species, ...]:
    """Species with phonopy's natural masses, so that a POSCAR and phonopy's own file say the same.

    Isotopes keep the mass that they have.
    """
    return tuple(
        replace(s, mass_u=float(m)) if s.label == symbol else s
        for s, m, symbol in zip(cell.species, unit.masses, unit.symbols, strict=True)
    )


def _set_charges(phonon: Any, params: Any, born: Path | None, source: Path) -> None:
    """Give a phonopy object the Born charges of its own file, or else those of a BORN beside.

    Raises
    ------
    InputError
        If they hold NaN or infinity.
    """
    from phonopy.cui.load_helper import get_nac_params
    from phonopy.physical_units import get_calculator_physical_units

    beside = born if params is None else None
    if beside is not None:
        refuse_odd_charges(beside)
    try:
        found = get_nac_params(
            primitive=phonon.primitive,
            nac_params=params,
            born_filename=beside,
            is_nac=False,
            nac_factor=get_calculator_physical_units(phonon.calculator).nac_factor,
        )
    except Exception as error:
        if beside is None:
            raise
        raise InputError(
            f"force constants: {beside} cannot be read by phonopy ({error}); expected a factor, a "
            "dielectric tensor and one Born charge per distinct atom, a line each. Correct it, or "
            "take it away for a crystal without charges"
        ) from error
    if found is not None:
        refuse_odd_dipoles(found, beside or source)
        phonon.nac_params = found


def from_phonopy(
    phonon: Any,
    *,
    source: str = "",
    symprec_A: float = FILE_SYMPREC_A,
    species: Sequence[Species] | None = None,
    notes: tuple[str, ...] = (),
) -> PairForceConstants:
    """Carry a phonopy object's force constants, masses and Born charges into our frame.

    Parameters
    ----------
    phonon : phonopy.Phonopy
        With force constants, full or compact; Born charges if polar. Units are those of its
        calculator.
    source : str
        Where the numbers come from.
    symprec_A : float
        As in `read_crystal`.
    species : sequence of Species or None
        Of the atoms of the unit cell; None: by the object's symbols and masses.
    notes : tuple of str
        What was inferred or checked on the way here.

    Raises
    ------
    ValueError
        If the supercell's atoms do not match the crystal, or constants are not finite.
    """
    if phonon.force_constants is None:
        raise NoForceConstantsError(
            "force constants: the phonopy object has none; expected force constants. Call "
            "produce_force_constants() first"
        )
    length_A, constant = _units(phonon)
    unit = phonon.unitcell
    if species is None:
        species = phonopy_species(unit)
    place = place_structure(
        unit.cell * length_A, unit.scaled_positions, tuple(unit.symbols), symprec_A, species
    )
    crystal, R = place.crystal, place.rotation
    supercell_cell = length_A * phonon.supercell.cell @ R.T
    supercell = _whole(supercell_cell @ np.linalg.inv(crystal.lattice), "supercell")
    to_primitive = np.linalg.inv(crystal.lattice)
    x = (length_A * phonon.supercell.positions @ R.T + place.shift) @ to_primitive
    symbols = tuple(phonon.supercell.symbols)
    atom, cell = match_atoms(crystal, x, symbols, symprec_A)

    constants = np.asarray(phonon.force_constants) * constant
    refuse_odd_constants(constants, source)
    rows = np.arange(len(atom))
    if constants.shape[0] != constants.shape[1]:
        rows = np.asarray(phonon.primitive.p2s_map)
        if len(np.unique(atom[rows])) < crystal.n_atoms:  # isotopes make more atoms distinct
            from phonopy.harmonic.force_constants import compact_fc_to_full_fc

            constants = np.asarray(
                compact_fc_to_full_fc(phonon.primitive, np.array(constants, order="C"))
            )
            rows = np.arange(len(atom))
    turned = np.einsum("ac,bd,ijcd->ijab", R, R, constants, optimize=True)

    cells = supercell_cells(supercell)
    out = np.zeros((crystal.n_atoms, len(cells), crystal.n_atoms, 3, 3))
    filled = np.zeros(crystal.n_atoms, dtype=int)
    for k, row in enumerate(rows):
        i = atom[row]
        index = cell_index(cell - cell[row], supercell, cells)
        np.add.at(out, (i, index, atom), turned[k])
        filled[i] += 1
    if np.any(filled == 0):
        raise InputError(
            "force constants: a primitive atom has no row; expected full or compact constants"
        )
    out /= filled[:, None, None, None, None]

    dipole = None
    if phonon.nac_params is not None:
        dipole = _dipole(phonon, place, atom, constant * length_A**3)
    found = from_supercell(crystal, supercell, cells, out, dipole=dipole, source=source)
    return replace(found, notes=notes)


def _units(phonon: Any) -> tuple[float, float]:
    """Angstrom per length and eV/angstrom^2 per force constant of an object's calculator."""
    from phonopy.interface.calculator import get_force_constant_conversion_factor
    from phonopy.physical_units import get_calculator_physical_units

    if phonon.calculator in (None, "vasp"):
        return 1.0, 1.0
    units = get_calculator_physical_units(phonon.calculator)
    factor = get_force_constant_conversion_factor(units.force_constants_unit, None)
    return float(units.distance_to_A), float(factor)


def _dipole(phonon: Any, place: Placement, atom: IntArray, factor_unit: float) -> Dipole:
    """Charges and dielectric tensor; ``atom`` says which of ours an atom of the supercell is."""
    params = phonon.nac_params
    refuse_odd_dipoles(params)
    primitive = phonon.primitive
    crystal, R = place.crystal, place.rotation
    index = np.array([primitive.p2p_map[int(s)] for s in primitive.s2p_map])
    born = np.zeros((crystal.n_atoms, 3, 3))
    count = np.zeros(crystal.n_atoms)
    turned = np.einsum("ac,bd,icd->iab", R, R, np.asarray(params["born"]))
    np.add.at(born, atom, turned[index])
    np.add.at(count, atom, 1)
    born /= count[:, None, None]
    born -= born.mean(axis=0)  # neutral, or long acoustic waves would carry charge
    dielectric = R @ np.asarray(params["dielectric"]) @ R.T
    principal = np.linalg.eigvalsh(0.5 * (dielectric + dielectric.T))
    if not (
        np.isfinite(dielectric).all() and principal[0] > 0 and principal[-1] < _LARGEST_DIELECTRIC
    ):
        raise InputError(
            f"dielectric tensor has principal values {np.round(principal, 3).tolist()}; expected "
            f"all positive and below {_LARGEST_DIELECTRIC:g}. Correct the BORN file, or take it "
            "away for a crystal without charges"
        )
    return Dipole(
        born=born,
        dielectric=0.5 * (dielectric + dielectric.T),  # files hold it with rounding errors
        coulomb_eV_A=_coulomb(params.get("factor"), phonon.calculator, factor_unit),
    )


def _coulomb(factor: float | None, calculator: str | None, factor_unit: float) -> float:
    """e^2 / (4 pi epsilon_0), eV angstrom, from phonopy's factor.

    phonopy.yaml holds six decimals of it. Where these are the first of phonopy's own number, or of
    ours, that number is meant: dipoles of different files would else be 2e-8 apart.
    """
    from phonopy.physical_units import get_calculator_physical_units

    if factor is None:
        return COULOMB_EV_A
    own = get_calculator_physical_units(calculator).nac_factor
    for whole in (own, COULOMB_EV_A / factor_unit):
        if round(whole, 6) == round(float(factor), 6):
            return float(whole) * factor_unit
    return float(factor) * factor_unit


def match_atoms(
    crystal: Crystal, x: FloatArray, symbols: tuple[str, ...], symprec_A: float = FILE_SYMPREC_A
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find which atom of which cell sits at given places.

    Parameters
    ----------
    crystal : Crystal
    x : (N, 3) float64
        Fractional in primitive vectors, any cell.
    symbols : (N,) tuple of str
    symprec_A : float

    Returns
    -------
    atom : (N,) int64
    cell : (N, 3) int64

    Raises
    ------
    ValueError
        If a place is no atom of the crystal.
    """
    step = x[:, None] - crystal.positions[None]
    shift = np.rint(step)
    distance = np.linalg.norm((step - shift) @ crystal.lattice, axis=-1)
    ours, theirs = crystal.elements, [element_of(s) for s in symbols]
    distance[np.array([[a != b for b in ours] for a in theirs])] = np.inf
    atom = np.argmin(distance, axis=1)
    worst = distance[np.arange(len(x)), atom].max()
    if worst > max(50 * symprec_A, 1e-2):
        raise InputError(
            f"structure: an atom lies {worst:.3f} angstrom from every site of the crystal; "
            "expected the supercell of the same structure"
        )
    return atom.astype(np.int64), shift[np.arange(len(x)), atom].astype(np.int64)


def to_phonopy_array(
    force_constants: PairForceConstants, phonon: Any, symprec_A: float = FILE_SYMPREC_A
) -> FloatArray:
    """Full force constants in the order and frame of a phonopy object; inverse of `from_phonopy`.

    Parameters
    ----------
    force_constants : PairForceConstants
    phonon : phonopy.Phonopy
        The object whose unit cell and supercell set order and frame.
    symprec_A : float

    Returns
    -------
    (supercell atoms, supercell atoms, 3, 3) float64
        eV/angstrom^2.
    """
    unit = phonon.unitcell
    place = place_structure(
        unit.cell, unit.scaled_positions, tuple(unit.symbols), symprec_A, phonopy_species(unit)
    )
    crystal, R = force_constants.crystal, place.rotation
    supercell = _whole(
        phonon.supercell.cell @ R.T @ np.linalg.inv(crystal.lattice), "phonopy's supercell"
    )
    x = (phonon.supercell.positions @ R.T + place.shift) @ np.linalg.inv(crystal.lattice)
    atom, cell = match_atoms(crystal, x, tuple(phonon.supercell.symbols), symprec_A)
    cells, constants = to_supercell(force_constants, supercell)
    out = np.empty((len(atom), len(atom), 3, 3))
    for s in range(len(atom)):
        index = cell_index(cell - cell[s], supercell, cells)
        out[s] = constants[atom[s], index, atom]
    return np.einsum("ca,db,ijcd->ijab", R, R, out, optimize=True)


class PhonopyFolder:
    """Writes sets of force constants of one crystal, each as a folder that phonopy reads.

    The crystal's primitive cell is phonopy's unit cell, in the same frame.

    Parameters
    ----------
    force_constants : PairForceConstants
        Their bonds choose the supercell: the one they came with where that holds them, else the
        smallest that does.
    """

    def __init__(self, force_constants: PairForceConstants) -> None:
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms

        crystal = force_constants.crystal
        self.supercell, self.lost_eV_A2 = _holding(force_constants)
        cell = PhonopyAtoms(
            symbols=list(crystal.elements),
            cell=crystal.lattice,
            scaled_positions=crystal.positions,
            masses=crystal.masses_u,
        )
        with quiet_spglib():
            self._phonon: Any = Phonopy(
                cell,
                self.supercell.T,
                primitive_matrix=np.eye(3),
                symprec=PHONOPY_SYMPREC_A,
                log_level=0,
            )
        dipole = force_constants.dipole
        if dipole is not None:
            self._phonon.nac_params = {
                "born": dipole.born,
                "dielectric": dipole.dielectric,
                "factor": dipole.coulomb_eV_A,
            }
        x = self._phonon.supercell.positions @ np.linalg.inv(crystal.lattice)
        self._atom, self._cell = match_atoms(crystal, x, tuple(self._phonon.supercell.symbols))
        self._home = np.asarray(self._phonon.primitive.p2s_map)

    def write(self, force_constants: PairForceConstants, folder: Path) -> tuple[Path, Path]:
        """Write ``phonopy.yaml`` and a compact ``FORCE_CONSTANTS``, eV/angstrom^2.

        Parameters
        ----------
        force_constants : PairForceConstants
            With the bonds and dipoles of those that this was made with.
        folder : Path
            Made where it is not there; files of these names in it are replaced.
        """
        from phonopy.file_IO import write_FORCE_CONSTANTS

        cells, constants = to_supercell(force_constants, self.supercell)
        rows = np.empty((len(self._home), len(self._atom), 3, 3))
        for k, home in enumerate(self._home):
            index = cell_index(self._cell - self._cell[home], self.supercell, cells)
            rows[k] = constants[self._atom[home], index, self._atom]
        folder.mkdir(parents=True, exist_ok=True)
        described, written = folder / "phonopy.yaml", folder / "FORCE_CONSTANTS"
        self._phonon.save(
            described,
            settings={"force_sets": False, "displacements": False, "force_constants": False},
        )
        write_FORCE_CONSTANTS(rows, written, p2s_map=self._home)
        return described, written


def _holding(force_constants: PairForceConstants) -> tuple[IntArray, float]:
    """Smallest supercell that gives force constants back, and what it loses, eV/angstrom^2.

    Dipoles are part of the constants of a given supercell, which is kept then.
    """
    size = float(np.abs(force_constants.tensors).max(initial=0.0))
    given = force_constants.supercell
    if given is not None:
        lost = _lost(force_constants, given)
        if lost <= _LOST * size or force_constants.dipole is not None:
            return given, lost
    used = np.abs(force_constants.tensors).max(axis=(1, 2), initial=0.0) > 0
    reach = float(force_constants.lengths[used].max(initial=0.0))
    heights = 1 / np.linalg.norm(np.linalg.inv(force_constants.crystal.lattice), axis=0)
    target, before = reach, np.zeros(3, dtype=np.int64)
    while True:
        repeats = np.maximum(1, np.ceil(target / heights - 1e-6).astype(np.int64))
        if not np.array_equal(repeats, before):
            before, supercell = repeats, np.diag(repeats)
            lost = _lost(force_constants, supercell)
            if lost <= _LOST * size:
                return supercell, lost
        target += 0.25 * float(heights.min())


def _lost(force_constants: PairForceConstants, supercell: IntArray) -> float:
    """Largest change of a bond on the way through a supercell, eV/angstrom^2."""
    crystal = force_constants.crystal
    cells, constants = to_supercell(force_constants, supercell)
    back = from_supercell(crystal, supercell, cells, constants)
    both = (force_constants, back)
    keys = [bond_keys(one.first, one.second, one.cell, crystal.n_atoms) for one in both]
    every = np.unique(np.concatenate(keys))
    tensors = np.zeros((2, len(every), 3, 3))
    for k, one in enumerate(both):
        np.add.at(tensors[k], np.searchsorted(every, keys[k]), one.tensors)
    return float(np.abs(tensors[0] - tensors[1]).max(initial=0.0))


def _whole(matrix: FloatArray, what: str) -> NDArray[np.int64]:
    whole = np.rint(matrix).astype(np.int64)
    if np.abs(matrix - whole).max() > 1e-2:
        raise InputError(
            f"{what} {np.round(matrix, 3).tolist()} is not made of whole primitive vectors"
        )
    return whole
