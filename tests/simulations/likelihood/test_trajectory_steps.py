"""Shares of steps against numpy."""

import numpy as np
from scipy.special import erf

from simulations.likelihood.trajectory_steps import fill_spread


def test_shares_of_a_step_are_those_of_a_gaussian():
    true, rest = np.array([2.0, 5.0]), np.array([0.3, 0.6])
    edges = np.linspace(0, 10, 41)
    first, last = np.searchsorted(edges[1:], true - 3), np.searchsorted(edges[:-1], true + 3)
    sigma = 1.2 * rest
    found = np.sqrt(sigma**2 - rest**2)
    shares, by_width, by_shift = np.zeros((3, 2, np.max(last - first)))
    fill_spread(true, rest, sigma, edges, first, last, shares, by_width, by_shift)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    for row, t, s, a, b in zip(shares, true, rest, first, last, strict=True):
        below = 0.5 * (1 + erf((edges[a : b + 1] - t) / (s * np.sqrt(2))))
        np.testing.assert_allclose(row[: b - a], np.diff(below), atol=1e-12)
    step = 1e-5
    for slope, wide, moved in (
        (by_width, np.sqrt((sigma * np.exp(step)) ** 2 - found**2), true),
        (by_shift, rest, true + step),
    ):
        there, room = np.zeros(shares.shape), np.zeros((2, *shares.shape))
        fill_spread(moved, wide, sigma, edges, first, last, there, *room)
        np.testing.assert_allclose(slope, (there - shares) / step, atol=2e-4)
