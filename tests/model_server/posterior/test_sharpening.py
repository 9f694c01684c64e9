"""Sharpened draws against weights of many draws of the whole prior, and against a long walk."""

from dataclasses import replace

import numpy as np
import pytest

from model_server.posterior.observation import pool
from model_server.posterior.sharpening import LOOSER, Sharpened
from simulations.errors import InputError
from tests.model_server.posterior.test_refinement import drawn, prior, refinement, truth


def walked(posterior: Sharpened, steps: int, seed: int) -> np.ndarray:
    """Parameters of a Metropolis walk, after its first tenth."""
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(posterior.covariance) * 2.0 / np.sqrt(len(posterior.theta))
    x, level = posterior.theta, posterior.minus_log(posterior.theta)
    seen = []
    for _ in range(steps):
        trial = x + root @ rng.standard_normal(len(x))
        there = posterior.minus_log(trial)
        if np.log(rng.uniform()) < level - there:
            x, level = trial, there
        seen.append(x[:3])
    return np.array(seen[steps // 10 :])


@pytest.mark.parametrize("phonons", [300.0, 20000.0])
def test_sharpened_draws_are_those_of_a_long_walk(phonons):
    """Of few counts one parameter stays the prior's, whose walls a normal distribution has not."""
    pooled = pool(drawn(truth(phonons=phonons), 1))
    guess = prior().mean + 0.5 * prior().sigma * np.array([1, -1, 1])
    posterior = Sharpened(refinement(), pooled, [guess])
    found = posterior.draws(2000, seed=1)
    assert found.share > 0.5
    seen = walked(posterior, 12_000, seed=2)
    np.testing.assert_allclose(found.sigma(), seen.std(axis=0), rtol=0.1)
    assert np.abs((found.mean() - seen.mean(axis=0)) / seen.std(axis=0)).max() < 0.15
    inside = (found.draws >= prior().lower) & (found.draws <= prior().upper)
    assert inside.all()
    few = [posterior.draws(40, seed=1).log_weight for _ in range(2)]
    np.testing.assert_array_equal(*few)


def test_the_minimum_is_one_by_differences():
    pooled = pool(drawn(truth(), 1))
    posterior = Sharpened(refinement(), pooled, [prior().mean])
    assert posterior.gained >= 0
    sigma = np.sqrt(np.diag(posterior.covariance))

    def value(theta):  # with the loose prior that the minimum is under
        away = (theta[:3] - prior().mean) / (LOOSER * prior().sigma)
        return posterior.minus_log(theta) + 0.5 * float(away @ away)

    best = value(posterior.theta)
    for k, step in enumerate(0.2 * np.diag(sigma)):
        up, down = (value(posterior.theta + sign * step) for sign in (1, -1))
        assert min(up, down) > best - 0.03, k
        assert abs(up - down) / 0.4 < 0.1, k  # by a sigma


def test_reduced_data_have_a_posterior_too():
    pooled = pool(drawn(truth(phonons=20000.0), 1))
    counts = Sharpened(refinement(), pooled, [prior().mean]).draws(300)
    variance = np.maximum(pooled.sums.signal, 1.0)
    reduced = replace(pooled, sums=replace(pooled.sums, gaussian=True, variance=variance))
    found = Sharpened(refinement(), reduced, [prior().mean]).draws(300)
    assert found.exact
    np.testing.assert_allclose(found.sigma(), counts.sigma(), rtol=0.3)


def test_a_posterior_outside_of_the_box_has_no_draws():
    pooled = pool(drawn(truth(phonons=20000.0), 1))
    lower = truth()[:3] + 0.3 * prior().sigma
    away = replace(prior(), lower=lower, upper=lower + 2 * prior().sigma)
    found = Sharpened(refinement(prior=away), pooled, [away.mean]).draws(20)
    assert found.effective == 0.0
    assert not found.exact


def test_without_a_guess_there_is_nothing_to_sharpen():
    with pytest.raises(InputError, match="guesses is empty"):
        Sharpened(refinement(), pool(drawn(truth(), 1)), [])
