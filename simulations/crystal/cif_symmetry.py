"""Symmetry operators of a CIF: those that it lists, else those of the group and setting it names.

A group that is named without its origin or its axes leaves several sets of operators; each is one
candidate, and the sites decide between them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import spglib

from simulations.arrays import FloatArray, IntArray
from simulations.crystal.cif_blocks import CifBlock, cif_number
from simulations.crystal.symmetry import quiet_spglib
from simulations.errors import InputError

OPERATORS = "_space_group_symop_operation_xyz"
_LISTS = (OPERATORS, "_symmetry_equiv_pos_as_xyz", "_space_group_symop_magn_operation_xyz")
_CENTRINGS = "_space_group_symop_magn_centering_xyz"
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NAMES = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m",
    "_space_group_name_h-m_full",
)
_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_CHOICES = {"s": "1", "z": "2", "h": "H", "r": "R"}  # as ICSD ends names
_HALL_NUMBERS = 530
_MOST_OFF = 5e-3  # of the largest element of the metric
_MONOCLINIC = range(3, 16)
_MOST_OPERATORS = 400


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Operators:
    """Operators ``x' = W x + w`` on columns of fractional coordinates of the file's cell."""

    rotations: IntArray  # (operators, 3, 3)
    translations: FloatArray  # (operators, 3)
    words: str  # which group and setting they are of
    usual: bool = True  # the setting that is meant where nothing but the group is named
    added: int = 0  # products of a list that were missing in it

    def __len__(self) -> int:
        """Return the number of operators."""
        return len(self.rotations)

    @property
    def xyz(self) -> tuple[str, ...]:
        """As a CIF writes them."""
        pairs = zip(self.rotations, self.translations, strict=True)
        return tuple(",".join(map(_row, W, w)) for W, w in pairs)


def _row(factors: IntArray, shift: float) -> str:
    letters = "".join(
        f"{'+' if f > 0 else '-'}{abs(f) if abs(f) > 1 else ''}{'*' if abs(f) > 1 else ''}{x}"
        for f, x in zip(factors.tolist(), "xyz", strict=True)
        if f
    )
    simple = Fraction(float(shift)).limit_denominator(48)
    near = abs(float(simple) - shift) < 1e-9
    ends = "" if near and simple == 0 else f"{simple if near else round(float(shift), 12)}"
    if ends and not ends.startswith("-"):
        ends = f"+{ends}"
    return (letters + ends).removeprefix("+")


def operator_candidates(
    block: CifBlock, lattice: FloatArray
) -> tuple[tuple[Operators, ...], tuple[str, ...]]:
    """Sets of operators that a block may mean, each of which keeps the cell, and what is told.

    Parameters
    ----------
    block : CifBlock
    lattice : (3, 3) float64
        Vectors of the cell in rows, angstrom.

    Raises
    ------
    InputError
        If operators cannot be read or make no group, names contradict each other, or the cell
        contradicts the group.
    """
    listed = _listed(block)
    try:
        named, told = _named(block)
    except InputError:
        if listed is None:
            raise
        named, told = (listed,), ()  # a list decides, whatever the names say
    if listed is not None:
        told = ()
        if listed.added:
            told = (
                f"{listed.words} of the CIF is no group: {listed.added} products were missing in "
                "it and were added",
            )
        elif len(listed) < min(len(each) for each in named) and _LISTS[2] not in (
            block.columns
        ):  # fmt: skip
            told += (
                f"the CIF lists {len(listed)} symmetry operators, but {named[0].words} has "
                f"{len(named[0])}: those of the list were used",
            )
        named = (listed,)
    fitting = tuple(each for each in named if metric_error(each, lattice) < _MOST_OFF)
    if not fitting:
        lengths = np.linalg.norm(lattice, axis=1)
        cosines = (lattice @ lattice.T / np.outer(lengths, lengths))[[1, 2, 0], [2, 0, 1]]
        angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
        raise InputError(
            f"structure: the cell is {', '.join(f'{v:.5g}' for v in lengths)} angstrom and "
            f"{', '.join(f'{v:.5g}' for v in angles)} degrees, which contradicts "
            f"{named[0].words}; expected a cell that the group keeps. Correct the cell, or name "
            "the group and setting that it has."
        )
    return fitting, told


def metric_error(operators: Operators, lattice: FloatArray) -> float:
    """How far operators change the metric of a cell, of its largest element."""
    metric = lattice @ lattice.T
    W = operators.rotations
    off = np.abs(W.transpose(0, 2, 1) @ metric @ W - metric).max()
    return float(off / np.abs(metric).max())


def _listed(block: CifBlock) -> Operators | None:
    """Operators that the block lists; None where it lists none."""
    tag = next((t for t in _LISTS if any(v not in ".?" for v in block.column(t) or ())), None)
    if tag is None:
        bns = block.value("_space_group_magn_name_bns", "_space_group_magn_number_bns")
        return None if bns is None else _magnetic(block, bns)
    pairs = [_operator(text) for text in block.column(tag) or ()]
    centrings = block.column(_CENTRINGS) if tag == _LISTS[2] else None
    if centrings:
        shifts = [_operator(text)[1] for text in centrings]
        pairs = [(W, w + shift) for W, w in pairs for shift in shifts]
    found = _distinct(pairs, f"the list of {len(pairs)} symmetry operators")
    return _completed(found)


def _magnetic(block: CifBlock, name: str) -> Operators:
    """Operators of a magnetic group that is only named, without time reversal."""
    from pymatgen.symmetry.maggroups import MagneticSpaceGroup

    label = [int(n) for n in name.split(".")] if re.fullmatch(r"\d+\.\d+", name) else name
    setting = block.value("_space_group_magn_transform_bns_pp_abc") or "a,b,c;0,0,0"
    group = MagneticSpaceGroup(label, setting)
    pairs = [
        (np.rint(op.rotation_matrix).astype(np.int64), np.asarray(op.translation_vector))
        for op in group.symmetry_ops
    ]
    return _distinct(pairs, f"the magnetic group {name}")


def _operator(text: str) -> tuple[IntArray, FloatArray]:
    """W and w of one operator, such as ``-y, x-y, z+1/3``; time reversal is left out.

    Raises
    ------
    InputError
        If it is none.
    """
    rows = re.sub(r"\s", "", text).lower().split(",")
    W, w = np.zeros((3, 3), dtype=np.int64), np.zeros(3)
    term = r"[+-]?(?:(?:\d+\*?)?[xyz]|\d+/\d+|\d*\.?\d+)"
    good = len(rows) == 3 or (len(rows) == 4 and rows[3] in ("+1", "1", "-1", "m", "-m"))
    for k, row in enumerate(rows[:3]):
        good = (
            good and re.fullmatch(f"{term}(?:[+-]{term.removeprefix('[+-]?')})*", row) is not None
        )
        for part in re.findall(term, row) if good else ():
            sign = -1 if part.startswith("-") else 1
            body = part.lstrip("+-")
            if body[-1] in "xyz":
                factor = body[:-1].rstrip("*")
                W[k, "xyz".index(body[-1])] += sign * int(factor or 1)
            else:
                number = cif_number(body)
                w[k] += sign * _simple(number[0] if number else 0.0)
    if not good or abs(round(float(np.linalg.det(W)))) != 1:
        raise InputError(
            f"structure: {text[:60]!r} is no symmetry operator; expected one such as "
            "'-y, x-y, z+1/3', in quotes if it has blanks. Correct the list, or remove it so that "
            "the operators of the named group are used."
        )
    return W, w


def _simple(shift: float) -> float:
    """A translation of a few digits as the simple fraction that it rounds."""
    whole = round(shift * 24) / 24
    return whole if abs(whole - shift) < 1e-3 else shift


def _distinct(pairs: list[tuple[IntArray, FloatArray]], words: str) -> Operators:
    seen: dict[tuple[int, ...], tuple[IntArray, FloatArray]] = {}
    for W, w in pairs:
        inside = w - np.floor(w + 1e-6)
        key = (*W.ravel().tolist(), *np.rint(inside * 1e4).astype(int).tolist())
        seen.setdefault(key, (W, inside))
    return Operators(
        rotations=np.array([W for W, _ in seen.values()]),
        translations=np.array([w for _, w in seen.values()]),
        words=words,
    )


def _completed(found: Operators) -> Operators:
    """Operators with all their products: some lists have one of each kind alone.

    Raises
    ------
    InputError
        If these are more than any cell has.
    """
    pairs = list(zip(found.rotations, found.translations, strict=True))
    if len(pairs) > _MOST_OPERATORS:  # of huge supercells of centrings: too many products to form
        return found
    known = {_key(W, w) for W, w in pairs}
    given = list(pairs)
    for W, w in pairs:  # which grows as products are found
        for V, v in given:
            product = V @ W
            shift = V @ w + v
            key = _key(product, shift)
            if key not in known:
                known.add(key)
                pairs.append((product, shift - np.floor(shift + 1e-6)))
        if len(pairs) > _MOST_OPERATORS:
            raise InputError(
                f"structure: {found.words} is no group: their products never end; expected those "
                "of a space group. Correct the list, or remove it so that the operators of the "
                "named group are used."
            )
    added = len(pairs) - len(given)
    if not added:
        return found
    return Operators(
        rotations=np.array([W for W, _ in pairs]),
        translations=np.array([w for _, w in pairs]),
        words=found.words,
        added=added,
    )


def _key(W: IntArray, w: FloatArray) -> tuple[int, ...]:
    return (*W.ravel().tolist(), *(np.rint(w * 960).astype(int) % 960).tolist())


def _plain(name: str) -> str:
    """A name of a group as it is compared: blanks, underscores and brackets left out."""
    bare = re.sub(r"<[^>]*>|\\bar|[\s_(){}'\"]", "", name)
    return bare.lower()


def _hall(symbol: str) -> str:
    """A Hall symbol as it is compared; blanks and primes in it mean something."""
    return " ".join(symbol.replace("''", '"').replace("_", " ").lower().split())


@lru_cache(maxsize=1)
def _settings() -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Hall numbers by the name of a setting, and by the Hall symbol."""
    names: dict[str, list[int]] = {}
    halls: dict[str, int] = {}
    with quiet_spglib():
        kinds = [(h, spglib.get_spacegroup_type(h)) for h in range(1, _HALL_NUMBERS + 1)]
    for h, kind in kinds:
        if kind is None:
            continue
        halls.setdefault(_hall(kind.hall_symbol), h)
        own = [kind.international_full, kind.international.split("=")[-1]]
        if kind.number in _MONOCLINIC:
            own.append(re.sub(r" 1(?= |$)", "", kind.international_full))
        else:
            own.append(kind.international_short)
        for name in dict.fromkeys(map(_plain, own)):
            names.setdefault(name, []).append(h)
    for name, found in list(names.items()):
        for letter in "abc":  # what double glide planes e were called
            if "e" in name:
                names.setdefault(name.replace("e", letter), found)
    return {name: tuple(found) for name, found in names.items()}, halls


def _kind(hall: int) -> spglib.SpaceGroupType:
    with quiet_spglib():
        kind = spglib.get_spacegroup_type(hall)
    if kind is None:
        raise InputError(f"structure: spglib knows no setting {hall} of a space group")
    return kind


def _of_hall(hall: int, usual: bool) -> Operators:
    kind = _kind(hall)
    choice = {"1": ", origin 1", "2": ", origin 2", "H": ", hexagonal axes"}.get(kind.choice, "")
    if kind.choice == "R":
        choice = ", rhombohedral axes"
    if kind.choice and not choice and kind.number not in _MONOCLINIC:
        choice = f", setting {kind.choice}"
    with quiet_spglib():
        data = spglib.get_symmetry_from_database(hall)
    if data is None:
        raise InputError(f"structure: spglib has no operators of setting {hall} of a space group")
    return Operators(
        rotations=np.asarray(data["rotations"], dtype=np.int64),
        translations=np.asarray(data["translations"], dtype=float),
        words=f"space group {kind.number} ({kind.international.split('=')[-1].strip()}{choice})",
        usual=usual,
    )


def _by_name(given: str) -> tuple[tuple[int, ...], str | None]:
    """Hall numbers of a Hermann-Mauguin name, and the choice that its end names."""
    known = _settings()[0]
    head, colon, tail = given.partition(":")
    choice: str | None = tail.strip().lower() if colon else None
    name = _plain(head)
    origin = re.search(r"origin(?:choice)?([12])$", name)
    if origin:
        name, choice = name[: origin.start()], origin[1]
    for form in (name, re.sub(r"(?<![-3\d])3(?=$|[a-z])", "-3", name)):
        if form in known:
            return known[form], choice
        if form[:-1] in known and form[-1:] in _CHOICES:
            return known[form[:-1]], _CHOICES[form[-1]]
    return (), choice


def _named(block: CifBlock) -> tuple[tuple[Operators, ...], tuple[str, ...]]:
    """Candidates of what the block names, the usual ones first, and what is told."""
    hall, name = block.value(*_HALL), block.value(*_NAMES)
    number = _number(block)
    if hall is not None:
        found = _settings()[1].get(_hall(hall))
        if found is not None:
            named = _by_name(name)[0] if name else ()
            numbers = {_kind(h).number for h in (found, *named)} | ({number} if number else set())
            if len(numbers) > 1:
                raise _contradiction(f"Hall symbol {hall!r}", name, number)
            return (_of_hall(found, True),), ()
        if "(" in hall:
            raise InputError(
                f"structure: the Hall symbol {hall!r} changes the axes, which is not followed; "
                f"expected the operators. List them as {OPERATORS}."
            )
    halls, choice = _by_name(name) if name else ((), None)
    choice = choice or block.value("_space_group_it_coordinate_system_code") or ""
    choice = choice.removesuffix("abc")  # the axes as they are
    told: tuple[str, ...] = ()
    if halls and number is not None and all(_kind(h).number != number for h in halls):
        raise _contradiction(None, name, number)
    if not halls and number is None:
        unknown = name or hall
        group = "no space group" if unknown is None else f"the unknown group {unknown!r}"
        return (_of_hall(1, True),), (
            f"the CIF names {group} "
            "and lists no symmetry operators: its sites were taken as all atoms of the cell (P 1)",
        )
    by_number = not halls
    if by_number:
        if name is not None:
            told = (f"the group {name!r} is unknown: that of number {number} was taken",)
        halls = tuple(h for h in range(1, _HALL_NUMBERS + 1) if _kind(h).number == number)
    if choice:
        kept = [h for h in halls if _kind(h).choice.lower().startswith(choice.lower())]
        if not kept:
            offered = sorted({_kind(h).choice for h in halls} - {""}) or ["none"]
            raise InputError(
                f"structure: the space group {name or number} has no setting {choice!r}; expected "
                f"one of {', '.join(offered)}. Correct the name, or list the operators as "
                f"{OPERATORS}."
            )
        halls = tuple(kept)
    first = _kind(halls[0])
    usual = {first.choice, first.choice.replace("1", "2") if first.choice[:1] == "1" else ""}
    usual |= {"H", "R"} if first.choice in ("H", "R") else set()
    return tuple(_of_hall(h, _kind(h).choice in usual) for h in _unlike(halls)), told


def _unlike(halls: tuple[int, ...]) -> tuple[int, ...]:
    """Settings whose operators differ."""
    seen: dict[frozenset[str], int] = {}
    for h in halls:
        seen.setdefault(frozenset(_of_hall(h, True).xyz), h)
    return tuple(seen.values())


def _number(block: CifBlock) -> int | None:
    text = block.value(*_NUMBERS)
    found = None if text is None else cif_number(text)
    if found is None:
        return None
    if found[0] not in range(1, 231):
        raise InputError(
            f"structure: the space group has the number {text}; expected 1 to 230. Correct it."
        )
    return int(found[0])


def _contradiction(hall: str | None, name: str | None, number: int | None) -> InputError:
    said = [hall, None if name is None else f"name {name!r}", number and f"number {number}"]
    return InputError(
        f"structure: the space group has the {' and the '.join(str(s) for s in said if s)}, which "
        f"are different groups; expected one. Correct them, or list the operators as {OPERATORS}."
    )
