from __future__ import annotations

import numpy as np
import pytest

from simulations.dynamics import energies_of_sets
from steering.run import branch_bands as module
from steering.run.branch_bands import branch_bands
from tests.steering.virtual_scan import small_measurement


@pytest.fixture(scope="module")
def germanium():
    """Model, path and a posterior of two per cent."""
    measurement = small_measurement()
    model = measurement.quick_forward.model
    values = np.array(model.values)
    return model, measurement.path, values, np.diag((0.02 * np.abs(values)) ** 2)


def test_bands_are_where_the_posterior_has_the_energies(germanium):
    """Against ten thousand independent draws."""
    model, path, values, covariance = germanium
    hkl = path.centres_hkl()
    bands = branch_bands(model, hkl, path.first_bin, values, covariance)
    q = hkl @ model.crystal.conventional_reciprocal
    draws = np.random.default_rng(5).multivariate_normal(values, covariance, 4000)
    energies = energies_of_sets(model, q, draws)
    low, high = np.quantile(energies, (0.05, 0.95), axis=0)
    width = high - low
    assert bands.low_meV.shape == energies.shape[1:]
    assert np.abs(bands.low_meV - low).max() < 0.25 * width.max()
    assert np.median((bands.high_meV - bands.low_meV) / width) == pytest.approx(1, abs=0.12)


def test_the_same_posterior_has_the_same_bands(germanium):
    model, path, values, covariance = germanium
    one, two = (
        branch_bands(model, path.centres_hkl(), path.first_bin, values, covariance)
        for _ in range(2)
    )
    assert np.array_equal(one.low_meV, two.low_meV)
    assert np.array_equal(one.high_meV, two.high_meV)


def test_a_costly_crystal_is_looked_at_in_fewer_bins(germanium, monkeypatch):
    model, path, values, covariance = germanium
    hkl = path.centres_hkl()
    whole = branch_bands(model, hkl, path.first_bin, values, covariance)
    looked = []

    def counted(model, q, sets):
        looked.append(len(sets) * len(q))
        return energies_of_sets(model, q, sets)

    monkeypatch.setattr(module, "energies_of_sets", counted)
    monkeypatch.setattr(module, "MOST_WORK", 3e5)
    rough = branch_bands(model, hkl, path.first_bin, values, covariance)
    assert max(looked) <= 33 * 14
    assert rough.low_meV.shape == whole.low_meV.shape
    width = (whole.high_meV - whole.low_meV).max()
    assert np.abs(rough.high_meV - whole.high_meV).max() < 0.6 * width


def test_draws_with_imaginary_modes_count_in_no_band(germanium):
    """A posterior as wide as its values has next to no stable draws: no band is claimed."""
    model, path, values, _ = germanium
    wide = np.diag((50 * np.abs(values)) ** 2)
    bands = branch_bands(model, path.centres_hkl(), path.first_bin, values, wide)
    known = np.isfinite(bands.low_meV)
    assert known.all() == known.any()
    if known.any():
        assert bands.low_meV.min() > -0.06
