"""What not knowing parameters and set-up does to the lines along a trajectory, compiled.

Averaged over a normal distribution of these, to first order, a line is as much wider as its energy
is uncertain there.
"""

from __future__ import annotations

from math import sqrt

from simulations.kernels import njit


@njit(cache=True, error_model="numpy")
def fill_ways(linear, beam_move, final_move, t, q, beam, away, turn, out):
    """How q moves by each thing that may be mis-set (G, 3), in the frame that ``turn`` leads to.

    ``linear``, ``beam_move`` and ``final_move`` as in ``Moves``; ``away`` and ``beam`` (3,) are the
    unit vector of k_f and k_i in the crystal's frame, ``q`` (3,) what is scattered by.
    """
    for g in range(len(out)):
        for c in range(3):
            out[g, c] = 0.0
        for i in range(3):
            step = beam_move[g] * beam[i] - final_move[g, t] * away[i]
            for j in range(3):
                step += linear[g, i, j] * q[j]
            for c in range(3):
                out[g, c] += turn[c, i] * step


@njit(cache=True, error_model="numpy")
def averaged_width(
    width, square, climb, steep, over, r, i, start, stop, turned, phase, ways, shift, t
):  # fmt: skip
    """Width of mode ``i`` of grid point ``r`` with what its energy is uncertain by, meV.

    Parameters
    ----------
    width, square : float
        Its own width, and E^2.
    climb : (3,) float64
        Derivative of E^2 by q.
    steep : float
        The same by true energy, along the trajectory.
    over : Over
        Of modes by themselves. One that a block turned has the mean of those it is made of, rows
        ``turned`` (2, n, n): how they move each other is left out.
    phase : (atoms,) float64 or None
        None: ``turned`` has imaginary parts.
    ways : (G, 3) float64
        See ``fill_ways``.
    shift : (G, true steps) float64
        See ``Moves``; ``t`` is the step.
    """
    root, along, rest, _ = over
    alone = stop == start + 1
    variance = rest[r, i] if alone else 0.0
    for j in range(start, start if alone else stop):
        share = turned[0, i, j - start] ** 2
        if phase is None:
            share += turned[1, i, j - start] ** 2
        variance += share * rest[r, j]
    late = 2.0 * sqrt(max(square, 0.0)) - steep
    for b in range(len(root)):
        x = along[r, i, b] if alone else 0.0
        for j in range(start, start if alone else stop):
            share = turned[0, i, j - start] ** 2
            if phase is None:
                share += turned[1, i, j - start] ** 2
            x += share * along[r, j, b]
        for g in range(b, len(root)):
            own = climb[0] * ways[g, 0] + climb[1] * ways[g, 1] + climb[2] * ways[g, 2]
            x += (own + late * shift[g, t]) * root[g, b]
        variance += x * x
    return sqrt(width * width + 0.25 * variance / sqrt(square * square + variance + 1e-12))
