"""Forces, force constants and Born charges beside a structure, held against sense and each other.

What is cut short, is no number, or belongs to another structure is told with its file, line and
value before phonopy computes with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from simulations.crystal import (
    FileCell,
    element_of,
    is_phonopy_file,
    read_structure_text,
    refuse_announced_atoms,
    refuse_tags,
)
from simulations.dynamics.supercell_check import GivenForces
from simulations.errors import InputError

LARGEST_FORCE_EV_A = 1e6
"""Forces of a calculation are below 100 eV/angstrom."""
LARGEST_CONSTANT_EV_A2 = 1e6
"""Those of the strongest bonds are below 100 eV/angstrom^2; this makes energies of 1e5 meV."""
_SAME_A = 1e-3
_OTHER_LATTICE = 0.005
_OTHER_VOLUME = 0.02
_PHONOPY_FILES = ("phonopy_params.yaml", "phonopy_disp.yaml", "phonopy.yaml")


def given_forces(path: Path, n_atoms: int | None) -> GivenForces:
    """Read FORCE_SETS, FORCE_CONSTANTS or force_constants.hdf5.

    Parameters
    ----------
    path : Path
    n_atoms : int or None
        Of the supercell, where it is known.

    Raises
    ------
    InputError
        If the file is empty, cut short or no such file, or numbers in it make no sense.
    """
    if path.name == "FORCE_SETS":
        return _given_sets(path, n_atoms)
    from phonopy import file_IO

    if path.suffix == ".hdf5":
        import h5py

        constants = np.asarray(file_IO.read_force_constants_hdf5(path))
        with h5py.File(path, "r") as file:
            rows = np.asarray(file["p2s_map"]) if "p2s_map" in file else np.arange(len(constants))
    else:
        constants, rows = _constants_of_text(path)
    refuse_odd_constants(constants, path.name)
    return GivenForces(
        name=path.name, n_atoms=constants.shape[1], constants=constants, rows=rows.astype(np.int64)
    )


def _constants_of_text(path: Path) -> tuple[Any, Any]:
    from phonopy import file_IO

    try:
        constants = np.asarray(file_IO.parse_FORCE_CONSTANTS(path))
        with path.open() as file:
            next(file)
            first = [int(line.split()[0]) - 1 for k, line in enumerate(file) if k % 4 == 0]
    except (ValueError, IndexError, StopIteration) as error:
        raise InputError(
            f"force constants: {path} is empty, cut short or none ({error}); expected phonopy's "
            "FORCE_CONSTANTS, whose first line says how many blocks of four lines follow. Write "
            "or copy it again"
        ) from error
    return constants, np.array(list(dict.fromkeys(first)), dtype=np.int64)


def _given_sets(path: Path, n_atoms: int | None) -> GivenForces:
    from phonopy import file_IO

    kind = _refuse_cut_sets(path)
    if kind == 2 and n_atoms is None:
        raise InputError(
            f"force constants: {path} moves all atoms at once and does not say in which "
            "supercell; expected the phonopy_params.yaml with them. Give that file as the "
            "structure"
        )
    try:
        sets: Any = file_IO.parse_FORCE_SETS(path, natom=n_atoms if kind == 2 else None)
    except (ValueError, IndexError, RuntimeError) as error:
        raise InputError(
            f"force constants: {path} cannot be read ({error}); expected phonopy's FORCE_SETS of "
            "numbers. Write it again with phonopy -f, or copy it again"
        ) from error
    refuse_odd_forces(sets, path)
    number = int(sets["natom"]) if kind == 1 or n_atoms is None else n_atoms
    return GivenForces(name=path.name, n_atoms=number, dataset=sets)


def _refuse_cut_sets(path: Path) -> int:
    """Which kind of FORCE_SETS it is; raises where lines are missing.

    Phonopy's reader looks for a line that is missing until it falls over.
    """
    again = "Write it again with phonopy -f, or copy it again"
    with path.open(errors="replace") as file:
        filled = ((k, line.split()) for k, line in enumerate(file, 1) if line.strip())
        head = list(islice(filled, 2))
        rest = sum(1 for _ in filled)
    if not head:
        raise InputError(
            f"force constants: {path} is empty; expected the forces of every displacement. {again}"
        )
    if len(head[0][1]) == 6:
        return 2
    try:
        (first,), (second,) = head[0][1], head[1][1]
        atoms, moves = int(first), int(second)
    except (ValueError, IndexError):
        atoms = moves = 0
    if atoms < 1 or moves < 1:
        words = ", ".join(repr(" ".join(line)[:40]) for _, line in head)
        raise InputError(
            f"force constants: {path} begins with {words}; expected the number of atoms of the "
            f"supercell and that of displacements, a line each. {again}"
        )
    expected = moves * (atoms + 2)
    if rest < expected:
        whole, over = divmod(rest, atoms + 2)
        raise InputError(
            f"force constants: {path} is cut short: it has {whole} of {moves} displacements of "
            f"{atoms} atoms and {over} lines of the next; expected {expected + 2} lines that are "
            f"not blank, not {rest + 2}. {again}"
        )
    if rest > expected:
        raise InputError(
            f"force constants: {path} has {rest + 2} lines that are not blank; expected "
            f"{expected + 2} for {moves} displacements of {atoms} atoms, as its first lines say. "
            f"{again}"
        )
    return 1


def refuse_odd_forces(dataset: Any, source: Path) -> None:
    """Raise where displacements or forces of phonopy's dataset make no sense, naming the first.

    Parameters
    ----------
    dataset : dict
        With forces, of one kind or the other.
    source : Path
        Where it comes from.

    Raises
    ------
    InputError
        If a number is not finite, or a force above a million eV/angstrom.
    """
    if "first_atoms" in dataset:
        moves: list[Any] = list(dataset["first_atoms"])
        pairs = [([one["displacement"]], one["forces"]) for one in moves]
    else:
        moves = []
        pairs = list(zip(dataset["displacements"], dataset["forces"], strict=True))
    for k, (displacement, forces) in enumerate(pairs, 1):
        moved = np.asarray(displacement, dtype=float)
        if not np.isfinite(moved).all() or not np.any(moved):
            odd = moved[~np.isfinite(moved).all(axis=-1)] if np.any(moved) else moved
            raise InputError(
                f"force constants: displacement {k} of {source} is {_numbers(odd[0])}; expected "
                "finite numbers that are not all zero. Correct it, or write the file again"
            )
        found = np.asarray(forces, dtype=float)
        wrong = ~(np.abs(found) <= LARGEST_FORCE_EV_A).all(axis=-1)
        if wrong.any():
            atom = int(np.argmax(wrong))
            finite = bool(np.isfinite(found[wrong]).all())
            expected = f"at most {LARGEST_FORCE_EV_A:,.0f} eV/angstrom" if finite else "finite"
            raise InputError(
                f"force constants: the force on atom {atom + 1} for displacement {k} of {source} "
                f"is {_numbers(found[atom])}; expected forces that are {expected}. Look at that "
                "calculation, and write the file again"
            )


def refuse_odd_constants(constants: ArrayLike, source: str) -> None:
    """Raise where force constants, eV/angstrom^2, are not finite or beyond any crystal's.

    Parameters
    ----------
    constants : (..., 3, 3) array
    source : str
        Where they come from; may be empty.

    Raises
    ------
    InputError
        If so, with the largest.
    """
    values = np.asarray(constants)
    where = f" of {source}" if source else ""
    if not np.isfinite(values).all():
        raise InputError(f"force constants{where} hold NaN or infinity; expected finite numbers")
    largest = float(np.abs(values).max(initial=0.0))
    if largest > LARGEST_CONSTANT_EV_A2:
        raise InputError(
            f"force constants{where} are up to {largest:.3g} eV/angstrom^2; expected at most "
            f"{LARGEST_CONSTANT_EV_A2:,.0f}, which makes energies of 100 eV. Look at units, forces "
            "and displacements"
        )


def refuse_odd_charges(path: Path) -> None:
    """Raise where a BORN file holds a number that is not finite, naming its line.

    Words are left to phonopy, which says where it expects none.

    Raises
    ------
    InputError
        If so.
    """
    with path.open(errors="replace") as file:
        for k, line in enumerate(file, 1):
            for text in line.partition("#")[0].split():
                try:
                    number = float(text)
                except ValueError:
                    continue
                if not np.isfinite(number):
                    what = {1: "factor", 2: "dielectric tensor"}.get(k, "Born charge")
                    raise InputError(
                        f"force constants: line {k} of {path}, {what}, holds {text}; expected "
                        "finite numbers. Correct the BORN file, or take it away for a crystal "
                        "without charges"
                    )


def refuse_odd_dipoles(params: Mapping[str, Any], source: Path | None = None) -> None:
    """Raise where Born charges or the dielectric tensor that phonopy read are not finite.

    Raises
    ------
    InputError
        If so.
    """
    where = "" if source is None else f" of {source}"
    for name, words in (("born", "Born charges"), ("dielectric", "dielectric tensor")):
        values = np.asarray(params[name], dtype=float)
        if not np.isfinite(values).all():
            raise InputError(
                f"force constants: {words}{where} hold NaN or infinity; expected finite numbers. "
                "Correct them, or take them away for a crystal without charges"
            )


def supercell_beside(path: Path, cell: FileCell, forces: GivenForces) -> tuple[Any, str]:
    """Supercell of a phonopy file that lies beside a structure and has the same cell.

    Returns
    -------
    matrix : (3, 3) int64 or None
        None where no file beside is of the same cell.
    words : str
        Where it stands.

    Raises
    ------
    InputError
        If the file beside is of another crystal.
    """
    from phonopy.interface.phonopy_yaml import PhonopyYaml

    found: tuple[Any, str] | None = None
    for name in _PHONOPY_FILES:
        beside = path.parent / name
        if not beside.is_file() or beside == path:
            continue
        text = read_structure_text(beside)
        if not is_phonopy_file(text):
            continue
        refuse_tags(text)
        refuse_announced_atoms(text, "phonopy")
        reader: Any = PhonopyYaml()
        reader.read(beside)
        other, matrix = reader.unitcell, reader.supercell_matrix
        if other is None or reader.calculator not in (None, "vasp"):  # lengths of another unit
            continue
        _refuse_other_crystal(path, cell, beside, other)
        if matrix is None or len(other) != len(cell.symbols):
            continue
        step = np.asarray(other.scaled_positions) - cell.positions
        same = np.allclose(other.cell, cell.lattice, atol=_SAME_A) and np.allclose(
            step, np.rint(step), atol=_SAME_A
        )
        cells = round(abs(float(np.linalg.det(matrix))))
        if found is None and same and cells * len(cell.symbols) == forces.n_atoms:
            found = np.asarray(matrix, dtype=np.int64), f"; it stands in {name} beside"
    return found or (None, "")


def _refuse_other_crystal(path: Path, cell: FileCell, beside: Path, other: Any) -> None:
    """Raise where a structure and the unit cell of a phonopy file beside it contradict each other.

    Of cells with as many atoms the vectors and the species in their order are compared, by which
    forces are numbered and turned; else species per atom and the volume of one.
    """
    mine, theirs = [element_of(s) for s in cell.symbols], [element_of(s) for s in other.symbols]
    lattice, vectors = np.asarray(cell.lattice), np.asarray(other.cell)
    advice = (
        "expected both to be of one calculation. Take away the file that is of another, or give "
        f"{beside} as the structure"
    )
    alike = len(mine) == len(theirs)
    if alike and mine != theirs:
        k = next(k for k, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1])
        raise InputError(
            f"structure: atom {k + 1} of {path} is {mine[k]}, but {theirs[k]} in {beside} "
            f"({_runs(mine)} and {_runs(theirs)}); {advice}"
        )
    if _shares(mine) != _shares(theirs):
        raise InputError(
            f"structure: {path} has the atoms {_runs(mine)}, but {beside} {_runs(theirs)}; {advice}"
        )
    longest = float(np.linalg.norm(vectors, axis=1).max())
    if alike and np.abs(lattice - vectors).max() > _OTHER_LATTICE * longest:
        raise InputError(
            f"structure: the lattice of {path} is {_vectors(lattice)}, but that of {beside} "
            f"{_vectors(vectors)} angstrom; {advice}"
        )
    each = [
        abs(float(np.linalg.det(v))) / n for v, n in ((lattice, len(mine)), (vectors, len(theirs)))
    ]
    if abs(each[0] / each[1] - 1) > _OTHER_VOLUME:
        raise InputError(
            f"structure: an atom of {path} has {each[0]:.4g} cubic angstrom, but one of {beside} "
            f"{each[1]:.4g}; {advice}"
        )


def _shares(symbols: list[str]) -> dict[str, float]:
    return {s: round(symbols.count(s) / len(symbols), 9) for s in sorted(set(symbols))}


def _runs(symbols: list[str]) -> str:
    """Na4 Cl4, in the order of the file."""
    runs: list[list[Any]] = []
    for symbol in symbols:
        if runs and runs[-1][0] == symbol:
            runs[-1][1] += 1
        else:
            runs.append([symbol, 1])
    words = [f"{symbol}{count}" for symbol, count in runs]
    return " ".join(words[:6]) + (" ..." if len(words) > 6 else "")


def _vectors(lattice: Any) -> str:
    return ", ".join(f"({_numbers(row)})" for row in lattice)


def _numbers(values: Any) -> str:
    return " ".join(f"{value:.6g}" for value in np.ravel(values))
