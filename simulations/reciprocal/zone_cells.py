"""The zone cut into cells for linear interpolation, finer and finer towards Gamma.

Acoustic energies are cones at Gamma: whatever a mesh interpolates there is wrong by its own step.
The cells around Gamma are therefore halved several times, which costs few points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulations.arrays import FloatArray, IntArray
from simulations.crystal import Crystal, laue_rotations
from simulations.reciprocal.brillouin_zone import keeps_mesh

_OFF_GAMMA = (3.1e-7, 4.3e-7, 5.9e-7)  # of a division: polar crystals have no matrix at Gamma


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ZoneCells:
    """Tetrahedra that fill the zone once, with corners up to the Laue group; equal ones merged."""

    q_cart: FloatArray  # (Q, 3) 1/angstrom
    tetrahedra: IntArray  # (T, 4) corners, into q_cart
    volumes: FloatArray  # (T,) summing to 1
    divisions: tuple[int, int, int]


def zone_cells(
    crystal: Crystal, divisions: ArrayLike, halvings: int = 3, half_width: int = 2
) -> ZoneCells:
    """Cells of a Gamma-centred mesh, each cut into six tetrahedra about its shortest diagonal.

    Parameters
    ----------
    crystal : Crystal
    divisions : (3,) int
        Along the primitive reciprocal vectors.
    halvings : int
        How often the cells around Gamma are halved.
    half_width : int
        How many cells from Gamma, each way.
    """
    a, b, c = (int(k) for k in np.asarray(divisions))
    n = np.array([a, b, c], dtype=np.int64)
    unit = 2**halvings  # integer steps of one division
    whole = n * unit
    starts = [np.stack(np.meshgrid(*(np.arange(k) for k in n), indexing="ij"), -1).reshape(-1, 3)]
    starts[0] = starts[0] * unit
    sizes = [np.full(len(starts[0]), unit)]
    half = np.minimum(half_width, n // 2)
    if halvings:
        away = (starts[0] + whole // 2) % whole - whole // 2  # nearest image of a cell's corner
        inside = np.all((away >= -half * unit) & (away < half * unit), axis=1)
        starts[0], sizes[0] = starts[0][~inside], sizes[0][~inside]
    for level in range(1, halvings + 1):
        size = unit // 2**level
        span = [np.arange(-2 * h, 2 * h) for h in half]
        box = np.stack(np.meshgrid(*span, indexing="ij"), -1).reshape(-1, 3)
        if level < halvings:
            box = box[~np.all((box >= -half) & (box < half), axis=1)]
        starts.append(box * size)
        sizes.append(np.full(len(box), size))
    start, size = np.concatenate(starts), np.concatenate(sizes)
    step = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(8, 3)
    place = (start[:, None] + step[None] * size[:, None, None]).reshape(-1, 3)
    keys = _canonical(crystal, n, place % whole, whole)
    distinct, corners = np.unique(keys, return_inverse=True)
    integer = np.stack(np.unravel_index(distinct, tuple(whole)), axis=1)
    q = integer / whole
    q = q - np.rint(q)
    q[~integer.any(axis=1)] = np.array(_OFF_GAMMA) / n
    shape = _tetrahedra(crystal.reciprocal / n[:, None])
    merged, volumes = _merged(
        corners.reshape(-1, 8)[:, shape].reshape(-1, 4),
        np.repeat((size / unit) ** 3 / float(6 * np.prod(n)), 6),
        len(q),
    )
    return ZoneCells(
        q_cart=q @ crystal.reciprocal,
        tetrahedra=merged,
        volumes=volumes,
        divisions=(a, b, c),
    )


def _merged(tetrahedra: IntArray, volumes: FloatArray, points: int) -> tuple[IntArray, FloatArray]:
    """Tetrahedra of the same corners as one of their summed volume."""
    tetrahedra = np.sort(tetrahedra, axis=1).astype(np.int64)
    if points < 55_000:  # four corners in 63 bits
        key = ((tetrahedra[:, 0] * points + tetrahedra[:, 1]) * points + tetrahedra[:, 2]) * points
        _, first, back = np.unique(key + tetrahedra[:, 3], return_index=True, return_inverse=True)
        tetrahedra = tetrahedra[first]
        sums = np.bincount(back.reshape(-1), volumes, minlength=len(first))
        volumes = np.asarray(sums, dtype=np.float64)
    return tetrahedra, volumes


def _canonical(crystal: Crystal, n: IntArray, place: IntArray, whole: IntArray) -> IntArray:
    """Return the same number for all points of a star, places being integers modulo ``whole``."""
    rotations, _ = laue_rotations(crystal)
    none = np.zeros(3, dtype=np.int64)
    found: Any = None
    distinct, back = np.unique(
        np.ravel_multi_index(tuple(place.T), tuple(whole)), return_inverse=True
    )
    points = np.stack(np.unravel_index(distinct, tuple(whole)), axis=1)
    for W in rotations:
        if not keeps_mesh(W, n, none):
            continue
        inverse = np.linalg.inv(W)
        step = np.rint(np.diag(1.0 / n) @ inverse @ np.diag(n)).astype(np.int64)
        image = (points @ step) % whole
        key = np.ravel_multi_index(tuple(image.T), tuple(whole))
        found = key if found is None else np.minimum(found, key)
    return (distinct if found is None else found)[back.reshape(-1)]


def _tetrahedra(edges: FloatArray) -> NDArray[np.int64]:
    """Six tetrahedra of a cell about its shortest diagonal; ``edges`` (3, 3) in rows."""
    signs = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    sign = signs[np.argmin(np.linalg.norm(signs @ edges, axis=1))]
    first = (sign < 0).astype(int)
    out = []
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        bits = first.copy()
        path = [bits @ [4, 2, 1]]
        for axis in order:
            bits[axis] = 1 - bits[axis]
            path.append(bits @ [4, 2, 1])
        out.append(path)
    return np.array(out, dtype=np.int64)
