"""Stable sets of force constants: the nearest one, and draws where hardly any is stable."""

import numpy as np
import pytest

from simulations.dynamics import force_constant_model, modes, read_force_constants, select_free
from simulations.prior import BoxPrior, load_prior, nearest_stable
from simulations.prior.stable_sets import is_stable, walk


@pytest.fixture(scope="module")
def germanium():
    """Germanium's model with its eight leading parameters free, and where it is looked at."""
    reference = read_force_constants("germanium")
    model = force_constant_model(reference.crystal, reference, 7.0)
    steps = (np.arange(4) + 0.2) / 4
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    q = grid @ reference.crystal.reciprocal
    return model.with_free(select_free(model, 8, q)), q


def test_a_stable_set_is_its_own_nearest(germanium):
    model, q = germanium
    scale = np.full(8, 0.1)
    np.testing.assert_array_equal(nearest_stable(model, q, model.values, scale), model.values)


def test_no_stable_set_is_nearer_than_the_nearest(germanium):
    model, q = germanium
    scale = np.abs(model.values) + 0.1
    centre = model.values + scale * np.array([1.0, -1, 1, -1, 1, -1, 1, -1])  # far from stable
    fixed, basis = model.matrices(q)
    assert not is_stable(fixed, basis, centre, 0.5)
    found = nearest_stable(model, q, centre, scale, tolerance_meV=0.25)
    assert found is not None
    assert modes(model, q, found)[0].min() > -0.25
    distance = np.linalg.norm((found - centre) / scale)
    rng = np.random.default_rng(1)
    for length in (0.999, 0.98, 0.9):
        for _ in range(300):  # nearer points of the sphere around the centre, and towards found
            step = rng.standard_normal(8)
            step *= 0.3 / np.linalg.norm(step)
            away = (found - centre) / scale + step
            trial = centre + scale * away * (length * distance / np.linalg.norm(away))
            assert not is_stable(fixed, basis, trial, 0.05)


def test_the_nearest_stable_set_keeps_the_bounds_or_there_is_none(germanium):
    model, q = germanium
    width = np.abs(model.values) + 0.1
    bounds = (model.values - 0.2 * width, model.values + 0.2 * width)
    centre = model.values + 0.7 * width
    found = nearest_stable(model, q, centre, width, within=bounds)
    assert found is not None
    assert np.all(found >= bounds[0] - 1e-9)
    assert np.all(found <= bounds[1] + 1e-9)
    assert modes(model, q, found)[0].min() > -0.25
    # nothing is stable where every spring of the leading shell pushes
    upside_down = (-model.values - 0.01, -model.values + 0.01)
    assert nearest_stable(model, q, -model.values, width, within=upside_down) is None


def test_a_walk_has_the_moments_of_rejection(germanium):
    model, q = germanium
    box = load_prior("germanium").restricted(model.names)
    fixed, basis = model.matrices(q)
    exact = box.sample(1500, np.random.default_rng(2), model, q)
    assert exact.accepted == 1500
    drawn = walk(
        exact.values[0], box.lower, box.upper, fixed, basis, 600, np.random.default_rng(3),
        tolerance_meV=0.5,
    )  # fmt: skip
    assert box.contains(drawn).all()
    assert modes(model, q, drawn)[0].min() > -0.5
    sigma = exact.values.std(axis=0)
    # neighbours are correlated: the error of the mean is that of about a quarter of the draws
    error = np.sqrt(1 / 1500 + 1 / 150)
    assert np.abs((drawn.mean(axis=0) - exact.values.mean(axis=0)) / sigma).max() < 4 * error
    np.testing.assert_allclose(drawn.std(axis=0), sigma, rtol=0.2)


def test_a_box_that_is_hardly_ever_stable_is_walked(germanium):
    model, q = germanium
    half = 1.2 * np.abs(model.values) + 0.05
    wide = BoxPrior(
        names=model.names, lower=-0.5 * model.values - half, upper=-0.5 * model.values + half
    )
    sample = wide.sample(60, np.random.default_rng(4), model, q)
    assert 1024 <= sample.drawn
    assert sample.accepted < 60
    assert sample.acceptance < 0.05
    assert sample.values.shape == (60, 8)
    assert wide.contains(sample.values).all()
    assert modes(model, q, sample.values)[0].min() > -0.5
    again = wide.sample(60, np.random.default_rng(4), model, q)
    np.testing.assert_array_equal(sample.values, again.values)
