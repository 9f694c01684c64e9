"""A folder of phonopy files, however deep, as a source of entries."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np

from simulations.dynamics import load_phonopy
from simulations.errors import InputError
from steering.database.entry import Entry

STRUCTURES = (
    "phonopy_params.yaml", "phonopy.yaml", "phonopy_disp.yaml", "POSCAR", "POSCAR-unitcell",
)  # fmt: skip
BESIDE = ("FORCE_SETS", "FORCE_CONSTANTS", "force_constants.hdf5", "BORN")
_HEAD = 65536  # bytes in which a file says that it is phonopy's


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one entry lies."""

    id: str
    path: Path  # a folder that phonopy's names make sense in, or a file


class PhonopyFolderSource:
    """A source of entries: every folder with phonopy files, and every phonopy.yaml of another name.

    Parameters
    ----------
    path : Path
        Folder; it may be an entry itself.

    Raises
    ------
    InputError
        If there is nothing of phonopy in it.
    """

    note = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places = tuple(_places(path))
        if not self._places:
            raise InputError(
                f"source: {path} holds no phonopy files; expected folders with a phonopy.yaml, or "
                "a POSCAR and FORCE_SETS or FORCE_CONSTANTS"
            )

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @property
    def ids(self) -> tuple[str, ...]:
        """Paths inside the folder, sorted."""
        return tuple(place.id for place in self._places)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the names and contents of all files that are read."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = sha256()
        for place in self._places:
            names = [place.path]
            if place.path.is_dir():
                names = [place.path / n for n in (*STRUCTURES, *BESIDE)]
            for file in names:
                if file.is_file():
                    data = file.read_bytes()
                    digest.update(f"{place.id}\0{file.name}\0{len(data)}\0".encode())
                    digest.update(data)
        return digest.hexdigest()

    def entry(self, row: int) -> Entry:
        """One folder or file.

        Raises
        ------
        InputError
            Why it cannot be used.
        """
        place = self._places[row]
        if not place.id.isprintable():
            raise InputError(f"its name {place.id!r} holds control characters; rename it")
        phonon, cell, notes = load_phonopy(place.path)
        unit = phonon.unitcell
        charges = phonon.nac_params
        primitive = phonon.primitive_matrix
        constants = np.asarray(phonon.force_constants, dtype=float)
        if not np.isfinite(constants).all():
            raise InputError("force constants hold NaN or infinity; expected finite numbers")
        return Entry(
            id=place.id,
            lattice=np.asarray(unit.cell, dtype=float),
            positions=np.asarray(unit.scaled_positions, dtype=float),
            symbols=tuple(str(s) for s in unit.symbols),
            masses_u=np.asarray(unit.masses, dtype=float),
            species=cell.species,
            supercell_matrix=np.asarray(phonon.supercell_matrix, dtype=np.int64),
            primitive_matrix=np.eye(3) if primitive is None else np.asarray(primitive, dtype=float),
            symprec_A=float(phonon.symmetry.tolerance),
            calculator=phonon.calculator,
            constants=constants,
            born=None if charges is None else np.asarray(charges["born"], dtype=float),
            dielectric=None if charges is None else np.asarray(charges["dielectric"], dtype=float),
            coulomb=None if charges is None else _factor(charges.get("factor")),
            notes=notes,
        )


def _factor(given: float | None) -> float | None:
    return None if given is None else float(given)


def _places(root: Path) -> list[_Place]:
    """Entries below a folder, sorted by their names."""
    found: list[_Place] = []
    for here, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        folder = Path(here)
        own = "" if folder == root else folder.relative_to(root).as_posix()
        if any(name in files for name in STRUCTURES):
            found.append(_Place(own or root.resolve().name, folder))
        found += [
            _Place(f"{own}/{name}" if own else name, folder / name)
            for name in sorted(files)
            if name.endswith((".yaml", ".yml"))
            and name not in STRUCTURES
            and _is_phonopy(folder / name)
        ]
    return sorted(found, key=lambda place: place.id)


def _is_phonopy(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return b"phonopy:" in head and b"cell:" in head
