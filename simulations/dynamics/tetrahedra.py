"""Linear interpolation of energies in tetrahedra: how much of every corner's mode lies in a bin.

The shares are integrals in closed form, so bins of any width are as sharp as the mesh allows.

References
----------
P. E. Bloechl, O. Jepsen and O. K. Andersen, Phys. Rev. B 49, 16223 (1994), appendix B.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray, IntArray
from simulations.kernels import njit
from simulations.reciprocal import ZoneCells


def binned_tensors(
    cells: ZoneCells, energies: FloatArray, tensors: NDArray[np.float32], edges: FloatArray
) -> FloatArray:
    """Sum over the zone of tensors of modes, binned by the interpolated energy.

    Parameters
    ----------
    cells : ZoneCells
    energies : (Q, n) float64
        At the corners, ascending in each row.
    tensors : (Q, n, components) float32
        Interpolated like the energies.
    edges : (E + 1,) float64
        Uniform; everything must lie within.

    Returns
    -------
    (components, E) float64
        The integral of every bin.
    """
    low, step, bins = float(edges[0]), float(edges[1] - edges[0]), len(edges) - 1
    spread = np.ascontiguousarray(energies)
    first, last = _windows(spread, cells.tetrahedra, low, step, bins)
    sizes = (last - first + 1).ravel()
    offsets = np.concatenate([[0], np.cumsum(np.maximum(sizes, 0))])
    shares = np.zeros(offsets[-1])
    _shares(
        spread, cells.tetrahedra, cells.volumes, low, step, bins, first, offsets, shares
    )  # fmt: skip
    out = np.zeros((bins, tensors.shape[2]))
    _collected(first, offsets, shares, np.ascontiguousarray(tensors), out)
    return out.T


@njit(cache=True)
def _windows(
    energies: FloatArray, tetrahedra: IntArray, low: float, step: float, bins: int
) -> tuple[IntArray, IntArray]:
    """First and last bin that a corner's mode reaches, (Q, n) each."""
    n_q, n = energies.shape
    first = np.full((n_q, n), bins, np.int64)
    last = np.full((n_q, n), -1, np.int64)
    for t in range(len(tetrahedra)):
        p0, p1, p2, p3 = tetrahedra[t]
        for s in range(n):
            a, b, d, e = energies[p0, s], energies[p1, s], energies[p2, s], energies[p3, s]
            i = min(max(int((min(a, b, d, e) - low) / step), 0), bins - 1)
            j = min(max(int((max(a, b, d, e) - low) / step), 0), bins - 1)
            for p in (p0, p1, p2, p3):
                first[p, s] = min(first[p, s], i)
                last[p, s] = max(last[p, s], j)
    return first, last


@njit(cache=True)
def _below(x: float, e: FloatArray, w: FloatArray) -> None:
    """Shares ``w`` (4,) of the corners below energy x; ``e`` ascends strictly, the whole is 1."""
    if x <= e[0]:
        w[:] = 0.0
    elif x >= e[3]:
        w[:] = 0.25
    elif x < e[1]:
        a, b, d = e[1] - e[0], e[2] - e[0], e[3] - e[0]
        y = x - e[0]
        c = 0.25 * y**3 / (a * b * d)
        w[1], w[2], w[3] = c * y / a, c * y / b, c * y / d
        w[0] = 4 * c - w[1] - w[2] - w[3]
    elif x < e[2]:
        e31, e41, e32, e42 = e[2] - e[0], e[3] - e[0], e[2] - e[1], e[3] - e[1]
        y1, y2, y3, y4 = x - e[0], x - e[1], e[2] - x, e[3] - x
        c1 = 0.25 * y1 * y1 / (e41 * e31)
        c2 = 0.25 * y1 * y2 * y3 / (e41 * e32 * e31)
        c3 = 0.25 * y2 * y2 * y4 / (e42 * e32 * e41)
        w[0] = c1 + (c1 + c2) * y3 / e31 + (c1 + c2 + c3) * y4 / e41
        w[1] = c1 + c2 + c3 + (c2 + c3) * y3 / e32 + c3 * y4 / e42
        w[2] = (c1 + c2) * y1 / e31 + (c2 + c3) * y2 / e32
        w[3] = (c1 + c2 + c3) * y1 / e41 + c3 * y2 / e42
    else:
        a, b, d = e[3] - e[0], e[3] - e[1], e[3] - e[2]
        y = e[3] - x
        c = 0.25 * y**3 / (a * b * d)
        w[0], w[1], w[2] = 0.25 - c * y / a, 0.25 - c * y / b, 0.25 - c * y / d
        w[3] = 0.25 - 4 * c + c * y * (1 / a + 1 / b + 1 / d)


@njit(cache=True)
def _shares(
    energies: FloatArray,
    tetrahedra: IntArray,
    volumes: FloatArray,
    low: float,
    step: float,
    bins: int,
    first: IntArray,
    offsets: IntArray,
    out: FloatArray,
) -> None:
    """Add what every corner's mode has in every bin of its window."""
    n = energies.shape[1]
    e, before, after = np.empty(4), np.empty(4), np.empty(4)
    p, base = np.empty(4, np.int64), np.empty(4, np.int64)
    for t in range(len(tetrahedra)):
        volume = volumes[t]
        for s in range(n):
            for k in range(4):
                p[k] = tetrahedra[t, k]
                e[k] = energies[p[k], s]
            for k in range(1, 4):  # ascending
                q, x, m = p[k], e[k], k
                while m > 0 and e[m - 1] > x:
                    e[m], p[m] = e[m - 1], p[m - 1]
                    m -= 1
                e[m], p[m] = x, q
            i = min(max(int((e[0] - low) / step), 0), bins - 1)
            j = min(max(int((e[3] - low) / step), 0), bins - 1)
            for k in range(1, 4):  # strictly: equal energies would divide by zero
                e[k] = max(e[k], e[k - 1] + 1e-7 * step)
            for k in range(4):
                base[k] = offsets[p[k] * n + s] - first[p[k], s]
            before[:] = 0.0
            for b in range(i, j + 1):
                if b == j:
                    after[:] = 0.25
                else:
                    _below(low + (b + 1) * step, e, after)
                for k in range(4):
                    out[base[k] + b] += (after[k] - before[k]) * volume
                    before[k] = after[k]


@njit(cache=True, fastmath=True)
def _collected(
    first: IntArray,
    offsets: IntArray,
    shares: FloatArray,
    tensors: NDArray[np.float32],
    out: FloatArray,
) -> None:
    """Add share times tensor of every corner's mode to its bins."""
    n_q, n, width = tensors.shape
    for i in range(n_q):
        for s in range(n):
            row = i * n + s
            for k in range(offsets[row + 1] - offsets[row]):
                share = shares[offsets[row] + k]
                if share != 0.0:
                    target = out[first[i, s] + k]
                    for c in range(width):
                        target[c] += share * tensors[i, s, c]
