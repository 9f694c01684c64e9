"""A structure that arrives as text, for readers that want a file; refused if it is not plain."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simulations.crystal_file import refuse_tags

MAX_CHARACTERS = 2_000_000


class StructureTextError(ValueError):
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
    name = "POSCAR"
    if "unit_cell:" in text or "primitive_cell:" in text:
        try:
            refuse_tags(text)
        except ValueError as error:
            raise StructureTextError(f"structure: {error}") from error
        name = "phonopy.yaml"
    elif text.lstrip().startswith("data_") or "_cell_" in text:
        name = "structure.cif"
    with tempfile.TemporaryDirectory(prefix="beamsteer-") as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        yield path
