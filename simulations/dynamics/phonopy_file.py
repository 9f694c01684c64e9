"""Force constants as phonopy writes them, and ours as phonopy reads them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulations.arrays import FloatArray
from simulations.constants import COULOMB_EV_A
from simulations.crystal import (
    FILE_SYMPREC_A,
    Crystal,
    Placement,
    builtin_crystal,
    builtin_crystals,
    builtin_entry,
    is_phonopy_file,
    parse_structure,
    place_structure,
    quiet_spglib,
    read_structure_text,
    refuse_announced_atoms,
    refuse_tags,
)
from simulations.dynamics.bonds import PairForceConstants, supercell_cells
from simulations.dynamics.dipole import Dipole
from simulations.dynamics.supercell import (
    cell_index,
    from_representatives,
    from_supercell,
    to_supercell,
)
from simulations.errors import InputError

# ------------------------------------------------------------------------------ force constants


def read_force_constants(
    path_or_name: str | Path,
    *,
    supercell_matrix: ArrayLike | None = None,
    symprec_A: float = FILE_SYMPREC_A,
) -> PairForceConstants:
    """Read force constants; their `crystal` is the one that `read_crystal` gives for the file.

    Parameters
    ----------
    path_or_name : str or Path
        A phonopy.yaml (force constants, displacements and forces inside, or FORCE_CONSTANTS,
        FORCE_SETS and BORN beside it), a folder with POSCAR and FORCE_CONSTANTS or FORCE_SETS, or
        a built-in name that has force constants.
    supercell_matrix : (3,) or (3, 3) int or None
        Supercell in vectors of the file's cell, for files that do not say it. None: from the file,
        or n x n x n from the number of atoms.
    symprec_A : float
        As in `read_crystal`.

    Raises
    ------
    ValueError
        If no force constants are found or they do not belong to the structure.
    """
    entry = builtin_entry(str(path_or_name))
    if entry is not None:
        crystal = builtin_crystal(entry)
        if "force_constants" not in entry:
            names = builtin_crystals()
            stored = [n for n in names if "force_constants" in (builtin_entry(n) or {})]
            raise InputError(
                f"structure {path_or_name!r} has no stored force constants; expected one of "
                f"{stored}. "
                "Name a stored prior in parameters.prior, or make one with `beamsteer prior`."
            )
        listed = [
            (s["first"], s["second"], s["cell"], s["elements"])
            for s in entry["force_constants"]["shells"]
        ]
        return from_representatives(crystal, listed, source=f"built in: {path_or_name}")
    phonon = load_phonopy(Path(path_or_name), supercell_matrix=supercell_matrix)
    return from_phonopy(phonon, source=str(path_or_name), symprec_A=symprec_A)


def load_phonopy(path: Path, *, supercell_matrix: ArrayLike | None = None) -> Any:
    """Load a phonopy object with force constants; see `read_force_constants`."""
    from phonopy.structure.cells import PrimitiveMatrixAutoDefaultWarning

    path = Path(path)
    folder = path if path.is_dir() else path.parent
    yaml_file = path
    if path.is_dir():
        names = ("phonopy_params.yaml", "phonopy.yaml", "phonopy_disp.yaml", "POSCAR")
        found = [folder / n for n in (*names, "POSCAR-unitcell") if (folder / n).is_file()]
        if not found:
            raise InputError(
                f"force constants: {folder} holds no phonopy.yaml and no POSCAR; expected one"
            )
        yaml_file = found[0]
    text = read_structure_text(yaml_file)
    if is_phonopy_file(text):
        refuse_tags(text)
        refuse_announced_atoms(text, "phonopy")
    beside = {n: folder / n for n in ("FORCE_CONSTANTS", "FORCE_SETS", "BORN")}
    beside["force_constants.hdf5"] = folder / "force_constants.hdf5"
    there = {n: str(f) for n, f in beside.items() if f.is_file()}
    options: dict[str, Any] = {"log_level": 0, "produce_fc": True, "symmetrize_fc": False}
    if "FORCE_CONSTANTS" in there:
        options["force_constants_filename"] = there["FORCE_CONSTANTS"]
    elif "force_constants.hdf5" in there:
        options["force_constants_filename"] = there["force_constants.hdf5"]
    elif "FORCE_SETS" in there:
        options["force_sets_filename"] = there["FORCE_SETS"]
    if "BORN" in there:
        options["born_filename"] = there["BORN"]
    try:
        with quiet_spglib(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PrimitiveMatrixAutoDefaultWarning)
            phonon = _phonopy(yaml_file, text, there, options, supercell_matrix)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"force constants: {yaml_file} cannot be read by phonopy "
            f"({type(error).__name__}: {error})"
        ) from error
    if phonon.force_constants is None:
        raise InputError(
            f"force constants: none found with {yaml_file}; expected FORCE_CONSTANTS or FORCE_SETS "
            "beside it, or inside it"
        )
    return phonon


def _phonopy(
    yaml_file: Path,
    text: str,
    there: dict[str, str],
    options: dict[str, Any],
    supercell_matrix: ArrayLike | None,
) -> Any:
    import phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    if is_phonopy_file(text):
        return phonopy.load(str(yaml_file), **options)
    lattice, positions, symbols = parse_structure(yaml_file)
    if supercell_matrix is None:
        supercell_matrix = _guess_supercell(len(symbols), there)
    cell = PhonopyAtoms(symbols=symbols, cell=lattice, scaled_positions=positions)
    return phonopy.load(
        unitcell=cell,
        supercell_matrix=np.asarray(supercell_matrix).tolist(),
        primitive_matrix="auto",
        **options,
    )


def _guess_supercell(n_atoms: int, there: dict[str, str]) -> list[int]:
    if "FORCE_CONSTANTS" in there:
        with open(there["FORCE_CONSTANTS"]) as f:
            total = int(f.readline().split()[-1])
    elif "FORCE_SETS" in there:
        from phonopy import file_IO

        sets: Any = file_IO.parse_FORCE_SETS(filename=there["FORCE_SETS"])
        total = int(sets["natom"])
    else:
        raise InputError("force constants: no FORCE_CONSTANTS or FORCE_SETS found beside the file")
    n = round((total / n_atoms) ** (1 / 3))
    if n**3 * n_atoms != total:
        raise InputError(
            f"force constants: {total} supercell atoms over {n_atoms} atoms is no n x n x n "
            "supercell; give supercell_matrix"
        )
    return [n, n, n]


def from_phonopy(
    phonon: Any, *, source: str = "", symprec_A: float = FILE_SYMPREC_A
) -> PairForceConstants:
    """Carry a phonopy object's force constants (and Born charges) into our frame.

    Parameters
    ----------
    phonon : phonopy.Phonopy
        With force constants, full or compact; Born charges if polar.
    source : str
        Where the numbers come from.
    symprec_A : float
        As in `read_crystal`.

    Raises
    ------
    ValueError
        If the supercell's atoms do not match the crystal, or constants are not finite.
    """
    unit = phonon.unitcell
    place = place_structure(unit.cell, unit.scaled_positions, tuple(unit.symbols), symprec_A)
    crystal, R = place.crystal, place.rotation
    supercell_cell = phonon.supercell.cell @ R.T
    supercell = _whole(supercell_cell @ np.linalg.inv(crystal.lattice), "supercell")
    x = (phonon.supercell.positions @ R.T + place.shift) @ np.linalg.inv(crystal.lattice)
    atom, cell = match_atoms(crystal, x, tuple(phonon.supercell.symbols), symprec_A)

    constants = np.asarray(phonon.force_constants)
    if not np.isfinite(constants).all():
        raise InputError("force constants hold NaN or infinity; expected finite numbers")
    if constants.shape[0] == constants.shape[1]:
        rows = np.arange(len(atom))
    else:
        rows = np.asarray(phonon.primitive.p2s_map)
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
        dipole = _dipole(phonon, place, symprec_A)
    return from_supercell(crystal, supercell, cells, out, dipole=dipole, source=source)


def _dipole(phonon: Any, place: Placement, symprec_A: float) -> Dipole:
    params = phonon.nac_params
    primitive = phonon.primitive
    crystal, R = place.crystal, place.rotation
    x = (primitive.positions @ R.T + place.shift) @ np.linalg.inv(crystal.lattice)
    atom, _ = match_atoms(crystal, x, tuple(primitive.symbols), symprec_A)
    born = np.zeros((crystal.n_atoms, 3, 3))
    count = np.zeros(crystal.n_atoms)
    turned = np.einsum("ac,bd,icd->iab", R, R, np.asarray(params["born"]))
    np.add.at(born, atom, turned)
    np.add.at(count, atom, 1)
    factor = params.get("factor")
    born /= count[:, None, None]
    born -= born.mean(axis=0)  # neutral, or long acoustic waves would carry charge
    dielectric = R @ np.asarray(params["dielectric"]) @ R.T
    principal = np.linalg.eigvalsh(0.5 * (dielectric + dielectric.T))
    if not (np.isfinite(dielectric).all() and principal[0] > 0):
        raise InputError(
            f"dielectric tensor has principal values {np.round(principal, 3).tolist()}; expected "
            "all positive. Correct the BORN file, or take it away for a crystal without charges"
        )
    return Dipole(
        born=born,
        dielectric=0.5 * (dielectric + dielectric.T),  # files hold it with rounding errors
        coulomb_eV_A=COULOMB_EV_A if factor is None else float(factor),
    )


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
    distance[np.array([[a != b for b in crystal.symbols] for a in symbols])] = np.inf
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
    place = place_structure(unit.cell, unit.scaled_positions, tuple(unit.symbols), symprec_A)
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


def _whole(matrix: FloatArray, what: str) -> NDArray[np.int64]:
    whole = np.rint(matrix).astype(np.int64)
    if np.abs(matrix - whole).max() > 1e-2:
        raise InputError(
            f"{what} {np.round(matrix, 3).tolist()} is not made of whole primitive vectors"
        )
    return whole
