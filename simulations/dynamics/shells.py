"""Shells of neighbours, what a path tells of them, and which elements are left free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import FloatArray
from simulations.dynamics.bonds import PairForceConstants
from simulations.dynamics.force_constants import ForceConstantModel, checked_q
from simulations.dynamics.symmetry_elements import independent_elements, project
from simulations.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shell:
    """One symmetry class of bonds by its representative bond."""

    label: str  # for example 1NN or 1NN Mn-O
    first: int
    second: int
    cell: tuple[int, int, int]
    vector_A: tuple[float, float, float]  # Cartesian
    length_A: float
    bonds: int  # members of the class, both directions counted, per primitive cell
    elements: dict[str, float]  # independent tensor elements, eV/angstrom^2


def shells(force_constants: PairForceConstants) -> tuple[Shell, ...]:
    """Symmetry classes of bonds by length, with their independent elements."""
    elements = independent_elements(force_constants)
    values = project(force_constants, elements)
    vectors = force_constants.vectors
    out = []
    for o, orbit in enumerate(elements.orbits):
        b = orbit.representative
        mine = values[elements.orbit_of == o]
        a, c, d = (int(n) for n in force_constants.cell[b])
        x, y, z = (float(n) for n in vectors[b])
        out.append(
            Shell(
                label=orbit.label,
                first=int(force_constants.first[b]),
                second=int(force_constants.second[b]),
                cell=(a, c, d),
                vector_A=(x, y, z),
                length_A=orbit.length_A,
                bonds=len(orbit.members),
                elements={e: float(v) for e, v in zip(orbit.elements, mine, strict=True)},
            )
        )
    return tuple(out)


# ----------------------------------------------------------------------------------- selection


def _shell_sizes(model: ForceConstantModel) -> FloatArray:
    """Root mean square of the elements of each element's shell, (elements,)."""
    shell = [name.rsplit(" ", 1)[0] for name in model.elements]
    size = {
        s: float(
            np.sqrt(
                np.mean([v**2 for v, t in zip(model.element_values, shell, strict=True) if t == s])
            )
        )
        for s in set(shell)
    }
    out = np.array([size[s] for s in shell])
    return out if out.any() else np.ones_like(out)


def _path_slopes(
    model: ForceConstantModel, q_cart: ArrayLike, scale: ArrayLike | None
) -> tuple[FloatArray, ForceConstantModel]:
    """Change of every energy of a path for a change of every element by its scale, meV."""
    from simulations.dynamics.modes import energy_gradients, modes

    full = model.with_free(model.elements)
    q = checked_q(q_cart)
    q = q[np.linalg.norm(q, axis=1) > 1e-6] if len(q) > 1 else q
    energies, vectors = modes(full, q, full.values)
    slope = energy_gradients(full, q, energies, vectors).reshape(-1, len(full.elements))
    slope = slope * np.asarray(np.abs(model.element_values) if scale is None else scale)
    return slope[np.isfinite(slope).all(axis=1)], full


def path_sensitivity(
    model: ForceConstantModel, q_cart: ArrayLike, scale: ArrayLike | None = None
) -> FloatArray:
    """How far each element moves the lines of a path: root mean square over all modes, meV.

    Parameters
    ----------
    model : ForceConstantModel
    q_cart : (Q, 3) float64
        Points of the path, 1/angstrom.
    scale : (elements,) float64, optional
        Step of each element, eV/angstrom^2; default: the size of its reference value.

    Returns
    -------
    (elements,) float64
        In the order of ``model.elements``. Elements that do the same to the lines count each by
        itself; `select_free` takes that off.
    """
    slope, _ = _path_slopes(model, q_cart, scale)
    return np.sqrt(np.mean(slope**2, axis=0))


def select_free(
    model: ForceConstantModel,
    how_many: int,
    q_cart: ArrayLike,
    scale: ArrayLike | None = None,
) -> tuple[str, ...]:
    """Names of the parameters that move the phonon energies on a path most.

    Pivoted selection: each step takes the element whose energy changes, for a change by its
    ``scale`` and after removing what the elements taken so far can mimic, have the largest sum of
    squares. Changes are weighted with the root mean square element of the shell, so that near
    shells go first where the scale would not say so.

    Parameters
    ----------
    model : ForceConstantModel
    how_many : int
        Number of names wanted.
    q_cart : (Q, 3) float64
        Points of the path, 1/angstrom.
    scale : (elements,) float64, optional
        How far each element may plausibly move, eV/angstrom^2 (the width of its prior, say);
        default: the size of its reference value.

    Returns
    -------
    tuple of str
        In the order of ``model.elements`` (near shells first).

    Raises
    ------
    ValueError
        If more names are wanted than elements exist.
    """
    if not 1 <= how_many <= len(model.elements):
        raise InputError(
            f"parameters.free is {how_many}; expected 1 to {len(model.elements)}, the number of "
            f"independent elements within {model.cutoff_A:.3f} angstrom"
        )
    slope, full = _path_slopes(model, q_cart, scale)
    slope = slope * _shell_sizes(full)
    chosen: list[int] = []
    rest = slope.copy()
    for _ in range(how_many):
        size = np.einsum("mk,mk->k", rest, rest)
        size[chosen] = -1.0
        best = int(np.argmax(size))
        chosen.append(best)
        direction = rest[:, best] / max(np.linalg.norm(rest[:, best]), 1e-300)
        rest = rest - np.outer(direction, direction @ rest)
    return tuple(full.elements[k] for k in sorted(chosen))
