"""A density is held against posteriors that are known: a linear Gaussian one, and one on a grid."""

import copy

import numpy as np
import pytest
import torch

from model_server.networks import Density, normal_deviates
from model_server.networks.density import from_normal_deviates
from model_server.training import FlowRecipe
from model_server.training.density_training import (
    CALIBRATION_DRAWS,
    fit_density,
    frozen_density,
    ranks_of,
)
from model_server.training.progressed_file import Keeping

SMALL = FlowRecipe(
    hidden=48, context=12, transforms=2, bins=4, flow_hidden=24, epochs=40, batch=128,
    learning_rate=3e-3, channels=(),
)  # fmt: skip
NOISE = 0.5
MATRIX = np.array(
    [[1.0, 0.5, 0.0], [0.0, 1.0, -1.0], [0.5, 0.0, 0.3], [0.2, -0.7, 1.0], [0.1, 0.1, 0.1]]
)


def observed(z, rng):
    return (z @ MATRIX.T + NOISE * rng.standard_normal((len(z), 5))).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((6_000, 3))
    torch.manual_seed(0)
    density = Density((1, 2), 3, **SMALL.sizes)
    unseen = rng.standard_normal((500, 3))
    losses = fit_density(
        density,
        lambda rows, rng: observed(z[rows], rng),
        torch.from_numpy(z).float(),
        (observed(unseen, rng), torch.from_numpy(unseen).float()),
        SMALL,
        0,
        Keeping(),
    )
    return frozen_density(density, observed(unseen, rng)), losses


PRECISION = np.eye(3) + MATRIX.T @ MATRIX / NOISE**2
COVARIANCE = np.linalg.inv(PRECISION)


def test_the_loss_reaches_the_information_of_a_linear_gaussian_problem(trained):
    _, losses = trained
    exact = -0.5 * np.linalg.slogdet(PRECISION)[1]  # minus the mutual information, nats
    assert losses[-1][1] == pytest.approx(exact, abs=0.08)


def test_draws_have_mean_and_covariance_of_the_exact_posterior(trained):
    network, _ = trained
    rng = np.random.default_rng(1)
    for x in observed(rng.standard_normal((5, 3)), rng):
        draws = normal_deviates(network.draws(x, 4_000)).numpy()
        mean = COVARIANCE @ MATRIX.T @ x / NOISE**2
        sigma = np.sqrt(np.diag(COVARIANCE))
        assert np.abs((draws.mean(axis=0) - mean) / sigma).max() < 0.35
        assert np.abs(draws.std(axis=0) / sigma - 1).max() < 0.2
        correlation = COVARIANCE / np.outer(sigma, sigma)
        assert np.abs(np.corrcoef(draws.T) - correlation).max() < 0.2


def test_intervals_hold_the_truth_as_often_as_they_say_and_ranks_are_uniform(trained):
    network, _ = trained
    rng = np.random.default_rng(2)
    z = rng.standard_normal((1_500, 3))
    truth = from_normal_deviates(torch.from_numpy(z))
    ranks, widths = ranks_of(network, observed(z, rng), truth, seed=5)
    inside = np.abs(ranks - CALIBRATION_DRAWS / 2) <= 0.9 * (CALIBRATION_DRAWS + 1) / 2
    assert np.abs(inside.mean(axis=0) - 0.9).max() < 0.035
    assert np.abs(ranks.mean(axis=0) / CALIBRATION_DRAWS - 0.5).max() < 0.04
    # the same draws for truths of another spectrum are no posterior: the check can fail
    others, _ = ranks_of(network, observed(z[::-1], rng), truth, seed=5)
    inside = np.abs(others - CALIBRATION_DRAWS / 2) <= 0.9 * (CALIBRATION_DRAWS + 1) / 2
    assert inside.mean() < 0.75


def test_a_density_that_is_too_sure_is_widened_by_unseen_spectra(trained):
    network, _ = trained
    density = copy.deepcopy(network.density)
    rng = np.random.default_rng(6)
    z = rng.standard_normal((2_000, 3))
    context = density.summary(torch.from_numpy(observed(z, rng)))
    z = torch.from_numpy(z).float()
    before = density.log_prob(context, z).mean()
    density.widening.fill_(0.5)
    sure = density.log_prob(context, z).mean()
    density.widen(context, z)
    assert float(density.widening) == pytest.approx(1.0, abs=0.05)
    assert sure < before - 1
    assert float(density.log_prob(context, z).mean()) == pytest.approx(float(before), abs=0.02)
    z = torch.zeros(20_000, 3)
    drawn = density.of_noise(context[:1].expand(20_000, -1), torch.randn(z.shape))
    density.widening.fill_(0.5)
    narrow = density.of_noise(context[:1].expand(20_000, -1), torch.randn(z.shape))
    assert float((narrow.std(dim=0) / drawn.std(dim=0)).mean()) == pytest.approx(0.5, abs=0.03)


def test_weights_with_the_exact_likelihood_give_the_exact_evidence_and_mean(trained):
    network, _ = trained
    rng = np.random.default_rng(3)
    x = observed(rng.standard_normal((1, 3)), rng)[0]
    values, log_ratio = network.weighed_draws(x, 4_000)
    z = normal_deviates(values).numpy()
    log_likelihood = -0.5 * ((x - z @ MATRIX.T) ** 2).sum(axis=1) / NOISE**2
    weight = log_likelihood - log_ratio
    evidence_covariance = NOISE**2 * np.eye(5) + MATRIX @ MATRIX.T
    exact = -0.5 * x @ np.linalg.inv(evidence_covariance) @ x
    exact += len(x) * np.log(NOISE) - 0.5 * np.linalg.slogdet(evidence_covariance)[1]
    assert np.log(np.mean(np.exp(weight))) == pytest.approx(exact, abs=0.05)
    w = np.exp(weight - weight.max())
    assert w.sum() ** 2 / (w**2).sum() > 0.7 * len(w)
    mean = (w[:, None] * z).sum(axis=0) / w.sum()
    np.testing.assert_allclose(
        mean, COVARIANCE @ MATRIX.T @ x / NOISE**2, atol=0.08 * np.sqrt(np.diag(COVARIANCE)).max()
    )


def test_deviates_and_parameters_are_inverse_and_stay_in_the_box():
    rng = np.random.default_rng(4)
    t = rng.uniform(-np.sqrt(3), np.sqrt(3), (100, 2))
    back = from_normal_deviates(normal_deviates(t))
    np.testing.assert_allclose(back, t, atol=1e-5)
    assert torch.isfinite(normal_deviates([[-9.0, 9.0]])).all()
