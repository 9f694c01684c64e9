"""Which supercell the forces or force constants of a file belong to, as far as physics can tell.

A FORCE_SETS or FORCE_CONSTANTS numbers the atoms of a supercell and does not say which one. In a
wrong supercell of as many atoms, neighbours are taken for strangers: the force constants then do
not obey Phi_ij = Phi_ji^T, nor the space group, and forces do not fall off with distance.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulations.arrays import FloatArray, IntArray
from simulations.crystal import quiet_spglib
from simulations.errors import InputError

LARGEST_RESIDUAL = 0.2
"""Force constants that break symmetry by this share of their norm belong to another supercell."""
CLEAR = 5.0
"""One supercell is told from another where its residual is this many times smaller."""
CLEAR_REACH = 1.1
"""The same for the mean distance of forces, where symmetry cannot tell."""
_TRIED = 6
_ROWS = 12
_FLOOR = 1e-4
"""Residuals below this are rounding."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GivenForces:
    """What a file without a supercell holds: displacements with forces, or force constants."""

    name: str  # of the file
    n_atoms: int  # in the supercell
    dataset: dict[str, Any] | None = None  # phonopy's, one displaced atom each
    constants: FloatArray | None = None  # (rows, n_atoms, 3, 3) eV/angstrom^2
    rows: IntArray | None = None  # (rows,) supercell atoms of the rows

    def weights(self) -> list[tuple[int, FloatArray]]:
        """Squared forces on all atoms by displaced atom; the displaced atom's own left out."""
        found = []
        if self.constants is not None and self.rows is not None:
            for row, block in zip(self.rows, self.constants, strict=True):
                found.append((int(row), np.sum(block**2, axis=(1, 2))))
        elif self.dataset is not None:
            for move in self.dataset["first_atoms"]:
                found.append((int(move["number"]), np.sum(np.square(move["forces"]), axis=1)))
        for atom, weight in found:
            weight[atom] = 0.0
        return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tried:
    """How well a supercell fits."""

    matrix: IntArray  # (3, 3)
    reach_A: float  # mean distance of squared forces from the displaced atom
    residual: float = np.inf  # share of force constants that breaks symmetry; inf: cannot be made
    why: str = ""

    @property
    def words(self) -> str:
        """As people write it."""
        return supercell_words(self.matrix)


def supercell_words(matrix: IntArray) -> str:
    """Return 2 x 2 x 1, or all nine numbers."""
    if np.count_nonzero(matrix - np.diag(np.diagonal(matrix))) == 0:
        return " x ".join(str(int(n)) for n in np.diagonal(matrix))
    return str(np.asarray(matrix).tolist())


def as_matrix(supercell: Any) -> IntArray:
    """Three or nine whole numbers as a (3, 3) matrix, columns as in phonopy.

    Raises
    ------
    InputError
        If they are something else.
    """
    try:
        numbers = np.asarray(supercell, dtype=float)
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if numbers.size not in (3, 9) or not np.isfinite(numbers).all():
        raise InputError(f"supercell is {supercell}; expected three or nine whole numbers")
    matrix = np.diag(numbers.ravel()) if numbers.size == 3 else numbers.reshape(3, 3)
    whole = np.rint(matrix).astype(np.int64)
    if np.abs(matrix - whole).max() > 1e-6 or round(abs(float(np.linalg.det(whole)))) < 1:
        raise InputError(f"supercell is {supercell}; expected whole numbers that span a cell")
    return whole


def checked_supercell(
    cell: Any, forces: GivenForces, matrix: IntArray | None, symprec_A: float
) -> tuple[IntArray, str]:
    """Supercell of given forces: inferred, or a given one held against them.

    Parameters
    ----------
    cell : phonopy.structure.atoms.PhonopyAtoms
        Unit cell of the structure.
    forces : GivenForces
    matrix : (3, 3) int64 or None
        Given supercell; None: infer a diagonal one.
    symprec_A : float
        Symmetry tolerance of phonopy, angstrom.

    Returns
    -------
    matrix : (3, 3) int64
    words : str
        What was compared.

    Raises
    ------
    InputError
        If the number of atoms does not fit, another supercell fits clearly better, or none can be
        told to be the right one.
    """
    ask = (
        "Give the supercell (--supercell 2,2,1; sample.supercell in an experiment), or the "
        "phonopy_disp.yaml in place of the structure"
    )
    count, rest = divmod(forces.n_atoms, len(cell))
    if matrix is not None and round(abs(float(np.linalg.det(matrix)))) * len(cell) != (
        forces.n_atoms
    ):
        raise InputError(
            f"force constants: supercell {supercell_words(matrix)} of {len(cell)} atoms has "
            f"{round(abs(float(np.linalg.det(matrix)))) * len(cell)} atoms, but {forces.name} is "
            f"for {forces.n_atoms}; expected both to agree. {ask}"
        )
    if rest:
        raise InputError(
            f"force constants: {forces.name} is for {forces.n_atoms} atoms, which is no multiple "
            f"of the structure's {len(cell)}; expected the cell that was displaced. {ask}"
        )
    tried = _tried(cell, forces, count, matrix, symprec_A)
    if matrix is None:
        return _inferred(tried, forces, ask)
    return _held(tried, forces, matrix, ask)


def _inferred(tried: list[Tried], forces: GivenForces, ask: str) -> tuple[IntArray, str]:
    best, others = tried[0], tried[1:]
    fits = best.residual <= LARGEST_RESIDUAL
    if fits and not others:
        return best.matrix, (
            f"supercell {best.words}, the only one of {forces.n_atoms} atoms without shear; force "
            f"constants symmetric to {100 * best.residual:.2g} %"
        )
    if fits and others[0].residual >= CLEAR * max(best.residual, _FLOOR):
        return best.matrix, (
            f"supercell {best.words} inferred from {forces.name}: force constants are symmetric to "
            f"{100 * best.residual:.2g} %, {_told(others[0])}"
        )
    alike = [t for t in tried if t.residual < CLEAR * max(best.residual, _FLOOR)]
    alike.sort(key=lambda t: t.reach_A)
    if fits and alike[1].reach_A >= CLEAR_REACH * alike[0].reach_A:
        return alike[0].matrix, (
            f"supercell {alike[0].words} inferred from {forces.name}: forces reach "
            f"{alike[0].reach_A:.3g} angstrom in the mean, {alike[1].reach_A:.3g} in "
            f"{alike[1].words}; symmetry tells the two apart no better"
        )
    seen = "; ".join(f"{t.words}: {_residual_words(t)}" for t in tried[:4])
    raise InputError(
        f"force constants: the supercell of {forces.name} ({forces.n_atoms} atoms) cannot be "
        f"inferred from the forces ({seen}). {ask}"
    )


def _held(
    tried: list[Tried], forces: GivenForces, matrix: IntArray, ask: str
) -> tuple[IntArray, str]:
    mine = next(t for t in tried if np.array_equal(t.matrix, matrix))
    others = [t for t in tried if t is not mine]
    best = min(others, key=lambda t: (t.residual, t.reach_A), default=None)
    better = best is not None and mine.residual > CLEAR * max(best.residual, _FLOOR)
    alike = [t for t in others if t.residual < CLEAR * max(mine.residual, _FLOOR)]
    nearer = min(alike, key=lambda t: t.reach_A, default=None)
    if best is not None and better:
        raise InputError(
            f"force constants: {forces.name} does not belong to the supercell {mine.words}: "
            f"{_residual_words(mine)}, but {_residual_words(best)} in {best.words} of as many "
            f"atoms. {ask}"
        )
    if nearer is not None and mine.reach_A > CLEAR_REACH * nearer.reach_A:
        raise InputError(
            f"force constants: {forces.name} does not seem to belong to the supercell "
            f"{mine.words}: forces reach {mine.reach_A:.3g} angstrom in the mean, but "
            f"{nearer.reach_A:.3g} in {nearer.words} of as many atoms, and symmetry tells the two "
            f"apart no better. {ask}"
        )
    if not mine.residual <= LARGEST_RESIDUAL:
        raise InputError(
            f"force constants: {forces.name} does not belong to the supercell {mine.words}: "
            f"{_residual_words(mine)}. Correct structure or supercell, or give the "
            "phonopy_disp.yaml in place of the structure"
        )
    told = f"supercell {mine.words} as given; force constants are symmetric to "
    told += f"{100 * mine.residual:.2g} %"
    return matrix, told + (f", {_told(best)}" if best is not None else "")


def _residual_words(tried: Tried) -> str:
    if np.isfinite(tried.residual):
        return f"force constants break their symmetry by {100 * tried.residual:.2g} %"
    return f"phonopy makes no force constants ({tried.why})"


def _told(other: Tried) -> str:
    if np.isfinite(other.residual):
        return f"and to {100 * other.residual:.2g} % in {other.words}, the next of as many atoms"
    return f"and phonopy makes none in {other.words}, the next of as many atoms"


def _tried(
    cell: Any, forces: GivenForces, count: int, matrix: IntArray | None, symprec_A: float
) -> list[Tried]:
    """Supercells whose forces fall off fastest, and a given one, those that fit best first."""
    matrices = [np.diag(n).astype(np.int64) for n in _factors(count)]
    if matrix is not None and not any(np.array_equal(m, matrix) for m in matrices):
        matrices.append(np.asarray(matrix))
    weights = forces.weights()
    found = [Tried(matrix=m, reach_A=_reach(cell, m, weights)) for m in matrices]
    found.sort(key=lambda t: t.reach_A)
    kept = [
        t
        for k, t in enumerate(found)
        if k < _TRIED or (matrix is not None and np.array_equal(t.matrix, matrix))
    ]
    measured = [_measured(cell, forces, t, symprec_A) for t in kept]
    return sorted(measured, key=lambda t: (t.residual, t.reach_A))


def _factors(count: int) -> list[tuple[int, int, int]]:
    return [
        (a, b, count // a // b)
        for a in range(1, count + 1)
        if count % a == 0
        for b in range(1, count // a + 1)
        if (count // a) % b == 0
    ]


def _reach(cell: Any, matrix: IntArray, weights: Sequence[tuple[int, FloatArray]]) -> float:
    from phonopy.structure.cells import get_supercell

    supercell = get_supercell(cell, matrix)
    x, lattice = supercell.scaled_positions, supercell.cell
    images = np.stack(np.meshgrid(*([[-1, 0, 1]] * 3), indexing="ij"), axis=-1).reshape(-1, 3)
    total = far = 0.0
    for atom, weight in weights:
        step = x - x[atom]
        step -= np.rint(step)
        distance = np.linalg.norm((step[:, None] + images) @ lattice, axis=-1).min(axis=1)
        far += float(weight @ distance)
        total += float(weight.sum())
    return far / total if total > 0 else 0.0


def _measured(cell: Any, forces: GivenForces, tried: Tried, symprec_A: float) -> Tried:
    from phonopy import Phonopy

    try:
        with quiet_spglib(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if forces.dataset is not None:
                phonon: Any = Phonopy(
                    cell, tried.matrix, primitive_matrix="auto", symprec=symprec_A, log_level=0
                )
                phonon.dataset = forces.dataset
                phonon.produce_force_constants(calculate_full_force_constants=True)
                residual = asymmetry(np.asarray(phonon.force_constants))
            else:
                phonon, full = with_constants(cell, tried.matrix, forces, symprec_A)
                residual = max(asymmetry(full), _broken_symmetry(phonon, full))
    except Exception as error:  # phonopy raises many kinds
        return Tried(matrix=tried.matrix, reach_A=tried.reach_A, why=str(error).split(". ")[0])
    return Tried(matrix=tried.matrix, reach_A=tried.reach_A, residual=residual)


def asymmetry(constants: FloatArray) -> float:
    """Norm of Phi_ij - Phi_ji^T over that of Phi, for full constants (n, n, 3, 3)."""
    difference = constants - constants.transpose(1, 0, 3, 2)
    return float(np.linalg.norm(difference) / max(np.linalg.norm(constants), 1e-300))


def _broken_symmetry(phonon: Any, full: FloatArray) -> float:
    """Norm of R Phi R^T - Phi of the images, over that of Phi, for one operation per rotation."""
    symmetry = phonon.symmetry
    operations = symmetry.symmetry_operations
    lattice = phonon.supercell.cell.T
    permutations = symmetry.atomic_permutations
    rotations = np.asarray(operations["rotations"])
    _, chosen = np.unique(rotations, axis=0, return_index=True)
    pure = np.flatnonzero(np.all(rotations == np.eye(3), axis=(1, 2)))[:8]
    atoms = np.unique(np.linspace(0, len(full) - 1, _ROWS).astype(int))
    block = full[atoms]
    total = broken = 0.0
    for g in np.unique(np.concatenate([chosen, pure])):
        turn = lattice @ rotations[g] @ np.linalg.inv(lattice)
        to = permutations[g]
        image = full[to[atoms]][:, to]
        turned = np.einsum("ac,bd,ijcd->ijab", turn, turn, block, optimize=True)
        broken += float(np.sum((image - turned) ** 2))
        total += float(np.sum(block**2))
    return float(np.sqrt(broken / max(total, 1e-300)))


def with_constants(
    cell: Any, matrix: IntArray, forces: GivenForces, symprec_A: float, first: Any = "auto"
) -> tuple[Any, FloatArray]:
    """Phonopy object and full force constants of a file with full or compact ones.

    ``first`` is the centring (or primitive matrix) that is tried before all others.

    Raises
    ------
    InputError
        If the rows of the file are those of no primitive cell.
    """
    from phonopy import Phonopy
    from phonopy.harmonic.force_constants import compact_fc_to_full_fc

    if forces.constants is None or forces.rows is None:
        raise InputError(f"force constants: {forces.name} holds none")
    if len(forces.rows) == forces.n_atoms:
        phonon: Any = Phonopy(cell, matrix, primitive_matrix="auto", symprec=symprec_A, log_level=0)
        order = np.argsort(forces.rows)
        return phonon, np.asarray(forces.constants)[order]
    for centring in (first, "P", "F", "I", "A", "C", "R"):
        try:
            phonon = Phonopy(
                cell, matrix, primitive_matrix=centring, symprec=symprec_A, log_level=0
            )
        except Exception:  # noqa: S112 (a centring that the cell does not have)
            continue
        p2s = list(phonon.primitive.p2s_map)
        if sorted(p2s) == sorted(int(r) for r in forces.rows):
            place = {int(r): k for k, r in enumerate(forces.rows)}
            compact = np.array(forces.constants[[place[int(p)] for p in p2s]], order="C")
            return phonon, np.asarray(compact_fc_to_full_fc(phonon.primitive, compact))
    raise InputError(
        f"force constants: {forces.name} has rows for atoms "
        f"{[int(r) + 1 for r in forces.rows[:6]]} of the supercell {supercell_words(matrix)}, "
        "which are those of no primitive cell; expected full constants, or one row per primitive "
        "atom"
    )
