"""Exact rates carried to other places: to first order, and by second differences of rough ones."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from model_server.posterior.observation import Observation
from model_server.posterior.posterior import ThetaLayout
from model_server.posterior.tangent import BENDS_OVER, REACH_SIGMAS, Tangents
from tests.model_server.posterior.test_refinement import LINE, LINE_BOX, counted, folded_line
from tests.model_server.posterior.test_refinement import _Counting as Counting
from tests.model_server.posterior.test_refinement import _Rough as Rough

LAYOUT = ThetaLayout(parameter_names=LINE_BOX.names, parameter_units=("meV", "1"))
SIGMA_MEV = 0.1
SIGMA = np.full(LAYOUT.size, 1.0)
SIGMA[0] = SIGMA_MEV


class Noisy(Counting):
    """Rates whose derivatives differ from cell to cell, as those of few pixels do."""

    def rates(self, trajectories, state, *, log_width, off, gradient):
        rate, slope = super().rates(
            trajectories, state, log_width=log_width, off=off, gradient=gradient
        )
        noise = np.random.default_rng(7).uniform(0.2, 1.8, rate.shape)
        return rate * noise, slope * noise[..., None]


def theta_at(energy_meV: float) -> np.ndarray:
    theta = np.zeros(LAYOUT.size)
    theta[:2] = energy_meV, LINE[1]
    return theta


@pytest.fixture(name="observations", scope="module")
def _observations() -> list[Observation]:
    return counted(folded_line(), LINE, 1, 10.0)


def off_by(tangents: Sequence, truth: Sequence) -> float:
    """Squares of what rates, and their derivatives by the energy in sigma, are off by."""
    return sum(
        float(
            np.sum((one.exact - true.exact) ** 2)
            + np.sum((SIGMA_MEV * (one.slope - true.slope)[..., 0]) ** 2)
        )
        for one, true in zip(tangents, truth, strict=True)
    )


@pytest.mark.parametrize("sigmas", [-3.0, 2.0, 3.5])
def test_second_differences_of_rough_rates_carry_rates_and_slopes(observations, sigmas):
    exact, rough = Counting(), Rough()
    tangents = Tangents(exact, LAYOUT, rough)
    here, there = theta_at(LINE[0]), theta_at(LINE[0] + sigmas * SIGMA_MEV)
    walked = tangents.walked(observations, here, SIGMA)
    exact.walks.clear()
    assert tangents.unknown(observations, there, SIGMA) == 0
    bent = tangents.walked(observations, there, SIGMA)
    assert not exact.walks
    assert len(rough.walks) == 2 * len(observations)
    truth = Tangents(exact, LAYOUT).walked(observations, there, SIGMA)
    step = there[LAYOUT.walked] - here[LAYOUT.walked]
    first = [replace(t, exact=t.exact + t.slope @ step) for t in walked]
    assert 0 < off_by(bent, truth) < 0.1 * off_by(first, truth)

    # On to a third place: from what was walked, whose rough rates are known by now.
    rough.walks.clear()
    on = tangents.walked(observations, theta_at(LINE[0] - sigmas * SIGMA_MEV), SIGMA)
    assert len(rough.walks) == len(observations)
    for one, base in zip(on, walked, strict=True):
        assert one.base is not None
        assert one.base.exact is base.exact


def test_rough_rates_that_are_too_unlike_bend_nothing(observations):
    exact, rough = Counting(), Noisy()
    tangents = Tangents(exact, LAYOUT, rough)
    tangents.walked(observations, theta_at(LINE[0]), SIGMA)
    exact.walks.clear()
    away = theta_at(LINE[0] + 3.0 * SIGMA_MEV)
    found = tangents.walked(observations, away, SIGMA)
    assert all(one.base is None for one in found)
    assert len(exact.walks) == len(observations)
    assert len(rough.walks) == 1  # what is found of one orientation is so of all
    # Nor later, with what is remembered.
    kept = tangents.remembered()
    again = Tangents(exact, LAYOUT, rough)
    again.recall(kept)
    assert again.unknown(observations, theta_at(LINE[0]), SIGMA) == len(observations)
    again.walked(observations, theta_at(LINE[0]), SIGMA)
    assert len(rough.walks) == 1
    near = theta_at(LINE[0] + 0.4 * REACH_SIGMAS * SIGMA_MEV)
    assert again.unknown(observations, near, SIGMA) == 0


def test_beyond_their_reach_exact_rates_are_walked_again(observations):
    exact, rough = Counting(), Rough()
    tangents = Tangents(exact, LAYOUT, rough)
    tangents.walked(observations, theta_at(LINE[0]), SIGMA)
    rough.walks.clear()
    away = theta_at(LINE[0] + 1.05 * BENDS_OVER * SIGMA_MEV)
    assert tangents.unknown(observations, away, SIGMA) == len(observations)
    found = tangents.walked(observations, away, SIGMA)
    assert len(exact.walks) == 2 * len(observations)
    assert not rough.walks
    assert all(one.base is None for one in found)


def test_without_rough_rates_exact_ones_are_walked_where_their_derivatives_end(observations):
    exact = Counting()
    tangents = Tangents(exact, LAYOUT)
    tangents.walked(observations, theta_at(LINE[0]), SIGMA)
    exact.walks.clear()
    near = theta_at(LINE[0] + 0.4 * REACH_SIGMAS * SIGMA_MEV)
    assert tangents.unknown(observations, near, SIGMA) == 0
    tangents.walked(observations, near, SIGMA)
    assert not exact.walks
    away = theta_at(LINE[0] + 1.1 * REACH_SIGMAS * SIGMA_MEV)
    assert tangents.unknown(observations, away, SIGMA) == len(observations)
    tangents.walked(observations, away, SIGMA)
    assert len(exact.walks) == len(observations)


def test_what_is_not_to_be_bent_is_walked(observations):
    exact, rough = Counting(), Rough()
    tangents = Tangents(exact, LAYOUT, rough)
    near = theta_at(LINE[0] + 2.0 * SIGMA_MEV)
    tangents.walked(observations, theta_at(LINE[0]), SIGMA)
    assert all(one.base is not None for one in tangents.walked(observations, near, SIGMA))
    exact.walks.clear()
    rough.walks.clear()
    with tangents.unbent():
        assert all(one.base is None for one in tangents.walked(observations, near, SIGMA))
    assert len(exact.walks) == len(observations)
    assert not rough.walks
    on = tangents.walked(observations, theta_at(LINE[0]), SIGMA)
    assert all(one.base is not None for one in on)


class Blurring(Counting):
    """A model that nobody told what blurs q: typically that makes rates half as much again."""

    def typical(self):
        class Blurred(Counting):
            def rates(self, trajectories, state, *, log_width, off, gradient):
                rate, slope = super().rates(
                    trajectories, state, log_width=log_width, off=off, gradient=gradient
                )
                return 1.5 * rate, slope

        return Blurred()


def test_what_a_typical_spread_would_change_is_walked_once_for_each_orientation(observations):
    model = Blurring()
    tangents = Tangents(model, LAYOUT)
    theta = theta_at(LINE[0])
    walked = tangents.walked(observations, theta, SIGMA)
    wider = tangents.wider(observations, theta)
    for one, tangent in zip(wider, walked, strict=True):
        np.testing.assert_allclose(one, 0.5 * tangent.exact, rtol=1e-5, atol=1e-9)
    model.walks.clear()
    far = theta_at(LINE[0] + 50 * SIGMA_MEV)
    again = tangents.wider(observations, theta)
    tangents.walked(observations, far, SIGMA)  # anew, and what was found goes with them
    assert len(model.walks) == len(observations)
    later = tangents.wider(observations, far)
    for one, two, three in zip(wider, again, later, strict=True):
        assert one is two
        assert one is three
    assert Tangents(Counting(), LAYOUT).wider(observations, theta) == []
