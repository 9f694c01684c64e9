"""What a database is built from: any source of entries, told by what lies at a path."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from simulations.errors import InputError
from steering.database.entry import Entry
from steering.database.phonondb_file import PhonondbFile
from steering.database.phonopy_folder_file import PhonopyFolderSource


class Source(Protocol):
    """Entries in an order that never changes, each read when it is asked for."""

    @property
    def name(self) -> str:
        """Of the file or folder."""
        ...

    @property
    def note(self) -> str:
        """Who made it, and under which licence, as far as it says."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of all that is read."""
        ...

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the entries, in their order."""
        ...

    def entry(self, row: int) -> Entry:
        """Read one, or raise `InputError` with the reason why it is of no use."""
        ...


def open_source(path: Path) -> Source:
    """Source at a path.

    Raises
    ------
    InputError
        If there is nothing, or nothing that can be read.
    """
    if path.is_dir():
        return PhonopyFolderSource(path)
    if not path.is_file():
        raise InputError(
            f"source: {path} is not there; expected the HDF5 file of a phonon database, or a "
            "folder of phonopy files"
        )
    if path.stat().st_size == 0:
        raise InputError(f"source: {path} is empty; expected a phonon database. Fetch it anew")
    return PhonondbFile(path)
