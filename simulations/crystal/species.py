"""What atoms are made of: elements, isotopes and mixtures of them, with masses and lengths.

A label names a species: ``Si`` is the natural element, ``28Si`` or ``Si28`` (``D``, ``T``, ``H2``)
an isotope, ``Fe1`` the natural element where no isotope of that mass number is tabulated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulations.arrays import FloatArray, IntArray
from simulations.crystal.cell import Crystal, element_of
from simulations.errors import InputError

_LABEL = re.compile(r"^(\d*)([A-Z][a-z]?)(\d*)$")
_NAMED = {"D": ("H", 2), "T": ("H", 3)}
_NATURAL = 5e-4
"""Two tables of natural masses differ by less than this share."""
_LABELLED = 3e-3
"""A mass that differs by more from that of the isotope of its label contradicts it."""
_IDENTIFIED_U = 0.03
"""A mass so near to that of an isotope names it, u."""

Isotopes = Mapping[str, str | Mapping[str, float]]
"""What species of a structure are made of: an isotope, or shares of several, by label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Species:
    """One kind of atom as neutrons and dynamics see it."""

    label: str  # "Si", "28Si", "D"
    mass_u: float
    length: float  # coherent, sqrt(barn)
    incoherent_barn: float
    absorption_barn: float  # at 1.798 angstrom


def _periodic(symbol: str) -> Any:
    """Element of the tables, or an error that says what was expected."""
    import periodictable

    try:
        return periodictable.elements.symbol(symbol)
    except ValueError:
        raise InputError(
            f"structure: species {symbol!r} is no element; expected a chemical symbol such as "
            "Ge, or an isotope such as 28Si or D. Name the species in the file."
        ) from None


def _split(label: str) -> tuple[str, int | None]:
    """Chemical symbol and mass number of a label; None for the natural element."""
    label = label.partition("@")[0]
    if label in _NAMED:
        return _NAMED[label]
    found = _LABEL.match(label)
    if found is None or (found[1] and found[3]):
        return label, None
    symbol, number = found[2], found[1] or found[3]
    if not number:
        return symbol, None
    element = _periodic(symbol)
    tabulated = int(number) in element.isotopes and element[int(number)].neutron.b_c is not None
    if tabulated:
        return symbol, int(number)
    if found[1]:
        raise InputError(
            f"structure: species {label!r} is no isotope with tabulated scattering lengths; "
            f"expected one of {', '.join(_label(symbol, n) for n in _isotopes(symbol))}, or "
            f"{symbol} for the natural element"
        )
    return symbol, None


def _label(symbol: str, number: int | None) -> str:
    if number is None:
        return symbol
    named = [name for name, which in _NAMED.items() if which == (symbol, number)]
    return named[0] if named else f"{number}{symbol}"


def _isotopes(symbol: str) -> list[int]:
    """Mass numbers of an element whose scattering lengths are tabulated."""
    element = _periodic(symbol)
    return [n for n in element.isotopes if element[n].neutron.b_c is not None]


def species_named(label: str) -> Species:
    """Species of a label.

    Parameters
    ----------
    label : str
        ``Si``, ``28Si``, ``Si28``, ``D``; another number after a symbol is a number of a site.

    Raises
    ------
    InputError
        If element or isotope are unknown or have no tabulated neutron data.

    References
    ----------
    The tables of the `periodictable` package (Rauch and Waschkowski 2003, and updates).
    """
    symbol, number = _split(label)
    element = _periodic(symbol)
    if number is not None:
        element = element[number]
    neutron = element.neutron
    if neutron is None or neutron.b_c is None or not neutron.has_sld():
        raise InputError(
            f"structure: no neutron scattering length is tabulated for {symbol}; expected an "
            "element with neutron data. Build the Crystal with your own `scattering_length`."
        )
    return Species(
        label=_label(symbol, number),
        mass_u=float(element.mass),
        length=float(neutron.b_c) / 10,
        incoherent_barn=float(neutron.incoherent or 0.0),
        absorption_barn=float(neutron.absorption or 0.0),
    )


def mixture(label: str, shares: Mapping[str, float]) -> Species:
    """A species of several isotopes at random on its sites.

    The mean length scatters coherently; its variance among the isotopes adds to the incoherent
    cross section.

    Parameters
    ----------
    label : str
        What the mixture is called.
    shares : mapping of str to float
        Share of each isotope, all of one element, that sum to 1.

    Raises
    ------
    InputError
        If shares are not positive or do not sum to 1, or the elements differ.
    """
    parts = [species_named(name) for name in shares]
    weights = np.array(list(shares.values()), dtype=float)
    if not parts or not (weights > 0).all() or abs(weights.sum() - 1) > 1e-6:
        raise InputError(
            f"isotopes of {label} have shares {dict(shares)}; expected positive ones that sum to 1"
        )
    if {element_of(part.label) for part in parts} != {element_of(label)}:
        raise InputError(
            f"isotopes of {label} are {', '.join(shares)}; expected isotopes of {element_of(label)}"
        )
    lengths = np.array([part.length for part in parts])
    mean = float(weights @ lengths)
    spread = 4 * np.pi * float(weights @ (lengths - mean) ** 2)
    return Species(
        label=label,
        mass_u=float(weights @ [part.mass_u for part in parts]),
        length=mean,
        incoherent_barn=float(weights @ [part.incoherent_barn for part in parts]) + spread,
        absorption_barn=float(weights @ [part.absorption_barn for part in parts]),
    )


def canonical_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels of a file that has no masses, as `species_named` calls them.

    Raises
    ------
    InputError
        If ``X1`` and ``X2`` stand side by side and both may be numbers of sites as well as
        isotopes, or a species is unknown.
    """
    numbered: dict[str, set[str]] = {}
    for label in labels:
        if re.match(r"^[A-Z][a-z]?\d+$", label) and _split(label)[1] is not None:
            numbered.setdefault(_split(label)[0], set()).add(label)
    for symbol, found in numbered.items():
        if {f"{symbol}1", f"{symbol}2"} <= found:
            raise InputError(
                f"structure: {' and '.join(sorted(found))} may be numbers of sites or isotopes; "
                f"expected {symbol} for the natural element, or isotopes with the mass number "
                "before the symbol, such as 1H and 2H"
            )
    known = {label: species_named(label).label for label in dict.fromkeys(labels)}
    return tuple(known[label] for label in labels)


def species_of_mass(label: str, mass_u: float) -> Species:
    """Species of a label whose mass a file gives; the mass is used as it is given.

    A mass that is not the natural one names an isotope that it is the mass number of or lies within
    0.03 u of; another one leaves scattering lengths natural.

    Raises
    ------
    InputError
        If the mass is no mass, or contradicts an isotope that the label names.
    """
    named = species_named(label)
    if not (np.isfinite(mass_u) and mass_u > 0):
        raise InputError(f"structure: mass of {label} is {mass_u} u; expected a positive number")
    symbol, number = _split(label)
    if number is not None:
        if abs(mass_u / named.mass_u - 1) > _LABELLED:
            raise InputError(
                f"structure: {label} has the mass {mass_u:g} u in the file, but the isotope "
                f"{named.label} weighs {named.mass_u:.4g} u; expected both to agree. Write the "
                f"isotope's mass, or {symbol} as the symbol where the number is that of a site"
            )
        return replace(named, mass_u=mass_u)
    if abs(mass_u / named.mass_u - 1) < _NATURAL:
        return replace(named, mass_u=mass_u)
    element = _periodic(symbol)
    near = [
        n for n in _isotopes(symbol) if abs(element[n].mass - mass_u) < _IDENTIFIED_U or mass_u == n
    ]
    if len(near) == 1:
        return replace(species_named(_label(symbol, near[0])), mass_u=mass_u)
    return replace(named, mass_u=mass_u)


def told_apart(species: Sequence[Species]) -> tuple[Species, ...]:
    """Give atoms of one label and several masses labels of their own, such as ``Si@29.5``."""
    masses: dict[str, list[float]] = {}
    for s in species:
        masses.setdefault(s.label, []).append(s.mass_u)
    several = {label for label, m in masses.items() if max(m) > min(m) * (1 + 1e-6)}
    return tuple(
        replace(s, label=f"{s.label}@{s.mass_u:.6g}") if s.label in several else s for s in species
    )


def with_species(crystal: Crystal, species: Iterable[Species]) -> Crystal:
    """Crystal with other species on its sites, one for each."""
    found = tuple(species)
    return replace(
        crystal,
        symbols=tuple(s.label for s in found),
        masses_u=np.array([s.mass_u for s in found]),
        scattering_length=np.array([s.length for s in found]),
        incoherent_barn=np.array([s.incoherent_barn for s in found]),
    )


def with_isotopes(crystal: Crystal, isotopes: Isotopes) -> Crystal:
    """Crystal whose named species are made of given isotopes.

    Parameters
    ----------
    crystal : Crystal
    isotopes : mapping
        By label or chemical symbol of the crystal: an isotope (``7Li``, ``D``), the element for
        the natural one, or shares (``{"7Li": 0.95, "6Li": 0.05}``).

    Raises
    ------
    InputError
        If the crystal has no such species, or an isotope is unknown or of another element.
    """
    found = [
        Species(
            label=label,
            mass_u=float(crystal.masses_u[k]),
            length=float(crystal.scattering_length[k]),
            incoherent_barn=float(crystal.incoherent_barn[k]),
            absorption_barn=0.0,
        )
        for k, label in enumerate(crystal.symbols)
    ]
    for name, made_of in isotopes.items():
        wanted = {name, _label(*_split(name))}
        sites = [k for k, label in enumerate(crystal.symbols) if label in wanted]
        if not sites:
            sites = [k for k, symbol in enumerate(crystal.elements) if symbol == name]
        if not sites:
            raise InputError(
                f"isotopes name {name!r}, which is not in the structure; expected one of "
                f"{', '.join(dict.fromkeys(crystal.symbols))}"
            )
        symbol = crystal.elements[sites[0]]
        if isinstance(made_of, str):
            whole = species_named(made_of)
            if element_of(whole.label) != symbol:
                raise InputError(
                    f"isotopes of {name} are {made_of!r}; expected isotopes of {symbol}, such as "
                    f"{', '.join(_label(symbol, n) for n in _isotopes(symbol)[:3])}"
                )
        else:
            whole = mixture(symbol, made_of)
        for k in sites:
            found[k] = whole
    return with_species(crystal, found)


def is_natural(crystal: Crystal, atom: int) -> bool:
    """Whether an atom is the natural element by its label, mass and lengths."""
    natural = species_named(element_of(crystal.symbols[atom]))
    return (
        crystal.symbols[atom] == natural.label
        and abs(float(crystal.masses_u[atom]) / natural.mass_u - 1) < _NATURAL
        and _has_lengths(crystal, atom, natural)
    )


def _has_lengths(crystal: Crystal, atom: int, species: Species) -> bool:
    return (
        float(crystal.scattering_length[atom]) == species.length
        and float(crystal.incoherent_barn[atom]) == species.incoherent_barn
    )


def species_words(crystal: Crystal) -> tuple[str, ...]:
    """Say for every species that is not the natural element what is used for it."""
    told: dict[str, None] = {}
    first: dict[tuple[str, float, float, float], int] = {}  # of all atoms that are made alike
    alike = zip(
        crystal.symbols,
        crystal.masses_u.tolist(),
        crystal.scattering_length.tolist(),
        crystal.incoherent_barn.tolist(),
        strict=True,
    )
    for k, made in enumerate(alike):
        first.setdefault(made, k)
    for k in first.values():
        if is_natural(crystal, k):
            continue
        label = crystal.symbols[k]
        natural = species_named(element_of(label))
        mass, length = float(crystal.masses_u[k]), float(crystal.scattering_length[k])
        incoherent = float(crystal.incoherent_barn[k])
        words = f"{label}: mass {mass:.6g} u, coherent length {10 * length:.4g} fm, incoherent "
        words += f"{incoherent:.4g} barn"
        if label != natural.label:
            words += f", absorption {species_named(label).absorption_barn:.4g} barn at 1.798 A"
        elif _has_lengths(crystal, k, natural):
            words += "; the mass is the file's and no isotope's, the lengths are natural (name "
            words += "isotopes to change them)"
        told[words] = None
    return tuple(told)


def atomic_numbers(crystal: Crystal) -> IntArray:
    """Atomic numbers, (atoms,); an isotope has that of its element."""
    return np.array([_periodic(symbol).number for symbol in crystal.elements], dtype=np.int64)


def neutron_data(symbols: tuple[str, ...]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Masses, coherent lengths and incoherent cross sections of species.

    Parameters
    ----------
    symbols : tuple of str
        Labels as `species_named` takes them.

    Returns
    -------
    masses_u, scattering_length, incoherent_barn : (atoms,) float64
        u, sqrt(barn) (real part), barn.

    Raises
    ------
    InputError
        As `species_named`.
    """
    known = {symbol: species_named(symbol) for symbol in dict.fromkeys(symbols)}
    found = [known[symbol] for symbol in symbols]
    return (
        np.array([s.mass_u for s in found]),
        np.array([s.length for s in found]),
        np.array([s.incoherent_barn for s in found]),
    )
