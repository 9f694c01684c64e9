"""Files that somebody sent for one structure, in a folder of their own for as long as it is read.

Their names say what they are and never where they go. Gzip is unpacked up to a bound.
"""

from __future__ import annotations

import gzip
import io
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from simulations.crystal import structure_format, structure_text
from simulations.errors import InputError

MAX_FILES = 8
MAX_UNPACKED_BYTES = 64 * 2**20
"""Of all files of one structure together."""
MAX_NAME = 200
_BESIDE = ("FORCE_SETS", "FORCE_CONSTANTS", "BORN")
_PHONOPY = ("phonopy_params.yaml", "phonopy.yaml", "phonopy_disp.yaml")  # who has most first
_STRUCTURES = ("structure.cif", "POSCAR")
_EXPECTED = "expected a POSCAR, CIF or phonopy.yaml, with FORCE_SETS, FORCE_CONSTANTS and BORN"


def refuse_names(names: Sequence[str]) -> None:
    """Raise for names that are no plain file names, and for too many of them.

    Parameters
    ----------
    names : sequence of str
        As they were sent.

    Raises
    ------
    InputError
        Naming the first one that is refused.
    """
    if not 1 <= len(names) <= MAX_FILES:
        raise InputError(f"files: {len(names)} were sent; {_EXPECTED}: 1 to {MAX_FILES} files.")
    for name in names:
        plain = name.isprintable() and not set(name) & set("/\\:") and name.strip(". ")
        if not plain or len(name) > MAX_NAME:
            raise InputError(
                f"files: a name is {name[:80]!r}; expected the name of a file without any folder, "
                "such as POSCAR. Rename it."
            )


@contextmanager
def uploaded_folder(files: Sequence[tuple[str, bytes]]) -> Iterator[Path]:
    """Put files into a folder of their own; yields the one that holds the structure.

    Parameters
    ----------
    files : sequence of (str, bytes)
        Names and contents, as they were sent; contents may be gzip.

    Raises
    ------
    InputError
        If a name is none, a file empty or binary, two files are the same thing, or none holds a
        structure; if a file unpacks to too much.
    OSError
        If there is no room for them.
    """
    refuse_names([name for name, _ in files])
    texts: dict[str, str] = {}
    left = MAX_UNPACKED_BYTES
    for name, content in files:
        unpacked = _unpacked(name, content, left)
        left -= len(unpacked)
        text = structure_text(unpacked, f"files: {name!r}")
        role = _role(name, text)
        if role in texts:
            raise InputError(
                f"files: {name!r} is a second {role}; {_EXPECTED}, one of each. Leave one out."
            )
        texts[role] = text
    main = next((role for role in (*_PHONOPY, *_STRUCTURES) if role in texts), None)
    if main is None:
        raise InputError(
            f"files: {', '.join(texts)} without a structure; {_EXPECTED} beside it. Send that too."
        )
    with tempfile.TemporaryDirectory(prefix="beamsteer-") as folder:
        for role, text in texts.items():
            (Path(folder) / role).write_text(text, encoding="utf-8")
        yield Path(folder) / main


def _unpacked(name: str, content: bytes, most: int) -> bytes:
    """Content as it is, or of gzip what it holds, up to a bound."""
    found = content
    if content[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                found = packed.read(most + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"files: {name!r} cannot be unpacked ({error}); expected whole gzip, or plain text."
            ) from error
    if len(found) > most:
        raise InputError(
            f"files: {name!r} unpacks to too much; expected at most {MAX_UNPACKED_BYTES:,} bytes "
            "for all files. Send less, or run `beamsteer predict` on a machine of your own."
        )
    return found


def _role(name: str, text: str) -> str:
    """What a file is called where phonopy looks for it."""
    plain = name.strip().removesuffix(".gz")
    bare = plain.removesuffix(".txt").upper()  # as browsers and mail programs name them
    if bare in _BESIDE:
        return bare
    kind = structure_format(name, text)
    if kind == "phonopy":
        return plain.lower() if plain.lower() in _PHONOPY else "phonopy.yaml"
    return "structure.cif" if kind == "cif" else "POSCAR"
