"""Partly occupied sites: one ordered supercell of many, by pymatgen, for what wants whole atoms.

The supercell is the smallest, as near to a cube as can be, in which every share of a site is a
whole number of atoms; where none within the bound is exact, the one that comes nearest. Atoms go
where the Ewald sum of guessed charges is lowest; without charges the choice is arbitrary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from simulations.arrays import FloatArray
from simulations.crystal.structure_file import read_disordered
from simulations.errors import InputError
from simulations.saved_file import write_whole

MOST_ORDERED_ATOMS = 60
"""What the routes take; fewer where they take fewer."""
_EXACT = 0.005  # of a share
_MOST_ERROR = 0.05


def write_ordered(path: Path, target: Path, most_atoms: int = MOST_ORDERED_ATOMS) -> str | None:
    """Write a structure whose partly occupied sites are ordered in a supercell, as a POSCAR.

    Parameters
    ----------
    path : Path
        POSCAR, CIF or phonopy.yaml.
    target : Path
        Written where sites are partly occupied, else left alone.
    most_atoms : int
        In the supercell, vacancies counted.

    Returns
    -------
    str or None
        What was done, in words; None where all sites hold whole atoms.

    Raises
    ------
    InputError
        If no supercell within the bound comes near to the shares, or the file names isotopes.
    """
    from pymatgen.io.vasp import Poscar

    structure = read_disordered(path)
    if structure is None:
        return None
    repeats, wrong = _supercell(structure, most_atoms)
    whole = structure.copy()
    whole.make_supercell(repeats)
    _make_whole(whole)
    ordered, how = _ordered(whole)
    poscar = Poscar(ordered.get_sorted_structure())
    write_whole(target, poscar.get_str(significant_figures=12))
    before, after = structure.composition, ordered.composition
    off = f"; shares are off by up to {wrong:.1%}" if wrong > _EXACT else ""
    return (
        f"{_disorder(structure)} partly occupied sites of {before.reduced_formula} were ordered in "
        f"a supercell {' x '.join(map(str, repeats))} of {len(ordered)} atoms, "
        f"{after.reduced_formula}{off}, {how}: one ordering of many is shown, and its symmetry "
        "and sharp lines are not those of the average"
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
    groups = _groups(structure)
    best: tuple[float, int, float, tuple[int, int, int]] | None = None
    lengths = np.array(structure.lattice.abc)
    for repeats in _repeats(max(1, most_atoms // len(structure))):
        cells = int(np.prod(repeats))
        wrong = max(
            abs(round(share * cells * count) / (cells * count) - share)
            for species, count in groups.items()
            for share in species.values()
        )
        edges = lengths * repeats
        key = (0.0 if wrong <= _EXACT else wrong, cells, float(edges.max() / edges.min()), repeats)
        if best is None or key < best:
            best = key
    if best is None or best[0] > _MOST_ERROR or len(structure) > most_atoms:
        mixtures = ", ".join(str(species) for species in list(groups)[:3])
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


def _make_whole(structure: Any) -> None:
    """Round the shares of every mixture so that its sites hold whole atoms."""
    for species, count in _groups(structure).items():
        shares = {s: round(share * count) / count for s, share in species.items()}
        kept = {s: share for s, share in shares.items() if share > 0}
        for k, site in enumerate(structure):
            if site.species == species:
                structure[k] = kept


def _ordered(structure: Any) -> tuple[Any, str]:
    """The best ordering that is found, and how it was judged."""
    from pymatgen.transformations.standard_transformations import (
        OrderDisorderedStructureTransformation,
    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        charged = structure.copy()
        how = "the lowest in the Ewald sum of guessed charges"
        try:
            charged.add_oxidation_state_by_guess()
            charges: FloatArray = np.array(
                [getattr(s, "oxi_state", 0) or 0 for site in charged for s in site.species]
            )
            if not charges.any():
                raise ValueError("no charges")
        except Exception:  # of mixtures that pymatgen finds no charges for
            charged = structure.copy()
            charged.add_oxidation_state_by_element({str(e): 0 for e in charged.composition})
            how = "an arbitrary one, for want of charges"
        algorithm = OrderDisorderedStructureTransformation.ALGO_FAST
        found: Any = OrderDisorderedStructureTransformation(algo=algorithm).apply_transformation(
            charged
        )
        found.remove_oxidation_states()
    return found, how
