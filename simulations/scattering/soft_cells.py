"""Meshes of the zone that are finer where modes are soft.

A mode of energy E scatters like ``(2 n + 1) / E``, at high temperature ``1 / E^2``: a few cells of
a regular mesh, about Gamma, soft branches and the rims of pockets, carry most of the spectrum and
nearly all of its error.

The rim of a pocket is thinner than any cell. Judged by their centres, cells that hide a piece of it
stay whole and those that show it are averaged away, so that every mesh is too low there. Cells are
judged by the whole range of their squared energies instead, and where that is wide, the soft modes
of a cell have the energies of 8 points in it, of 64 where it reaches the floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulations.arrays import FloatArray, IntArray
from simulations.dynamics import ForceConstantModel
from simulations.reciprocal import ZonePoints
from simulations.scattering.one_phonon import bose
from simulations.scattering.pockets import STABLE_MEV, Pockets

_LARGEST_SHARE = 2.0  # of the spectrum in a cell, over that of the average cell of the mesh
_LEVELS = 6  # times that a cell may be split
_RANGE = (np.arange(16) + 0.5) / 16  # of the squared energies in a cell, from its lowest on
_BATCH = 2_000_000  # complex numbers held at a time
_STEEP = 1.5  # highest over lowest squared energy of a mode that changes much in a cell
_LOWEST = 12  # modes that are looked for among
_CELLS = 200  # at a rim, looked into together
_INSIDE = np.array(list(product((-0.375, -0.125, 0.125, 0.375), repeat=3)))  # of a cell's sides
_QUARTERS = np.array(list(product((-0.25, 0.25), repeat=3)))  # of a cell's sides, from its centre


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SplitCells(ZonePoints):
    """A split mesh, and what is in those of its cells where soft modes change much.

    Places of their centres in `q_cart`, (R,), and energies of their lowest modes at points inside,
    (R, points, m) meV, negative where imaginary; once for 64 points, once for 8.
    """

    inner: tuple[tuple[IntArray, FloatArray], ...]


def split_soft_cells(
    model: ForceConstantModel,
    zone: ZonePoints,
    temperature_K: float,
    phi: ArrayLike | None = None,
    pockets: Pockets | None = None,
) -> ZonePoints:
    """Split the cells of a regular mesh in eight until none holds much of the spectrum.

    All cells split once are the mesh of twice the divisions. Points that symmetry keeps in place
    get children that are images of each other; those are all listed.

    Parameters
    ----------
    model : ForceConstantModel
    zone : ZonePoints
        A shifted `irreducible_mesh`.
    temperature_K : float
    phi : (K,) float64 or None
        Free parameters, eV/angstrom^2; None: the reference.
    pockets : Pockets or None
        Energies count at least as its floor.

    Returns
    -------
    ZonePoints
        With the divisions of the regular mesh; `SplitCells` beside pockets.
    """
    if zone.divisions is None:
        raise ValueError("zone has no divisions; expected a mesh of irreducible_mesh")
    cell = model.crystal.reciprocal / np.array(zone.divisions)[:, None]
    floor = STABLE_MEV if pockets is None else pockets.floor_meV

    def parts_of(points: FloatArray, level: int) -> FloatArray:
        """Centres of the eight parts of each cell of a level, (q, 8, 3)."""
        return points[:, None] + _QUARTERS @ cell / 2**level

    def judged(points: FloatArray, level: int) -> tuple[FloatArray, FloatArray]:
        """Strength of cells, (q,) 1/meV, and lowest squared energies in their parts, (q, 8, m)."""
        if pockets is None:
            squared = _squared(model, phi, points)
            return _strength(squared, temperature_K, floor), squared[:, None, :0]
        squared = _squared(model, phi, parts_of(points, level).reshape(-1, 3))
        squared = squared.reshape(len(points), len(_QUARTERS), -1)
        low, high = _ends(squared)
        out = np.zeros(len(points))
        for share in _RANGE:
            there = low + share * (high - low)
            out += _strength(there, temperature_K, floor, damped=pockets.damped) / len(_RANGE)
        return out, squared[:, :, :_LOWEST]

    q, weights = zone.q_cart, zone.weights
    strength, parts = judged(q, 0)
    largest = _LARGEST_SHARE * float(weights @ strength / weights.sum())
    whole: list[tuple[FloatArray, FloatArray, FloatArray, FloatArray]] = []

    def keep(kept: NDArray[np.bool_], level: int) -> None:
        grain = np.full(int(kept.sum()), 0.5**level)
        whole.append((q[kept], weights[kept], parts[kept], grain))

    for level in range(_LEVELS + 1):
        soft = (strength > largest * 8**level) & (level < _LEVELS)
        keep(~soft, level)
        if not np.any(soft):
            break
        q = parts_of(q[soft], level).reshape(-1, 3)
        weights = np.repeat(weights[soft] / 8, 8)
        strength, parts = judged(q, level + 1)
    q, weights, parts, grain = (np.concatenate(arrays) for arrays in zip(*whole, strict=True))
    if pockets is None:
        return ZonePoints(q_cart=q, weights=weights, divisions=zone.divisions)
    low, high = _ends(parts)
    at_rim: NDArray[np.bool_] = np.less(low, floor**2)
    hard = ~np.any(at_rim, axis=1, keepdims=True)
    steep: NDArray[np.bool_] = (high > _STEEP * low) & hard
    rim, near = (np.flatnonzero(where.any(axis=1)) for where in (at_rim, steep))
    lowest = int(at_rim.sum(axis=1).max(initial=0))
    inside = np.empty((len(rim), len(_INSIDE), lowest))
    for start in range(0, len(rim), _CELLS):
        these = rim[start : start + _CELLS]
        points = q[these, None] + grain[these, None, None] * (_INSIDE @ cell)
        squared = _squared(model, phi, points.reshape(-1, 3))[:, :lowest]
        inside[start : start + _CELLS] = squared.reshape(len(these), len(_INSIDE), lowest)
    around = parts[near]
    inner = tuple(
        (places, np.sign(squared) * np.sqrt(np.abs(squared)))
        for places, squared in ((rim, inside), (near, around))
    )
    return SplitCells(q_cart=q, weights=weights, divisions=zone.divisions, inner=inner)


def _ends(parts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest value in cells, (q, n), from those at the centres of their parts."""
    mean = parts.mean(axis=1)  # the parts' centres reach half as far as the cell
    return 2 * parts.min(axis=1) - mean, 2 * parts.max(axis=1) - mean


def _squared(model: ForceConstantModel, phi: ArrayLike | None, q_cart: FloatArray) -> FloatArray:
    """Squared energies, (q, n) meV^2, ascending."""
    out = np.empty((len(q_cart), model.n_modes))
    step = max(1, _BATCH // model.n_modes**2)
    for start in range(0, len(q_cart), step):
        part = slice(start, start + step)
        out[part] = np.linalg.eigvalsh(model.dynamical_matrices(q_cart[part], phi))
    return out


def _strength(
    squared: FloatArray, temperature_K: float, floor_meV: float, *, damped: bool = True
) -> FloatArray:
    """Sum of ``(2 n + 1) / E`` over the modes, (q,) 1/meV; imaginary ones by their modulus."""
    size = np.maximum(np.sqrt(np.abs(squared)), floor_meV)
    out = (2 * bose(size, temperature_K) + 1) / size
    return np.sum(out if damped else np.where(squared > 0, out, 0.0), axis=1)
