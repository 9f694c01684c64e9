"""A structure as people name it or send it as text, for readers that want a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simulations.crystal import (
    Crystal,
    builtin_crystals,
    read_crystal,
    refuse_tags,
    structure_format,
    structure_notes,
    write_ordered,
)
from simulations.errors import InputError
from simulations.progress import Progress, silent
from steering.database import Database

MAX_CHARACTERS = 2_000_000


class StructureTextError(InputError):
    """A structure text is too long or holds what it must not; the message says what."""


@contextmanager
def structure_as_file(text: str) -> Iterator[Path]:
    """Put a structure text into a folder of its own for as long as it is read.

    Parameters
    ----------
    text : str
        POSCAR, CIF or phonopy.yaml.

    Yields
    ------
    Path
        A file whose name suits the format.

    Raises
    ------
    StructureTextError
        If the text is longer than ``MAX_CHARACTERS``, empty, binary, or YAML with tags: phonopy's
        loader would build any Python object that a tag names.
    """
    if len(text) > MAX_CHARACTERS:
        raise StructureTextError(
            f"structure: {len(text):,} characters; expected at most {MAX_CHARACTERS:,}. Send force "
            "constants of a smaller supercell, or run `beamsteer predict` on the file."
        )
    if not text.strip():
        raise StructureTextError("structure: empty; expected a POSCAR, CIF or phonopy.yaml")
    if "\0" in text:
        raise StructureTextError("structure: binary; expected a POSCAR, CIF or phonopy.yaml")
    text = text.removeprefix("\ufeff")
    kind = structure_format("", text)
    name = "structure.cif" if kind == "cif" else "POSCAR"
    if kind == "phonopy":
        try:
            refuse_tags(text)
        except InputError as error:
            raise StructureTextError(f"structure: {error}") from error
        name = "phonopy.yaml"
    with tempfile.TemporaryDirectory(prefix="beamsteer-") as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        yield path


@contextmanager
def open_structure(
    text: str, files: bool, database: Database | None = None
) -> Iterator[str | Path]:
    """Name of a built-in crystal, or a file that holds the structure, for as long as it is read.

    Parameters
    ----------
    text : str
        Name of a built-in crystal, or the text of a POSCAR, CIF or phonopy.yaml.
    files : bool
        Whether the text may name a file of this machine.
    database : Database or None
        Whose ids are names too.

    Raises
    ------
    InputError
        If it is none of these.
    """
    name = text.strip()
    if name in builtin_crystals() or (database is not None and database.has(name)):
        yield name
    elif "\n" in name:
        with structure_as_file(text) as path:
            yield path
    elif files and Path(name).exists():
        yield Path(name)
    else:
        where = " or a file" if files else ""
        where += " or an id of the database" if database is not None else ""
        raise InputError(
            f"structure is {name[:80]!r}; expected one of {', '.join(builtin_crystals())}{where}, "
            "or the text of a POSCAR, CIF or phonopy.yaml"
        )


def crystal_named(text: str) -> Crystal:
    """Crystal of a builtin name, a file of this machine, or the text of one."""
    with open_structure(text, files=True) as opened:
        return read_crystal(opened)


@contextmanager
def ordered_structure(
    opened: str | Path, order: bool, *, progress: Progress = silent
) -> Iterator[tuple[str | Path, tuple[str, ...]]]:
    """The same structure, or one whose partly occupied sites are ordered in a supercell.

    Parameters
    ----------
    opened : str or Path
        From `open_structure`.
    order : bool
        Whether it was asked for.
    progress : callable

    Yields
    ------
    source : str or Path
    words : tuple of str
        What was done, and what was decided where the file leaves something open.

    Raises
    ------
    InputError
        If it cannot be read or ordered.
    """
    if not (isinstance(opened, Path) and opened.is_file()):
        yield opened, ()
        return
    notes = structure_notes(opened)
    if not order:
        yield opened, notes
        return
    with tempfile.TemporaryDirectory(prefix="beamsteer-") as folder:
        target = Path(folder) / "POSCAR"
        told = write_ordered(opened, target, progress=progress)
        yield (opened, notes) if told is None else (target, (told, *notes))
