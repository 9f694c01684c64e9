"""A cheap look at the text of a structure, before any parser takes memory for what it announces.

A POSCAR of nine lines may announce a thousand million atoms, and a phonopy.yaml a supercell of
them; parsers make room for all before they miss the first. What a look lets pass may still be no
structure: that is for the parsers to say.
"""

from __future__ import annotations

import re
from itertools import islice, takewhile

import numpy as np
import yaml

from simulations.errors import InputError

MAX_ATOMS = 20_000
"""In a file's cell, and in the supercell of given force constants."""
MAX_BYTES = 2**30
"""Of a structure file, unpacked."""

_TOKEN = re.compile(r"'[^']*'|\"[^\"]*\"|\S+")


def refuse_announced_atoms(text: str, kind: str) -> None:
    """Raise for a text that announces more atoms than anybody could use, or than it can hold.

    Parameters
    ----------
    text : str
    kind : {"poscar", "cif", "phonopy"}
        How the text will be read.

    Raises
    ------
    InputError
        Naming the number of atoms and the largest that is taken.
    """
    if kind == "poscar":
        lines = text.splitlines()
        counts = [n for row in _count_rows(lines) for n in row]
        atoms = sum(counts)
        if min(counts, default=0) < 0 or atoms > len(lines):
            raise InputError(
                f"structure: {atoms:,} atoms are announced in {len(lines)} lines; expected a line "
                "for each atom. Correct the numbers of atoms."
            )
        _refuse(atoms, "the cell")
    elif kind == "cif":
        _refuse(_cif_sites(text), "the list of atom sites")
    else:
        atoms = _block(text, "unit_cell").count("coordinates") or _block(
            text, "primitive_cell"
        ).count("coordinates")
        _refuse(atoms, "the unit cell")
        _refuse(max(atoms, 1) * _cells(text), "the supercell")


def _refuse(atoms: int, where: str) -> None:
    if atoms > MAX_ATOMS:
        raise InputError(
            f"structure: {atoms:,} atoms in {where}; expected at most {MAX_ATOMS:,}. Give a "
            "smaller cell."
        )


def _count_rows(lines: list[str]) -> list[list[int]]:
    """Rows of a POSCAR that hold numbers of atoms: whole numbers alone, after the lattice."""
    rows = (_whole(line) for line in islice(lines, 5, 26))
    later = iter(list(rows))
    found = next((row for row in later if row), [])
    return [found, *(row for row in takewhile(bool, islice(later, 9)) if row)]


def _whole(line: str) -> list[int]:
    """Every word of a line as a whole number; none if one is not."""
    try:
        return [int(word) for word in line.split()]
    except ValueError:
        return []


def _cif_sites(text: str) -> int:
    """Rows of the loops of atom sites."""
    sites = 0
    for loop in re.split(r"(?mi)^\s*loop_", text)[1:]:
        words = [
            word
            for line in loop.splitlines()
            if not line.lstrip().startswith("#")
            for word in _TOKEN.findall(line)
        ]
        columns = list(takewhile(lambda word: word.startswith("_"), words))
        if not any(name.lower().startswith("_atom_site_fract") for name in columns):
            continue
        values = takewhile(lambda word: not word.startswith(("_", "data_")), words[len(columns) :])
        sites += sum(1 for _ in values) // len(columns)
    return sites


def _block(text: str, key: str) -> str:
    """Text of a top-level key of a YAML document, the key left out; empty without it."""
    found = re.search(rf"(?m)^{key}:((?:.*\n?)(?:^(?:[ \t\-#].*)?\n?)*)", text)
    return found[1] if found else ""


def _cells(text: str) -> int:
    """Unit cells in the supercell of a phonopy.yaml; 1 where it names none that can be read."""
    try:
        matrix = np.asarray(yaml.safe_load(_block(text, "supercell_matrix")), dtype=float)
    except (yaml.YAMLError, ValueError, TypeError):
        return 1
    if matrix.size not in (3, 9) or not np.isfinite(matrix).all():
        return 1
    full = np.diag(matrix.ravel()) if matrix.size == 3 else matrix.reshape(3, 3)
    return max(1, round(min(abs(float(np.linalg.det(full))), 1e15)))
