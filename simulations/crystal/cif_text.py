"""A CIF read for what it means: one block, its sites under the operators of its own setting.

The result is a plain CIF that lists every operator and every number, so that no parser has to
guess, and what was decided on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulations.arrays import FloatArray
from simulations.crystal.cif_blocks import CifBlock, block_with_atoms, cif_number
from simulations.crystal.cif_sites import (
    Placed,
    Site,
    checked_formula,
    cif_sites,
    formula_errors,
    formula_of,
    placed,
)
from simulations.crystal.cif_symmetry import OPERATORS, Operators, operator_candidates
from simulations.crystal.symmetry import refuse_unreal
from simulations.errors import InputError

_FEW = 300  # atoms that are compared in two settings


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainCif:
    """A CIF that leaves nothing open."""

    text: str
    isotopes: dict[str, str]  # by the label of the site in the text
    notes: tuple[str, ...]  # what was decided, for the user


def plain_cif(text: str) -> PlainCif:
    """Read a CIF and write it plainly.

    Parameters
    ----------
    text : str

    Raises
    ------
    InputError
        Naming what is wrong in it, what was expected and what to do.
    """
    block, told = block_with_atoms(text)
    lengths, angles = _cell(block)
    lattice = _lattice(lengths, angles)
    sites, of_sites = cif_sites(block)
    candidates, of_group = operator_candidates(block, lattice)
    operators, found, of_setting = _decided(block, sites, candidates, lattice)
    if found.overlap is not None:
        raise InputError(found.overlap)
    told += (*of_sites, *of_group, *of_setting)
    if found.moved_A > 1e-3:
        told += (
            f"sites were moved by up to {found.moved_A:.2g} angstrom onto the special positions "
            f"that their digits round: {', '.join(found.moved[:5])}",
        )
    told += checked_formula(block, found.composition)
    if block.value("_cell_modulation_dimension") not in (None, "0"):
        told += ("the structure is modulated: its average was taken",)
    written, isotopes = _written(lengths, angles, operators, found.sites)
    return PlainCif(text=written, isotopes=isotopes, notes=told)


_SYSTEM_LENGTHS = {"cubic": "aaa", "tetragonal": "aac", "hexagonal": "aac", "trigonal": "aac",
                   "rhombohedral": "aaa"}  # fmt: skip


def _cell(block: CifBlock) -> tuple[FloatArray, FloatArray]:
    """Lengths and angles; those that the crystal system fixes may be left out."""
    system = block.value("_symmetry_cell_setting", "_space_group_crystal_system") or ""
    same = _SYSTEM_LENGTHS.get(system.strip().lower(), "abc")
    lengths: list[float] = []
    for axis, of in zip("abc", same, strict=True):
        given = block.value(f"_cell_length_{axis}") or block.value(f"_cell_length_{of}")
        number = cif_number(given or "")
        if number is None or not 0 < number[0] < 1e5:
            said = "missing" if given is None else given
            raise InputError(
                f"structure: _cell_length_{axis} is {said}; expected a positive length in "
                "angstrom. Correct the cell."
            )
        lengths.append(number[0])
    angles: list[float] = []
    for name in ("alpha", "beta", "gamma"):
        given = block.value(f"_cell_angle_{name}")
        usual = "120" if name == "gamma" and system.strip().lower() == "hexagonal" else "90"
        number = cif_number(given or usual)
        if number is None or not 0 < number[0] < 180:
            raise InputError(
                f"structure: _cell_angle_{name} is {given}; expected more than 0 and less than 180 "
                "degrees. Correct the cell."
            )
        angles.append(number[0])
    return np.array(lengths), np.array(angles)


def _lattice(lengths: FloatArray, angles: FloatArray) -> FloatArray:
    cosines = np.cos(np.radians(angles))
    cosines = np.where(np.abs(cosines) < 1e-15, 0.0, cosines)
    metric = np.outer(lengths, lengths)
    for i, j, k in ((1, 2, 0), (0, 2, 1), (0, 1, 2)):
        metric[i, j] = metric[j, i] = metric[i, j] * cosines[k]
    try:
        lattice = np.asarray(np.linalg.cholesky(metric), dtype=np.float64)
        refuse_unreal(lattice, np.zeros((1, 3)))
    except (np.linalg.LinAlgError, InputError) as error:
        why = f" ({error})" if isinstance(error, InputError) else ""
        raise InputError(
            f"structure: no cell has the angles {', '.join(f'{a:g}' for a in angles)} degrees and "
            f"the lengths {', '.join(f'{v:g}' for v in lengths)} angstrom{why}; expected a cell "
            "with a volume. Correct it."
        ) from error
    return lattice


def _decided(
    block: CifBlock,
    sites: Sequence[Site],
    candidates: Sequence[Operators],
    lattice: FloatArray,
) -> tuple[Operators, Placed, tuple[str, ...]]:
    """The candidate that the sites are meant in, with what it makes of them.

    Raises
    ------
    InputError
        If several make a sane structure, and different ones.
    """
    tried = [(each, placed(sites, each, lattice)) for each in candidates]
    if len(tried) == 1:
        return *tried[0], ()
    sane = [(each, found) for each, found in tried if found.overlap is None] or tried[:1]
    agreeing = [(each, found) for each, found in sane if _agrees(block, found)] or sane
    fewest = min(found.atoms for _, found in agreeing)
    best = [(each, found) for each, found in agreeing if found.atoms == fewest]
    best = [pair for pair in best if pair[0].usual] or best
    chosen, found = best[0]
    other = next((each for each, f in best[1:] if not _same(found, f, lattice)), None)
    if other is not None:
        raise InputError(
            f"structure: the CIF leaves open whether its sites belong to {chosen.words} or to "
            f"{other.words}, and both make {fewest} atoms; expected the setting. Write it in "
            f"the name, such as 'P b n m' or 'F d -3 m :2', or list the operators as {OPERATORS}."
        )
    unlike = [(each, f) for each, f in tried if each is not chosen and not _same(found, f, lattice)]
    if not unlike:
        return chosen, found, ()
    each, f = unlike[0]
    told = (
        f"the CIF does not say in which setting of the space group its sites are: {chosen.words} "
        f"was taken, where they make {found.atoms} atoms ({f.atoms} in {each.words})",
    )
    return chosen, found, told


def _agrees(block: CifBlock, found: Placed) -> bool:
    """Whether formula and multiplicities of a block are those that operators make."""
    formula = formula_of(block)
    if formula is not None:
        off = max(formula_errors(formula, found.composition).values())
        cells = cif_number(block.value("_cell_formula_units_z") or "")
        total = sum(found.composition.values())
        if off > 0.1 or (
            cells is not None and abs(total / max(cells[0], 1) / sum(formula.values()) - 1) > 0.1
        ):
            return False
    return all(
        site.multiplicity in (None, len(images))
        for site, images in zip(found.sites, found.images, strict=True)
    )


def _same(one: Placed, other: Placed, lattice: FloatArray) -> bool:
    """Whether two settings make the same crystal of sites: the same distances between them."""
    if one.atoms != other.atoms or one.atoms > _FEW:
        return False
    spectra = []
    for each in (one, other):
        x = np.concatenate(each.images)
        names = [s.element for s, i in zip(each.sites, each.images, strict=True) for _ in i]
        kinds = np.unique(names, return_inverse=True)[1]
        step = x[:, None] - x[None]
        step -= np.rint(step)
        cells = np.stack(np.meshgrid(*([[-1, 0, 1]] * 3), indexing="ij"), axis=-1).reshape(-1, 3)
        length = np.full(step.shape[:2], np.inf)
        for cell in cells:
            length = np.minimum(length, np.linalg.norm((step + cell) @ lattice, axis=-1))
        pair = kinds[:, None] * (kinds.max() + 1) + kinds[None]
        order = np.lexsort((length.ravel(), pair.ravel()))
        spectra.append((pair.ravel()[order], length.ravel()[order]))
    (pairs, lengths), (others, theirs) = spectra
    return bool(np.array_equal(pairs, others) and np.allclose(lengths, theirs, atol=5e-3))


def _written(
    lengths: FloatArray, angles: FloatArray, operators: Operators, sites: Sequence[Site]
) -> tuple[str, dict[str, str]]:
    lines = ["data_plain"]
    lines += [f"_cell_length_{axis} {v:.12g}" for axis, v in zip("abc", lengths, strict=True)]
    names = ("alpha", "beta", "gamma")
    lines += [f"_cell_angle_{name} {v:.12g}" for name, v in zip(names, angles, strict=True)]
    lines += ["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{xyz}'" for xyz in operators.xyz)]
    lines += ["loop_", *(f"_atom_site_{name}" for name in ("label", "type_symbol"))]
    lines += [f"_atom_site_fract_{axis}" for axis in "xyz"] + ["_atom_site_occupancy"]
    isotopes: dict[str, str] = {}
    for k, site in enumerate(sites):
        label = f"{site.element}site{k}"
        if site.isotope is not None:
            label = f"{site.element}isotope{k}"
            isotopes[label] = site.isotope
        x = " ".join(f"{v:.14g}" for v in site.position)
        lines.append(f"{label} {site.element} {x} {site.occupancy:.12g}")
    return "\n".join(lines) + "\n", isotopes
