"""Compiled walk along trajectories: modes that it meets, what they scatter, where that is counted.

What is computed once before a walk is in ``trajectory_steps``, the search for stretches in
``trajectories``.
"""

from __future__ import annotations

from math import cos, exp, pi, sin, sqrt

import numpy as np
from numba import prange

from simulations.constants import HBAR2_OVER_U
from simulations.fold import grid_index
from simulations.kernels import njit
from simulations.likelihood.trajectory_blocks import diagonalise, fill_block, turned_slope
from simulations.likelihood.trajectory_blur import blurred_width, fill_blur, most_blur_of
from simulations.likelihood.trajectory_pockets import pocket_is_near, pocket_shape, signed_root

UNIT = np.eye(3)


@njit(
    cache=True,
    forceinline=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz", "arcp"},
)
def _meet(
    r, energy, width, own_width, lowest, d, slope, blurred, blur, near, here,
    gradient, curvature, bend, reach, block_of, mixing, pockets, first, end, turned, level, shape,
    by_square, by_blur, rise, climb, own_climb, matrix,
):  # fmt: skip
    """Energies of all modes near grid point ``r`` and the shape of their lines at ``energy``.

    ``blur`` (3, 3) is the covariance of q, in the frame of the grid point, if ``blurred``: a line
    is as much wider as its branch climbs over it. ``bend`` over ``reach`` is at least what the
    others of its block add to the slope of a mode.
    ``pockets`` is (floor, damped, k_B T) of a crystal that has some, or None. Then ``level`` of
    imaginary modes is negative.

    ``here`` holds E^2 continued to first order, ``near`` which of them may have a line. Fills
    ``first`` and ``end`` of the block that each mode was turned in (a mode by itself: none was),
    ``turned`` (how modes of a block make those found here), ``level``, ``shape`` and
    ``by_square`` (derivative of the shape by the square of the energy) and ``by_blur`` (by the
    logarithm of the spread of q); the arrays after them are room to work in.
    Returns whether any line is near.
    """
    n = len(level)
    any_active = False
    for i in range(n):
        shape[i] = 0.0
        by_square[i] = 0.0
        by_blur[i] = 0.0
        first[i] = i
        end[i] = i + 1
        level[i] = sqrt(max(here[i], lowest * lowest))
    if pockets is not None:
        for i in range(n):
            level[i] = signed_root(here[i])
    stop = 0
    for one in range(n):
        if one < stop or not near[one]:
            continue
        s = block_of[r, one]
        stop = one + 1
        while stop < n and block_of[r, stop] == s:
            stop += 1
        for i in range(s, stop):
            first[i] = s
            end[i] = stop
            along0 = (
                curvature[r, i, 0] * d[0] + curvature[r, i, 5] * d[1] + curvature[r, i, 4] * d[2]
            )
            along1 = (
                curvature[r, i, 5] * d[0] + curvature[r, i, 1] * d[1] + curvature[r, i, 3] * d[2]
            )
            along2 = (
                curvature[r, i, 4] * d[0] + curvature[r, i, 3] * d[1] + curvature[r, i, 2] * d[2]
            )
            here[i] += 0.5 * (along0 * d[0] + along1 * d[1] + along2 * d[2])
            climb[0, i] = gradient[r, 0, i] + along0
            climb[1, i] = gradient[r, 1, i] + along1
            climb[2, i] = gradient[r, 2, i] + along2
            rise[i] = climb[0, i] * slope[0] + climb[1, i] * slope[1] + climb[2, i] * slope[2]
        most_width, most_own = 0.0, 0.0  # of a line of the block, times E and beyond its own
        if stop > s + 1:
            fill_block(mixing, r, d, here, s, stop, matrix, turned)
            diagonalise(matrix, turned, s, stop - s)
            steepest, highest = 0.0, 0.0
            for i in range(s, stop):
                here[i] = matrix[0, i - s, i - s]
                steepest = max(steepest, abs(rise[i]))
                length = climb[0, i] ** 2 + climb[1, i] ** 2 + climb[2, i] ** 2
                highest = max(highest, length)
                most_width = max(most_width, bend[r, i] / reach)
            highest = (sqrt(highest) + sqrt(3.0) * most_width) ** 2
            length = sqrt(slope[0] ** 2 + slope[1] ** 2 + slope[2] ** 2)
            most_width = steepest + length * most_width
            if blurred:
                most_own = 0.25 * sqrt(highest * (blur[0, 0] + blur[1, 1] + blur[2, 2]))
        for i in range(s, stop):
            line = sqrt(max(here[i], lowest * lowest))
            if stop > s + 1:
                if pockets is None:
                    level[i] = line
                    most = width * (1.0 + 0.5 / line * most_width)
                    most = most * most + own_width * own_width + most_own
                    if (energy - line) ** 2 >= 16.0 * most:
                        continue
                if blurred:
                    for c in range(3):
                        own_climb[c] = turned_slope(
                            mixing, r, UNIT[c], climb[c], turned, i, s, stop
                        )
                    steep = (
                        own_climb[0] * slope[0] + own_climb[1] * slope[1] + own_climb[2] * slope[2]
                    )
                else:
                    steep = turned_slope(mixing, r, slope, rise, turned, i, s, stop)
            else:
                steep = rise[i]
                if blurred:
                    for c in range(3):
                        own_climb[c] = climb[c, i]
            own = own_width
            if blurred:
                own = blurred_width(own_width, here[i], own_climb, blur)
            if pockets is not None:
                level[i] = signed_root(here[i])
                shape[i], by_square[i] = pocket_shape(
                    level[i], energy, width, own, lowest, steep, pockets
                )
                any_active = any_active or shape[i] != 0.0
                continue
            jac = 1.0 - 0.5 / line * steep
            level[i] = line
            # A line's own width keeps a branch that runs along the trajectory finite.
            wide = sqrt(width * width * jac * jac + own * own)
            x = (energy - line) / wide
            if abs(x) < 4.0:
                shape[i] = exp(-0.5 * x * x) / (wide * sqrt(2.0 * pi))
                by_square[i] = shape[i] * x / wide / (2.0 * line)
                more = own * own - own_width * own_width
                by_blur[i] = shape[i] * (x * x - 1.0) * more / (wide * wide)
                any_active = True
    return any_active


@njit(
    cache=True,
    forceinline=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz", "arcp"},
)
def _project(
    r, d, every, amplitude, columns, mixing, end, turned, shape, z, room, overlap
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
    total = 0.0
    start = 0
    while start < n:
        stop = end[start]
        far = True
        for i in range(start, stop):
            far = far and shape[i] == 0.0
        if far and not every:
            start = stop
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
        start = stop
    return total


@njit(
    cache=True,
    forceinline=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz", "arcp"},
)
def _differentiate(
    r, common, coupling, end, turned, level, square, shape, by_square, overlap, factor, ket, pair,
    change,
):  # fmt: skip
    """Add derivatives of a step's rate by the parameters to ``change``: divided differences.

    ``square``, ``factor`` (n,), ``ket`` (n, 2, n) and ``pair`` (2 n,) are room to work in.
    """
    n = len(shape)
    for i in range(n):
        square[i] = level[i] * abs(level[i])
    start = 0
    while start < n:
        stop = end[start]
        active = False
        for s in range(start, stop):
            if shape[s] == 0.0:
                continue
            active = True
            for i in range(n):
                close = abs(level[s] - level[i]) < 0.05
                gap = 1.0 if close else square[s] - square[i]
                apart = 2.0 * (shape[s] - shape[i]) / gap
                factor[i] = common * (by_square[s] + by_square[i] if close else apart)
            for i in range(s):  # a pair of two lines counts from one side
                factor[i] = 0.0 if shape[i] != 0.0 else factor[i]
            factor[s] = common * by_square[s]
            for i in range(n):
                ket[s, 0, i] = factor[i] * overlap[0, i]
                ket[s, 1, i] = factor[i] * overlap[1, i]
            low = 0
            while low < n:
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
                low = high
        if not active:
            start = stop
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
        start = stop


@njit(
    cache=True,
    forceinline=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz", "arcp"},
)
def _move(
    r, common, d, q, f, factor, displacement, vectors, curvature, first, end, turned, shape,
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
    for s in range(n):
        if shape[s] == 0.0:
            continue
        alone = end[s] == first[s] + 1
        if alone:
            size = overlap[0, s] ** 2 + overlap[1, s] ** 2
            rate = common * by_square[s] * size
            xx, yy, zz = curvature[r, s, 0], curvature[r, s, 1], curvature[r, s, 2]
            yz, xz, xy = curvature[r, s, 3], curvature[r, s, 4], curvature[r, s, 5]
            by_q[0] += rate * (xx * d[0] + xy * d[1] + xz * d[2])
            by_q[1] += rate * (xy * d[0] + yy * d[1] + yz * d[2])
            by_q[2] += rate * (xz * d[0] + yz * d[1] + zz * d[2])
        for j in range(first[s], end[s]):
            x, y = shape[s] * overlap[0, s], -shape[s] * overlap[1, s]
            if not alone:
                x, y = (
                    x * turned[0, s, j - first[s]] + y * turned[1, s, j - first[s]],
                    y * turned[0, s, j - first[s]] - x * turned[1, s, j - first[s]],
                )
            for i in range(n):
                z[0, i] += x * vectors[r, j, 0, i] - y * vectors[r, j, 1, i]
                z[1, i] += x * vectors[r, j, 1, i] + y * vectors[r, j, 0, i]
    for c in range(len(factor)):
        u = displacement[c]
        along = 0.0
        for i in range(3):
            x, y = z[0, 3 * c + i], z[1, 3 * c + i]
            by_q[i] += 2.0 * common * (x * factor[c].real - y * factor[c].imag)
            along += 2.0 * common * (x * f[0, 3 * c + i] - y * f[1, 3 * c + i])
        by_q[0] -= along * (u[0] * q[0] + u[5] * q[1] + u[4] * q[2])
        by_q[1] -= along * (u[5] * q[0] + u[1] * q[1] + u[3] * q[2])
        by_q[2] -= along * (u[4] * q[0] + u[3] * q[1] + u[2] * q[2])


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})
def _walk_block(
    block, stretches, rays, axis, moves, grid, zone, scatterers, line, q_blur, pockets, out,
    out_slope, out_steepness,
):  # fmt: skip
    """Walk the stretches of one block; see ``walk``."""
    exposure, first_step, start, length, cell, pixel = stretches
    direction, fractional, beam, beam_fractional = rays
    measured_edges, true, kf, weight, found, slope_of_step = axis[:6]
    spread_first, spread_last, spread, by_width, by_shift, reach = axis[6:]
    linear, beam_move, final_move, shift, blur_move = moves
    divisions, index, operation = grid[:3]
    fine_divisions, fine_radius, fine_index, fine_operation = grid[3:7]
    core_divisions, core_radius, core_index, core_operation = grid[7:11]
    op_fractional, op_cartesian, point, reciprocal = grid[11:]
    (
        off_axis,
        reach_of_cell,
        square,
        gradient,
        curvature,
        bend,
        vectors,
        columns,
        block_of,
        mixing,
        coupling,
    ) = zone
    positions, amplitude, displacement = scatterers
    thermal, own_width, lowest = line
    blurred = q_blur[0] > 0.0 or q_blur[1] > 0.0 or q_blur[2] > 0.0 or q_blur[3] > 0.0
    n_blocks = out.shape[0]
    n = square.shape[1]
    n_atoms = n // 3
    n_stretches = len(pixel)
    l0, l1, l2 = core_index.shape[0] // 2, core_index.shape[1] // 2, core_index.shape[2] // 2
    m0 = fine_index.shape[0] // 2
    m1 = fine_index.shape[1] // 2
    m2 = fine_index.shape[2] // 2
    d = np.empty(3)
    h = np.empty(3)
    slope = np.empty(3)
    q_in = np.empty(3)
    f = np.empty((2, n), dtype=np.float32)  # real and imaginary parts
    parts = np.empty((2, n), dtype=np.float32)
    shape = np.empty(n)
    by_square = np.empty(n)  # d shape / d E^2
    by_blur = np.empty(n)
    level = np.empty(n)
    overlap = np.empty((2, n))  # real and imaginary parts
    n_columns, n_moves = out_slope.shape[2], len(linear)
    n_k = coupling.shape[2] - 3 if n_columns > 0 else 0
    change = np.empty(n_k + (3 if n_moves > 0 else 0))  # by the parameters, by q
    by_q = np.empty(3)
    moved = np.empty(n_moves)
    factor = np.empty(n_atoms, dtype=np.complex128)
    # Of a stretch, in each run of steps of one cell.
    run_cell = np.empty(len(measured_edges) - 1, dtype=np.int64)
    run_stop = np.empty(len(measured_edges) - 1, dtype=np.int64)  # the step after its last one
    counted = np.empty(len(measured_edges) - 1)
    counted_slope = np.empty((len(measured_edges) - 1, n_columns))
    z = np.empty((2, n))
    ket = np.empty((n, 2, n), dtype=np.float32)  # room to work in
    pair = np.empty(2 * n, dtype=np.float32)
    square_of, each = np.empty((2, n))
    first = np.empty(n, dtype=np.int64)  # of the block that a mode is turned in
    end = np.empty(n, dtype=np.int64)
    near = np.empty(n, dtype=np.bool_)
    here = np.empty(n)  # E^2 of the modes as they are continued alone
    beyond = np.empty(n)  # how far each is from where it may have a line, meV^2
    steepest, blur, room = np.zeros(n), np.zeros((3, 3)), np.empty((3, 3))
    climb, own_climb = np.empty((3, n)), np.empty(3)  # d here / dq
    rise = np.empty(n)  # d here / d true energy, along the trajectory
    matrix, turned = np.empty((2, n, n)), np.empty((2, n, n))  # new modes in rows, block by block
    low = block * n_stretches // n_blocks
    high = (block + 1) * n_stretches // n_blocks
    for one in range(low, high):
        p = pixel[one]
        s0 = first_step[one]
        s1 = s0 + length[one]
        runs = 0
        for step in range(s0, s1):
            where = cell[start[one] + step - s0]
            if runs == 0 or run_cell[runs - 1] != where:
                run_cell[runs] = where
                counted[runs] = 0.0
                counted_slope[runs] = 0.0
                runs += 1
            run_stop[runs - 1] = step + 1
        lowest_run = 0
        t0 = np.searchsorted(true, measured_edges[s0] - reach)
        t1 = np.searchsorted(true, measured_edges[s1] + reach)
        for t in range(t0, t1):
            a = max(s0, spread_first[t])
            b = min(s1, spread_last[t])
            if a >= b:
                continue
            k = kf[t]
            f0 = beam_fractional[0] - k * fractional[p, 0]
            f1 = beam_fractional[1] - k * fractional[p, 1]
            f2 = beam_fractional[2] - k * fractional[p, 2]
            r0 = f0 - np.floor(f0 + 0.5)
            r1 = f1 - np.floor(f1 + 0.5)
            r2 = f2 - np.floor(f2 + 0.5)
            distance = 0.0
            for c in range(3):
                x = r0 * reciprocal[0, c] + r1 * reciprocal[1, c] + r2 * reciprocal[2, c]
                distance += x * x
            r = -1
            o = 0
            if distance < core_radius * core_radius:
                i0 = int(np.floor(r0 * core_divisions[0] + 0.5)) + l0
                i1 = int(np.floor(r1 * core_divisions[1] + 0.5)) + l1
                i2 = int(np.floor(r2 * core_divisions[2] + 0.5)) + l2
                r = core_index[i0, i1, i2]
                o = core_operation[i0, i1, i2]
            elif distance < fine_radius * fine_radius:
                i0 = int(np.floor(r0 * fine_divisions[0] + 0.5)) + m0
                i1 = int(np.floor(r1 * fine_divisions[1] + 0.5)) + m1
                i2 = int(np.floor(r2 * fine_divisions[2] + 0.5)) + m2
                r = fine_index[i0, i1, i2]
                o = fine_operation[i0, i1, i2]
            if r < 0:
                i0 = grid_index(f0, divisions[0])
                i1 = grid_index(f1, divisions[1])
                i2 = grid_index(f2, divisions[2])
                r = index[i0, i1, i2]
                o = operation[i0, i1, i2]
            for j in range(3):
                g = (
                    f0 * op_fractional[o, 0, j]
                    + f1 * op_fractional[o, 1, j]
                    + f2 * op_fractional[o, 2, j]
                )
                h[j] = np.floor(g - point[r, j] + 0.5)
                q_in[j] = g - h[j] - point[r, j]
            dx, dy, dz = direction[p, 0], direction[p, 1], direction[p, 2]
            for c in range(3):
                d[c] = (
                    q_in[0] * reciprocal[0, c]
                    + q_in[1] * reciprocal[1, c]
                    + q_in[2] * reciprocal[2, c]
                    - off_axis[c]
                )
                slope[c] = slope_of_step[t] * (
                    op_cartesian[o, c, 0] * dx
                    + op_cartesian[o, c, 1] * dy
                    + op_cartesian[o, c, 2] * dz
                )
            away = sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]) / reach_of_cell
            base = 8.0 * true[t] * (own_width + found[t])
            goal = true[t] * true[t]
            wide = 8.0 * found[t]
            most_blur = 0.0
            if blurred:
                most_blur = 4.0 * most_blur_of(q_blur, k, direction[p], beam)
            for s in range(n):
                here[s] = (
                    square[r, s]
                    + gradient[r, 0, s] * d[0]
                    + gradient[r, 1, s] * d[1]
                    + gradient[r, 2, s] * d[2]
                )
                steep = abs(
                    gradient[r, 0, s] * slope[0]
                    + gradient[r, 1, s] * slope[1]
                    + gradient[r, 2, s] * slope[2]
                )
                # A branch far from this energy needs no more than its tangent.
                most = away * bend[r, s]
                beyond[s] = abs(here[s] - goal) - (base + wide * (steep + most) + most)
                if blurred:
                    steepest[s] = (
                        abs(gradient[r, 0, s])
                        + abs(gradient[r, 1, s])
                        + abs(gradient[r, 2, s])
                        + 2.0 * most / reach_of_cell
                    )
                    beyond[s] -= most_blur * steepest[s]
            none = True
            for s in range(n):
                near[s] = beyond[s] <= 0.0
                if pockets is not None and not near[s]:
                    near[s] = pocket_is_near(
                        here[s], away * bend[r, s], true[t],
                        found[t] + own_width + 0.125 * most_blur * steepest[s] / true[t],
                        lowest, pockets,
                    )  # fmt: skip
                none = none and not near[s]
            if blurred and not none:
                fill_blur(q_blur, k, direction[p], beam, op_cartesian[o], room, blur)
            if none or not _meet(
                r, true[t], found[t], own_width, lowest, d, slope, blurred, blur, near, here,
                gradient, curvature, bend, reach_of_cell, block_of, mixing, pockets, first, end,
                turned, level, shape, by_square, by_blur, rise, climb, own_climb, matrix,
            ):  # fmt: skip
                continue
            qx = beam[0] - k * dx
            qy = beam[1] - k * dy
            qz = beam[2] - k * dz
            for c in range(3):
                q_in[c] = (
                    op_cartesian[o, c, 0] * qx
                    + op_cartesian[o, c, 1] * qy
                    + op_cartesian[o, c, 2] * qz
                )
            for c in range(n_atoms):
                W = 0.5 * (
                    displacement[c, 0] * q_in[0] * q_in[0]
                    + displacement[c, 1] * q_in[1] * q_in[1]
                    + displacement[c, 2] * q_in[2] * q_in[2]
                    + 2.0
                    * (
                        displacement[c, 3] * q_in[1] * q_in[2]
                        + displacement[c, 4] * q_in[0] * q_in[2]
                        + displacement[c, 5] * q_in[0] * q_in[1]
                    )
                )
                angle = (
                    2.0
                    * pi
                    * (h[0] * positions[c, 0] + h[1] * positions[c, 1] + h[2] * positions[c, 2])
                )
                factor[c] = amplitude[c] * exp(-W) * complex(cos(angle), sin(angle))
                for i in range(3):
                    f[0, 3 * c + i] = factor[c].real * q_in[i]
                    f[1, 3 * c + i] = factor[c].imag * q_in[i]
            total = _project(
                r, d, n_columns > 0, f, columns, mixing, end, turned, shape, parts, z, overlap
            )  # fmt: skip
            x = exp(-true[t] / thermal) if thermal > 0 else 0.0
            common = 0.5 * HBAR2_OVER_U / true[t] / (1.0 - x) * weight[t]
            total *= common
            if n_columns > 0:
                change[:] = 0.0
                _differentiate(
                    r, common, coupling, end, turned, level, square_of, shape, by_square, overlap,
                    each, ket, pair, change,
                )  # fmt: skip
            if n_columns > 0 and n_moves > 0:
                for c in range(3):
                    by_q[c] = change[n_k + c]
                _move(
                    r, common, d, q_in, f, factor, displacement, vectors, curvature, first,
                    end, turned, shape, by_square, overlap, z, by_q,
                )  # fmt: skip
                # From the frame of the grid point to the crystal's.
                bx = (
                    op_cartesian[o, 0, 0] * by_q[0]
                    + op_cartesian[o, 1, 0] * by_q[1]
                    + op_cartesian[o, 2, 0] * by_q[2]
                )
                by = (
                    op_cartesian[o, 0, 1] * by_q[0]
                    + op_cartesian[o, 1, 1] * by_q[1]
                    + op_cartesian[o, 2, 1] * by_q[2]
                )
                bz = (
                    op_cartesian[o, 0, 2] * by_q[0]
                    + op_cartesian[o, 1, 2] * by_q[1]
                    + op_cartesian[o, 2, 2] * by_q[2]
                )
                widened = 0.0
                for i in range(n):
                    size = overlap[0, i] ** 2 + overlap[1, i] ** 2
                    widened += common * by_blur[i] * size
                along_beam = bx * beam[0] + by * beam[1] + bz * beam[2]
                along_final = bx * dx + by * dy + bz * dz
                for g in range(n_moves):
                    A = linear[g]
                    moved[g] = (
                        bx * (A[0, 0] * qx + A[0, 1] * qy + A[0, 2] * qz)
                        + by * (A[1, 0] * qx + A[1, 1] * qy + A[1, 2] * qz)
                        + bz * (A[2, 0] * qx + A[2, 1] * qy + A[2, 2] * qz)
                        + beam_move[g] * along_beam
                        - final_move[g, t] * along_final
                        + blur_move[g] * widened
                    )
            place = spread_first[t]
            while run_stop[lowest_run] <= a:
                lowest_run += 1
            run = lowest_run
            while a < b:
                stop = min(run_stop[run], b)
                if run_cell[run] < 0:
                    a = stop
                    run += 1
                    continue
                share, share_by_width, share_by_shift = 0.0, 0.0, 0.0
                for j in range(a - place, stop - place):
                    share += spread[t, j]
                    share_by_width += by_width[t, j]
                    share_by_shift += by_shift[t, j]
                counted[run] += total * share
                if n_columns > 0:
                    for q in range(n_k):
                        counted_slope[run, q] += change[q] * share
                    counted_slope[run, n_k] += total * share_by_width
                    for g in range(n_moves):
                        counted_slope[run, n_k + 1 + g] += (
                            moved[g] * share + total * shift[g, t] * share_by_shift
                        )
                a = stop
                run += 1
        for run in range(runs):
            where = run_cell[run]
            if where >= 0:
                out[block, where] += exposure[one] * counted[run]
                for q in range(n_columns):
                    out_slope[block, where, q] += exposure[one] * counted_slope[run, q]
        if len(out_steepness) > 0:
            total = 0.0
            for run in range(runs):
                if run_cell[run] >= 0:
                    for q in range(n_k):
                        total += counted_slope[run, q] ** 2
            out_steepness[one] = exposure[one] * sqrt(total)


@njit(cache=True, parallel=True)
def walk(
    stretches, rays, axis, moves, grid, zone, scatterers, line, q_blur, pockets, out, out_slope,
    out_steepness,
):  # fmt: skip
    """Walk every stretch in true energy and spread what is found over its cells.

    Arguments are those of ``trajectory_arguments``; adds to ``out`` (blocks, cells) and
    ``out_slope`` (blocks, cells, K + 1 + G): by the parameters, the logarithm of the width and
    ``moves``; or (..., 0) for no derivatives. Fills ``out_steepness`` (stretches,), if it is not
    empty, with the size of what each adds to derivatives by the parameters. ``q_blur``: a
    ``QBlur``; ``pockets``: see ``_meet``.
    """
    for block in prange(len(out)):  # a body of its own: the compiler reads it once, not four times
        _walk_block(
            np.int64(block), stretches, rays, axis, moves, grid, zone, scatterers, line, q_blur,
            pockets, out, out_slope, out_steepness,
        )  # fmt: skip
