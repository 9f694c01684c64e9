"""Compiled rates of the folded path: lines of every voxel and what they scatter.

Numbers that may be complex have their real and imaginary parts apart along an axis of P: 2, or 1
in the coordinates of an ``Inversion``, where all is real.
"""

from __future__ import annotations

from math import erf, exp, sqrt
from typing import NamedTuple

import numpy as np

from simulations.arrays import FloatArray, SingleArray
from simulations.constants import HBAR2_OVER_U
from simulations.fold import damp
from simulations.kernels import njit
from simulations.scattering import count_mode, damped_line

LOWEST_ENERGY_MEV = 0.3  # modes below count as lying here: the weight 1/E has no limit at Gamma
RANK_SHARE = 1e-6  # of w Q^2 that may be left out of an image
_FAST = {"contract", "reassoc", "nsz", "arcp"}


@njit(cache=True)
def _bin_average(u, half, sigma):
    """Gaussian averaged over a bin centred at u, and its derivatives by u and by sigma."""
    a = (u + half) / (sigma * sqrt(2.0))
    b = (u - half) / (sigma * sqrt(2.0))
    value = (erf(a) - erf(b)) / (4.0 * half)
    ga = exp(-a * a)
    gb = exp(-b * b)
    norm = 1.0 / (sigma * sqrt(2.0 * np.pi) * 2.0 * half)
    by_u = (ga - gb) * norm
    by_sigma = -((u + half) * ga - (u - half) * gb) * norm / sigma
    return value, by_u, by_sigma


class Moments(NamedTuple):
    """Exposure of every (voxel, energy bin) without T, as in ``Exposure``."""

    weight: FloatArray
    first: FloatArray
    second: FloatArray
    slope: FloatArray
    slope_second: FloatArray
    q_squared: FloatArray


class Modes(NamedTuple):
    """Modes of every voxel, as in ``ModeState``."""

    energy: FloatArray
    vectors: FloatArray  # (voxels, P, n, n) eigenvectors in rows
    coupling: SingleArray
    velocity: FloatArray


class Lines(NamedTuple):
    """How a line spreads over the energy axis, meV."""

    centres: FloatArray  # (bins,)
    step: float
    sigma: FloatArray  # (bins,) of the resolution
    sigma_slope: FloatArray  # (bins,) d sigma / d energy
    ei: float
    thermal: float  # k_B T
    q_slope_base: FloatArray  # (bins,) dQ^2/dE = base + rate Q^2 along a trajectory
    q_slope_rate: FloatArray  # (bins,)
    reach: float  # widths, beyond which a line counts nothing
    shift: FloatArray  # (bins,) of the measured energy, where the set-up is off


@njit(cache=True, forceinline=True, error_model="numpy", fastmath=_FAST)
def _add_rays(sums, atom, real, rest, axis, out, rank):
    """Add rows to ``out`` (P, rows, n), from ``rank`` on: their products sum to an image's T.

    ``sums`` is w and w QQ (packed xx yy zz yz xz xy) of the image, ``atom`` (atoms,) what its
    coordinates scatter. An image within a voxel has almost one Q: one row, unless what is left of
    its trace is above ``RANK_SHARE``. Returns the number of rows that are filled. ``rest`` (3, 3)
    and ``axis`` (3,) are room to work in.
    """
    for i in range(6):
        a = i if i < 3 else (1 if i == 3 else 0)
        b = i if i < 3 else (1 if i == 5 else 2)
        rest[a, b] = sums[1 + i]
        rest[b, a] = sums[1 + i]
    left = RANK_SHARE * (rest[0, 0] + rest[1, 1] + rest[2, 2])
    for _ in range(3):
        if rest[0, 0] + rest[1, 1] + rest[2, 2] <= left:
            break
        k = 0
        for a in range(1, 3):
            if rest[a, a] > rest[k, k]:
                k = a
        size = sqrt(rest[k, k])
        for a in range(3):
            axis[a] = rest[a, k] / size
        for a in range(3):
            for b in range(3):
                rest[a, b] -= axis[a] * axis[b]
        for c in range(len(atom)):
            for a in range(3):
                out[0, rank, 3 * c + a] = atom[c].real * axis[a]
                if real is None:
                    out[1, rank, 3 * c + a] = atom[c].imag * axis[a]
        rank += 1
    return rank


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def _fill_tensor(packed, out):
    """T (P, n, n) of one cell: six products of every pair of atoms, for P = 2 six imaginary ones.

    As ``unpack_tensor`` reads it, or real ones alone, as ``Inversion.tensors`` has them.
    """
    n_atoms = out.shape[1] // 3
    at = 0
    for c in range(n_atoms):
        for m in range(c, n_atoms):
            _fill_pair(packed, at, 1.0, 3 * c, 3 * m, out[0])
            at += 6
            if len(out) > 1:
                if m > c:
                    _fill_pair(packed, at, -1.0, 3 * c, 3 * m, out[1])
                    at += 6
                else:
                    out[1, 3 * c : 3 * c + 3, 3 * c : 3 * c + 3] = 0.0


@njit(cache=True, forceinline=True, error_model="numpy", fastmath=_FAST)
def _fill_pair(packed, at, across, i, j, out):
    """The block of six products at (i, j), and ``across`` times it at (j, i)."""
    xx, yy, zz = packed[at], packed[at + 1], packed[at + 2]
    yz, xz, xy = packed[at + 3], packed[at + 4], packed[at + 5]
    out[i, j], out[i, j + 1], out[i, j + 2] = xx, xy, xz
    out[i + 1, j], out[i + 1, j + 1], out[i + 1, j + 2] = xy, yy, yz
    out[i + 2, j], out[i + 2, j + 1], out[i + 2, j + 2] = xz, yz, zz
    out[j, i], out[j, i + 1], out[j, i + 2] = across * xx, across * xy, across * xz
    out[j + 1, i], out[j + 1, i + 1], out[j + 1, i + 2] = across * xy, across * yy, across * yz
    out[j + 2, i], out[j + 2, i + 1], out[j + 2, i + 2] = across * xz, across * yz, across * zz


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def fill_rates(
    first_bin, last_bin, voxel_order, bin_start, moments, coverage, branches, lines, gradient,
    pockets, real, out_rate, out_jacobian, out_along,
):  # fmt: skip
    """Fill rate (path_bins, bins) and jacobian (..., K + 1); see ``FoldedPhonons.rates``.

    Of the path bins from ``first_bin`` to the one before ``last_bin``. ``real``: True where modes,
    tensors and what images scatter are in the coordinates of an ``Inversion``; None: they have
    imaginary parts. ``out_along`` (..., 4 or 0) takes the sum of dI/dE v over lines, then that of
    dI/dE.
    """
    weight, first, second, slope, slope_second, q_squared = moments
    tensor, image_start, image, image_sums, image_phase, displacement = coverage
    energy, vectors, coupling, velocity = branches
    (
        centres, step, sigma, sigma_slope, ei, thermal, q_slope_base, q_slope_rate, reach, shift,
    ) = lines  # fmt: skip
    moved = out_along.shape[2] > 0
    n_e = weight.shape[1]
    n = energy.shape[1]
    n_atoms = n // 3
    by_image = len(image_start) > 0
    n_k = coupling.shape[2]
    parts = vectors.shape[1]
    half = 0.5 * step
    shifted = np.zeros(n)
    f = np.zeros(n)
    df = np.zeros(n)  # d f / d (E^2)
    dw = np.zeros(n)
    active = np.zeros(n, dtype=np.bool_)
    square, twice, factor = np.empty((3, n))
    T = np.empty((parts, n, n))
    te = np.empty((parts, n))  # T e of a mode
    weight_of = np.empty((parts, n))
    row = np.empty(n_k)
    rest, axis = np.empty((3, 3)), np.empty(3)
    atom = np.zeros(n_atoms, dtype=image_phase.dtype)
    most = 0
    for place in range(bin_start[first_bin], bin_start[last_bin] if by_image else 0):
        for e in range(n_e):
            cell = voxel_order[place] * n_e + e
            most = max(most, image_start[cell + 1] - image_start[cell])
    ray = np.empty((parts, 3 * most, n))
    path_bin = first_bin
    for place in range(bin_start[first_bin], bin_start[last_bin]):
        while place >= bin_start[path_bin + 1]:
            path_bin += 1
        v = voxel_order[place]
        vector = vectors[v]
        for e in range(n_e):
            D = weight[v, e]
            if D <= 0.0:
                continue
            n_active = 0
            dx, dy, dz = first[v, e, 0] / D, first[v, e, 1] / D, first[v, e, 2] / D
            # Most that places and slopes within the voxel do to a line of unit velocity.
            places = second[v, e, 0] + second[v, e, 1] + second[v, e, 2]
            slopes = slope_second[v, e, 0] + slope_second[v, e, 1] + slope_second[v, e, 2]
            placed, sloped = sqrt(max(places, 0.0) / D), sqrt(2.0 * max(slopes, 0.0) / D)
            for s in range(n):
                vx, vy, vz = velocity[v, s, 0], velocity[v, s, 1], velocity[v, s, 2]
                E = energy[v, s] + vx * dx + vy * dy + vz * dz
                if pockets is not None:
                    signed = E
                    live, size, wide = count_mode(E, pockets[0], pockets[1])
                    flat = size != abs(E)  # the energy moves with nothing
                    shifted[s] = E
                    if not live or wide > 0.0:
                        f[s] = 0.0
                        df[s] = 0.0
                        dw[s] = 0.0
                        active[s] = wide > 0.0
                        if active[s]:
                            value, by_size = damped_line(
                                centres[e], size, sqrt(sigma[e] ** 2 + step * step / 12),
                                thermal,
                            )  # fmt: skip
                            f[s] = 0.5 * HBAR2_OVER_U * value
                            if not flat:
                                df[s] = -0.25 * HBAR2_OVER_U * by_size / size
                            n_active += 1
                        continue
                    if flat:
                        E = size
                        vx, vy, vz = 0.0, 0.0, 0.0
                if E < LOWEST_ENERGY_MEV:
                    E = LOWEST_ENERGY_MEV
                shifted[s] = E
                if pockets is not None:
                    shifted[s] = signed
                f[s] = 0.0
                df[s] = 0.0
                dw[s] = 0.0
                active[s] = False
                speed = sqrt(vx * vx + vy * vy + vz * vz)
                jac = 1.0 + speed * sloped
                away = abs(centres[e] - shift[e] - E)
                # The width is that of the true energy, which lies between here and the line.
                most = sigma[e] + away * abs(sigma_slope[e])
                if away > reach * (jac * most + speed * placed) + jac * half:
                    continue
                g = (vx * slope[v, e, 0] + vy * slope[v, e, 1] + vz * slope[v, e, 2]) / D
                spread = (
                    vx * vx * (second[v, e, 0] / D - dx * dx)
                    + vy * vy * (second[v, e, 1] / D - dy * dy)
                    + vz * vz * (second[v, e, 2] / D - dz * dz)
                    + 2 * vy * vz * (second[v, e, 3] / D - dy * dz)
                    + 2 * vx * vz * (second[v, e, 4] / D - dx * dz)
                    + 2 * vx * vy * (second[v, e, 5] / D - dx * dy)
                )
                g_spread = sqrt(
                    max(
                        (
                            vx * vx * slope_second[v, e, 0]
                            + vy * vy * slope_second[v, e, 1]
                            + vz * vz * slope_second[v, e, 2]
                            + 2 * vy * vz * slope_second[v, e, 3]
                            + 2 * vx * vz * slope_second[v, e, 4]
                            + 2 * vx * vy * slope_second[v, e, 5]
                        )
                        / D
                        - g * g,
                        0.0,
                    )
                )
                # Images of a cell are crossed by trajectories of other slopes: two of them
                # stand for mean and spread.
                for side in (-1.0, 1.0):
                    jac = 1.0 - (g + side * g_spread)
                    if abs(jac) < 0.05:
                        jac = 0.05 if jac >= 0 else -0.05
                    positional = max(spread, 0.0) / (jac * jac)
                    u = (centres[e] - shift[e] - E) / jac
                    # Energy at which the neutrons measured here were scattered: the
                    # resolution's share of the distance u. Rate, width and occupation
                    # are those of that energy.
                    share = sigma[e] * sigma[e] / (sigma[e] * sigma[e] + positional)
                    lost = centres[e] - share * u
                    if lost < LOWEST_ENERGY_MEV:
                        lost = LOWEST_ENERGY_MEV
                    if lost > 0.995 * ei:
                        lost = 0.995 * ei
                    true_sigma = sigma[e] + (lost - centres[e]) * sigma_slope[e]
                    width = sqrt(true_sigma * true_sigma + positional)
                    if abs(u) > reach * width + half:
                        continue
                    R, by_u, by_sigma = _bin_average(u, half, width)
                    x = exp(-lost / thermal) if thermal > 0 else 0.0
                    occupation = 1.0 / (1.0 - x)  # n + 1
                    by_lost = -1.0 / lost - 0.5 / (ei - lost)
                    if thermal > 0:
                        by_lost -= occupation * x / thermal
                    change = lost - centres[e]
                    mean_q_squared = q_squared[v, e] / D
                    q_factor = 1.0 + change * (
                        (q_slope_base[e] + mean_q_squared * q_slope_rate[e]) / mean_q_squared
                    )
                    if q_factor < 0.2:
                        q_factor = 0.2
                    elif q_factor > 5.0:
                        q_factor = 5.0
                    by_lost += (
                        (q_slope_base[e] + mean_q_squared * q_slope_rate[e])
                        / mean_q_squared
                        / q_factor
                    )
                    strength = (
                        0.5
                        * HBAR2_OVER_U
                        / lost
                        * occupation
                        / abs(jac)
                        * sqrt((ei - lost) / (ei - centres[e]))
                        * q_factor
                    )
                    f[s] += 0.5 * strength * R
                    by_width = by_sigma * true_sigma / width
                    by_shifted = (
                        strength * ((R * by_lost + by_width * sigma_slope[e]) * share - by_u) / jac
                    )
                    df[s] += by_shifted / (4.0 * E)
                    dw[s] += 0.5 * strength * by_width * sigma[e]
                    active[s] = True
                if pockets is not None:
                    if flat:
                        df[s] = 0.0
                n_active += active[s]
            if n_active == 0:
                continue
            rank = 0
            if by_image:
                for entry in range(image_start[v * n_e + e], image_start[v * n_e + e + 1]):
                    damp(image_sums[entry], image_phase[image[entry]], displacement, atom)
                    rank = _add_rays(image_sums[entry], atom, real, rest, axis, ray, rank)
            else:
                _fill_tensor(tensor[v, e], T)
            total = 0.0
            row[:] = 0.0
            for i in range(n):
                square[i] = shifted[i] * abs(shifted[i])  # of imaginary ones it is negative
                twice[i] = 1.0 if active[i] else 2.0
            for i in range(n):
                if not active[i]:
                    continue
                M = 0.0
                if by_image:  # T e is a sum over rays
                    te[:] = 0.0
                    for p in range(rank):
                        re, im = 0.0, 0.0
                        for a in range(n):
                            re += vector[0, i, a] * ray[0, p, a]
                            if real is None:
                                re += vector[1, i, a] * ray[1, p, a]
                                im += vector[1, i, a] * ray[0, p, a]
                                im -= vector[0, i, a] * ray[1, p, a]
                        M += re * re + im * im
                        for a in range(n if gradient else 0):
                            te[0, a] += re * ray[0, p, a]
                            if real is None:
                                te[0, a] -= im * ray[1, p, a]
                                te[1, a] += re * ray[1, p, a] + im * ray[0, p, a]
                else:  # rows of T, which is Hermitian
                    te[:] = 0.0
                    for b in range(n):
                        re = vector[0, i, b]
                        if real is None:
                            im = vector[1, i, b]
                            for a in range(n):
                                te[0, a] += re * T[0, b, a] + im * T[1, b, a]
                                te[1, a] += im * T[0, b, a] - re * T[1, b, a]
                        else:
                            for a in range(n):
                                te[0, a] += re * T[0, b, a]
                    for a in range(n):
                        M += vector[0, i, a] * te[0, a]
                        if real is None:
                            M += vector[1, i, a] * te[1, a]
                total += f[i] * M
                if not gradient:
                    continue
                out_jacobian[path_bin, e, n_k] += dw[i] * M
                if moved and shifted[i] > LOWEST_ENERGY_MEV:
                    by_energy = 2.0 * shifted[i] * df[i] * M
                    for a in range(3):
                        out_along[path_bin, e, a] += by_energy * velocity[v, i, a]
                    out_along[path_bin, e, 3] += by_energy
                for j in range(n):
                    close = abs(shifted[i] - shifted[j]) < 0.05
                    slope_of = 0.5 * (df[i] + df[j])
                    across = (f[i] - f[j]) / (square[i] - square[j])
                    factor[j] = twice[j] * (slope_of if close else across)
                for j in range(n):
                    re, im = 0.0, 0.0
                    for a in range(n):
                        re += vector[0, j, a] * te[0, a]
                        if real is None:
                            re += vector[1, j, a] * te[1, a]
                            im += vector[0, j, a] * te[1, a] - vector[1, j, a] * te[0, a]
                    weight_of[0, j] = factor[j] * re
                    if real is None:
                        weight_of[1, j] = factor[j] * im
                # f1_ij (e_i^dagger B_k e_j)(e_j^dagger T e_i)
                for k in range(n_k):
                    of_one = 0.0
                    for j in range(n):
                        of_one += coupling[v, i, k, 0, j] * weight_of[0, j]
                        if real is None:
                            of_one -= coupling[v, i, k, 1, j] * weight_of[1, j]
                    row[k] += of_one
            for k in range(n_k if gradient else 0):
                out_jacobian[path_bin, e, k] += row[k]
            out_rate[path_bin, e] += total
