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
from simulations.likelihood.trajectory_blur import (
    blurred_width,
    climb_of_block,
    fill_blur,
    mixed,
    most_blur_of,
)
from simulations.likelihood.trajectory_pockets import pocket_is_near, pocket_shape, signed_root


@njit(cache=True, error_model="numpy")
def diagonalise(matrix, turn, start, stop):
    """Jacobi rotations of the Hermitian ``matrix[start:stop, start:stop]``, gathered in ``turn``.

    To a relative 1e-6 of the couplings, which is far below what was left out of the matrix.
    """
    scale = 0.0
    for i in range(start, stop):
        for j in range(i + 1, stop):
            scale = max(scale, abs(matrix[i, j]))
    for _ in range(12):
        rest = 0.0
        for i in range(start, stop):
            for j in range(i + 1, stop):
                size = abs(matrix[i, j])
                if size <= 1e-6 * scale or size == 0.0:
                    continue
                rest = max(rest, size)
                phase = matrix[i, j] / size
                half = 0.5 * (matrix[j, j].real - matrix[i, i].real) / size
                tangent = 1.0 / (abs(half) + sqrt(half * half + 1.0))
                if half < 0:
                    tangent = -tangent
                c = 1.0 / sqrt(tangent * tangent + 1.0)
                s = tangent * c
                for m in range(start, stop):
                    x = matrix[m, i]
                    y = matrix[m, j] * phase.conjugate()
                    matrix[m, i] = c * x - s * y
                    matrix[m, j] = s * x + c * y
                    x = turn[m, i]
                    y = turn[m, j] * phase.conjugate()
                    turn[m, i] = c * x - s * y
                    turn[m, j] = s * x + c * y
                for m in range(start, stop):
                    x = matrix[i, m]
                    y = matrix[j, m] * phase
                    matrix[i, m] = c * x - s * y
                    matrix[j, m] = s * x + c * y
        if rest == 0.0:
            return


@njit(
    cache=True,
    forceinline=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz", "arcp"},
)
def _meet(
    r, energy, width, own_width, lowest, d, slope, blurred, blur, near, here,
    gradient, curvature, block_of, mixing, pockets, end, turn, level, shape, by_square,
    by_blur, rise, climb, side, hermitian,
):  # fmt: skip
    """Energies of all modes near grid point ``r`` and the shape of their lines at ``energy``.

    ``blur`` (3, 3) is the covariance of q, in the frame of the grid point, if ``blurred``: a line
    is as much wider as its branch climbs over it.
    ``pockets`` is (floor, damped, k_B T) of a crystal that has some, or None. Then ``level`` of
    imaginary modes is negative.

    ``here`` holds E^2 continued to first order, ``near`` which of them may have a line. Fills
    ``end`` and ``turn`` (how modes of a block turn into those found here), ``level``, ``shape`` and
    ``by_square`` (derivative of the shape by the square of the energy) and ``by_blur`` (by the
    logarithm of the spread of q); the arrays after them are room to work in.
    Returns whether any line is near.
    """
    n = len(level)
    any_active = False
    s = 0
    while s < n:
        stop = s + 1
        while stop < n and block_of[r, stop] == s:
            stop += 1
        far = True
        for i in range(s, stop):
            shape[i] = 0.0
            by_square[i] = 0.0
            by_blur[i] = 0.0
            end[i] = stop
            far = far and not near[i]
        if far:
            for i in range(s, stop):
                if pockets is None:
                    level[i] = sqrt(max(here[i], lowest * lowest))
                else:
                    level[i] = signed_root(here[i])
                for j in range(s, stop):
                    turn[i, j] = 0.0
                turn[i, i] = 1.0
            s = stop
            continue
        for i in range(s, stop):
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
        if stop > s + 1:
            for i in range(s, stop):
                for j in range(s, stop):
                    turn[i, j] = 0.0
                    hermitian[i, j] = mixed(mixing[r, i], d, j)
                turn[i, i] = 1.0
                hermitian[i, i] = here[i]
            diagonalise(hermitian, turn, s, stop)
            for i in range(s, stop):
                side[i] = rise[i]
            for i in range(s, stop):
                here[i] = hermitian[i, i].real
                rise[i] = 0.0
                for j in range(s, stop):
                    y = turn[j, i] * side[j].real
                    for m in range(s, stop):
                        if m != j:
                            y += turn[m, i] * mixed(mixing[r, j], slope, m)
                    rise[i] += (turn[j, i].conjugate() * y).real
            if blurred:
                climb_of_block(r, s, stop, mixing, turn, climb, side)
        for i in range(s, stop):
            own = own_width
            if blurred:
                own = blurred_width(own_width, here[i], climb, i, blur)
            if pockets is not None:
                level[i] = signed_root(here[i])
                shape[i], by_square[i] = pocket_shape(
                    level[i], energy, width, own, lowest, rise[i], pockets
                )
                any_active = any_active or shape[i] != 0.0
                continue
            line = sqrt(max(here[i], lowest * lowest))
            jac = 1.0 - 0.5 / line * rise[i]
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
        s = stop
    return any_active


@njit(
    cache=True,
    forceinline=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz", "arcp"},
)
def _project(
    r, d, every, amplitude, columns, block_of, mixing, end, turn, shape, z, unturned, out
):  # fmt: skip
    """Overlap of the structure amplitude (2, n) with the modes found at a step, in ``out``.

    Of all modes if ``every``, else of those with a line; returns the sum of shape x overlap^2.
    Amplitudes have their real and imaginary parts apart, ``z`` (2, n) is room to work in.
    """
    n = len(shape)
    for s in range(n):
        z[0, s] = 0.0
        z[1, s] = 0.0
    for i in range(n):
        x, y = amplitude[0, i], amplitude[1, i]
        for s in range(n):
            z[0, s] += columns[r, i, 0, s] * x - columns[r, i, 1, s] * y
            z[1, s] += columns[r, i, 0, s] * y + columns[r, i, 1, s] * x
    d0, d1, d2 = np.float32(d[0]), np.float32(d[1]), np.float32(d[2])
    for s in range(n):
        first = block_of[r, s]
        re, im = z[0, s], z[1, s]
        far = True
        for i in range(first, end[s]):
            far = far and shape[i] == 0.0
        if far:
            unturned[s] = complex(re, im)
            continue
        for side in range(2):  # modes below the block, and above it
            for i in range(0 if side == 0 else end[s], first if side == 0 else n):
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
                re += z[0, i] * x + z[1, i] * y
                im += z[1, i] * x - z[0, i] * y
        unturned[s] = complex(re, im)
    total = 0.0
    for s in range(n):
        first = block_of[r, s]
        if shape[s] == 0.0 and not every:
            continue
        y = unturned[s]
        if end[s] > first + 1:
            y = 0j
            for i in range(first, end[s]):
                y += turn[i, s].conjugate() * unturned[i]
        out[s] = y
        total += shape[s] * (y.real * y.real + y.imag * y.imag)
    return total


@njit(
    cache=True,
    forceinline=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz", "arcp"},
)
def _differentiate(
    r, common, coupling, block_of, end, turn, level, shape, by_square, overlap, re, im, bra_re,
    bra_im, change,
):  # fmt: skip
    """Add derivatives of a step's rate by the parameters to ``change``: divided differences."""
    n = len(shape)
    n_k = len(change)
    for s in range(n):
        if shape[s] == 0.0:
            continue
        for i in range(n):
            re[i] = 0.0
            im[i] = 0.0
        square = level[s] * abs(level[s])
        for i in range(n):
            if shape[i] != 0.0 and i < s:
                continue  # the pair was counted from the other side
            if i == s:
                factor = by_square[s]
            elif abs(level[s] - level[i]) < 0.05:
                factor = by_square[s] + by_square[i]
            else:
                factor = 2.0 * (shape[s] - shape[i]) / (square - level[i] * abs(level[i]))
            y = common * factor * overlap[i]
            if end[i] == block_of[r, i] + 1:
                re[i] += y.real
                im[i] += y.imag
            else:
                for j in range(block_of[r, i], end[i]):
                    part = turn[j, i] * y
                    re[j] += part.real
                    im[j] += part.imag
        for j in range(block_of[r, s], end[s]):
            bra = overlap[s].conjugate()
            if end[s] > block_of[r, s] + 1:
                bra *= turn[j, s].conjugate()
            x, y = np.float32(bra.real), np.float32(bra.imag)
            for i in range(n):
                bra_re[i] = x * re[i] - y * im[i]
                bra_im[i] = x * im[i] + y * re[i]
            for q in range(n_k):
                total = np.float32(0.0)
                for i in range(n):
                    total += bra_re[i] * coupling[r, j, q, 0, i]
                    total -= bra_im[i] * coupling[r, j, q, 1, i]
                change[q] += total


@njit(
    cache=True,
    forceinline=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz", "arcp"},
)
def _move(
    r, common, d, q, f, factor, displacement, vectors, curvature, block_of, end, turn, shape,
    by_square, overlap, z, by_q,
):  # fmt: skip
    """Add to ``by_q`` (3,) what a moved Q does to a step's rate beside changing the matrix.

    ``by_q`` holds the part of the matrix's first derivatives; here come the bend of the modes, and
    the amplitude ``f`` with its polarisation and Debye-Waller factor. How modes of different blocks
    mix away from the grid point is left out of the latter.
    """
    n = len(shape)
    for i in range(n):
        z[i] = 0j
    for s in range(n):
        if shape[s] == 0.0:
            continue
        first = block_of[r, s]
        bra = shape[s] * overlap[s].conjugate()
        if end[s] == first + 1:
            size = overlap[s].real ** 2 + overlap[s].imag ** 2
            rate = common * by_square[s] * size
            c = curvature[r, s]
            by_q[0] += rate * (c[0] * d[0] + c[5] * d[1] + c[4] * d[2])
            by_q[1] += rate * (c[5] * d[0] + c[1] * d[1] + c[3] * d[2])
            by_q[2] += rate * (c[4] * d[0] + c[3] * d[1] + c[2] * d[2])
            ket = bra
            for i in range(n):
                z[i] += ket * complex(vectors[r, s, 0, i], vectors[r, s, 1, i])
            continue
        for j in range(first, end[s]):
            ket = bra * turn[j, s].conjugate()
            for i in range(n):
                z[i] += ket * complex(vectors[r, j, 0, i], vectors[r, j, 1, i])
    for c in range(len(factor)):
        u = displacement[c]
        along = 0.0
        for i in range(3):
            y = z[3 * c + i]
            by_q[i] += 2.0 * common * (y.real * factor[c].real - y.imag * factor[c].imag)
            along += 2.0 * common * (y.real * f[0, 3 * c + i] - y.imag * f[1, 3 * c + i])
        by_q[0] -= along * (u[0] * q[0] + u[5] * q[1] + u[4] * q[2])
        by_q[1] -= along * (u[5] * q[0] + u[1] * q[1] + u[3] * q[2])
        by_q[2] -= along * (u[4] * q[0] + u[3] * q[1] + u[2] * q[2])


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})
def _walk_block(
    block, stretches, rays, axis, moves, grid, zone, scatterers, line, q_blur, pockets, out,
    out_slope,
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
    overlap = np.empty(n, dtype=np.complex128)
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
    z = np.empty(n, dtype=np.complex128)
    single = np.empty((4, n), dtype=np.float32)  # room to work in
    end = np.empty(n, dtype=np.int64)  # of the block of each mode; its first one: block_of
    near = np.empty(n, dtype=np.bool_)
    here = np.empty(n)  # E^2 of the modes as they are continued alone
    beyond = np.empty(n)  # how far each is from where it may have a line, meV^2
    steepest, blur, room = np.zeros(n), np.zeros((3, 3)), np.empty((3, 3))
    climb = np.empty((3, n))  # d here / dq
    rise = np.empty(n)  # d here / d true energy, along the trajectory
    hermitian = np.empty((n, n), dtype=np.complex128)
    turn = np.empty((n, n), dtype=np.complex128)  # new modes in columns, block by block
    side = np.empty(n, dtype=np.complex128)
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
                gradient, curvature, block_of, mixing, pockets, end, turn, level, shape,
                by_square, by_blur, rise, climb, side, hermitian,
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
                r, d, n_columns > 0, f, columns, block_of, mixing, end, turn, shape, parts,
                side, overlap,
            )  # fmt: skip
            x = exp(-true[t] / thermal) if thermal > 0 else 0.0
            common = 0.5 * HBAR2_OVER_U / true[t] / (1.0 - x) * weight[t]
            total *= common
            if n_columns > 0:
                change[:] = 0.0
                _differentiate(
                    r, common, coupling, block_of, end, turn, level, shape, by_square, overlap,
                    single[0], single[1], single[2], single[3], change,
                )  # fmt: skip
            if n_columns > 0 and n_moves > 0:
                for c in range(3):
                    by_q[c] = change[n_k + c]
                _move(
                    r, common, d, q_in, f, factor, displacement, vectors, curvature, block_of,
                    end, turn, shape, by_square, overlap, z, by_q,
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
                    size = overlap[i].real * overlap[i].real + overlap[i].imag * overlap[i].imag
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


@njit(cache=True, parallel=True)
def walk(
    stretches, rays, axis, moves, grid, zone, scatterers, line, q_blur, pockets, out, out_slope
):  # fmt: skip
    """Walk every stretch in true energy and spread what is found over its cells.

    Arguments are those of ``trajectory_arguments``; adds to ``out`` (blocks, cells) and
    ``out_slope`` (blocks, cells, K + 1 + G): by the parameters, the logarithm of the width and
    ``moves``; or (..., 0) for no derivatives. ``q_blur``: a ``QBlur``; ``pockets``: see ``_meet``.
    """
    for block in prange(len(out)):  # a body of its own: the compiler reads it once, not four times
        _walk_block(
            np.int64(block), stretches, rays, axis, moves, grid, zone, scatterers, line, q_blur,
            pockets, out, out_slope,
        )  # fmt: skip
