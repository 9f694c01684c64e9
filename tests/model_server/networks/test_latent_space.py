from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_server.networks import (
    codes_of,
    correlation,
    distances,
    encoder_input,
    interpolation,
    latent_activity,
    principal_map,
    sensitivity,
)
from model_server.training import recipe_of
from simulations.errors import InputError
from tests.model_server.networks.small_bundle import PRIOR, rates, trained


def inputs(parameters):
    rate = rates(np.atleast_2d(parameters))
    return encoder_input(rate, np.ones_like(rate), np.ones_like(rate))


def test_dimensions_that_do_not_move_are_inactive():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.normal(size=500), 1e-3 * rng.normal(size=500)], axis=1)
    deviations = np.full((500, 2), [0.1, 1.0])
    told = latent_activity(codes, deviations)
    assert told.active.tolist() == [True, False]
    np.testing.assert_allclose(told.noise, [0.01, 1.0])
    expected = 0.5 * (codes[:, 0] ** 2 + 0.01 - 1 - np.log(0.01)).mean()
    assert told.divergence[0] == pytest.approx(expected)
    assert told.divergence[1] == pytest.approx(0.0, abs=1e-5)


def test_without_a_prior_activity_is_beside_the_most_active():
    codes = np.random.default_rng(0).normal(size=(500, 2)) * [1e-3, 1e-5]
    told = latent_activity(codes, np.zeros((500, 2)))
    assert told.active.tolist() == [True, False]
    assert np.isnan(told.divergence).all()
    with pytest.raises(InputError, match="expected at least 2"):
        latent_activity(codes[:1], codes[:1])


class Linear:
    """A network whose codes are a known map of what it sees."""

    matrix = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])

    def codes(self, seen):
        return seen @ self.matrix.T, np.zeros((len(seen), 2))

    def of_codes(self, codes):
        return codes[..., :1]


def test_the_sensitivity_of_a_linear_network_is_its_matrix():
    centre = np.random.default_rng(0).normal(size=(4, 1, 3))
    step = 0.1 * np.eye(3)[None]
    found = sensitivity(Linear(), centre - step, centre + step, 0.1)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, Linear.matrix, atol=1e-12)


def test_the_network_moves_with_the_parameter_that_moves_the_peak():
    bundle = trained()
    place = np.array([0.1, 1.0])
    step = 0.05 * np.diag(PRIOR.sigma)
    below = np.stack([[inputs(place - one)[0] for one in step]])
    above = np.stack([[inputs(place + one)[0] for one in step]])
    found = sensitivity(bundle.network, below, above, 0.05)
    assert found.shape == (3, 2)
    assert np.linalg.norm(found[:, 0]) > np.linalg.norm(found[:, 1]) > 0


def test_correlations_are_those_of_numpy_and_zero_for_what_does_not_vary():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 2)), rng.normal(size=(50, 3))
    expected = np.corrcoef(np.concatenate([a, b], axis=1).T)[:2, 2:]
    np.testing.assert_allclose(correlation(a, b), expected)
    assert not correlation(np.full((50, 1), 0.3), b).any()


def test_the_map_keeps_what_varies_most_and_does_not_turn_round():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(300, 2)) * [5.0, 2.0]
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    codes = flat @ turn[:2] + 7.0
    told = principal_map(codes)
    assert told.shares.sum() == pytest.approx(1.0)
    assert told.shares[0] > told.shares[1]
    placed = told.place(codes)
    lengths = np.linalg.norm(placed - placed[:1], axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(codes - codes[:1], axis=1), atol=1e-9)
    np.testing.assert_allclose(principal_map(codes[::-1]).axes, told.axes, atol=1e-9)


def test_codes_of_a_linear_network_lie_on_the_line_and_those_of_a_real_one_about():
    given = np.linspace([-0.5, 0.6], [0.5, 1.4], 7)
    straight = np.concatenate([given, given[:, :1]], axis=1).astype(np.float32)
    assert interpolation(Linear(), straight, given).bend == pytest.approx(0.0, abs=1e-6)  # type: ignore[arg-type]
    bundle = trained()
    standard = (given - bundle.prior_mean) / bundle.prior_sigma
    told = interpolation(bundle.network, inputs(given), standard)
    np.testing.assert_allclose(told.read[[0, -1]], told.read_of_given[[0, -1]], atol=1e-5)
    assert 0 < told.bend < 1
    assert told.read[-1, 0] > told.read[0, 0]


@pytest.mark.parametrize("name", ["variational-encoder", "fc-ae", "conv-vae", "resnet-18"])
def test_codes_lead_to_what_the_network_reads_and_to_its_distance(name):
    recipe = recipe_of(name)
    if name != "variational-encoder":
        recipe = replace(recipe.shortened(1), noisy=True)
    else:
        recipe = replace(recipe, epochs=1)
    bundle = trained(recipe, spectra=80)
    seen = inputs(PRIOR.sample(5, np.random.default_rng(1)).values)
    codes, deviations = codes_of(bundle.network, seen)
    assert codes.shape == deviations.shape
    assert deviations.any() == name.endswith(("encoder", "vae"))
    np.testing.assert_allclose(
        bundle.network.of_codes(codes), bundle.network.centres(seen), atol=1e-4
    )
    far = distances(codes, bundle.network)
    np.testing.assert_allclose(far[0], bundle.network.distance(seen[:1].reshape(-1)), rtol=1e-4)
