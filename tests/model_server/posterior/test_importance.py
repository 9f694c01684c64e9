"""Weights are held against integrals done by quadrature and a posterior that is known."""

from dataclasses import replace

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
from simulations.prior import BoxPrior
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


def profiled(pooled, values, start):
    """The refinement's own objective with parameters pinned, and the volume of the rest."""
    pin = BoxPrior(names=prior().names, lower=values - 1e-7, upper=values + 1e-7)
    pinned = refinement(prior=pin)
    theta = np.concatenate([values, start.theta[3:]])
    found = pinned.objective.score([pooled], theta, pinned.starts.centre(pooled), 20)
    return -found.objective - 0.5 * np.linalg.slogdet(found.precision[3:, 3:])[1]


def test_the_likelihood_is_the_refinements_objective_with_its_nuisances_integrated():
    """Along the softest direction and each parameter, to 3 nats below the top."""
    pooled = pool(drawn(truth(), 1))
    posterior = refinement().fit([pooled])
    value, vector = np.linalg.eigh(posterior.covariance)
    soft = np.sqrt(value[-1]) * vector[:, -1]
    steps = [t * soft for t in (-3, -2, -1, 1, 2, 3)]
    steps += [s * posterior.sigma * one for one in np.eye(3) for s in (-1, 1)]
    likelihood = likelihood_of(pooled)
    top = posterior.values
    found = np.array([likelihood(top + step) for step in steps]) - likelihood(top)
    wanted = np.array([profiled(pooled, top + step, posterior) for step in steps])
    wanted -= profiled(pooled, top, posterior)
    assert wanted.min() < -2.5
    np.testing.assert_allclose(found[:6], wanted[:6], atol=0.03)
    # across the soft direction the width moves, which slopes at the believed one carry roughly
    np.testing.assert_allclose(found[6:], wanted[6:], atol=0.2)


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
    reduced = replace(pooled, sums=replace(pooled.sums, gaussian=True))
    with pytest.raises(InputError, match="reduced data"):
        likelihood_of(reduced)
