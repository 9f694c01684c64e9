"""Atom sites of a CIF: what stands on them, where, how much of it, and what its formula says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import periodictable

from simulations.arrays import FloatArray
from simulations.crystal.cell import element_of
from simulations.crystal.cif_blocks import UNKNOWN, CifBlock, cif_number
from simulations.crystal.cif_symmetry import Operators
from simulations.crystal.species import species_named
from simulations.errors import InputError

SAME_FRACTION = 1e-4
"""Images of a site nearer than this, in fractions of the cell, are one atom."""
MOST_OCCUPIED = 1.005  # of a site, by rounding of its shares
_COLUMNS = tuple(
    f"_atom_site_{name}"
    for name in (
        "label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy", "calc_flag",
        "attached_hydrogens", "symmetry_multiplicity", "site_symmetry_multiplicity",
    )
)  # fmt: skip
_CLOSEST_A = 0.5
_FEWEST_DECIMALS = 3  # coordinates of fewer are not taken for rounded ones
_HYDROGEN_REFUSED = 0.1  # that its share may be off the formula
_FORMULA_TOLD = 0.03  # that another element's may
_SYMBOLS = {e.symbol for e in periodictable.elements if e.number > 0}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Site:
    """One row of the list of atom sites."""

    label: str
    element: str
    isotope: str | None
    position: FloatArray  # (3,) fractional
    rounding: FloatArray  # (3,) half of the last digit; 0 of exact numbers
    occupancy: float
    multiplicity: int | None = None  # that the file states


def cif_sites(block: CifBlock) -> tuple[tuple[Site, ...], tuple[str, ...]]:
    """Sites of a block, and what is to be told of them.

    Raises
    ------
    InputError
        Naming the site whose species, coordinates or occupancy cannot be used.
    """
    if block.column("_atom_site_fract_x") is None:
        raise InputError(
            "structure: the CIF gives Cartesian coordinates (_atom_site_Cartn_x) alone; expected "
            "fractions of the cell (_atom_site_fract_x, _y, _z). Convert it, for instance to a "
            "POSCAR."
        )
    axes = [block.column(f"_atom_site_fract_{axis}") or [] for axis in "xyz"]
    rows = len(axes[0])
    _refuse_uneven(block, rows)
    types = block.column("_atom_site_type_symbol")
    labels = block.column("_atom_site_label") or types
    if labels is None:
        raise InputError(
            "structure: the atom sites have no species; expected _atom_site_type_symbol or "
            "_atom_site_label. Add one."
        )
    _refuse_attached(block, labels)
    dummies = block.column("_atom_site_calc_flag") or [""] * rows
    occupancies = block.column("_atom_site_occupancy") or ["1"] * rows
    multiplicities = (
        block.column("_atom_site_symmetry_multiplicity")
        or block.column("_atom_site_site_symmetry_multiplicity")
        or ["."] * rows
    )
    expected = set(formula_of(block) or ())
    sites: list[Site] = []
    left_out: list[str] = []
    unknown: list[str] = []
    guessed: list[str] = []
    for k in range(rows):
        label = labels[k]
        occupancy = _occupancy(label, occupancies[k])
        if occupancy == 0 or dummies[k].lower() == "dum":
            left_out.append(label)
            continue
        unknown += [label] if occupancies[k] == "?" else []
        position, rounding = _position(label, [axis[k] for axis in axes])
        stated = cif_number(multiplicities[k])
        plain = Site(
            label=label,
            element="",
            isotope=None,
            position=position,
            rounding=rounding,
            occupancy=occupancy,
            multiplicity=None if stated is None else int(stated[0]),
        )
        first = re.match("[A-Za-z]*", label)
        for named, share in _shares(label, None if types is None else types[k], expected):
            element, isotope = named
            if types is None and first and first[0] not in (element, "D", "T", ""):
                guessed.append(f"{label} as {element}")
            whole = share * occupancy
            if isotope is not None and whole < 1:
                raise InputError(
                    f"structure: the isotope {isotope} shares the site {label!r} with others; "
                    "expected one species. Name the element there, and say isotopes: "
                    f"{{{element}: {{{isotope}: 0.5, ...}}}}"
                )
            sites.append(replace(plain, element=element, isotope=isotope, occupancy=whole))
    told = []
    if left_out:
        told.append(f"sites of occupancy 0 or dummies were left out: {_listed(left_out)}")
    if unknown:
        told.append(f"unknown occupancies (?) were taken as 1: {_listed(unknown)}")
    if guessed:
        told.append(f"labels without type symbols were read so: {_listed(guessed)}")
    if not sites:
        raise InputError(
            "structure: every site of the CIF has the occupancy 0; expected atoms. Correct "
            "_atom_site_occupancy."
        )
    return tuple(sites), tuple(told)


def _refuse_uneven(block: CifBlock, rows: int) -> None:
    """Raise where columns of the list of sites are missing or not as long as the others."""
    for axis in "xyz":
        if not block.column(f"_atom_site_fract_{axis}"):
            raise InputError(
                f"structure: the list of atom sites lacks _atom_site_fract_{axis}; expected "
                "_atom_site_fract_x, _y and _z. Complete it."
            )
    for tag in _COLUMNS:
        column = block.column(tag)
        if column is not None and len(column) != rows:
            raise InputError(
                f"structure: {tag} has {len(column)} values for {rows} atom sites; expected one "
                "for each, in the same loop. Correct the list."
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _refuse_attached(block: CifBlock, labels: Sequence[str]) -> None:
    attached = block.column("_atom_site_attached_hydrogens") or []
    for label, text in zip(labels, attached, strict=False):
        number = cif_number(text)
        if number is not None and number[0] > 0:
            raise InputError(
                f"structure: the site {label!r} has {text} hydrogens attached that are not listed; "
                "expected a site for every hydrogen, which neutrons see. Add them."
            )


def _occupancy(label: str, text: str) -> float:
    if text in UNKNOWN:
        return 1.0
    found = cif_number(text)
    if found is None or not -1e-9 <= found[0] <= 1 + 1e-6:
        raise InputError(
            f"structure: the site {label!r} has the occupancy {text}; expected 0 to 1. Correct "
            "_atom_site_occupancy."
        )
    return min(max(found[0], 0.0), 1.0)


def _position(label: str, texts: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    found = [cif_number(text) for text in texts]
    for axis, text, number in zip("xyz", texts, found, strict=True):
        if number is None or abs(number[0]) > 1e6:
            raise InputError(
                f"structure: the site {label!r} has the coordinate {axis} = {text!r}; expected a "
                "fraction of the cell. Correct it, or remove the site."
            )
    numbers = [number for number in found if number is not None]
    decimals = [d for _, d in numbers]
    rounded = [d for d in decimals if d < 12]
    finest = max(_FEWEST_DECIMALS, *rounded) if rounded else 12
    half = [0.0 if d >= 12 else 0.5 * 10.0**-finest for d in decimals]
    return np.array([value for value, _ in numbers]), np.array(half)


def _shares(
    label: str, kind: str | None, expected: set[str]
) -> list[tuple[tuple[str, str | None], float]]:
    """Elements and isotopes of a site, with their shares; several as in ``0.8Nb + 0.2Zr``."""
    parts = [] if kind is None else kind.split(" + ")
    if len(parts) < 2:
        return [(site_species(label, kind, expected), 1.0)]
    found = []
    for part in parts:
        mixed = re.fullmatch(r"([\d.]+)(?:\(\d*\))?\s*([A-Z][a-z]?)\S*", part.strip())
        if mixed is None or mixed[2] not in _SYMBOLS:
            raise _unknown(label, kind)
        found.append(((mixed[2], None), float(mixed[1])))
    return found


def site_species(
    label: str, kind: str | None, expected: Iterable[str] = ()
) -> tuple[str, str | None]:
    """Element of a site, and its isotope where type or label name one.

    Parameters
    ----------
    label : str
        Such as ``Fe1``, ``O2A``, ``D3``.
    kind : str or None
        Its type symbol, such as ``Fe3+`` or ``D``; None where the file has none.
    expected : iterable of str
        Elements of the formula, which decide what a label without a type symbol means.

    Raises
    ------
    InputError
        If neither is a chemical element, or a label may name an isotope as well as a number.
    """
    text = label if kind in (None, *UNKNOWN) else str(kind)
    isotope = re.match(r"(\d+[A-Z][a-z]?|[DT](?![A-Za-z]))", text)
    if isotope is not None:
        named = species_named(isotope[0]).label
        return element_of(named), named
    element = _element(text, set(expected), by_label=text is label)
    if element is None:
        raise _unknown(label, kind)
    if text is label:
        return element, None
    by_label = re.match(r"(\d+[A-Z][a-z]?|[DT](?![a-z]))", label)
    if by_label is None:
        return element, None
    if by_label[0] in ("D", "T"):
        return element, by_label[0] if element == "H" else None
    try:
        named = species_named(by_label[0]).label
    except InputError:
        return element, None
    if element_of(named) != element:
        return element, None
    raise InputError(
        f"structure: the site {label!r} of type {kind} may be an isotope or a number; expected "
        f"the type {named} for the isotope, or a label such as {element}1"
    )


def _element(text: str, expected: set[str], by_label: bool) -> str | None:
    """Element of a type symbol or of a label; None if it names none for certain."""
    found = re.match(r"[A-Za-z]+", text)
    if found is None:
        return None
    letters = found[0]
    whole = letters.capitalize()
    if not by_label and _is_formula(text):
        return None
    if not by_label and letters.isupper() and len(letters) == 2 and expected - {whole} == expected:
        return None if expected else (whole if whole in _SYMBOLS else None)
    if whole in _SYMBOLS and (by_label is False or letters == whole or not expected):
        return whole
    valence = re.fullmatch(r"([A-Z][a-z]?)(?:val|va|iso|cv)", letters)
    if valence is not None and valence[1] in _SYMBOLS:
        return valence[1]
    if not by_label:
        return None
    prefixes = [letters[:2].capitalize(), letters[:1].upper()]
    able = [symbol for symbol in prefixes if symbol in _SYMBOLS]
    if expected:
        able = [symbol for symbol in able if symbol in expected or (symbol == "H" in expected)]
        return able[0] if able else None
    # OW1 and C2A are names of sites; Vac, Wat and Oxy are words
    if len(letters) == 2 and letters.isupper() and letters not in ("OH", "VA", "NH"):
        return able[0] if able else None
    return None


def _is_formula(text: str) -> bool:
    """Whether a type symbol is a molecule, such as H2O or NH4."""
    if re.fullmatch(r"[A-Z]{2}[2-9]", text) and _SYMBOLS.issuperset(text[:2]):
        return True  # CO3, not cobalt
    parts = re.findall(r"([A-Z][a-z]?)\d*", text)
    whole = re.fullmatch(r"(?:[A-Z][a-z]?\d*){2,}[+-]?", text) is not None
    plain = len(re.findall(r"[A-Z]", text)) > 1 and re.search(r"\d[A-Z]|[a-z][A-Z]", text)
    return bool(whole and plain and _SYMBOLS.issuperset(parts))


def _unknown(label: str, kind: str | None) -> InputError:
    said = f"the site {label!r} has " + (
        "no type symbol and its label begins with no chemical element"
        if kind in (None, *UNKNOWN)
        else f"the type symbol {kind!r}, which is no chemical element"
    )
    return InputError(
        f"structure: {said}; expected one such as Fe, Fe3+, D or 7Li in _atom_site_type_symbol. "
        "Correct it, or remove the site if no atom is there; water and hydroxyl need their "
        "hydrogens as sites."
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Placed:
    """Sites under operators: each where its digits and the operators put it, and its images."""

    sites: tuple[Site, ...]
    images: tuple[FloatArray, ...]  # of every site, (multiplicity, 3) in [0, 1)
    moved_A: float  # the largest distance that a site was moved
    moved: tuple[str, ...]  # labels of those that were
    overlap: str | None  # what makes the structure unreal, None where nothing does

    @property
    def atoms(self) -> int:
        """Places in the cell; a shared one counts for each of its species."""
        return sum(len(images) for images in self.images)

    @property
    def composition(self) -> dict[str, float]:
        """Atoms of each element in the cell."""
        found: dict[str, float] = {}
        for site, images in zip(self.sites, self.images, strict=True):
            found[site.element] = found.get(site.element, 0) + len(images) * site.occupancy
        return found


def placed(sites: Sequence[Site], operators: Operators, lattice: FloatArray) -> Placed:
    """Put sites where operators want them, as far as their digits allow it.

    A coordinate such as .333 stands for all that it rounds; where operators leave a site within
    that rounding, it lies on the special position and is moved there.
    """
    put: list[Site] = []
    images: list[FloatArray] = []
    moved: dict[str, float] = {}
    overlap: str | None = None
    for site in sites:
        position, around, nearest = _orbit(site, operators, lattice)
        step = float(np.linalg.norm((position - site.position) @ lattice))
        if step > 1e-4:
            moved[site.label] = step
        if nearest < _CLOSEST_A and site.occupancy > 0.99 and overlap is None:
            overlap = (
                f"structure: the site {site.label!r} and its image under the operators of "
                f"{operators.words} are {nearest:.3f} angstrom apart; expected one atom or two "
                f"that are at least {_CLOSEST_A} apart. Give its coordinates with four or more "
                "digits (.3333, not .33), or name the setting that they belong to."
            )
        put.append(replace(site, position=position))
        images.append(around)
    return Placed(
        sites=tuple(put),
        images=tuple(images),
        moved_A=max(moved.values(), default=0.0),
        moved=tuple(moved),
        overlap=overlap or _crowded(put, images, lattice),
    )


def _orbit(
    site: Site, operators: Operators, lattice: FloatArray
) -> tuple[FloatArray, FloatArray, float]:
    """Position of a site, its images, and the least distance of two of them."""
    x = site.position
    if len(operators) == 1:
        return x, (x - np.floor(x))[None], np.inf
    W, w = operators.rotations, operators.translations
    allowed = np.abs(W - np.eye(3, dtype=np.int64)) @ site.rounding + 1e-9
    step = W @ x + w - x
    step -= np.rint(step)
    close = (np.abs(step) <= allowed).all(axis=1)
    close &= np.linalg.norm(step @ lattice, axis=1) < _CLOSEST_A
    for _ in range(3):  # a mean over part of a group may leave a rest
        step = W[close] @ x + w[close] - x
        x = x + (step - np.rint(step)).mean(axis=0)
    if np.abs(x - site.position).max() > 2 * site.rounding.max() + 1e-9:
        x = site.position
    images = W @ x + w
    images -= np.floor(images)
    kept: list[int] = []
    nearest = np.inf
    for k in range(len(images)):
        apart = images[k] - images[kept]
        apart -= np.rint(apart)
        if len(kept) and (np.abs(apart).max(axis=1) < SAME_FRACTION).any():
            continue
        if len(kept):
            nearest = min(nearest, float(np.linalg.norm(apart @ lattice, axis=1).min()))
        kept.append(k)
    return x, images[kept], nearest


def _crowded(
    sites: Sequence[Site], images: Sequence[FloatArray], lattice: FloatArray
) -> str | None:
    """What is wrong where listed sites share a place; None where nothing is."""
    from scipy.spatial import KDTree

    owner = np.repeat(np.arange(len(sites)), [len(each) for each in images])
    x = np.concatenate(images)
    x = np.where(x >= 1.0, 0.0, x)
    tree = KDTree(x, boxsize=1.0)
    pairs = tree.query_pairs(SAME_FRACTION, p=np.inf, output_type="ndarray")
    sharing: dict[int, set[int]] = {}
    for a, b in pairs.tolist():
        if owner[a] != owner[b]:
            sharing.setdefault(int(owner[a]), {int(owner[a])}).add(int(owner[b]))
    for members in sharing.values():
        total = sum(sites[k].occupancy for k in members)
        if total > MOST_OCCUPIED:
            names = " and ".join(repr(sites[k].label) for k in sorted(members))
            return (
                f"structure: the sites {names} lie on one place and are occupied {total:.4g} "
                "together; expected at most 1. Remove the duplicate, or correct the occupancies."
            )
    return None


def formula_of(block: CifBlock) -> dict[str, float] | None:
    """Atoms of each element in the block's formula, D and T as H; None without a plain one."""
    text = block.value("_chemical_formula_sum")
    if text is None:
        return None
    found: dict[str, float] = {}
    for word in text.replace(",", " ").split():
        for symbol, count in re.findall(r"([A-Z][a-z]?)(\d*\.?\d*)", word):
            element = element_of(symbol)
            if element not in _SYMBOLS:
                return None
            found[element] = found.get(element, 0.0) + float(count or 1)
        if not re.fullmatch(r"(?:[A-Z][a-z]?(?:\d+\.?\d*|\.\d+)?)+", word):
            return None
    return {e: n for e, n in found.items() if n > 0} or None


def formula_errors(formula: dict[str, float], composition: dict[str, float]) -> dict[str, float]:
    """How far each element's share on the sites is off that of the formula; inf where one lacks it.

    The scale between both is the one that most elements agree on.
    """
    found = {e: np.inf for e in (*formula, *composition) if (e in formula) != (e in composition)}
    ratios = {e: composition[e] / formula[e] for e in formula if e in composition}
    if not ratios:
        return found
    scale = min(
        ratios.values(), key=lambda s: sum(min(abs(r / s - 1), 0.5) for r in ratios.values())
    )
    return found | {e: abs(r / scale - 1) for e, r in ratios.items()}


def checked_formula(block: CifBlock, composition: dict[str, float]) -> tuple[str, ...]:
    """What is told of a formula that differs from the sites.

    Raises
    ------
    InputError
        If it has more hydrogen than they have: neutrons see that above all.
    """
    formula = formula_of(block)
    if formula is None:
        return ()
    errors = formula_errors(formula, composition)
    hydrogen = errors.get("H", 0.0) > _HYDROGEN_REFUSED
    element = "H" if hydrogen else max(errors, key=lambda e: errors[e])
    off = errors[element]
    sites = " ".join(f"{e}{n:.4g}" for e, n in sorted(composition.items()))
    said = block.value("_chemical_formula_sum")
    if hydrogen:
        raise InputError(
            f"structure: _chemical_formula_sum is {said!r}, but the sites make {sites} per cell, "
            "which differs in H; expected the same. Add the missing atoms, or correct the formula "
            "or remove it. Hydrogens that were not located must be added: neutrons see them above "
            "all."
        )
    if off > _FORMULA_TOLD:
        how = f"{element} differs by {off:.0%}"
        if np.isinf(off):
            lacking = sorted(e for e in errors if np.isinf(errors[e]))
            how = (
                f"{', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} in one of them alone"
            )
        return (
            f"_chemical_formula_sum is {said!r}, but the sites make {sites} per cell: {how}; the "
            "sites were used. Check that no atom is missing",
        )
    return ()
