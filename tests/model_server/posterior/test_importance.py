"""Weights are held against integrals done by quadrature and a posterior that is known."""

import numpy as np
import pytest

from model_server.posterior.importance import (
    ENOUGH,
    CountsLikelihood,
    Weighed,
    marginal_log_likelihood,
)
from model_server.posterior.observation import pool
from simulations.errors import InputError
from tests.model_server.posterior.test_refinement import (
    AXIS,
    ELASTIC_CUT,
    drawn,
    forward,
    prior,
    refinement,
    truth,
)


def problem(seed=0):
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, 60)
    rate = np.exp(-((x - 0.5) ** 2) / 0.02)
    slope = (x - 0.5)[:, None] * rate[:, None]
    flat, exposure = np.ones(60), 1 + x
    data = rng.poisson(200 * rate + 15 * flat + 10 * exposure).astype(float)
    return data, rate, slope, flat, exposure


def test_nuisances_are_integrated_as_by_quadrature():
    """Ratios between shapes: the constant drops out. Laplace leaves 0.1 of a few."""
    data, rate, slope, flat, exposure = problem()
    centre = np.log([200.0, 15.0, 10.0])
    sigma = np.array([0.04, 0.15, 0.15, 0.1])

    def by_quadrature(shape):
        axes = [c + s * np.linspace(-4, 4, 41) for c, s in zip([*centre, 0.0], sigma, strict=True)]
        a, f, d, m = (g.ravel() for g in np.meshgrid(*axes, indexing="ij"))
        log = np.full(len(a), -np.inf)
        for part in np.array_split(np.arange(len(a)), 60):
            lam = np.exp(a[part])[:, None] * (shape + m[part][:, None] * slope[:, 0])
            lam = lam + np.exp(f[part])[:, None] * flat + np.exp(d[part])[:, None] * exposure
            lam = np.maximum(lam, 1e-12)
            prior = sum(
                ((v[part] - c) / s) ** 2
                for v, c, s in zip((a, f, d, m), [*centre, 0.0], sigma, strict=True)
            )
            log[part] = (data * np.log(lam) - lam).sum(axis=1) - 0.5 * prior
        return np.logaddexp.reduce(log)

    x = np.linspace(0, 1, 60)
    shapes = [rate, np.exp(-((x - 0.507) ** 2) / 0.02), np.exp(-((x - 0.5) ** 2) / 0.022)]
    found = [marginal_log_likelihood(data, s, slope, flat, exposure, centre, sigma) for s in shapes]
    exact = [by_quadrature(s) for s in shapes]
    assert np.ptp(exact) > 0.5  # the shapes do differ
    np.testing.assert_allclose(np.diff(found), np.diff(exact), atol=0.1)


def test_weights_make_of_a_wide_and_shifted_proposal_the_posterior():
    rng = np.random.default_rng(1)
    draws = 0.5 + 1.5 * rng.standard_normal((20_000, 1))
    log_q = -0.5 * ((draws[:, 0] - 0.5) / 1.5) ** 2 - np.log(1.5)
    log_p = -0.5 * (draws[:, 0] / 1.0) ** 2
    found = Weighed(draws=draws, log_weight=log_p - log_q)
    assert found.mean()[0] == pytest.approx(0.0, abs=0.03)
    assert found.sigma()[0] == pytest.approx(1.0, abs=0.03)
    # E_q[w^2] / E_q[w]^2 of two normals, in closed form
    s, m = 1.5, 0.5
    second = s**2 / np.sqrt(2 * s**2 - 1) * np.exp(m**2 / (2 * s**2 - 1))
    assert found.share == pytest.approx(1 / second, abs=0.02)
    assert found.exact
    assert "draws of the posterior" in found.words()


def test_weights_that_cannot_say_so():
    log_weight = np.array([0.0] + [-60.0] * 199)
    found = Weighed(draws=np.zeros((200, 2)), log_weight=log_weight)
    assert found.effective == pytest.approx(1.0)
    assert found.share < ENOUGH
    assert not found.exact
    assert "cannot" in found.words()
    none = Weighed(draws=np.zeros((3, 1)), log_weight=np.full(3, -np.inf))
    assert none.effective == 0.0
    assert not none.exact


def likelihood_of(observation, **changes) -> CountsLikelihood:
    arguments = {
        "model": forward(),
        "observation": observation,
        "off_sigma": np.empty(0),
        "middle": prior().mean,
        "energy_centres_meV": AXIS.centres_meV,
        "elastic_cut_meV": ELASTIC_CUT,
    }
    return CountsLikelihood(**(arguments | changes))


def test_weighed_draws_are_the_posterior_that_the_refinement_finds():
    """Draws shifted by a sigma and too wide come back to its answer and its error bars."""
    pooled = pool(drawn(truth(), 1))
    posterior = refinement().fit([pooled])
    rng = np.random.default_rng(2)
    root = 1.5 * np.linalg.cholesky(posterior.covariance)
    middle = posterior.values + root @ [0.5, -0.4, 0.3]
    noise = rng.standard_normal((800, 3))
    draws = middle + noise @ root.T
    log_ratio = -0.5 * (noise**2).sum(axis=1)
    log_ratio += 0.5 * (((draws - prior().mean) / prior().sigma) ** 2).sum(axis=1)
    found = likelihood_of(pooled).weigh(draws, log_ratio)
    assert found.share > 0.1
    assert np.abs((found.mean() - posterior.values) / posterior.sigma).max() < 0.3
    np.testing.assert_allclose(found.sigma(), posterior.sigma, rtol=0.2)


def test_joined_cells_know_a_little_less_and_an_unstable_lattice_is_impossible():
    pooled = pool(drawn(truth(), 1))
    fine = likelihood_of(pooled)
    pairs = likelihood_of(
        pooled, join=lambda a: a.reshape(a.shape[0], a.shape[1] // 2, 2).sum(axis=-1)
    )
    here, there = forward().model.values, 1.03 * forward().model.values
    assert fine(here) - fine(there) > 5
    # joined cells know less, but not otherwise
    assert 0.5 < (pairs(here) - pairs(there)) / (fine(here) - fine(there)) < 1.05
    assert fine(-here) == -np.inf  # every mode is imaginary
    with pytest.raises(InputError, match="no stable lattice"):
        likelihood_of(pooled, middle=-here)
