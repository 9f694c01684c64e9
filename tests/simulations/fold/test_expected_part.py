"""Rates of predicted smooth scattering on the cells of an orientation."""

import numpy as np
import pytest

from simulations.fold import ExpectedPart, sum_voxels
from tests.steering.virtual_scan import small_measurement


@pytest.fixture(scope="module")
def seen():
    measurement = small_measurement()
    return measurement, measurement.exposure(32.0).merged(measurement.merged)


def part(measurement, of_q, step=0.05):
    q = (np.arange(250) + 0.5) * step
    energy = measurement.energy.centres_meV
    intensity = of_q(q)[:, None] * np.exp(-energy / 20)[None, :]
    return ExpectedPart(name="p", relative_sigma=0.3, momentum_step=step, intensity=intensity)


def test_what_grows_with_the_square_of_q_is_read_off_exactly(seen):
    measurement, exposure = seen
    rate = part(measurement, lambda q: 3.0 * q**2).rate(exposure, measurement.merged)
    wanted = np.zeros_like(rate)
    squares = sum_voxels(exposure.q_squared, measurement.merged)
    wanted[:, : squares.shape[1]] = 3.0 * squares
    wanted *= np.exp(-measurement.energy.centres_meV / 20)
    known = wanted > 0
    assert known.mean() > 0.3
    np.testing.assert_allclose(rate[known], wanted[known], rtol=5e-3)  # linear between steps
    assert not rate[~known].any()


def test_a_constant_is_the_exposure_and_rates_scale_with_charge(seen):
    measurement, exposure = seen
    flat = part(measurement, np.ones_like)
    rate = flat.rate(exposure, measurement.merged)
    weight = sum_voxels(exposure.weight, measurement.merged)
    wanted = weight * np.exp(-measurement.energy.centres_meV / 20)[: weight.shape[1]]
    np.testing.assert_allclose(rate[:, : weight.shape[1]], wanted, rtol=1e-12)
    twice = flat.rate(exposure.scaled(2.0), measurement.merged)
    np.testing.assert_allclose(twice, 2 * rate, rtol=1e-12)
    both = flat.rate(exposure + exposure, measurement.merged)
    np.testing.assert_allclose(both, 2 * rate, rtol=1e-12)
