"""A POSCAR as its parser expects it: plain numbers, one scale, a row for every atom."""

from __future__ import annotations

import re

from simulations.errors import InputError


def plain_poscar(text: str) -> str:
    """The same POSCAR with plain numbers and one scale factor.

    Fortran's exponents (``0.5d0``) become plain ones; three scale factors, one for each Cartesian
    component as VASP 6 takes them, are multiplied into cell and Cartesian coordinates.

    Parameters
    ----------
    text : str
        With the line of species in its place.

    Raises
    ------
    InputError
        Naming the line that is none of a POSCAR, or the atoms that are announced and listed.
    """
    lines = text.splitlines()
    scale = _numbers(lines, 1, "the scale, one number or three", (1, 3))
    rows = [_numbers(lines, k, "a vector of the cell, three numbers", (3,)) for k in (2, 3, 4)]
    if 0.0 in scale or (len(scale) == 3 and min(scale) < 0):
        raise InputError(f"line 2 has the scale {lines[1].strip()[:40]!r}; it must not be 0")
    at = 5
    names: list[str] = []
    while at < len(lines) and not _counts(lines[at]) and at < 15:
        if not lines[at].strip():
            raise InputError(f"line {at + 1} is empty where species or their numbers are expected")
        names += re.split(r"[!#]", lines[at])[0].split()
        at += 1
    counts: list[int] = []
    while at < len(lines) and len(counts) < max(len(names), 1) and _counts(lines[at]):
        counts += _counts(lines[at])
        at += 1
    atoms = sum(counts)
    if not atoms:
        raise InputError("no line with the numbers of atoms follows the cell and the species")
    if names and len(names) != len(counts):
        raise InputError(
            f"{len(names)} species are named ({' '.join(names[:5])}), but {len(counts)} numbers of "
            "atoms given; correct the two lines"
        )
    if at < len(lines) and lines[at].strip()[:1].lower() == "s":
        at += 1
    mode = lines[at].strip() if at < len(lines) else ""
    if not mode or _floats(mode.split()[:3]) is not None:
        raise InputError(f"line {at + 1} is {mode[:40]!r} where Direct or Cartesian is expected")
    first = at + 1
    sites = [_site(lines, k) for k in range(first, first + atoms + 1)]
    listed = next((k for k, site in enumerate(sites) if site is None), len(sites))
    if listed != atoms:
        more = "more" if listed > atoms else listed
        raise InputError(
            f"{atoms} atoms are announced, but {more} rows of coordinates follow; correct the "
            "numbers of atoms or the rows"
        )
    cartesian = mode[0].lower() in "ck"
    factors = scale if len(scale) == 3 else (1.0, 1.0, 1.0)
    if len(scale) == 3:
        lines[1] = "1.0"
    elif _fortran(lines[1]):
        lines[1] = repr(scale[0])
    for k, row in zip((2, 3, 4), rows, strict=True):
        if len(scale) == 3 or _fortran(lines[k]):
            lines[k] = _line(row, factors)
    for k in range(first, first + atoms):
        words = lines[k].split()
        if (cartesian and len(scale) == 3) or _fortran(" ".join(words[:3])):
            row = _floats(words[:3]) or ()
            plain = _line(row, factors if cartesian else (1.0, 1.0, 1.0))
            lines[k] = " ".join([plain, *words[3:]])
    return "\n".join(lines) + "\n"


def _line(row: tuple[float, ...], factors: tuple[float, ...]) -> str:
    return " ".join(repr(x * f) for x, f in zip(row, factors, strict=True))


def _fortran(line: str) -> bool:
    return re.search(r"\d\.?[dD][+-]?\d", line) is not None


def _floats(words: list[str]) -> tuple[float, ...] | None:
    """Words as numbers; None unless all are some."""
    try:
        found = tuple(float(re.sub(r"(?<=[\d.])[dD](?=[+-]?\d)", "e", word)) for word in words)
    except ValueError:
        return None
    return found or None


def _numbers(lines: list[str], k: int, what: str, counts: tuple[int, ...]) -> tuple[float, ...]:
    """Numbers that a line begins with: what follows them is a remark."""
    line = lines[k] if k < len(lines) else ""
    words = line.split()
    for count in sorted(counts, reverse=True):
        found = _floats(words[:count])
        if found is not None and len(found) == count:
            return found
    raise InputError(f"line {k + 1} is {line.strip()[:40]!r} where {what}, is expected")


def _counts(line: str) -> list[int]:
    """Numbers of atoms of a line; none if it is another one."""
    words = re.split(r"[!#]", line)[0].split()
    return [int(word) for word in words] if words and all(w.isdigit() for w in words) else []


def _site(lines: list[str], k: int) -> tuple[float, ...] | None:
    words = lines[k].split() if k < len(lines) else []
    return _floats(words[:3]) if len(words) >= 3 else None
