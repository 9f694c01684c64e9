"""Walks along pixel trajectories that propose where a virtual neutron may have been scattered.

Compiled loops over the tables of ``virtual_lattice``; what they propose lies above the true rate,
and ``virtual`` thins it by the exact one. The kinematics are written out here and shared with
nobody, as in ``virtual``.
"""

from __future__ import annotations

import numpy as np

from simulations.kernels import njit

ENERGY_PER_K2 = 2.0721248  # meV angstrom^2
TAIL = 6.0  # intrinsic widths beyond which a line counts as nothing


_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


@njit(cache=True, inline="always")
def _uniform(state):
    """Next number in (0, 1) of one pixel's stream, SplitMix64; ``state`` is (1,) uint64.

    G. L. Steele, D. Lea, C. H. Flood, OOPSLA 2014, p. 453.
    """
    state[0] += _STEP
    z = state[0]
    z = (z ^ (z >> _S30)) * _FIRST
    z = (z ^ (z >> _S27)) * _SECOND
    z = z ^ (z >> _S31)
    return (float(z >> _S11) + 0.5) * 2.0**-53


@njit(cache=True, inline="always")
def _occupied(line, kt):
    """Scalar twin of ``virtual_lattice.occupied``."""
    if kt <= 0.0:
        return 1.0 / line if line > 0.0 else 0.0
    y = -line / kt
    if y > 600.0:
        return 0.0
    return 1.0 / (line * -np.expm1(y))


@njit(cache=True, inline="always")
def _near(x, n):
    """Lower node, upper node and position between them of a periodic coordinate."""
    x = (x - np.floor(x)) * n
    i = int(x)
    f = x - i
    if i >= n:
        i = 0
    return i, (i + 1 if i + 1 < n else 0), f


@njit(cache=True)
def _interpolate(energies, slack, q0, q1, q2, line, error):
    """Trilinear energies and their error bounds at one fractional q; fills (n,) arrays."""
    n0, n1, n2, n = energies.shape
    i0, j0, x = _near(q0, n0)
    i1, j1, y = _near(q1, n1)
    i2, j2, z = _near(q2, n2)
    w000 = (1 - x) * (1 - y) * (1 - z)
    w001 = (1 - x) * (1 - y) * z
    w010 = (1 - x) * y * (1 - z)
    w011 = (1 - x) * y * z
    w100 = x * (1 - y) * (1 - z)
    w101 = x * (1 - y) * z
    w110 = x * y * (1 - z)
    w111 = x * y * z
    for s in range(n):
        line[s] = (
            w000 * energies[i0, i1, i2, s] + w001 * energies[i0, i1, j2, s]
            + w010 * energies[i0, j1, i2, s] + w011 * energies[i0, j1, j2, s]
            + w100 * energies[j0, i1, i2, s] + w101 * energies[j0, i1, j2, s]
            + w110 * energies[j0, j1, i2, s] + w111 * energies[j0, j1, j2, s]
        )  # fmt: skip
        error[s] = slack[i0, i1, i2, s]


@njit(cache=True, inline="always")
def _between(energy, low, high, half, sigma):
    """Bound of a line's shape that lies somewhere from ``low`` to ``high``; 0 beyond its tail."""
    d = (max(low - energy, energy - high) - half) / sigma
    if d >= TAIL:
        return 0.0
    return np.exp(-0.5 * d * d) if d > 0.0 else 1.0


@njit(cache=True)
def _pocket_bound(line, error, energy, half, cut, sigma, kt, pockets):
    """``_line_bound`` of a crystal with pockets (floor, damped); imaginary lines are negative."""
    floor, damped = pockets
    best = 0.0
    low, high = max(line - error, floor, cut), max(line + error, floor)
    if line + error > 0.0 and high >= cut:
        best = _occupied(low, kt) * _between(energy, low, high, half, sigma)
        if kt > 0.0:
            best += _occupied(-low, kt) * _between(-energy, low, high, half, sigma)
    if damped and line - error < 0.0:
        small, large = max(-line - error, floor, cut), max(error - line, floor, cut)
        narrow, wide = np.hypot(sigma, small), np.hypot(sigma, large)
        weight = (_occupied(small, kt) + _occupied(-small, kt)) * sigma / narrow
        best += weight * _between(abs(energy), 0.0, large, half, wide)
    return best


@njit(cache=True, inline="always")
def _line_bound(line, error, energy, half, cut, sigma, kt, pockets):
    """Upper bound of ``weight x shape``: line known to +-error, true energy to +-half."""
    if pockets is not None:
        return _pocket_bound(line, error, energy, half, cut, sigma, kt, pockets)
    if line + error < cut:
        return 0.0
    best = 0.0
    lowest = max(line - error, cut)
    d = (abs(energy - line) - error - half) / sigma
    if d < TAIL:
        best = _occupied(lowest, kt) * (np.exp(-0.5 * d * d) if d > 0.0 else 1.0)
    if kt > 0.0 and energy - half < TAIL * sigma:
        d = (abs(energy + line) - error - half) / sigma
        if d < TAIL:
            best += _occupied(-lowest, kt) * (np.exp(-0.5 * d * d) if d > 0.0 else 1.0)
    return best


@njit(cache=True)
def propose(
    seeds, mean_scale, fraction, beam_fraction, backward, kf, ki,
    energies, slack, steepest, cut, sigma, kt, pockets,
):  # fmt: skip
    """Points (row, true energy) of a Poisson process near the lines, and its density there.

    A row is one pixel. Each has its own stream of random numbers, and four more of them come with
    every point (points, 4), so that what rounding decides in one row touches no other.

    Walks every pixel's trajectory in steps of k_f. In a step, a mode stays within the mean of its
    two ends plus or minus half its steepest slope times the step; this bounds the rate. The
    Poisson process runs along the walk by exponential gaps.
    """
    n = energies.shape[3]
    capacity = 1 << 16
    out_row = np.empty(capacity, dtype=np.int64)
    out_energy = np.empty(capacity)
    out_level = np.empty(capacity)
    out_chance = np.empty((capacity, 4))
    count = 0
    state = np.empty(1, dtype=np.uint64)
    line_a, line_b, line = np.empty(n), np.empty(n), np.empty(n)
    error_a, error_b, error = np.empty(n), np.empty(n), np.empty(n)
    ei = ENERGY_PER_K2 * ki * ki
    wander = 0.5 * steepest * (kf[1] - kf[0])
    for row in range(len(seeds)):
        state[0] = seeds[row]
        gap = -np.log(_uniform(state))
        b0, b1, b2 = beam_fraction[row, 0], beam_fraction[row, 1], beam_fraction[row, 2]
        u0, u1, u2 = fraction[row, 0], fraction[row, 1], fraction[row, 2]
        _interpolate(
            energies, slack, b0 - kf[0] * u0, b1 - kf[0] * u1, b2 - kf[0] * u2, line_a, error_a
        )
        q2_from = (ki - kf[0]) ** 2 + 2 * ki * kf[0] * backward[row]
        e_from = ei - ENERGY_PER_K2 * kf[0] ** 2
        for step in range(1, len(kf)):
            k = kf[step]
            _interpolate(energies, slack, b0 - k * u0, b1 - k * u1, b2 - k * u2, line_b, error_b)
            q2_to = (ki - k) ** 2 + 2 * ki * k * backward[row]
            e_to = ei - ENERGY_PER_K2 * k * k
            middle, half = 0.5 * (e_from + e_to), 0.5 * (e_from - e_to)
            best = 0.0
            for s in range(n):
                around = max(error_a[s], error_b[s]) + wander[s]
                best = max(
                    best,
                    _line_bound(
                        0.5 * (line_a[s] + line_b[s]), around, middle, half, cut, sigma, kt, pockets
                    ),
                )
            density = best * max(q2_from, q2_to) * k / ki
            mean = density * mean_scale[row] * (e_from - e_to)
            while mean > gap:
                mean -= gap
                gap = -np.log(_uniform(state))
                energy = e_to + (e_from - e_to) * _uniform(state)
                ke = np.sqrt((ei - energy) / ENERGY_PER_K2)
                _interpolate(energies, slack, b0 - ke * u0, b1 - ke * u1, b2 - ke * u2, line, error)
                level = 0.0
                for s in range(n):
                    level = max(
                        level, _line_bound(line[s], error[s], energy, 0.0, cut, sigma, kt, pockets)
                    )
                level *= ((ki - ke) ** 2 + 2 * ki * ke * backward[row]) * ke / ki
                level = min(level, density)
                if _uniform(state) * density >= level:
                    continue
                if count == capacity:
                    capacity = 2 * capacity
                    out_row = np.append(out_row, np.empty(count, dtype=np.int64))
                    out_energy = np.append(out_energy, np.empty(count))
                    out_level = np.append(out_level, np.empty(count))
                    more = np.empty((capacity, 4))
                    more[:count] = out_chance
                    out_chance = more
                out_row[count] = row
                out_energy[count] = energy
                out_level[count] = level
                for k in range(4):
                    out_chance[count, k] = _uniform(state)
                count += 1
            gap -= mean
            for s in range(n):
                line_a[s] = line_b[s]
                error_a[s] = error_b[s]
            q2_from, e_from = q2_to, e_to
    return out_row[:count], out_energy[:count], out_level[:count], out_chance[:count]


@njit(cache=True)
def guess(
    energies, slack, vectors, group, margin, amplitude, positions, to_fraction, Q, energy, cut,
    sigma, kt, pockets,
):  # fmt: skip
    """Likely upper bound of the sum over lines of strength x weight x shape, without W.

    Strengths come from the eigenvectors of the nearest node, with a margin for their change. Modes
    that are degenerate there share the strength of their group: its single eigenvectors are
    arbitrary, and what is random must not follow them.
    """
    n = energies.shape[3]
    m0, m1, m2 = vectors.shape[:3]
    out = np.zeros(len(Q))
    f = np.empty(n, dtype=np.complex128)
    line, error = np.empty(n), np.empty(n)
    total = np.sum(amplitude * amplitude)
    for i in range(len(Q)):
        x, y, z = Q[i, 0], Q[i, 1], Q[i, 2]
        q0 = x * to_fraction[0, 0] + y * to_fraction[1, 0] + z * to_fraction[2, 0]
        q1 = x * to_fraction[0, 1] + y * to_fraction[1, 1] + z * to_fraction[2, 1]
        q2 = x * to_fraction[0, 2] + y * to_fraction[1, 2] + z * to_fraction[2, 2]
        a0 = int(np.floor(q0 * m0 + 0.5))
        a1 = int(np.floor(q1 * m1 + 0.5))
        a2 = int(np.floor(q2 * m2 + 0.5))
        for k in range(len(amplitude)):
            # Phase of Q moved to the node, where the eigenvectors belong.
            angle = (
                -2
                * np.pi
                * (
                    a0 / m0 * positions[k, 0]
                    + a1 / m1 * positions[k, 1]
                    + a2 / m2 * positions[k, 2]
                )
            )
            phase = amplitude[k] * complex(np.cos(angle), np.sin(angle))
            for a in range(3):
                f[3 * k + a] = phase * Q[i, a]
        _interpolate(energies, slack, q0, q1, q2, line, error)
        v = vectors[a0 % m0, a1 % m1, a2 % m2]
        spare = margin[a0 % m0, a1 % m1, a2 % m2] * total * (x * x + y * y + z * z)
        g = group[a0 % m0, a1 % m1, a2 % m2]
        highest, size = 0.0, 0.0  # of the modes of a group
        for s in range(n):
            best = _line_bound(line[s], error[s], energy[i], 0.0, cut, sigma, kt, pockets)
            amount = 0j
            for c in range(n):
                amount += f[c] * v[s, c]
            if g[s] == s:
                highest, size = 0.0, 0.0
            highest = max(highest, best)
            size += amount.real**2 + amount.imag**2
            out[i] += best * spare
            if s + 1 == n or g[s + 1] == s + 1:
                out[i] += highest * 2.0 * size
    return out
