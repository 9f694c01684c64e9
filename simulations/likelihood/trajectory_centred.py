"""Compiled parts of the walk for crystals with a centre of inversion: no imaginary parts.

In the coordinates of ``Inversion`` all matrices, eigenvectors and structure amplitudes are real.
These are ``trajectory_blocks`` and ``trajectory_modes`` without what would be zero; arrays that
hold real and imaginary parts there hold real ones alone, and of room to work in the first is used.
"""

from __future__ import annotations

import numpy as np

from simulations.kernels import njit
from simulations.likelihood.trajectory_blocks import rotation
from simulations.likelihood.trajectory_modes import add_product, fill_pairs

_FAST = {"contract", "reassoc", "nsz", "arcp"}


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def fill_real_block(mixing, r, step, here, start, stop, matrix, turned):
    """``fill_block`` of ``mixing`` (points, n, 3, 1, n)."""
    size = stop - start
    for i in range(size):
        for m in range(i + 1, size):
            j = np.uint64(start + m)
            matrix[0, i, m] = (
                mixing[r, start + i, 0, 0, j] * step[0]
                + mixing[r, start + i, 1, 0, j] * step[1]
                + mixing[r, start + i, 2, 0, j] * step[2]
            )
        for m in range(size):
            turned[0, start + i, m] = 0.0
        for m in range(i + 1, size):
            matrix[0, m, i] = matrix[0, i, m]
        matrix[0, i, i] = here[start + i]
        turned[0, start + i, i] = 1.0


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def diagonalise_real(matrix, turned, start, size):
    """``diagonalise`` of the symmetric ``matrix[0, :size, :size]``."""
    scale = 0.0
    for i in range(size):
        for j in range(i + 1, size):
            scale = max(scale, matrix[0, i, j] ** 2)
    least = 1e-12 * scale
    for _ in range(12):
        rest = 0.0
        for i in range(size):
            for j in range(i + 1, size):
                coupling = matrix[0, i, j]
                square = coupling * coupling
                if square <= least or square == 0.0:
                    continue
                rest = max(rest, square)
                half = 0.5 * (matrix[0, j, j] - matrix[0, i, i]) / coupling
                tangent, c = rotation(half)
                s = tangent * c
                low = matrix[0, i, i] - tangent * coupling
                high = matrix[0, j, j] + tangent * coupling
                a, b = np.uint64(start + i), np.uint64(start + j)
                for m in range(size):
                    x, y = matrix[0, i, m], matrix[0, j, m]
                    matrix[0, i, m] = c * x - s * y
                    matrix[0, j, m] = s * x + c * y
                for m in range(size):
                    x, y = turned[0, a, m], turned[0, b, m]
                    turned[0, a, m] = c * x - s * y
                    turned[0, b, m] = s * x + c * y
                for m in range(size):
                    matrix[0, m, i] = matrix[0, i, m]
                    matrix[0, m, j] = matrix[0, j, m]
                matrix[0, i, i], matrix[0, j, j] = low, high
                matrix[0, i, j], matrix[0, j, i] = 0.0, 0.0
        if rest == 0.0:
            return


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def turned_real_slope(mixing, r, step, alone, turned, i, start, stop):
    """``turned_slope`` of ``mixing`` (points, n, 3, 1, n)."""
    size = stop - start
    total = 0.0
    for j in range(size):
        y = 0.0
        for m in range(j + 1, size):
            k = np.uint64(start + m)
            y += turned[0, i, m] * (
                mixing[r, start + j, 0, 0, k] * step[0]
                + mixing[r, start + j, 1, 0, k] * step[1]
                + mixing[r, start + j, 2, 0, k] * step[2]
            )
        total += turned[0, i, j] * (alone[start + j] * turned[0, i, j] + 2.0 * y)
    return total


@njit(cache=True, forceinline=True, error_model="numpy", fastmath=_FAST)
def project_real(
    r, d, every, amplitude, columns, mixing, met, end, turned, shape, z, room, overlap
):  # fmt: skip
    """``project``, into ``overlap[0]``."""
    n = len(shape)
    for s in range(n):
        z[0, s] = 0.0
    for i in range(0, n, 3):  # an atom
        x0, x1, x2 = amplitude[0, i], amplitude[0, i + 1], amplitude[0, i + 2]
        for s in range(n):
            z[0, s] += (
                columns[r, i, 0, s] * x0
                + columns[r, i + 1, 0, s] * x1
                + columns[r, i + 2, 0, s] * x2
            )
    d0, d1, d2 = np.float32(d[0]), np.float32(d[1]), np.float32(d[2])
    for s in range(n):
        overlap[0, s] = z[0, s]
    total = 0.0
    for at in range(met[n]):
        start = met[at]
        stop = end[start]
        far = True
        for i in range(start, stop):
            far = far and shape[i] == 0.0
        if far and not every:
            continue
        size = stop - start
        for s in range(start, stop):
            of_one = z[0, s]
            if not far:
                for i in range(n):
                    room[0, i] = z[0, i] * (
                        mixing[r, s, 0, 0, i] * d0
                        + mixing[r, s, 1, 0, i] * d1
                        + mixing[r, s, 2, 0, i] * d2
                    )
                for i in range(start, stop):  # of its own block there is none
                    room[0, i] = 0.0
                for i in range(n):
                    of_one += room[0, i]
            overlap[0, s] = of_one
        if size > 1:
            for m in range(size):
                room[0, m] = overlap[0, np.uint64(start + m)]
            for s in range(start, stop):
                a = np.float64(0.0)
                if every or shape[s] != 0.0:
                    for m in range(size):
                        a += turned[0, s, m] * room[0, m]
                overlap[0, s] = a
        for s in range(start, stop):
            total += shape[s] * overlap[0, s] ** 2
    return total


@njit(cache=True, forceinline=True, error_model="numpy", fastmath=_FAST)
def differentiate_real(
    r, common, coupling, met, end, turned, level, square, shape, by_square, overlap, factor, ket,
    pair, change,
):  # fmt: skip
    """``differentiate`` of ``coupling`` (points, n, K + 3, n); of ``pair`` the first n serve."""
    n = len(shape)
    for i in range(n):
        square[i] = level[i] * abs(level[i])
    for at in range(met[n]):
        start = met[at]
        stop = end[start]
        active = False
        for s in range(start, stop):
            if shape[s] == 0.0:
                continue
            active = True
            fill_pairs(s, common, level, square, shape, by_square, factor)
            for i in range(n):
                ket[s, 0, i] = factor[i] * overlap[0, i]
            for other in range(met[n]):
                low = met[other]
                high = end[low]
                if high > low + 1:
                    for m in range(high - low):
                        ket[s, 0, np.uint64(low + m)] = 0.0
                    for i in range(low, high):
                        x = factor[i] * overlap[0, i]
                        for m in range(high - low):
                            ket[s, 0, np.uint64(low + m)] += turned[0, i, m] * x
        if not active:
            continue
        for j in range(start, stop):
            for i in range(n):
                pair[i] = 0.0
            for s in range(start, stop):
                if shape[s] == 0.0:
                    continue
                x = np.float32(overlap[0, s])
                if stop > start + 1:
                    x = np.float32(overlap[0, s] * turned[0, s, j - start])
                for i in range(n):
                    pair[i] += x * ket[s, 0, i]
            for q in range(len(change)):
                total = np.float32(0.0)
                for i in range(n):
                    total += pair[i] * coupling[r, j, q, i]
                change[q] += total


@njit(cache=True, forceinline=True, error_model="numpy", fastmath=_FAST)
def move_real(
    r, common, d, q, f, factor, displacement, vectors, curvature, met, end, turned, shape,
    by_square, overlap, z, by_q,
):  # fmt: skip
    """``move`` with a real ``factor`` (atoms,)."""
    n = len(shape)
    for i in range(n):
        z[0, i] = 0.0
    for at in range(met[n]):
        start = met[at]
        stop = end[start]
        for s in range(start, stop):
            if shape[s] == 0.0:
                continue
            alone = stop == start + 1
            if alone:
                rate = common * by_square[s] * overlap[0, s] ** 2
                add_product(rate, curvature[r, s], d, by_q)
            for j in range(start, stop):
                x = shape[s] * overlap[0, s]
                if not alone:
                    x *= turned[0, s, j - start]
                for i in range(n):
                    z[0, i] += x * vectors[r, j, 0, i]
    for c in range(len(factor)):
        along = 0.0
        for i in range(3):
            by_q[i] += 2.0 * common * z[0, 3 * c + i] * factor[c].real
            along += 2.0 * common * z[0, 3 * c + i] * f[0, 3 * c + i]
        add_product(-along, displacement[c], q, by_q)
