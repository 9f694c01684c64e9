"""Compiled walk along trajectories: modes that it meets, what they scatter, where that is counted.

What is computed once before a walk is in ``trajectory_steps``, the search for stretches in
``trajectories``.
"""

from __future__ import annotations

from math import cos, exp, pi, sin, sqrt

import numpy as np

from simulations.constants import HBAR2_OVER_U
from simulations.fold import grid_index
from simulations.kernels import njit
from simulations.likelihood.trajectory_average import averaged_width, fill_ways
from simulations.likelihood.trajectory_blocks import diagonalise, fill_block, turned_slope
from simulations.likelihood.trajectory_blur import blurred_width, fill_blur, most_blur_of
from simulations.likelihood.trajectory_centred import (
    diagonalise_real,
    differentiate_real,
    fill_real_block,
    move_real,
    project_real,
    turned_real_slope,
)
from simulations.likelihood.trajectory_modes import differentiate, move, project
from simulations.likelihood.trajectory_pockets import pocket_is_near, pocket_shape, signed_root

UNIT = np.eye(3)
LOOKED_FOR = 3.0  # deviations of uncertain lines, which are counted as independent


@njit(
    cache=True,
    forceinline=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz", "arcp"},
)
def _meet(
    r, energy, width, own_width, lowest, d, slope, blurred, blur, near, here,
    gradient, curvature, bend, reach, block_of, mixing, pockets, met, end, turned, level, shape,
    by_square, by_blur, rise, climb, own_climb, matrix, phase, over, ways, shift, t,
):  # fmt: skip
    """Energies of all modes near grid point ``r`` and the shape of their lines at ``energy``.

    ``blur`` (3, 3) is the covariance of q, in the frame of the grid point, if ``blurred``: a line
    is as much wider as its branch climbs over it. ``bend`` over ``reach`` is at least what the
    others of its block add to the slope of a mode.
    ``pockets`` is (floor, damped, k_B T) of a crystal that has some, or None. Then ``level`` of
    imaginary modes is negative. ``phase`` is None where couplings have imaginary parts. ``over`` to
    ``t``: see ``averaged_width``; lines are as they are where it is empty.

    ``here`` holds E^2 continued to first order, ``near`` which of them may have a line. Fills
    ``met`` (n + 1,) with the first modes of all blocks that have such ones, their number last,
    ``end`` of the block that each mode was turned in (a mode by itself: none was),
    ``turned`` (how modes of a block make those found here), ``level``, ``shape`` and
    ``by_square`` (derivative of the shape by the square of the energy) and ``by_blur`` (by the
    logarithm of the spread of q); the arrays after them are room to work in.
    Returns whether any line is near.
    """
    n = len(level)
    averaged = len(over.rest) > 0
    any_active = False
    for i in range(n):
        shape[i] = 0.0
        by_square[i] = 0.0
        by_blur[i] = 0.0
        end[i] = i + 1
        level[i] = sqrt(max(here[i], lowest * lowest))
    if pockets is not None:
        for i in range(n):
            level[i] = signed_root(here[i])
    stop, blocks = 0, 0
    for one in range(n):
        if one < stop or not near[one]:
            continue
        s = block_of[r, one]
        met[blocks] = s
        blocks += 1
        stop = one + 1
        while stop < n and block_of[r, stop] == s:
            stop += 1
        for i in range(s, stop):
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
            if phase is None:
                fill_block(mixing, r, d, here, s, stop, matrix, turned)
                diagonalise(matrix, turned, s, stop - s)
            else:
                fill_real_block(mixing, r, d, here, s, stop, matrix, turned)
                diagonalise_real(matrix, turned, s, stop - s)
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
            if averaged:
                most_own = np.inf
        for i in range(s, stop):
            line = sqrt(max(here[i], lowest * lowest))
            if stop > s + 1:
                if pockets is None:
                    level[i] = line
                    most = width * (1.0 + 0.5 / line * most_width)
                    most = most * most + own_width * own_width + most_own
                    if (energy - line) ** 2 >= 16.0 * most:
                        continue
                if blurred or averaged:
                    for c in range(3):
                        if phase is None:
                            own_climb[c] = turned_slope(
                                mixing, r, UNIT[c], climb[c], turned, i, s, stop
                            )
                        else:
                            own_climb[c] = turned_real_slope(
                                mixing, r, UNIT[c], climb[c], turned, i, s, stop
                            )
                    steep = (
                        own_climb[0] * slope[0] + own_climb[1] * slope[1] + own_climb[2] * slope[2]
                    )
                elif phase is None:
                    steep = turned_slope(mixing, r, slope, rise, turned, i, s, stop)
                else:
                    steep = turned_real_slope(mixing, r, slope, rise, turned, i, s, stop)
            else:
                steep = rise[i]
                if blurred or averaged:
                    for c in range(3):
                        own_climb[c] = climb[c, i]
            own = own_width
            if blurred:
                own = blurred_width(own_width, here[i], own_climb, blur)
            if averaged:
                own = averaged_width(
                    own, here[i], own_climb, steep, over, r, i, s, stop, turned, phase, ways,
                    shift, t,
                )  # fmt: skip
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
    met[n] = blocks
    return any_active


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})
def walk(
    block, stretches, rays, axis, moves, grid, zone, scatterers, line, q_blur, over, pockets, phase,
    out, out_slope, out_steepness,
):  # fmt: skip
    """Walk the stretches of one block in true energy, spread what is found over their cells.

    Arguments are those of ``trajectory_arguments``; adds to ``out`` (blocks, cells) and
    ``out_slope`` (blocks, cells, K + 1 + G): by the parameters, the logarithm of the width and
    ``moves``; or (..., 0) for no derivatives. Fills ``out_steepness`` (stretches,), if it is not
    empty, with the size of what each adds to derivatives by the parameters. ``q_blur``: a
    ``QBlur``; ``over``: an ``Over``; ``pockets``: see ``_meet``. ``phase`` (atoms,) of a crystal
    with a centre of inversion: that of every coordinate of ``Inversion``, where ``scatterers`` and
    ``zone`` are given in these; None: they have imaginary parts.
    """
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
    uncertain = over.uncertain
    averaged = len(uncertain) > 0
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
    overlap = np.zeros((2, n))  # real and imaginary parts
    n_columns, n_moves = out_slope.shape[2], len(linear)
    n_k = coupling.shape[2] - 3 if n_columns > 0 else 0
    change = np.empty(n_k + (3 if n_moves > 0 else 0))  # by the parameters, by q
    by_q = np.empty(3)
    moved = np.empty(n_moves)
    ways = np.empty((len(over.root), 3))
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
    met = np.empty(n + 1, dtype=np.int64)  # blocks that may have a line
    end = np.empty(n, dtype=np.int64)  # of the block that a mode is turned in
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
                if averaged:
                    beyond[s] -= LOOKED_FOR * uncertain[r, s]
            none = True
            for s in range(n):
                near[s] = beyond[s] <= 0.0
                if pockets is not None and not near[s]:
                    more = LOOKED_FOR * uncertain[r, s] if averaged else 0.0
                    near[s] = pocket_is_near(
                        here[s], away * bend[r, s], true[t],
                        found[t] + own_width + 0.125 * (most_blur * steepest[s] + more) / true[t],
                        lowest, pockets,
                    )  # fmt: skip
                none = none and not near[s]
            if blurred and not none:
                fill_blur(q_blur, k, direction[p], beam, op_cartesian[o], room, blur)
            if averaged and not none:
                for c in range(3):
                    q_in[c] = beam[c] - k * direction[p, c]
                fill_ways(
                    linear, beam_move, final_move, t, q_in, beam, direction[p], op_cartesian[o],
                    ways,
                )  # fmt: skip
            if none or not _meet(
                r, true[t], found[t], own_width, lowest, d, slope, blurred, blur, near, here,
                gradient, curvature, bend, reach_of_cell, block_of, mixing, pockets, met, end,
                turned, level, shape, by_square, by_blur, rise, climb, own_climb, matrix,
                phase, over, ways, shift, t,
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
                if phase is None:
                    factor[c] = amplitude[c] * exp(-W) * complex(cos(angle), sin(angle))
                else:
                    factor[c] = amplitude[c] * exp(-W) * cos(angle + phase[c])
                for i in range(3):
                    f[0, 3 * c + i] = factor[c].real * q_in[i]
                    f[1, 3 * c + i] = factor[c].imag * q_in[i]
            if phase is None:
                total = project(
                    r, d, n_columns > 0, f, columns, mixing, met, end, turned, shape, parts, z,
                    overlap,
                )  # fmt: skip
            else:
                total = project_real(
                    r, d, n_columns > 0, f, columns, mixing, met, end, turned, shape, parts, z,
                    overlap,
                )  # fmt: skip
            x = exp(-true[t] / thermal) if thermal > 0 else 0.0
            common = 0.5 * HBAR2_OVER_U / true[t] / (1.0 - x) * weight[t]
            total *= common
            if n_columns > 0:
                change[:] = 0.0
                if phase is None:
                    differentiate(
                        r, common, coupling, met, end, turned, level, square_of, shape,
                        by_square, overlap, each, ket, pair, change,
                    )  # fmt: skip
                else:
                    differentiate_real(
                        r, common, coupling, met, end, turned, level, square_of, shape,
                        by_square, overlap, each, ket, pair, change,
                    )  # fmt: skip
            if n_columns > 0 and n_moves > 0:
                for c in range(3):
                    by_q[c] = change[n_k + c]
                if phase is None:
                    move(
                        r, common, d, q_in, f, factor, displacement, vectors, curvature, met,
                        end, turned, shape, by_square, overlap, z, by_q,
                    )  # fmt: skip
                else:
                    move_real(
                        r, common, d, q_in, f, factor, displacement, vectors, curvature, met,
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
