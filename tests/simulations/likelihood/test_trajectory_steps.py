"""Shares of steps and groups of stretches against numpy."""

import numpy as np
from scipy.special import erf

from simulations.likelihood.trajectory_steps import fill_spread, group_stretches


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


def test_every_stretch_is_in_one_group_of_near_pixels_and_energies():
    rng = np.random.default_rng(3)
    angle = np.cumsum(rng.choice([0.002, 0.02], 300, p=[0.8, 0.2]))
    direction = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    pixel = np.sort(rng.integers(0, 300, 800)).astype(np.int32)
    first_step = rng.integers(0, 180, 800).astype(np.int32)
    length = rng.integers(1, 15, 800)
    start = np.concatenate([[0], np.cumsum(length)])
    edges = np.linspace(-20.0, 60.0, 201)
    widest, gap = 0.01, 3.0
    rays, order, group, ray = group_stretches(
        direction, widest, pixel, first_step, start, edges, gap
    )
    assert np.array_equal(np.sort(order), np.arange(800))
    assert group[0] == 0
    assert group[-1] == 800
    assert np.all(np.diff(group) > 0)
    assert len(group) - 1 == len(ray) < 600
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1.0, rtol=1e-12)
    for k, row in enumerate(ray):
        members = order[group[k] : group[k + 1]]
        assert np.ptp(angle[pixel[members]]) <= widest * 1.001
        assert np.all(np.abs(direction[pixel[members]] - rays[row]) < widest)
        last = first_step[members] + length[members]
        for i, one in enumerate(members[1:], 1):
            assert edges[first_step[one]] - edges[last[:i].max()] <= gap
    # what is farther apart than the gap is in two groups, also of one ray
    alone = group_stretches(direction, 0.0, pixel, first_step, start, edges, -1e9)
    assert np.array_equal(np.diff(alone[2]), np.ones(800))
    assert np.array_equal(alone[0], direction)
