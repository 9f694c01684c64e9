"""Data blocks of a CIF: tags in lower case, values as they stand, and the block with the atoms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from simulations.errors import InputError

SITE_TAGS = ("_atom_site_fract_x", "_atom_site_cartn_x")
_WORD = re.compile(r"#.*|'(?P<one>.*?)'(?=\s|$)|\"(?P<two>.*?)\"(?=\s|$)|(?P<plain>\S+)")
_NUMBER = re.compile(
    r"(?P<value>[+-]?(?:\d+\.?(?P<whole>\d*)|\.(?P<part>\d+))(?:[eE][+-]?\d+)?)(?:\([\d.]*\))?"
)
_EXACT = 12
UNKNOWN = ("", ".", "?")


@dataclass(frozen=True, kw_only=True, slots=True)
class CifBlock:
    """One data block."""

    name: str
    items: dict[str, str] = field(default_factory=dict)
    columns: dict[str, list[str]] = field(default_factory=dict)
    cut: dict[str, str] = field(default_factory=dict)  # columns whose loop ends within a row: how

    def value(self, *tags: str) -> str | None:
        """First of the tags that says something; None where none does."""
        for tag in tags:
            column = self.columns.get(tag, [])
            found = self.items.get(tag, column[0] if len(column) == 1 else "")
            if found not in UNKNOWN:
                return found
        return None

    def column(self, tag: str) -> list[str] | None:
        """Column of a loop, or the one value of a tag; None without it."""
        if tag in self.columns:
            return self.columns[tag]
        return [self.items[tag]] if tag in self.items else None

    @property
    def has_sites(self) -> bool:
        """Whether the block lists atoms."""
        return any(self.column(tag) for tag in SITE_TAGS)


def cif_number(text: str) -> tuple[float, int] | None:
    """A number of a CIF, its uncertainty left out, and its decimals; None if it is none.

    Whole numbers and fractions such as 1/3 are exact: 12 decimals.
    """
    fraction = re.fullmatch(r"([+-]?\d+)/([1-9]\d*)", text)
    if fraction:
        return int(fraction[1]) / int(fraction[2]), _EXACT
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    decimals = found["whole"] or found["part"] or ""
    exact = not decimals or "e" in text.lower()
    return float(found["value"]), _EXACT if exact else len(decimals)


def cif_blocks(text: str) -> list[CifBlock]:
    """Every data block of a CIF, in order.

    Parameters
    ----------
    text : str
        Tags and reserved words may be in any case, tags with dots (of newer dictionaries) or
        without.
    """
    blocks: list[CifBlock] = []
    words = [*_words(text), ("", True)]
    k = 0
    while k < len(words) - 1:
        word, quoted = words[k]
        k += 1
        if quoted:
            continue
        if word.lower().startswith("data_"):
            blocks.append(CifBlock(name=word[5:]))
        elif blocks and word.lower() == "loop_":
            k = _loop(words, k, blocks[-1])
        elif blocks and word.startswith("_"):
            tag, (value, plain) = _tag(word), words[k]
            is_value = plain or not _reserved(value)
            blocks[-1].items.setdefault(tag, value if is_value else "")
            k += is_value
    return blocks


def _words(text: str) -> Iterator[tuple[str, bool]]:
    """Words, and whether they were quoted."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(";"):
            held = [line[1:]]
            for inner in lines:
                if inner.startswith(";"):
                    break
                held.append(inner)
            yield "\n".join(held).strip(), True
            continue
        for found in _WORD.finditer(line):
            if found["plain"] is not None:
                yield found["plain"], False
            elif not found[0].startswith("#"):
                yield (found["one"] or found["two"] or "").strip(), True


def _reserved(word: str) -> bool:
    low = word.lower()
    return low.startswith(("_", "data_", "save_")) or low in ("loop_", "stop_", "global_")


def _tag(word: str) -> str:
    return word.lower().replace(".", "_").replace("name_h_m", "name_h-m").rstrip("_")


def _loop(words: list[tuple[str, bool]], k: int, block: CifBlock) -> int:
    """Take a loop into its block; where it ends."""
    tags: list[str] = []
    while not words[k][1] and words[k][0].startswith("_"):
        tags.append(_tag(words[k][0]))
        k += 1
    values: list[str] = []
    while k < len(words) - 1 and (words[k][1] or not _reserved(words[k][0])):
        values.append(words[k][0])
        k += 1
    if not tags:
        return k
    rows, rest = divmod(len(values), len(tags))
    for column, tag in enumerate(tags):
        block.columns[tag] = values[column : rows * len(tags) : len(tags)]
        if rest:
            block.cut[tag] = f"{len(values)} values in {len(tags)} columns"
    return k


def block_with_atoms(text: str) -> tuple[CifBlock, tuple[str, ...]]:
    """The first data block that lists atoms, and what is to be told of the choice.

    Raises
    ------
    InputError
        If there is no data block, none with atoms, or the list of atoms breaks off.
    """
    blocks = cif_blocks(text)
    if not blocks:
        raise InputError(
            "structure: no data block in a CIF; expected a line `data_NAME` above the cell and "
            "the atoms. Give a whole CIF."
        )
    able = [block for block in blocks if block.has_sites]
    if not able:
        raise InputError(
            f"structure: no atom sites in the CIF (data blocks "
            f"{', '.join(block.name[:40] or '(no name)' for block in blocks[:5])}); expected a "
            "loop with _atom_site_label and _atom_site_fract_x, _y, _z. Give the CIF of the "
            "structure itself."
        )
    chosen = able[0]
    for tag, how in chosen.cut.items():
        if tag.startswith(("_atom_site_fract", "_atom_site_cartn", "_symmetry_equiv")) or (
            tag.startswith("_space_group_symop")
        ):
            what = "atom sites" if tag.startswith("_atom") else "symmetry operators"
            raise InputError(
                f"structure: the list of {what} ends within a row ({how}); expected a value for "
                "every column. Complete it, or fetch the file anew; a value with blanks needs "
                "quotes."
            )
    told: tuple[str, ...] = ()
    if len(able) > 1:
        others = ", ".join(repr(block.name[:40]) for block in able[1:4])
        told = (
            f"the CIF has {len(able)} data blocks with atoms: {chosen.name[:40]!r}, the first, was "
            f"taken, not {others}",
        )
    return chosen, told
