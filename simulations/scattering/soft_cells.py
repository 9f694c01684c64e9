"""Meshes of the zone that are finer where modes are soft.

A mode of energy E scatters like ``(2 n + 1) / E``, at high temperature ``1 / E^2``: a few cells of
a regular mesh, about Gamma, soft branches and the rims of pockets, carry most of the spectrum and
nearly all of its error.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import FloatArray
from simulations.dynamics import ForceConstantModel
from simulations.reciprocal import ZonePoints
from simulations.scattering.one_phonon import bose
from simulations.scattering.pockets import STABLE_MEV, Pockets

_LARGEST_SHARE = 2.0  # of the spectrum in a cell, over that of the average cell of the mesh
_LEVELS = 6  # times that a cell may be split
_BATCH = 2_000_000  # complex numbers held at a time


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
        With the divisions of the regular mesh.
    """
    if zone.divisions is None:
        raise ValueError("zone has no divisions; expected a mesh of irreducible_mesh")
    cell = model.crystal.reciprocal / np.array(zone.divisions)[:, None]
    corners = np.array(list(product((-0.25, 0.25), repeat=3)))
    floor = STABLE_MEV if pockets is None else pockets.floor_meV
    q, weights = zone.q_cart, zone.weights
    strength = _strength(model, phi, q, temperature_K, floor)
    largest = _LARGEST_SHARE * float(weights @ strength / weights.sum())
    whole: list[tuple[FloatArray, FloatArray]] = []
    for level in range(_LEVELS):
        soft = strength > largest * 8**level
        whole.append((q[~soft], weights[~soft]))
        q = (q[soft][:, None] + corners @ cell / 2**level).reshape(-1, 3)
        weights = np.repeat(weights[soft] / 8, 8)
        if not len(q):
            break
        strength = _strength(model, phi, q, temperature_K, floor)
    whole.append((q, weights))
    return ZonePoints(
        q_cart=np.concatenate([points for points, _ in whole]),
        weights=np.concatenate([shares for _, shares in whole]),
        divisions=zone.divisions,
    )


def _strength(
    model: ForceConstantModel,
    phi: ArrayLike | None,
    q_cart: FloatArray,
    temperature_K: float,
    floor_meV: float,
) -> FloatArray:
    """Sum of ``(2 n + 1) / E`` over the modes, (q,) 1/meV; imaginary ones by their modulus."""
    out = np.empty(len(q_cart))
    step = max(1, _BATCH // model.n_modes**2)
    for start in range(0, len(q_cart), step):
        part = slice(start, start + step)
        squared = np.linalg.eigvalsh(model.dynamical_matrices(q_cart[part], phi))
        size = np.maximum(np.sqrt(np.abs(squared)), floor_meV)
        out[part] = np.sum((2 * bose(size, temperature_K) + 1) / size, axis=1)
    return out
