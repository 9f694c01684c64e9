"""Many path spectra fitted at once: they find the truth, and are as sure as they may be."""

import numpy as np
import pytest

from model_server.training.path_refinement import (
    GaussianPrior,
    _deviance_of,
    best_fits,
    bound_of,
    covariance_of,
    information,
    nearest_sets,
    path_fits,
    posterior_means,
)
from simulations.prior import load_prior
from simulations.reciprocal import EnergyAxis
from simulations.scattering.path_spectra import path_model, path_spectra, path_spectra_gradients
from simulations.scattering.training_set import training_plan, training_set
from tests.simulations.phonon_oracles import germanium

NAMES = ("1NN xx", "1NN xy", "2NN zz")


@pytest.fixture(scope="module")
def problem():
    """Three constants of germanium along Gamma-X and Gamma-L, stable sets of its box."""
    model = germanium().with_free(NAMES)
    half = np.linspace(0.05, 0.95, 6)[:, None]
    hkl = np.concatenate([half * [0, 0, 1.0], half * [0.5, 0.5, 0.5]]) + [5, 3, 1]
    Q = hkl @ model.crystal.conventional_reciprocal
    path = path_model(model, Q, EnergyAxis(edges_meV=np.linspace(3, 48, 46)), 1.2, 5.0)
    box = load_prior("germanium").restricted(model.names)
    sets = training_set(training_plan(path, box, 120, 0))
    prior = GaussianPrior(
        mean=sets.parameters.mean(axis=0),
        covariance=np.cov(sets.parameters.T),
        lower=box.lower,
        upper=box.upper,
    )
    return path, prior, sets.parameters, sets.spectra.astype(float)


def test_expected_counts_give_the_truth_back_from_the_middle_of_the_prior(problem):
    path, prior, parameters, spectra = problem
    truth, clean = (
        parameters[:16],
        1e6 * spectra[:16] / spectra[:16].max(axis=(1, 2))[:, None, None],
    )
    found = path_fits(path, prior, clean + 500.0, np.tile(prior.mean, (16, 1)))
    right = np.abs(found.values - truth).max(axis=1) < 1e-3
    assert right.mean() >= 0.9  # the rest sit in another minimum
    assert found.converged[right].all()
    assert np.all(np.abs(found.excess[right]) < 60)
    assert np.all(np.exp(found.theta[right, 3]) > 0)
    np.testing.assert_allclose(found.theta[right, 4], 500.0, rtol=0.05)
    assert np.all(found.excess[~right] > 60)  # and can be told


def test_errors_of_noisy_fits_are_those_of_the_bound(problem):
    path, prior, parameters, spectra = problem
    truth = parameters[:40]
    scale = 100 / spectra[:40].max(axis=(1, 2))
    rate = scale[:, None, None] * spectra[:40] + 5.0
    counts = np.random.default_rng(0).poisson(rate).astype(float)
    found = path_fits(path, prior, counts, truth, blurs_meV=(0.0,))
    _, slopes = path_spectra_gradients(path, truth)
    fisher = information(
        scale[:, None, None] * spectra[:40], scale[:, None, None, None] * slopes, rate
    )
    bound = bound_of(fisher, prior)
    np.testing.assert_allclose(found.sigma, np.sqrt(bound), rtol=0.3)
    pull = (found.values - truth) / np.sqrt(bound)
    assert 0.6 < np.sqrt((pull**2).mean()) < 1.5
    assert np.abs(found.excess).max() < 5
    means, effective = posterior_means(path, prior, counts, found, draws=64)
    assert np.median(effective) > 16
    assert np.abs((means - found.values) / found.sigma).max() < 1.5


def test_slopes_of_the_information_are_those_of_expected_counts(problem):
    path, prior, parameters, spectra = problem
    _, slopes = path_spectra_gradients(path, parameters[:1])
    step = 1e-5
    moved = parameters[:1] + step * np.eye(3)[0]
    numeric = (path_spectra(path, moved) - path_spectra(path, parameters[:1])) / step
    rate = spectra[:1] + 0.3 * spectra[0].max()
    fisher = information(spectra[:1], slopes, rate)[0]
    np.testing.assert_allclose(fisher[0, 0], (numeric**2 / rate).sum(), rtol=1e-3)
    np.testing.assert_allclose(fisher[3, 4], (spectra[:1] / rate).sum(), rtol=1e-6)
    np.testing.assert_allclose(fisher, fisher.T)
    without = covariance_of(np.zeros((1, 5, 5)) + np.diag([0, 0, 0, 1.0, 1.0]), prior)[0]
    np.testing.assert_allclose(without[:3, :3], prior.covariance, rtol=1e-6)


def test_the_most_alike_set_is_the_one_that_counts_were_drawn_from(problem):
    path, prior, parameters, spectra = problem
    counts = (
        np.random.default_rng(1).poisson(200 * spectra[:12] / spectra.max() + 3.0).astype(float)
    )
    found = nearest_sets(path, counts, parameters, spectra, places=2)
    own = (found[0] == parameters[:12]).all(axis=1)
    assert own.mean() > 0.7
    spread = parameters.std(axis=0)
    assert np.all((np.abs(found[0] - found[1]) / spread).max(axis=1) >= 1.0)


def test_of_two_answers_the_better_one_is_kept_and_an_unstable_start_left(problem):
    path, prior, parameters, spectra = problem
    counts = 1e3 * spectra[:6] / spectra[:6].max(axis=(1, 2))[:, None, None]
    wild = np.tile(prior.mean, (6, 1))
    wild[:, 0] = 0.5  # no crystal
    far = path_fits(path, prior, counts, wild)
    near = path_fits(path, prior, counts, parameters[:6], blurs_meV=(0.0,))
    rows = np.arange(6)
    best = best_fits(far, near, rows)
    assert np.all(best.objective <= np.minimum(far.objective, near.objective) + 1e-9)
    assert np.isfinite(far.values).all()


def test_wrong_shapes_are_refused(problem):
    path, prior, _, spectra = problem
    with pytest.raises(ValueError, match="counts has shape"):
        path_fits(path, prior, spectra[:3, :, 1:], np.zeros((3, 3)))


def test_the_deviance_of_counts_is_that_of_draws():
    rng = np.random.default_rng(2)
    for rate in (0.02, 0.4, 3.0, 60.0):
        n = rng.poisson(rate, 400_000)
        each = 2 * (np.where(n > 0, n * np.log(np.maximum(n, 1) / rate), 0) - n + rate)
        mean, variance = _deviance_of(np.full((1, 1, 1), rate))
        assert mean[0] == pytest.approx(each.mean(), rel=0.02)
        assert variance[0] == pytest.approx(each.var(), rel=0.06)
