"""Text of a structure file: out of its bytes, and which of the three formats it is in."""

from __future__ import annotations

import re
from typing import Literal

from simulations.errors import InputError

Format = Literal["phonopy", "cif", "poscar"]

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
_MOST_HIGH = 0.2  # share of bytes above 127 that a text in Latin-1 may have
_DATA = re.compile(r"(?mi)^\s*data_")
_CELL = re.compile(r"(?mi)^\s*_cell[_.]length_a\b")
_SITES = re.compile(r"(?mi)^\s*_atom_site[_.]")
_WEB_PAGE = re.compile(r"(?i)\s*<(?:!doctype|html|head|body)")


def structure_text(data: bytes, name: str) -> str:
    """Text of a structure, its lines ended by a line feed alone.

    Parameters
    ----------
    data : bytes
        Unpacked; UTF-8 with or without a byte order mark, else Latin-1.
    name : str
        What messages begin with, such as ``structure: POSCAR``.

    Raises
    ------
    InputError
        If it is empty, UTF-16, binary or a web page.
    """
    kinds = "expected a POSCAR, CIF or phonopy.yaml"
    if not data.strip():
        raise InputError(f"{name} is empty; {kinds}")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{name} is UTF-16, not UTF-8; {kinds} as plain text. Save it as UTF-8.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        high = sum(byte > 127 for byte in data[:100_000]) / len(data[:100_000])
        text = data.decode("latin-1")
        if high > _MOST_HIGH or _CONTROL.search(text, 0, 4096):
            text = "\0"
    if "\0" in text:
        raise InputError(f"{name} is binary; {kinds}, as text or gzip of it")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise InputError(f"{name} is empty; {kinds}")
    if _WEB_PAGE.match(text):
        raise InputError(
            f"{name} is a web page, not a structure; {kinds}. Download the file that the page "
            "links to."
        )
    return text


def is_phonopy_text(text: str) -> bool:
    """Whether the text is a phonopy.yaml: its sections begin lines."""
    keys = {
        key for key in ("unit_cell", "primitive_cell", "phonopy") if re.search(f"(?m)^{key}:", text)
    }
    return ("unit_cell" in keys or len(keys) == 2) and not is_cif_text(text)


def is_cif_text(text: str) -> bool:
    """Whether the text is a CIF: a data block, and a cell or atoms whose tags begin lines."""
    block = _DATA.search(text)
    if block is None:
        return False
    return any(key.search(text, block.end()) for key in (_CELL, _SITES))


def structure_format(name: str, text: str) -> Format:
    """Format of a structure, by the end of its name, else by what its lines begin with.

    Parameters
    ----------
    name : str
        Of the file; a final ``.gz`` is left out of account.
    text : str
    """
    plain = name.strip().lower().removesuffix(".gz")
    if plain.endswith((".cif", ".mcif")):
        return "cif"
    if plain.endswith((".yaml", ".yml")):
        return "phonopy"
    if is_phonopy_text(text):
        return "phonopy"
    return "cif" if is_cif_text(text) else "poscar"
