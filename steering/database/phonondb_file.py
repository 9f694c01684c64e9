"""The phonon database of Kyoto as one columnar HDF5 file: displacements and forces of crystals.

For material i: ``lattice[i]``, atoms between ``atom_offset[i]`` and ``[i + 1]``, displacements
likewise, forces of every atom of the supercell in the order of the displacements, as unsigned
zigzag integers of 1e-5 eV/angstrom, and ``born_text[i]``, a BORN file or nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simulations.errors import InputError
from steering.database.entry import Entry, charges_of

SYMPREC_A = 1e-5
"""Phonopy's own, so that the same crystal from phonopy files gives the same numbers."""
_PER_UNIT = 1e5  # of forces; divided by, so that they are the numbers that text files hold
_COLUMNS = (
    "atom_offset", "atomic_numbers", "born_text", "displaced_atom", "displacement",
    "displacement_offset", "force_offset", "forces_zigzag", "lattice", "material_id",
    "primitive_matrix", "scaled_positions", "supercell_matrix",
)  # fmt: skip


class PhonondbFile:
    """A source of entries; see the head of the module.

    Parameters
    ----------
    path : Path

    Raises
    ------
    InputError
        If the file cannot be read as such a database; says what is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with h5py.File(path) as file:
                missing = [name for name in _COLUMNS if name not in file]
                if missing:
                    raise InputError(
                        f"source: {path} has no {', '.join(missing)}; expected the columns of a "
                        "phonon database, or a folder of phonopy files"
                    )
                self._ids = tuple(_text(one) for one in _rows(file, "material_id"))
                self._atoms = np.asarray(_rows(file, "atom_offset"), dtype=np.int64)
                self._moves = np.asarray(_rows(file, "displacement_offset"), dtype=np.int64)
                self._forces = np.asarray(_rows(file, "force_offset"), dtype=np.int64)
                self.note = _text(file.attrs.get("note", ""))
        except OSError as error:
            told = " ".join(str(error).split())
            raise InputError(
                f"source: {path} cannot be read as HDF5 ({told:.120}); expected a phonon database "
                "in one file, or a folder of phonopy files"
            ) from error
        n = len(self._ids)
        for name, offsets in (
            ("atom_offset", self._atoms),
            ("displacement_offset", self._moves),
            ("force_offset", self._forces),
        ):
            if offsets.shape != (n + 1,) or np.any(np.diff(offsets) < 0):
                raise InputError(
                    f"source: {name} of {path} has shape {offsets.shape} for {n} materials; "
                    f"expected ({n + 1},) that never falls"
                )
        if n == 0:
            raise InputError(f"source: {path} holds no material; expected at least one")

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    @property
    def ids(self) -> tuple[str, ...]:
        """Material numbers, in the file's order."""
        return self._ids

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        with self.path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()

    @cached_property
    def _file(self) -> h5py.File:
        """The file, kept open: neighbouring entries share compressed chunks."""
        return h5py.File(self.path)

    def entry(self, row: int) -> Entry:
        """One material.

        Raises
        ------
        InputError
            Why it cannot be used.
        """
        file = self._file
        atoms, moves, forces = (
            slice(*(int(k) for k in offsets[row : row + 2]))
            for offsets in (self._atoms, self._moves, self._forces)
        )
        try:
            numbers = np.asarray(_rows(file, "atomic_numbers", atoms), dtype=np.int64)
            zigzag = np.asarray(_rows(file, "forces_zigzag", forces), dtype=np.int64)
            found = Entry(
                id=self._ids[row],
                lattice=np.asarray(_rows(file, "lattice", row), dtype=float),
                positions=np.asarray(_rows(file, "scaled_positions", atoms), dtype=float),
                symbols=_symbols(numbers),
                masses_u=None,
                supercell_matrix=np.asarray(_rows(file, "supercell_matrix", row), dtype=np.int64),
                primitive_matrix=np.asarray(_rows(file, "primitive_matrix", row), dtype=float),
                symprec_A=SYMPREC_A,
                moved=np.asarray(_rows(file, "displaced_atom", moves), dtype=np.int64),
                steps=np.asarray(_rows(file, "displacement", moves), dtype=float),
            )
            born = _text(_rows(file, "born_text", row))
        except (OSError, KeyError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"it cannot be read ({' '.join(str(error).split())})") from error
        count = moves.stop - moves.start
        if count == 0:
            raise InputError("no displacements with forces; expected at least one")
        if len(zigzag) == 0 or len(zigzag) % count:
            raise InputError(
                f"{len(zigzag)} rows of forces for {count} displacements; expected the same number "
                "of atoms for each"
            )
        signed = (zigzag >> 1) ^ -(zigzag & 1)
        found = replace(found, forces=(signed / _PER_UNIT).reshape(count, -1, 3))
        if not born:
            return found
        charges, dielectric = charges_of(born, found)
        return replace(found, born=charges, dielectric=dielectric)


def _symbols(numbers: Any) -> tuple[str, ...]:
    """Chemical symbols of atomic numbers."""
    import periodictable

    try:
        if len(numbers) == 0 or numbers.min() < 1:
            raise KeyError(int(numbers.min(initial=0)))
        return tuple(str(periodictable.elements[int(n)].symbol) for n in numbers)
    except KeyError as error:
        raise InputError(
            f"atomic number {error.args[0]} is no element; expected 1 to 118"
        ) from error


def _rows(file: h5py.File, name: str, which: Any = slice(None)) -> Any:
    data: Any = file[name]
    return data[which]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
