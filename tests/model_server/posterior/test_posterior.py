"""Every entry of theta has a name and one place; draws have the covariance that is stated."""

import numpy as np
import pytest

from model_server.posterior import Posterior
from model_server.posterior.posterior import ThetaLayout


def layout(has_can: bool = False) -> ThetaLayout:
    return ThetaLayout(parameter_names=("a", "b"), parameter_units=("meV", "meV"), has_can=has_can)


@pytest.mark.parametrize("has_can", [False, True])
def test_the_parts_of_theta_cover_it_once(has_can):
    one = layout(has_can)
    place = np.arange(one.size)
    nuisances = [one.log_scale, one.log_flat_background, one.log_exposure_background, one.log_width]
    if one.log_can is not None:
        nuisances.append(one.log_can)
    assert [*place[one.parameters], *nuisances] == list(place)
    assert list(place[one.nuisances]) == nuisances
    assert list(place[one.log_amplitudes]) == nuisances[:3]
    assert list(place[one.centred_at_zero]) == nuisances[3:]
    assert len(one.names) == one.size == 6 + has_can
    assert one.names[one.log_width] == "ln resolution width"
    assert (one.log_can is None) is not has_can


def posterior(has_can: bool = False) -> Posterior:
    one = layout(has_can)
    rng = np.random.default_rng(1)
    root = rng.normal(size=(one.size, one.size))
    precision = root @ root.T + np.eye(one.size)
    zero = np.zeros((1, 1))
    return Posterior(
        model="a model",
        layout=one,
        theta=np.arange(one.size, dtype=float),
        precision=precision,
        covariance=np.linalg.inv(precision)[:2, :2],
        objective=0.0,
        converged=True,
        iterations=1,
        expected=zero,
        phonon=zero,
        totals=np.zeros(1),
    )


def test_what_people_ask_for_is_read_by_name():
    one, with_can = posterior(), posterior(has_can=True)
    assert one.names == ("a", "b")
    np.testing.assert_array_equal(one.values, [0.0, 1.0])
    assert one.scale == pytest.approx(np.exp(2.0))
    assert one.can_scale is None
    assert with_can.can_scale == pytest.approx(np.exp(2.0 + 6.0))


def test_draws_have_the_mean_and_the_covariance_of_theta():
    one = posterior()
    drawn = one.draws(40_000, np.random.default_rng(2))
    covariance = np.linalg.inv(one.precision)
    assert drawn.shape == (40_000, one.layout.size)
    spread = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(drawn.mean(axis=0), one.theta, atol=0.03 * spread.max())
    scaled = np.cov(drawn.T) / np.outer(spread, spread)
    np.testing.assert_allclose(scaled, covariance / np.outer(spread, spread), atol=0.03)
    assert one.draws(0, np.random.default_rng(2)).shape == (0, one.layout.size)
