"""Which tube a point of reciprocal space belongs to, after all symmetry images.

A grid over one primitive reciprocal cell. Its points are integers over ``divisions``, which every
Laue operation maps onto each other, so the assignment is exactly symmetric: a whole orbit goes to
its image nearest to the path. Near Gamma, where acoustic energies change fastest for their size, a
*voxel* is one such representative; elsewhere it joins those of a block of 2 x 2 x 2 grid points.
Several voxels make a path bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray, IntArray
from simulations.crystal import Crystal, laue_rotations
from simulations.errors import InputError
from simulations.kernels import njit
from simulations.reciprocal import Path

MOST_POINTS = 3e8  # of the grid, around one segment: several GB
FINE_RADIUS_RLU = 0.2  # about Gamma: voxels of half the edge


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VoxelMap:
    """Grid look-up from primitive reciprocal coordinates to voxels of the path's tubes."""

    divisions: IntArray  # (3,) grid points per primitive reciprocal vector
    voxel: NDArray[np.int32]  # divisions-shaped; -1 outside every tube
    operation: NDArray[np.int16]  # divisions-shaped; the operation that carries the point
    operation_fractional: IntArray  # (ops, 3, 3): f' = f @ M, primitive reciprocal coordinates
    operation_cartesian: FloatArray  # (ops, 3, 3): Q' = R @ Q
    centre_fractional: FloatArray  # (voxels, 3) primitive reciprocal coordinates
    centre_cartesian: FloatArray  # (voxels, 3) 1/angstrom
    distance: FloatArray  # (voxels,) from the path, 1/angstrom
    path_bin: IntArray  # (voxels,)
    n_path_bins: int

    @property
    def n_voxels(self) -> int:
        """Number of voxels in all tubes."""
        return len(self.path_bin)

    @property
    def tube_fraction(self) -> float:
        """Share of the reciprocal cell that lies in a tube."""
        return float(np.mean(self.voxel >= 0))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MergedVoxels:
    """Voxels joined into larger ones of the same path bin, for coarse and fast work."""

    group: IntArray  # (fine voxels,) merged voxel that each fine one joins
    offset: FloatArray  # (fine voxels, 3) fine centre minus merged centre, 1/angstrom
    centre_cartesian: FloatArray  # (voxels, 3) 1/angstrom
    path_bin: IntArray  # (voxels,)
    n_path_bins: int

    @property
    def n_voxels(self) -> int:
        """Number of merged voxels."""
        return len(self.path_bin)


def merge_voxels(voxels: VoxelMap, edge_inverse_A: float) -> MergedVoxels:
    """Join the voxels of each path bin that lie in one block of the given edge, 1/angstrom."""
    block = np.floor(voxels.centre_cartesian / edge_inverse_A + 0.5).astype(np.int64)
    key = np.concatenate([voxels.path_bin[:, None], block], axis=1)
    unique, group = np.unique(key, axis=0, return_inverse=True)
    group = group.ravel()
    size = np.bincount(group)
    centre = np.stack(
        [np.bincount(group, weights=c) / size for c in voxels.centre_cartesian.T], axis=1
    )
    return MergedVoxels(
        group=group,
        offset=voxels.centre_cartesian - centre[group],
        centre_cartesian=centre,
        path_bin=unique[:, 0],
        n_path_bins=voxels.n_path_bins,
    )


def grid_divisions(crystal: Crystal, fractional: IntArray, step: float) -> IntArray:
    """Grid points per axis, equal on axes that an operation mixes; step in 1/angstrom."""
    lengths = np.linalg.norm(crystal.reciprocal, axis=1)
    wanted = np.ceil(lengths / step).astype(int)
    mixed = np.any(fractional != 0, axis=0)
    for _ in range(3):
        for i, j in product(range(3), repeat=2):
            if mixed[i, j] or mixed[j, i]:
                wanted[i] = wanted[j] = max(wanted[i], wanted[j])
    return wanted


def build_voxel_map(
    crystal: Crystal, path: Path, *, half_width_rlu: float, voxel_rlu: float = 0.025
) -> VoxelMap:
    """Assign every grid point of the primitive reciprocal cell to a voxel or to none.

    Parameters
    ----------
    crystal : Crystal
        Gives the cell and the Laue group.
    path : Path
        In r.l.u. of the conventional cell.
    half_width_rlu : float
        Radius of the round tubes. One r.l.u. counts as the geometric mean of the conventional
        reciprocal lengths, so that tubes stay round in non-cubic crystals.
    voxel_rlu : float
        Largest edge of a voxel, same unit; half of it within ``FINE_RADIUS_RLU`` of Gamma.

    Returns
    -------
    VoxelMap

    Raises
    ------
    ValueError
        If a width is not positive or no grid point lies in a tube.
    """
    if not half_width_rlu > 0 or not voxel_rlu > 0:
        raise InputError(
            f"path.half_width_rlu is {half_width_rlu} and path.voxel_rlu is {voxel_rlu}; "
            "expected positive numbers"
        )
    conventional = crystal.conventional_reciprocal
    unit = float(np.prod(np.linalg.norm(conventional, axis=1)) ** (1 / 3))
    radius = half_width_rlu * unit
    reciprocal = crystal.reciprocal
    to_fractional = np.linalg.inv(reciprocal)
    _, cartesian = laue_rotations(crystal)
    fractional = np.rint(np.einsum("ia,oba,bj->oij", reciprocal, cartesian, to_fractional)).astype(
        np.int64
    )
    n = grid_divisions(crystal, fractional, 0.5 * voxel_rlu * unit)

    points, distances, bins = _points_near_path(
        path.start_hkl @ conventional, path.end_hkl @ conventional, path, radius, reciprocal, n
    )
    if len(points) == 0:
        raise InputError(
            f"path.half_width_rlu is {half_width_rlu} with path.voxel_rlu {voxel_rlu}: no grid "
            "point lies in a tube. Use a finer voxel or a wider tube."
        )
    order = np.lexsort((*points.T[::-1], bins, np.round(distances, 9)))
    inverse = np.array([np.rint(np.linalg.inv(m)).astype(np.int64) for m in fractional])
    voxel, operation, kept = _assign(points, order, inverse, n)
    centre = points[kept] / n
    near_gamma = centre - np.rint(centre)
    fine = np.linalg.norm(near_gamma @ reciprocal, axis=1) < FINE_RADIUS_RLU * unit
    block = np.where(fine[:, None], points[kept], 2 * (points[kept] // 2))
    key = np.concatenate([bins[kept][:, None], fine[:, None], block], axis=1)
    _, first, joined = np.unique(key, axis=0, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # keep the order of the representatives
    joined = rank[joined.ravel()]
    size = np.bincount(joined)
    centre = np.stack([np.bincount(joined, weights=c) / size for c in centre.T], axis=1)
    kept = kept[np.sort(first)]
    voxel = np.where(voxel >= 0, joined[np.maximum(voxel, 0)], -1).astype(np.int32)
    return VoxelMap(
        divisions=n,
        voxel=voxel,
        operation=operation,
        operation_fractional=fractional,
        operation_cartesian=cartesian,
        centre_fractional=centre,
        centre_cartesian=centre @ reciprocal,
        distance=distances[kept],
        path_bin=bins[kept],
        n_path_bins=path.n_bins,
    )


def _points_near_path(
    starts: FloatArray,
    ends: FloatArray,
    path: Path,
    radius: float,
    reciprocal: FloatArray,
    n: IntArray,
) -> tuple[IntArray, FloatArray, IntArray]:
    """Grid points within ``radius`` of a segment: integers (P, 3), distances and path bins."""
    cell = reciprocal / n[:, None]
    to_grid = np.linalg.inv(cell)
    reach = np.linalg.norm(to_grid, axis=0) * radius
    points, distances, numbers = [], [], []
    segments = zip(starts, ends, path.bins, path.first_bin, strict=True)
    for number_of_segment, (a, b, bins, first) in enumerate(segments):
        ends_grid = np.stack([a, b]) @ to_grid
        low = np.floor(ends_grid.min(0) - reach).astype(int)
        high = np.ceil(ends_grid.max(0) + reach).astype(int)
        around = float(np.prod(high - low + 1.0))
        if around > MOST_POINTS:
            start, end = (
                ", ".join(f"{x:g}" for x in ends_hkl[number_of_segment])
                for ends_hkl in (path.start_hkl, path.end_hkl)
            )
            raise InputError(
                f"path.points: the segment {'-'.join(path.labels[number_of_segment])} from hkl "
                f"[{start}] to [{end}] has {around:.1e} grid points around it; expected at most "
                f"{MOST_POINTS:.0e}. All q are folded into one cell, so name equivalent points "
                "near each other, or widen path.voxel_rlu."
            )
        grid = np.stack(
            np.meshgrid(
                *[np.arange(i, j + 1) for i, j in zip(low, high, strict=True)], indexing="ij"
            ),
            axis=-1,
        ).reshape(-1, 3)
        q = grid @ cell
        along = b - a
        t = (q - a) @ along / (along @ along)
        inside = np.clip(t, 0, 1)
        distance = np.linalg.norm(q - a - inside[:, None] * along, axis=1)
        near = distance <= radius * (1 + 1e-9)
        number = first + np.minimum((inside * bins + 1e-9).astype(int), bins - 1)
        points.append(grid[near])
        distances.append(distance[near])
        numbers.append(number[near])
    all_points, distance = np.concatenate(points).astype(np.int64), np.concatenate(distances)
    if len(all_points) == 0:
        return all_points, distance, np.zeros(0, dtype=np.int64)
    low = all_points.min(axis=0)
    box = np.ravel_multi_index(tuple((all_points - low).T), tuple(np.ptp(all_points, axis=0) + 1))
    best = _nearest(np.unique(box, return_inverse=True)[1], distance)
    return all_points[best], distance[best], np.concatenate(numbers)[best].astype(np.int64)


@njit(cache=True)
def _nearest(point, distance):
    """Of equal points, the one nearest to its segment; of equally near ones the earliest."""
    best = np.full(point.max() + 1, -1, dtype=np.int64)
    for i in range(len(point)):
        known = best[point[i]]
        if known < 0 or distance[i] < distance[known] - 1e-9:
            best[point[i]] = i
    return best


@njit(cache=True)
def _assign(points, order, inverse, n):
    """Give the whole orbit of each point, nearest to the path first, to that point.

    Voxel and operation of every grid point, and the points chosen.
    """
    voxel = np.full((n[0], n[1], n[2]), -1, dtype=np.int32)
    operation = np.zeros((n[0], n[1], n[2]), dtype=np.int16)
    chosen = np.empty(len(order), dtype=np.int64)
    count = 0
    at = np.empty(3, dtype=np.int64)
    for k in order:
        p = points[k]
        if voxel[p[0] % n[0], p[1] % n[1], p[2] % n[2]] >= 0:
            continue
        # p = image @ M[o]: the operation o carries its image back to p. Axes that mix have equal
        # divisions, so the integer matrices act on the integer coordinates. The last of several
        # operations stays.
        for o in range(len(inverse)):
            for j in range(3):
                image = p[0] * inverse[o, 0, j] + p[1] * inverse[o, 1, j] + p[2] * inverse[o, 2, j]
                at[j] = image % n[j]
            voxel[at[0], at[1], at[2]] = count
            operation[at[0], at[1], at[2]] = o
        chosen[count] = k
        count += 1
    return voxel, operation, chosen[:count].copy()
