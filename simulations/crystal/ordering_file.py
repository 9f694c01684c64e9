"""Partly occupied sites: one ordered supercell of many, by pymatgen, for what wants whole atoms.

The supercell is the smallest, as near to a cube as can be, in which every share of a site is a
whole number of atoms; where none within the bound is exact, the one that comes nearest. Atoms go
where the Ewald sum of guessed charges is lowest among the arrangements that are tried: all, where
they are few; else a fixed number of them, beginning with the one that takes the best site each
time. Without charges the choice is arbitrary, but no two atoms share a place.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from simulations.arrays import FloatArray
from simulations.crystal.structure_file import read_disordered
from simulations.errors import InputError
from simulations.progress import Progress, silent
from simulations.saved_file import write_whole

MOST_ORDERED_ATOMS = 60
"""What the routes take; fewer where they take fewer."""
MOST_STEPS = 100_000
"""Of the search through arrangements, each of which puts one more atom in its place."""
_EXACT = 0.005  # of a share
_MOST_ERROR = 0.05
_ONE_PLACE_A = 0.7  # sites nearer than this are one place, where only one atom can be
_CROWDED_EV = 1e4  # what two atoms in one place cost


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rounded:
    """One kind of mixture, and how many atoms of each of its species are put on its sites."""

    species: Any  # pymatgen's composition of one site
    sites: int
    atoms: dict[Any, int]

    @property
    def whole(self) -> dict[Any, float]:
        """Shares of one site that sum to these atoms."""
        return {s: n / self.sites for s, n in self.atoms.items() if n > 0}

    @property
    def wrong(self) -> float:
        """Largest error of a share."""
        return max(abs(self.atoms[s] / self.sites - share) for s, share in self.species.items())


def write_ordered(
    path: Path,
    target: Path,
    most_atoms: int = MOST_ORDERED_ATOMS,
    *,
    progress: Progress = silent,
) -> str | None:
    """Write a structure whose partly occupied sites are ordered in a supercell, as a POSCAR.

    Parameters
    ----------
    path : Path
        POSCAR, CIF or phonopy.yaml.
    target : Path
        Written where sites are partly occupied, else left alone.
    most_atoms : int
        In the supercell, vacancies counted.
    progress : callable

    Returns
    -------
    str or None
        What was done, in words; None where all sites hold whole atoms.

    Raises
    ------
    InputError
        If no supercell within the bound comes near to the shares, if it would lose an element, or
        if the file names isotopes.
    """
    from pymatgen.io.vasp import Poscar

    structure = read_disordered(path)
    if structure is None:
        return None
    repeats, wrong = _supercell(structure, most_atoms)
    cells = int(np.prod(repeats))
    rounded = _rounded(structure, cells)
    _refuse_lost(structure, rounded, cells, most_atoms)
    whole = structure.copy()
    whole.make_supercell(repeats)
    _make_whole(whole, rounded)
    partial = _disorder(whole)
    how = "rounded to whole atoms, which left nothing to order"
    if partial:
        progress(f"ordering {partial} partly occupied sites", 0.02)
        whole, how = _ordered(whole, progress)
    poscar = Poscar(whole.get_sorted_structure())
    write_whole(target, poscar.get_str(significant_figures=12))
    before, after = structure.composition, whole.composition
    off = f"; shares are off by up to {wrong:.1%}" if wrong > _EXACT else ""
    supercell = f"a supercell {' x '.join(map(str, repeats))} of {len(whole)} atoms"
    told = f"{_disorder(structure)} partly occupied sites of {before.reduced_formula} were "
    if not partial:
        return (
            f"{told}{how}, in {supercell}, {after.reduced_formula}{_changes(rounded)}{off}: it is "
            "another crystal than the average, without the disorder"
        )
    return (
        f"{told}ordered in {supercell}, {after.reduced_formula}{_changes(rounded)}{off}, {how}: "
        "one ordering of many is shown, and its symmetry and sharp lines are not those of the "
        "average"
    )


def _disorder(structure: Any) -> int:
    return sum(not site.is_ordered for site in structure)


def _groups(structure: Any) -> dict[Any, int]:
    """How many sites hold each mixture."""
    found: dict[Any, int] = {}
    for site in structure:
        if not site.is_ordered:
            found[site.species] = found.get(site.species, 0) + 1
    return found


def _supercell(structure: Any, most_atoms: int) -> tuple[tuple[int, int, int], float]:
    """Repeats along the three vectors, and the largest error of a share.

    Raises
    ------
    InputError
        If none within the bound comes near.
    """
    best: tuple[float, int, float, tuple[int, int, int]] | None = None
    lengths = np.array(structure.lattice.abc)
    for repeats in _repeats(max(1, most_atoms // len(structure))):
        cells = int(np.prod(repeats))
        wrong = max(one.wrong for one in _rounded(structure, cells))
        edges = lengths * repeats
        key = (0.0 if wrong <= _EXACT else wrong, cells, float(edges.max() / edges.min()), repeats)
        if best is None or key < best:
            best = key
    if best is None or best[0] > _MOST_ERROR or len(structure) > most_atoms:
        mixtures = ", ".join(str(species) for species in list(_groups(structure))[:3])
        raise InputError(
            f"structure: no supercell of at most {most_atoms} atoms holds {mixtures} in whole "
            f"atoms within {_MOST_ERROR:.0%} (the cell has {len(structure)} sites); expected "
            "simpler shares or a smaller cell. Round the occupancies, or order it yourself"
        )
    wrong, _, _, repeats = best
    return repeats, wrong


def _repeats(most_cells: int) -> Iterator[tuple[int, int, int]]:
    for a, b, c in product(range(1, most_cells + 1), repeat=3):
        if a * b * c <= most_cells:
            yield a, b, c


def _rounded(structure: Any, cells: int) -> list[_Rounded]:
    """Atoms of every kind of mixture in so many cells; never more of them than sites."""
    return [
        _Rounded(species=species, sites=cells * count, atoms=_atoms(species, cells * count))
        for species, count in _groups(structure).items()
    ]


def _atoms(species: Any, sites: int) -> dict[Any, int]:
    """Whole numbers nearest to the shares; with the vacancies they sum to the number of sites."""
    shares = dict(species.items())
    wanted = [share * sites for share in shares.values()]
    wanted.append(max(0.0, sites - sum(wanted)))  # vacancies
    atoms = [int(number + 1e-6) for number in wanted]
    by_rest = sorted(range(len(wanted)), key=lambda k: (round(atoms[k] - wanted[k], 6), k))
    for k in by_rest[: sites - sum(atoms)]:
        atoms[k] += 1
    return dict(zip(shares, atoms[:-1], strict=True))


def _refuse_lost(structure: Any, rounded: list[_Rounded], cells: int, most_atoms: int) -> None:
    """Raise where rounding leaves no atom of an element."""
    kept = {e.symbol for site in structure if site.is_ordered for e in site.species.elements}
    kept |= {getattr(s, "element", s).symbol for one in rounded for s in one.whole}
    for one in rounded:
        most = one.sites // cells * max(1, most_atoms // len(structure))
        for species, share in one.species.items():
            if getattr(species, "element", species).symbol in kept:
                continue
            raise InputError(
                f"structure: {species} has the share {share:.3g} of its sites, which rounds to no "
                f"atom in a supercell of at most {most_atoms} atoms; expected a share of at least "
                f"1/{most}, which is one atom on all such sites. Leave {species} out, raise its "
                "share, or order it yourself"
            )


def _changes(rounded: list[_Rounded]) -> str:
    """The shares that were moved, one by one."""
    words = []
    for one in rounded:
        for species, share in one.species.items():
            now = one.atoms[species] / one.sites
            if abs(now - share) > _EXACT or (now in (0.0, 1.0) and now != share):
                words.append(f"{species} {share:.4g} to {now:.4g}")
    return f" ({', '.join(words)} of a site)" if words else ""


def _make_whole(structure: Any, rounded: list[_Rounded]) -> None:
    """Give every mixture the shares of whole atoms; sites of no atom are taken away."""
    empty = []
    for one in rounded:
        for k, site in enumerate(structure):
            if site.species != one.species:
                continue
            if one.whole:
                structure[k] = one.whole
            else:
                empty.append(k)
    structure.remove_sites(empty)


def _ordered(structure: Any, progress: Progress) -> tuple[Any, str]:
    """The best ordering that is found, and how it was judged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        charged = structure.copy()
        how = "the lowest in the Ewald sum of guessed charges"
        charges = _guessed_charges(charged)
        if not any(charges.values()):
            how = "an arbitrary one, for want of charges"
        charged.add_oxidation_state_by_element(charges)
        found, complete = _arranged(charged, any(charges.values()), progress)
        found.remove_oxidation_states()
    if any(charges.values()) and not complete:
        how = (
            f"the lowest in the Ewald sum of guessed charges of those that {MOST_STEPS:,} steps of "
            "search reach (approximate: there are too many to try all)"
        )
    return found, how


def _guessed_charges(structure: Any) -> dict[str, float]:
    """Charge of every element; all zero where pymatgen guesses none."""
    from pymatgen.core import Composition

    symbols = {e.symbol for e in structure.composition.element_composition}
    atoms = {
        symbol: round(number)  # sums of shares are whole numbers but for rounding
        for symbol, number in structure.composition.element_composition.get_el_amt_dict().items()
    }
    try:
        guesses: Any = Composition(atoms).oxi_state_guesses()
        return {symbol: float(guesses[0][symbol]) for symbol in sorted(symbols)}
    except Exception:  # of mixtures that pymatgen finds no charges for
        return dict.fromkeys(sorted(symbols), 0.0)


def _arranged(structure: Any, charged: bool, progress: Progress) -> tuple[Any, bool]:
    """An ordering of a structure with charges, and whether no better one is left to be tried.

    As pymatgen's ``OrderDisorderedStructureTransformation``, but within a number of steps, and with
    sites that are one place kept apart.
    """
    from pymatgen.analysis.ewald import EwaldMinimizer, EwaldSummation

    filled = structure.copy()
    changes: list[list[Any]] = []
    for group in _alike(structure):
        sums: dict[Any, float] = {}
        for k in group:
            for species, share in structure[k].species.items():
                sums[species] = sums.get(species, 0.0) + share
        atoms = {species: round(number) for species, number in sums.items()}
        first = max(atoms, key=lambda s: abs(s.oxi_state))
        for k in group:
            filled[k] = first
        for species, number in atoms.items():
            if species != first and number:
                ratio = species.oxi_state / first.oxi_state if first.oxi_state else 0.0
                changes.append([ratio, number, list(group), species])
        vacancies = len(group) - sum(atoms.values())
        if vacancies:
            changes.append([0.0, vacancies, list(group), None])

    class Search(EwaldMinimizer):
        """Ends after so many steps, once there is an arrangement."""

        steps = 0

        def _recurse(self, *args: Any, **kwargs: Any) -> None:
            self.steps += 1
            if self.steps % 10_000 == 0:
                progress(f"ordering, {self.steps:,} steps of {MOST_STEPS:,} at most", 0.02)
            if self.steps > MOST_STEPS and self.output_lists:
                self._finished = True
            super()._recurse(*args, **kwargs)

    matrix = np.array(EwaldSummation(filled).total_energy_matrix) if charged else None
    crowded = _crowded(filled, changes)
    matrix = crowded if matrix is None else matrix + crowded
    algorithm = Search.ALGO_FAST if charged else Search.ALGO_BEST_FIRST
    search = Search(matrix, deepcopy(changes), 1, algorithm)
    vacant = []
    for k, species in search.best_m_list:
        if species is None:
            vacant.append(k)
        else:
            filled[k] = species
    filled.remove_sites(vacant)
    return filled.get_sorted_structure(), search.steps <= MOST_STEPS


def _alike(structure: Any) -> list[list[int]]:
    """Indices of the sites of every mixture."""
    groups: list[list[int]] = []
    for k, site in enumerate(structure):
        if site.is_ordered:
            continue
        for group in groups:
            if site.species.almost_equals(structure[group[0]].species):
                group.append(k)
                break
        else:
            groups.append([k])
    return groups


def _crowded(structure: Any, changes: list[list[Any]]) -> FloatArray:
    """What atoms in one place cost, pair by pair, where one of both may be left out."""
    cost: FloatArray = np.zeros((len(structure), len(structure)))
    if all(ratio >= 0 for ratio, *_ in changes):  # else a change of sign would reward it
        partial = sorted({k for *_, group, _ in changes for k in group})
        near = np.array(structure.distance_matrix)[np.ix_(partial, partial)] < _ONE_PLACE_A
        np.fill_diagonal(near, False)
        cost[np.ix_(partial, partial)] = _CROWDED_EV * near
    return cost
