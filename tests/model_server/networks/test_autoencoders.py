"""What the encoder sees, and the pieces of the variational autoencoder."""

import numpy as np
import pytest
import torch

from model_server.networks import (
    CoarseGrid,
    Decoder,
    Encoder,
    encoder_input,
    kl_to_normal,
    sample_latent,
)
from model_server.networks.autoencoders import HIGHEST_RATIO

GRID = CoarseGrid(path_bins=8, first_energy=2, energy_bins=6, path_group=2, energy_group=3)


def test_coarse_sums_keep_the_total_of_the_cells_that_are_used():
    values = np.random.default_rng(0).uniform(size=(3, 8, 12))
    coarse = GRID.sums(values)
    assert coarse.shape == (3, 4, 2)
    np.testing.assert_allclose(coarse.sum(axis=(1, 2)), values[:, :, 2:8].sum(axis=(1, 2)))
    np.testing.assert_allclose(coarse[1, 2, 1], values[1, 4:6, 5:8].sum())


def test_a_grid_that_does_not_divide_and_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="expected divisors"):
        CoarseGrid(path_bins=7, first_energy=0, energy_bins=6, path_group=2, energy_group=3)
    with pytest.raises(ValueError, match="expected 8 path bins and at least 8 energy bins"):
        GRID.sums(np.zeros((8, 7)))


def test_scale_and_exposure_unit_drop_out_and_unknown_cells_are_zero():
    rng = np.random.default_rng(1)
    D = rng.uniform(0.5, 2.0, GRID.shape)
    D[1] = 0.0
    S = np.where(D > 0, rng.uniform(1, 5, GRID.shape), 0.0)
    x = encoder_input(S, D, np.ones(GRID.shape))
    y = encoder_input(7.0 * S, 3.0 * D, np.ones(GRID.shape))
    np.testing.assert_allclose(x, y, rtol=1e-5)
    spectrum, coverage = x[:8].reshape(GRID.shape), x[8:].reshape(GRID.shape)
    assert np.all(spectrum[1] == 0)
    assert np.all(coverage[1] == 0)
    assert np.all(coverage[0] == 1)
    assert x.dtype == np.float32


def test_nothing_and_hot_pixels_give_finite_inputs():
    assert np.all(
        encoder_input(np.zeros(GRID.shape), np.zeros(GRID.shape), np.zeros(GRID.shape)) == 0
    )
    S = np.ones((30, 40))
    S[0, 0] = 1e9
    hot = encoder_input(S, np.ones((30, 40)), np.ones((30, 40)))
    assert np.isfinite(hot).all()
    assert hot.max() == pytest.approx(np.sqrt(HIGHEST_RATIO))


def test_the_divergence_is_that_of_two_normals():
    mean, log_variance = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.2, -0.7]])
    posterior = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    reference = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    expected = torch.distributions.kl_divergence(posterior, reference).sum()
    assert float(kl_to_normal(mean, log_variance)) == pytest.approx(float(expected), rel=1e-5)


def test_shapes_run_from_inputs_to_latent_and_back():
    encoder, decoder = Encoder(GRID.inputs, 12, 3), Decoder(3, 12, GRID.inputs // 2)
    mean, log_variance = encoder(torch.zeros(5, GRID.inputs))
    z = sample_latent(mean, log_variance, torch.zeros(5, 3))
    assert torch.equal(z, mean)
    assert decoder(z).shape == (5, 8)
