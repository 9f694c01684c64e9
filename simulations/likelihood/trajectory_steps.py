"""Compiled preparation of a walk: where steps are counted."""

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


@njit(cache=True, nogil=True)
def pass_gamma(
    pixel, first_step, start, fractional, beam_fractional, kf, reciprocal, most, out
):  # fmt: skip
    """Which stretches have a step within the root of ``most`` of a reciprocal-lattice vector."""
    r = np.empty(3)
    for one in range(len(pixel)):
        for step in range(first_step[one], first_step[one] + start[one + 1] - start[one]):
            for i in range(3):
                f = beam_fractional[i] - kf[step] * fractional[pixel[one], i]
                r[i] = f - np.floor(f + 0.5)
            away = 0.0
            for c in range(3):
                x = r[0] * reciprocal[0, c] + r[1] * reciprocal[1, c] + r[2] * reciprocal[2, c]
                away += x * x
            if away < most:
                out[one] = True
                break
