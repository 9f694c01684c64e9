"""Points that sample a Brillouin zone: regular meshes up to symmetry, and quasi-random ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import spglib
from numpy.typing import ArrayLike, NDArray

from simulations.arrays import FloatArray
from simulations.crystal import Crystal, laue_rotations, quiet_spglib, space_group_operations
from simulations.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ZonePoints:
    """Points of the zone and their weights, for averages over it."""

    q_cart: FloatArray  # (Q, 3) 1/angstrom
    weights: FloatArray  # (Q,) summing to 1
    divisions: tuple[int, int, int] | None = None


def mesh_divisions(crystal: Crystal, step: float) -> tuple[int, int, int]:
    """Divisions of a mesh no coarser than ``step`` (1/angstrom) along any reciprocal vector."""
    n = np.ceil(np.linalg.norm(crystal.reciprocal, axis=1) / step).astype(int)
    a, b, c = (max(1, int(k)) for k in n)
    return a, b, c


def irreducible_mesh(
    crystal: Crystal, divisions: ArrayLike, *, shifted: bool = False
) -> ZonePoints:
    """Regular mesh, one point of every star of the Laue group.

    Parameters
    ----------
    crystal : Crystal
    divisions : int or (3,) int
        Points along the primitive reciprocal vectors.
    shifted : bool
        Move the mesh by half a step off Gamma. Symmetry is then used only as far as it keeps the
        mesh: where it does not, all points up to inversion are listed.

    Raises
    ------
    ValueError
        If a division is below 1.
    """
    n = np.broadcast_to(np.asarray(divisions, dtype=np.int64), (3,))
    if np.any(n < 1):
        raise InputError(f"mesh is {n.tolist()}; expected at least 1 division along each vector")
    rotations, _ = laue_rotations(crystal)
    shift = np.ones(3, dtype=np.int64) if shifted else np.zeros(3, dtype=np.int64)
    kept = [w for w in rotations if keeps_mesh(w, n, shift)]
    arguments: dict[str, Any] = {"is_shift": shift, "is_time_reversal": True}
    with quiet_spglib():
        found: Any = spglib.get_stabilized_reciprocal_mesh(n, np.array(kept, "intc"), **arguments)
    mapping, grid = found
    index, counts = np.unique(mapping, return_counts=True)
    q = (np.asarray(grid)[index] + 0.5 * shift) / n
    q = q - np.rint(q)
    a, b, c = (int(k) for k in n)
    return ZonePoints(
        q_cart=q @ crystal.reciprocal, weights=counts / counts.sum(), divisions=(a, b, c)
    )


def keeps_mesh(W: NDArray[np.int64], n: NDArray[np.int64], shift: NDArray[np.int64]) -> bool:
    """Tell whether an operation maps a mesh ``(k + shift/2) / n`` onto itself.

    Fractional q (a row) goes to ``q @ W^-1``.
    """
    inverse = np.rint(np.linalg.inv(W)).astype(np.int64)
    step = np.diag(1.0 / n) @ inverse @ np.diag(n)  # images of mesh steps, in mesh steps
    if np.abs(step - np.rint(step)).max() > 1e-9:
        return False
    corner = 0.5 * shift @ step - 0.5 * shift
    return bool(np.abs(corner - np.rint(corner)).max() < 1e-9)


def quasi_random_points(crystal: Crystal, count: int) -> ZonePoints:
    """Low-discrepancy points that avoid all symmetry elements; each stands for its whole star.

    Parameters
    ----------
    crystal : Crystal
    count : int
        Number of points.

    References
    ----------
    The Kronecker sequence of the generalised golden ratio g, ``g**4 = g + 1``.
    """
    g = 1.2207440846057596
    x = (0.5 + np.arange(1, count + 1)[:, None] * g ** -np.arange(1.0, 4.0)) % 1.0
    return ZonePoints(
        q_cart=(x - np.rint(x)) @ crystal.reciprocal, weights=np.full(count, 1.0 / count)
    )


def symmetrised_site_tensors(crystal: Crystal, tensors: FloatArray) -> FloatArray:
    """Average site tensors over the space group.

    Parameters
    ----------
    crystal : Crystal
    tensors : (..., atoms, 3, 3) float64
        Sum over an irreducible mesh.

    Returns
    -------
    (..., atoms, 3, 3) float64
        What the sum over the whole mesh would give.
    """
    group = space_group_operations(crystal)
    out = np.zeros_like(tensors)
    for R, target in zip(group.cartesian, group.permutation, strict=True):
        out[..., target, :, :] += R @ tensors @ R.T
    return out / len(group)
