"""An ensemble moved towards data ends where Bayes' rule puts it, and beats single draws."""

from dataclasses import replace

import numpy as np
import pytest

from model_server.posterior.observation import pool
from model_server.posterior.starts import (
    BLURS_MEV,
    FEWEST_MEMBERS,
    SCREENING_BLUR_MEV,
    kalman_step,
)
from tests.model_server.posterior.test_refinement import drawn, forward, prior, refinement, truth


def test_a_step_of_a_linear_model_is_bayes_rule():
    rng = np.random.default_rng(1)
    members = rng.standard_normal((2_000, 2)) * [1.0, 3.0] + [2.0, -1.0]
    design = np.array([[1.0, 0.0], [1.0, 1.0], [0.5, -2.0]])
    data, sigma = np.array([1.0, 0.5, 4.0]), np.array([0.5, 1.0, 2.0])
    inflation = 2.0
    moved = kalman_step(members, members @ design.T, data, sigma, inflation, rng)
    precision = np.diag([1.0, 1 / 9])
    weighted = design.T / (inflation * sigma**2)
    covariance = np.linalg.inv(precision + weighted @ design)
    mean = covariance @ (precision @ [2.0, -1.0] + weighted @ data)
    np.testing.assert_allclose(moved.mean(axis=0), mean, atol=0.1)
    np.testing.assert_allclose(np.cov(moved.T), covariance, atol=0.15)


def test_few_places_are_screened_and_many_become_an_ensemble_nearer_to_the_truth():
    theta = truth(0.8 * forward().model.values, phonons=10_000.0)
    observations = drawn(theta, 20)
    fit = refinement()
    rng = np.random.default_rng(2)
    draws = list(forward().draw(prior(), FEWEST_MEMBERS, rng))
    few, blur = fit.starts.first(pool(observations), draws[:3])
    assert len(few) == 3
    assert blur == SCREENING_BLUR_MEV
    many, blur = fit.starts.first(pool(observations), draws)
    assert blur == BLURS_MEV[-1]
    again, _ = fit.starts.first(pool(observations), draws)
    np.testing.assert_array_equal(many, again)

    def away(values):
        return np.sqrt(np.mean(((values - theta[:3]) / prior().sigma) ** 2))

    # Middle of the ensemble against the middle of what it began with.
    assert away(many[0][:3]) < 0.5 * away(np.mean(draws, axis=0))


@pytest.mark.parametrize("stretch", [0.75, 1.0, 1.25])
def test_a_search_from_an_ensemble_ends_where_one_from_the_truth_does(stretch):
    theta = truth(stretch * forward().model.values, phonons=10_000.0)
    observations = drawn(theta, 30)
    rng = np.random.default_rng(3)
    draws = list(forward().draw(prior(), 60, rng))
    found = refinement().fit(observations, starts=draws)
    knowing = refinement().fit(observations, starts=[theta[:3]])
    assert found.objective < knowing.objective + 0.1


def test_a_fold_without_a_cell_to_fit_keeps_the_middle_of_the_prior():
    observations = drawn(truth(forward().model.values, phonons=10_000.0), 20)
    fit = refinement()
    pooled = pool(observations)
    nothing = replace(
        pooled, sums=replace(pooled.sums, exposure=np.zeros_like(pooled.sums.exposure))
    )
    draws = list(forward().draw(prior(), FEWEST_MEMBERS, np.random.default_rng(2)))
    (only,), _ = fit.starts.first(nothing, draws)
    np.testing.assert_allclose(only[: len(draws[0])], draws[0])
