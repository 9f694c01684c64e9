from __future__ import annotations

import numpy as np
import pytest

from model_server.posterior.mixing import MOST, mixed_step

METRIC = np.diag([4.0, 1.0, 0.25])


@pytest.mark.parametrize("bend", [-0.6, 0.4, 0.9])
def test_a_series_that_misses_by_the_same_share_ends_in_one_step(bend):
    goal, start = np.array([1.0, -2.0, 0.5]), np.array([3.0, 0.0, 1.0])

    def said(at):
        return (1 - bend) * (goal - at)

    theta = start + said(start)
    step = mixed_step(start, said(start), theta, said(theta), METRIC)
    if bend < 0.5:
        np.testing.assert_allclose(theta + step, goal, atol=1e-12)
    else:  # ten times the plain step: too far to be believed
        np.testing.assert_array_equal(step, said(theta))


def test_steps_of_a_curved_iteration_converge_in_fewer_walks():
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    slow = turn @ np.diag([-0.7, 0.1, 0.05, -0.1, 0.0, 0.02]) @ turn.T
    metric = np.diag(rng.uniform(0.5, 2.0, 6))

    def said(at):
        return -(np.eye(6) - slow) @ at + 0.02 * at**2

    def walks(mixing):
        theta, before, count = np.full(6, 0.8), None, 0
        while np.abs(theta).max() > 1e-4:
            step = said(theta)
            taken = (
                step if before is None or not mixing else mixed_step(*before, theta, step, metric)
            )
            before, theta, count = (theta, step), theta + taken, count + 1
        return count

    assert walks(True) < 0.6 * walks(False)


def test_two_like_steps_and_wild_ones_are_left_alone():
    zero, one = np.zeros(3), np.array([1.0, 0.0, 0.0])
    np.testing.assert_array_equal(mixed_step(zero, one, one, one, METRIC), one)
    wild = mixed_step(zero, one, one, one + 1e-6, METRIC)
    assert wild @ METRIC @ wild <= MOST**2 * (one + 1e-6) @ METRIC @ (one + 1e-6)
