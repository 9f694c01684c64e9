"""Models keep the promises of the protocols, phonons or not."""

from functools import cache

import numpy as np
import pytest

from simulations.likelihood import ExactModel, ForwardModel
from simulations.prior import BoxPrior
from tests.simulations.line_model import FoldedLine, SumOfModels, TracedLine
from tests.steering.virtual_scan import small_measurement

EI, PSI = 40.0, 20.0


@cache
def line() -> FoldedLine:
    measurement = small_measurement()
    return FoldedLine(measurement.voxels, measurement.energy, EI, sigma_meV=1.0)


@cache
def models() -> dict[str, tuple[ForwardModel, np.ndarray]]:
    measurement = small_measurement()
    phonons, phi = measurement.forward, measurement.model.values
    own = np.array([17.3, 0.02])
    return {
        "phonons": (phonons, phi),
        "line": (line(), own),
        "sum": (SumOfModels((phonons, line())), np.concatenate([phi, own])),
    }


@cache
def exposure():
    return small_measurement().exposure(PSI)


@pytest.mark.parametrize("which", ["phonons", "line", "sum"])
def test_rates_scale_with_exposure_and_their_jacobian_is_that_of_differences(which):
    model, phi = models()[which]
    assert isinstance(model, ForwardModel)
    k = len(model.parameter_names)
    assert len(model.parameter_units) == k == len(phi)
    rate, jacobian = model.rates(exposure(), model.prepare(phi), log_width=0.0, gradient=True)
    assert jacobian.shape == (*rate.shape, k + 1)
    twice, none = model.rates(
        exposure().scaled(2.0), model.prepare(phi), log_width=0.0, gradient=False
    )
    np.testing.assert_allclose(twice, 2 * rate, rtol=1e-9)
    assert none.shape[-1] == 0

    def at(step: np.ndarray, log_width: float) -> np.ndarray:
        state = model.prepare(phi + step)
        return model.rates(exposure(), state, log_width=log_width, gradient=False)[0]

    for j in range(k):
        step = 1e-5 * np.abs(phi[j]) * np.eye(k)[j]
        difference = (at(step, 0.0) - at(-step, 0.0)) / (2 * step[j])
        np.testing.assert_allclose(
            jacobian[..., j], difference, rtol=0.02, atol=0.1 * np.abs(difference).max()
        )
    difference = (at(np.zeros(k), 1e-5) - at(np.zeros(k), -1e-5)) / 2e-5
    np.testing.assert_allclose(jacobian[..., k], difference, atol=0.1 * np.abs(difference).max())


@pytest.mark.parametrize("which", ["phonons", "line", "sum"])
def test_draws_and_pictures_fit_the_parameters(which):
    model, phi = models()[which]
    half = 0.1 * np.abs(phi)
    box = BoxPrior(names=tuple(model.parameter_names), lower=phi - half, upper=phi + half)
    drawn = model.draw(box, 3, np.random.default_rng(5))
    assert drawn.shape == (3, len(phi))
    assert box.contains(drawn).all()
    np.testing.assert_array_equal(drawn, model.draw(box, 3, np.random.default_rng(5)))
    hkl = small_measurement().path.centres_hkl()
    branches = model.branches(hkl, phi)
    assert branches.shape == (len(hkl), {"phonons": 6, "line": 1, "sum": 7}[which])
    derived = model.derived(phi, np.diag(half**2))
    expected = {"phonons": ["on-site Ge"], "line": ["line temperature"]}
    assert [d.name for d in derived] == expected.get(which, sum(expected.values(), []))
    assert all(d.sigma > 0 for d in derived)


def test_the_sigma_of_what_is_derived_is_that_of_differences():
    model, phi = models()["phonons"]
    covariance = np.diag([0.01, 0.02, 0.03]) ** 2
    (own,) = model.derived(phi, covariance)
    slope = [
        (model.derived(phi + s, covariance)[0].value - own.value) / 1e-3
        for s in 1e-3 * np.eye(len(phi))
    ]
    assert own.sigma == pytest.approx(np.sqrt(slope @ covariance @ slope))


def test_the_form_is_the_models_choice():
    measurement = small_measurement()
    assert measurement.forward.form == measurement.form == "tensor"
    assert models()["sum"][0].form == "images"


def test_an_exact_line_is_the_folded_one_where_nothing_smears():
    measurement = small_measurement()
    traced = TracedLine(measurement.voxels, measurement.energy, EI, sigma_meV=1.0)
    assert isinstance(traced, ExactModel)
    assert isinstance(measurement.exact, ExactModel)
    assert tuple(measurement.exact.parameter_names) == tuple(measurement.forward.parameter_names)
    phi = np.array([17.3, 0.02])
    rate, _ = line().rates(exposure(), line().prepare(phi), log_width=0.1, gradient=True)
    exact, jacobian = traced.rates(
        measurement.trajectories(PSI), traced.prepare(phi), log_width=0.1, off=None, gradient=True
    )
    assert jacobian.shape == (*rate.shape, 3)
    np.testing.assert_allclose(exact, rate, rtol=1e-9, atol=1e-12 * rate.max())
