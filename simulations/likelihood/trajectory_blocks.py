"""Modes that come close or cross between points of the zone grid, diagonalised anew, compiled.

A block is a range of modes. Its Hermitian matrix and its new modes have their real and imaginary
parts apart, so that whole rows are computed at once; columns of both count from its first mode.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from simulations.kernels import njit

_FAST = {"contract", "reassoc", "nsz", "arcp"}


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def fill_block(mixing, r, step, here, start, stop, matrix, turned):
    """Matrix (2, size, size) of a block a step from grid point ``r``, and modes not yet turned.

    Of ``turned`` (2, n, n) the rows ``start:stop`` are filled. ``mixing`` (points, n, 3, 2, n) are
    couplings, ``here`` E^2 of the modes by themselves.
    """
    size = stop - start
    for i in range(size):
        for part in range(2):
            for m in range(i + 1, size):
                j = np.uint64(start + m)
                matrix[part, i, m] = (
                    mixing[r, start + i, 0, part, j] * step[0]
                    + mixing[r, start + i, 1, part, j] * step[1]
                    + mixing[r, start + i, 2, part, j] * step[2]
                )
            for m in range(size):
                turned[part, start + i, m] = 0.0
        for m in range(i + 1, size):
            matrix[0, m, i] = matrix[0, i, m]
            matrix[1, m, i] = -matrix[1, i, m]
        matrix[0, i, i] = here[start + i]
        matrix[1, i, i] = 0.0
        turned[0, start + i, i] = 1.0


@njit(cache=True, forceinline=True, error_model="numpy", fastmath=_FAST)
def rotation(half):
    """Tangent and cosine that part two levels; half of their distance, over their coupling."""
    tangent = 1.0 / (abs(half) + sqrt(half * half + 1.0))
    if half < 0:
        tangent = -tangent
    return tangent, 1.0 / sqrt(tangent * tangent + 1.0)


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def diagonalise(matrix, turned, start, size):
    """Jacobi rotations of the Hermitian ``matrix[:, :size, :size]``.

    To a relative 1e-6 of the couplings, which is far below what was left out of the matrix. New
    modes are the rows from ``start`` of ``turned`` (2, n, n): how much of each mode is in them.
    """
    scale = 0.0
    for i in range(size):
        for j in range(i + 1, size):
            scale = max(scale, matrix[0, i, j] ** 2 + matrix[1, i, j] ** 2)
    least = 1e-12 * scale
    for _ in range(12):
        rest = 0.0
        for i in range(size):
            for j in range(i + 1, size):
                square = matrix[0, i, j] ** 2 + matrix[1, i, j] ** 2
                if square <= least or square == 0.0:
                    continue
                rest = max(rest, square)
                coupling = sqrt(square)
                re, im = matrix[0, i, j] / coupling, matrix[1, i, j] / coupling
                half = 0.5 * (matrix[0, j, j] - matrix[0, i, i]) / coupling
                tangent, c = rotation(half)
                s = tangent * c
                low = matrix[0, i, i] - tangent * coupling
                high = matrix[0, j, j] + tangent * coupling
                a, b = np.uint64(start + i), np.uint64(start + j)
                for m in range(size):
                    x0, x1 = matrix[0, i, m], matrix[1, i, m]
                    y0 = matrix[0, j, m] * re - matrix[1, j, m] * im
                    y1 = matrix[0, j, m] * im + matrix[1, j, m] * re
                    matrix[0, i, m] = c * x0 - s * y0
                    matrix[1, i, m] = c * x1 - s * y1
                    matrix[0, j, m] = s * x0 + c * y0
                    matrix[1, j, m] = s * x1 + c * y1
                for m in range(size):
                    x0, x1 = turned[0, a, m], turned[1, a, m]
                    y0 = turned[0, b, m] * re + turned[1, b, m] * im
                    y1 = turned[1, b, m] * re - turned[0, b, m] * im
                    turned[0, a, m] = c * x0 - s * y0
                    turned[1, a, m] = c * x1 - s * y1
                    turned[0, b, m] = s * x0 + c * y0
                    turned[1, b, m] = s * x1 + c * y1
                for m in range(size):
                    matrix[0, m, i] = matrix[0, i, m]
                    matrix[1, m, i] = -matrix[1, i, m]
                    matrix[0, m, j] = matrix[0, j, m]
                    matrix[1, m, j] = -matrix[1, j, m]
                matrix[0, i, i], matrix[0, j, j] = low, high
                matrix[1, i, i], matrix[1, j, j] = 0.0, 0.0
                matrix[0, i, j], matrix[1, i, j] = 0.0, 0.0
                matrix[0, j, i], matrix[1, j, i] = 0.0, 0.0
        if rest == 0.0:
            return


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def turned_slope(mixing, r, step, alone, turned, i, start, stop):
    """Derivative of E^2 of new mode ``i`` of a block along a step of q.

    ``alone`` are those of the modes of grid point ``r`` by themselves.
    """
    size = stop - start
    total = 0.0
    for j in range(size):
        y0, y1 = 0.0, 0.0
        for m in range(j + 1, size):
            k = np.uint64(start + m)
            x0 = (
                mixing[r, start + j, 0, 0, k] * step[0]
                + mixing[r, start + j, 1, 0, k] * step[1]
                + mixing[r, start + j, 2, 0, k] * step[2]
            )
            x1 = (
                mixing[r, start + j, 0, 1, k] * step[0]
                + mixing[r, start + j, 1, 1, k] * step[1]
                + mixing[r, start + j, 2, 1, k] * step[2]
            )
            y0 += x0 * turned[0, i, m] - x1 * turned[1, i, m]
            y1 += x0 * turned[1, i, m] + x1 * turned[0, i, m]
        own = turned[0, i, j] ** 2 + turned[1, i, j] ** 2
        total += alone[start + j] * own + 2.0 * (turned[0, i, j] * y0 + turned[1, i, j] * y1)
    return total
