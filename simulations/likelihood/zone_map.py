"""The whole Brillouin zone on a grid, reduced by symmetry: where to look up modes at any q.

Grids of one primitive reciprocal cell, all through Gamma: one of the whole cell, a finer one of a
sphere about Gamma, where acoustic energies change fastest for their size, and for polar crystals a
third one of a small sphere: their dynamical matrix has a limit at Gamma that depends on direction,
so that modes cannot be continued farther than about half their distance from Gamma. Points are
integers over ``divisions``, which every Laue operation maps onto each other, so that one
representative stands for its orbit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray, IntArray
from simulations.crystal import Crystal, laue_rotations
from simulations.fold import grid_divisions
from simulations.kernels import njit

FINE_RADIUS_RLU = 0.1
WARM_FINE_RADIUS_RLU = 0.2  # where thermal acoustic modes carry most of the counts
WARM_FROM_K = 100.0
FINE_FACTOR = 3
CORE_RADIUS_RLU = 0.025  # of polar crystals; beyond it the fine grid continues to 0.2 meV
CORE_FACTOR = 12  # what is left lies within 0.004 r.l.u. of Gamma


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ZoneMap:
    """Grid look-up from primitive reciprocal coordinates to representative points.

    A point ``q`` belongs to the representative of its nearest grid point: ``q @ M - H`` of its
    operation lies next to ``fractional[index]``.
    """

    divisions: IntArray  # (3,) of the grid of the whole cell
    index: NDArray[np.int32]  # divisions-shaped
    operation: NDArray[np.int16]  # divisions-shaped
    fine_divisions: IntArray  # (3,)
    fine_radius: float  # 1/angstrom about Gamma
    fine_index: NDArray[np.int32]  # box of (2 m + 1) points per axis about Gamma; -1 outside
    fine_operation: NDArray[np.int16]
    core_divisions: IntArray  # (3,)
    core_radius: float  # 1/angstrom about Gamma; 0 where the crystal is not polar
    core_index: NDArray[np.int32]  # as fine_index
    core_operation: NDArray[np.int16]
    operation_fractional: IntArray  # (ops, 3, 3): f' = f @ M
    operation_cartesian: FloatArray  # (ops, 3, 3): Q' = R @ Q
    fractional: FloatArray  # (points, 3) representatives, primitive reciprocal coordinates
    cartesian: FloatArray  # (points, 3) 1/angstrom

    reach: float  # 1/angstrom; half of a coarse cell's longest diagonal

    @property
    def n_points(self) -> int:
        """Number of representatives."""
        return len(self.fractional)


def build_zone_map(
    crystal: Crystal,
    *,
    step_rlu: float,
    temperature_K: float = 0.0,
    polar: bool = False,
    near_gamma: int = 1,
) -> ZoneMap:
    """Reduce a grid of the zone by the Laue group.

    Parameters
    ----------
    crystal : Crystal
    step_rlu : float
        Largest distance of grid points along the primitive reciprocal vectors; one r.l.u. counts as
        the geometric mean of the conventional reciprocal lengths.
    temperature_K : float
        Warm crystals get the finer grid farther out, to where acoustic modes leave the elastic
        line.
    polar : bool
        Whether the crystal has dipoles, and needs a still finer grid next to Gamma.
    near_gamma : int
        The grids about Gamma are so many times finer than they go with ``step_rlu``.

    Returns
    -------
    ZoneMap
    """
    conventional = crystal.conventional_reciprocal
    unit = float(np.prod(np.linalg.norm(conventional, axis=1)) ** (1 / 3))
    reciprocal = crystal.reciprocal
    _, cartesian = laue_rotations(crystal)
    fractional = np.rint(
        np.einsum("ia,oba,bj->oij", reciprocal, cartesian, np.linalg.inv(reciprocal))
    ).astype(np.int64)
    n = grid_divisions(crystal, fractional, step_rlu * unit)
    fine = FINE_FACTOR * near_gamma * n
    radius = unit * (FINE_RADIUS_RLU if temperature_K < WARM_FROM_K else WARM_FINE_RADIUS_RLU)
    # Whatever lies in the sphere must find a neighbour: the box is wider by one step.
    reach = np.linalg.norm(np.linalg.inv(reciprocal / fine[:, None]), axis=0)
    m = np.ceil(reach * (radius + np.linalg.norm(reciprocal / fine[:, None], axis=1).max())).astype(
        np.int64
    )
    undone = _undone_by(fractional)
    index, operation, chosen = _orbits(np.zeros(3, dtype=np.int64), n, n, fractional, undone)
    fine_index, fine_operation, fine_chosen = _orbits(
        -m, 2 * m + 1, np.zeros(3, dtype=np.int64), fractional, undone
    )
    fine_index, fine_chosen = _within(fine_index, fine_chosen, reciprocal / fine[:, None], radius)
    core = CORE_FACTOR * near_gamma * n
    core_radius = unit * CORE_RADIUS_RLU if polar else 0.0
    wide = np.linalg.norm(np.linalg.inv(reciprocal / core[:, None]), axis=0)
    k = np.ceil(
        wide * (core_radius + np.linalg.norm(reciprocal / core[:, None], axis=1).max())
    ).astype(np.int64)
    k *= polar
    core_index, core_operation, core_chosen = _orbits(
        -k, 2 * k + 1, np.zeros(3, dtype=np.int64), fractional, undone
    )
    if not polar:
        core_index[:], core_chosen = -1, core_chosen[:0]
    core_index, core_chosen = _within(
        core_index, core_chosen, reciprocal / core[:, None], core_radius
    )
    before = len(chosen) + len(fine_chosen)
    points = np.concatenate([chosen / n, fine_chosen / fine, core_chosen / core])
    return ZoneMap(
        divisions=n,
        index=index,
        operation=operation,
        fine_divisions=fine,
        fine_radius=radius,
        fine_index=np.where(fine_index >= 0, fine_index + len(chosen), -1).astype(np.int32),
        fine_operation=fine_operation,
        core_divisions=core,
        core_radius=core_radius,
        core_index=np.where(core_index >= 0, core_index + before, -1).astype(np.int32),
        core_operation=core_operation,
        operation_fractional=fractional,
        operation_cartesian=cartesian,
        fractional=points,
        cartesian=points @ reciprocal,
        reach=_half_diagonal(reciprocal / n[:, None]),
    )


def _half_diagonal(steps: FloatArray) -> float:
    """Half of the longest diagonal of a cell of three steps (3, 3), 1/angstrom."""
    corners = np.array(list(product((-1, 1), repeat=3)))
    return 0.5 * float(np.linalg.norm(corners @ steps, axis=1).max())


def _within(
    index: NDArray[np.int32], chosen: IntArray, steps: FloatArray, radius: float
) -> tuple[NDArray[np.int32], IntArray]:
    """Only those representatives (points, 3) that a point of the sphere may be nearest to."""
    far = np.linalg.norm(chosen @ steps, axis=1) > radius + _half_diagonal(steps)
    place = np.append(np.where(far, -1, np.cumsum(~far) - 1), -1)  # the last is for -1 itself
    return place[index].astype(np.int32), chosen[~far]


def _undone_by(matrices: IntArray) -> IntArray:
    """Number of the operation that undoes each operation, (ops,)."""
    inverse = np.rint(np.linalg.inv(matrices)).astype(np.int64)
    same = np.all(inverse[:, None] == matrices[None, :], axis=(2, 3))
    return np.argmax(same, axis=1)


@njit(cache=True)
def _orbits(low, shape, period, matrices, undone):
    """Representative and operation of every integer point of a box.

    With ``period`` zero nothing wraps, and points one of whose images leaves the box get -1.
    """
    n0, n1, n2 = shape
    index = np.full((n0, n1, n2), -1, dtype=np.int32)
    operation = np.zeros((n0, n1, n2), dtype=np.int16)
    chosen = np.empty((n0 * n1 * n2, 3), dtype=np.int64)
    count = 0
    image = np.empty(3, dtype=np.int64)
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                if index[i, j, k] >= 0:
                    continue
                inside = True
                for o in range(len(matrices)):
                    for a in range(3):
                        image[a] = (
                            (i + low[0]) * matrices[o, 0, a]
                            + (j + low[1]) * matrices[o, 1, a]
                            + (k + low[2]) * matrices[o, 2, a]
                        )
                        if period[a] > 0:
                            image[a] = image[a] % period[a]
                        image[a] -= low[a]
                        if image[a] < 0 or image[a] >= shape[a]:
                            inside = False
                if not inside:
                    continue
                chosen[count, 0] = i + low[0]
                chosen[count, 1] = j + low[1]
                chosen[count, 2] = k + low[2]
                # p = representative @ M[o] belongs to the operation that undoes it.
                for o in range(len(matrices) - 1, -1, -1):
                    for a in range(3):
                        image[a] = (
                            (i + low[0]) * matrices[o, 0, a]
                            + (j + low[1]) * matrices[o, 1, a]
                            + (k + low[2]) * matrices[o, 2, a]
                        )
                        if period[a] > 0:
                            image[a] = image[a] % period[a]
                        image[a] -= low[a]
                    index[image[0], image[1], image[2]] = count
                    operation[image[0], image[1], image[2]] = undone[o]
                count += 1
    return index, operation, chosen[:count]
