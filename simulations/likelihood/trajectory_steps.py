"""Compiled preparation of a walk: where steps are counted, and which stretches go together."""

from __future__ import annotations

from math import erf, exp, pi, sqrt

import numpy as np

from simulations.kernels import njit


@njit(cache=True)
def fill_spread(centre, rest, sigma, edges, first, last, out, by_width, by_shift):
    """Share of each true step that is counted in each measured step, and its derivatives.

    ``centre`` (steps,) is where a step is measured in the mean and ``rest`` how wide then, of the
    whole ``sigma``; ``by_width`` is the derivative by the logarithm of sigma, ``by_shift`` by the
    centre.
    """
    for t in range(len(centre)):
        s = rest[t] * sqrt(2.0)
        grow = (sigma[t] / rest[t]) ** 2
        u = (edges[first[t]] - centre[t]) / s
        below, bell = erf(u), exp(-u * u) / sqrt(pi)
        moment = u * bell
        for j in range(first[t], last[t]):
            u = (edges[j + 1] - centre[t]) / s
            above, next_bell = erf(u), exp(-u * u) / sqrt(pi)
            out[t, j - first[t]] = 0.5 * (above - below)
            by_shift[t, j - first[t]] = (bell - next_bell) / s
            by_width[t, j - first[t]] = grow * (moment - u * next_bell)
            below, bell, moment = above, next_bell, u * next_bell


@njit(cache=True)
def group_stretches(direction, widest, pixel, first_step, start, edges, gap):
    """Groups of stretches that one walk serves: of neighbouring pixels, and near in energy.

    Parameters
    ----------
    direction : (pixels, 3) float64
        Unit vectors; neighbours follow each other.
    widest : float
        Pixels share a ray while all lie within this distance of the first one's direction.
    pixel, first_step, start
        As ``Trajectories`` has them, in the order of pixels.
    edges : (steps + 1,) float64
        Measured energy transfer, meV.
    gap : float
        Stretches of a ray that lie closer in energy than this go together, meV.

    Returns
    -------
    rays : (rays, 3) float64
    order : (stretches,) int64
        Stretches in the order of their groups.
    group : (groups + 1,) int64
        First of each in ``order``.
    ray : (groups,) int64
    """
    n = len(pixel)
    rays = np.empty_like(direction)
    order = np.empty(n, dtype=np.int64)
    group = np.zeros(n + 1, dtype=np.int64)
    ray = np.empty(n, dtype=np.int64)
    n_rays, n_groups, stretch, row = 0, 0, 0, 0
    while row < len(direction):
        behind = row + 1
        while behind < len(direction):
            distance = 0.0
            for c in range(3):
                distance += (direction[behind, c] - direction[row, c]) ** 2
            if distance > widest * widest:
                break
            behind += 1
        rays[n_rays] = direction[row]
        if behind > row + 1:
            for c in range(3):
                rays[n_rays, c] = direction[row:behind, c].sum()
            rays[n_rays] /= sqrt((rays[n_rays] ** 2).sum())
        low = stretch
        while stretch < n and pixel[stretch] < behind:
            stretch += 1
        sequence = np.argsort(first_step[low:stretch], kind="mergesort")
        last = -1
        for place in range(low, stretch):
            one = low + sequence[place - low]
            order[place] = one
            if last < 0 or edges[first_step[one]] - edges[last] > gap:
                ray[n_groups] = n_rays
                group[n_groups] = place
                n_groups += 1
                last = -1
            last = max(last, first_step[one] + start[one + 1] - start[one])
        n_rays += 1
        row = behind
    group[n_groups] = n
    return rays[:n_rays].copy(), order, group[: n_groups + 1].copy(), ray[:n_groups].copy()
