"""What the modes found at a step scatter, and its derivatives: compiled parts of the walk.

Amplitudes and couplings have their real and imaginary parts apart. ``trajectory_centred`` has the
same for crystals with a centre of inversion, where there are no imaginary parts.
"""

from __future__ import annotations

import numpy as np

from simulations.kernels import njit

_FAST = {"contract", "reassoc", "nsz", "arcp"}


@njit(cache=True, forceinline=True, error_model="numpy", fastmath=_FAST)
def fill_pairs(s, common, level, square, shape, by_square, factor):
    """What the couplings of mode ``s`` with every other count for in a step's derivatives."""
    n = len(shape)
    for i in range(n):
        close = abs(level[s] - level[i]) < 0.05
        gap = 1.0 if close else square[s] - square[i]
        apart = 2.0 * (shape[s] - shape[i]) / gap
        factor[i] = common * (by_square[s] + by_square[i] if close else apart)
    for i in range(s):  # a pair of two lines counts from one side
        factor[i] = 0.0 if shape[i] != 0.0 else factor[i]
    factor[s] = common * by_square[s]


@njit(cache=True, forceinline=True, error_model="numpy", fastmath=_FAST)
def add_product(factor, tensor, vector, out):
    """Add so many times a symmetric tensor, packed xx yy zz yz xz xy, with a vector (3,)."""
    x, y, z = vector[0], vector[1], vector[2]
    out[0] += factor * (tensor[0] * x + tensor[5] * y + tensor[4] * z)
    out[1] += factor * (tensor[5] * x + tensor[1] * y + tensor[3] * z)
    out[2] += factor * (tensor[4] * x + tensor[3] * y + tensor[2] * z)


@njit(cache=True, forceinline=True, error_model="numpy", fastmath=_FAST)
def project(
    r, d, every, amplitude, columns, mixing, met, end, turned, shape, z, room, overlap
):  # fmt: skip
    """Overlap (2, n) of the structure amplitude (2, n) with the modes found at a step.

    Of all modes if ``every``, else of those with a line; returns the sum of shape x overlap^2.
    Real and imaginary parts are apart; ``z`` and ``room`` (2, n) are room to work in.
    """
    n = len(shape)
    for s in range(n):
        z[0, s] = 0.0
        z[1, s] = 0.0
    for i in range(0, n, 3):  # an atom
        x0, x1, x2 = amplitude[0, i], amplitude[0, i + 1], amplitude[0, i + 2]
        y0, y1, y2 = amplitude[1, i], amplitude[1, i + 1], amplitude[1, i + 2]
        for s in range(n):
            a0, b0 = columns[r, i, 0, s], columns[r, i, 1, s]
            a1, b1 = columns[r, i + 1, 0, s], columns[r, i + 1, 1, s]
            a2, b2 = columns[r, i + 2, 0, s], columns[r, i + 2, 1, s]
            z[0, s] += a0 * x0 - b0 * y0 + a1 * x1 - b1 * y1 + a2 * x2 - b2 * y2
            z[1, s] += a0 * y0 + b0 * x0 + a1 * y1 + b1 * x1 + a2 * y2 + b2 * x2
    d0, d1, d2 = np.float32(d[0]), np.float32(d[1]), np.float32(d[2])
    for s in range(n):
        overlap[0, s] = z[0, s]
        overlap[1, s] = z[1, s]
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
            re, im = z[0, s], z[1, s]
            if not far:
                for i in range(n):
                    x = (
                        mixing[r, s, 0, 0, i] * d0
                        + mixing[r, s, 1, 0, i] * d1
                        + mixing[r, s, 2, 0, i] * d2
                    )
                    y = (
                        mixing[r, s, 0, 1, i] * d0
                        + mixing[r, s, 1, 1, i] * d1
                        + mixing[r, s, 2, 1, i] * d2
                    )
                    room[0, i] = z[0, i] * x + z[1, i] * y
                    room[1, i] = z[1, i] * x - z[0, i] * y
                for i in range(start, stop):  # of its own block there is none
                    room[0, i] = 0.0
                    room[1, i] = 0.0
                for i in range(n):
                    re += room[0, i]
                    im += room[1, i]
            overlap[0, s] = re
            overlap[1, s] = im
        if size > 1:
            for m in range(size):
                s = np.uint64(start + m)
                room[0, m] = overlap[0, s]
                room[1, m] = overlap[1, s]
            for s in range(start, stop):
                a, b = np.float64(0.0), np.float64(0.0)
                if every or shape[s] != 0.0:
                    for m in range(size):
                        a += turned[0, s, m] * room[0, m] + turned[1, s, m] * room[1, m]
                        b += turned[0, s, m] * room[1, m] - turned[1, s, m] * room[0, m]
                overlap[0, s] = a
                overlap[1, s] = b
        for s in range(start, stop):
            total += shape[s] * (overlap[0, s] ** 2 + overlap[1, s] ** 2)
    return total


@njit(cache=True, forceinline=True, error_model="numpy", fastmath=_FAST)
def differentiate(
    r, common, coupling, met, end, turned, level, square, shape, by_square, overlap, factor, ket,
    pair, change,
):  # fmt: skip
    """Add derivatives of a step's rate by the parameters to ``change``: divided differences.

    ``square``, ``factor`` (n,), ``ket`` (n, 2, n) and ``pair`` (2 n,) are room to work in.
    """
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
                ket[s, 1, i] = factor[i] * overlap[1, i]
            for other in range(met[n]):
                low = met[other]
                high = end[low]
                if high > low + 1:
                    for m in range(high - low):
                        j = np.uint64(low + m)
                        ket[s, 0, j] = 0.0
                        ket[s, 1, j] = 0.0
                    for i in range(low, high):
                        x, y = factor[i] * overlap[0, i], factor[i] * overlap[1, i]
                        for m in range(high - low):
                            j = np.uint64(low + m)
                            ket[s, 0, j] += turned[0, i, m] * x - turned[1, i, m] * y
                            ket[s, 1, j] += turned[0, i, m] * y + turned[1, i, m] * x
        if not active:
            continue
        for j in range(start, stop):
            for i in range(2 * n):
                pair[i] = 0.0
            for s in range(start, stop):
                if shape[s] == 0.0:
                    continue
                re, im = overlap[0, s], -overlap[1, s]
                if stop > start + 1:
                    c, e = turned[0, s, j - start], turned[1, s, j - start]
                    re, im = re * c + im * e, im * c - re * e
                x, y = np.float32(re), np.float32(im)
                for i in range(n):
                    pair[i] += x * ket[s, 0, i] - y * ket[s, 1, i]
                    pair[n + i] -= x * ket[s, 1, i] + y * ket[s, 0, i]
            for q in range(len(change)):
                total = np.float32(0.0)
                for i in range(2 * n):
                    total += pair[i] * coupling[r, j, q, i]
                change[q] += total


@njit(cache=True, forceinline=True, error_model="numpy", fastmath=_FAST)
def move(
    r, common, d, q, f, factor, displacement, vectors, curvature, met, end, turned, shape,
    by_square, overlap, z, by_q,
):  # fmt: skip
    """Add to ``by_q`` (3,) what a moved Q does to a step's rate beside changing the matrix.

    ``by_q`` holds the part of the matrix's first derivatives; here come the bend of the modes, and
    the amplitude ``f`` with its polarisation and Debye-Waller factor. How modes of different blocks
    mix away from the grid point is left out of the latter. ``z`` (2, n) is room to work in.
    """
    n = len(shape)
    for i in range(n):
        z[0, i] = 0.0
        z[1, i] = 0.0
    for at in range(met[n]):
        start = met[at]
        stop = end[start]
        for s in range(start, stop):
            if shape[s] == 0.0:
                continue
            alone = stop == start + 1
            if alone:
                size = overlap[0, s] ** 2 + overlap[1, s] ** 2
                rate = common * by_square[s] * size
                add_product(rate, curvature[r, s], d, by_q)
            for j in range(start, stop):
                x, y = shape[s] * overlap[0, s], -shape[s] * overlap[1, s]
                if not alone:
                    x, y = (
                        x * turned[0, s, j - start] + y * turned[1, s, j - start],
                        y * turned[0, s, j - start] - x * turned[1, s, j - start],
                    )
                for i in range(n):
                    z[0, i] += x * vectors[r, j, 0, i] - y * vectors[r, j, 1, i]
                    z[1, i] += x * vectors[r, j, 1, i] + y * vectors[r, j, 0, i]
    for c in range(len(factor)):
        along = 0.0
        for i in range(3):
            x, y = z[0, 3 * c + i], z[1, 3 * c + i]
            by_q[i] += 2.0 * common * (x * factor[c].real - y * factor[c].imag)
            along += 2.0 * common * (x * f[0, 3 * c + i] - y * f[1, 3 * c + i])
        add_product(-along, displacement[c], q, by_q)
