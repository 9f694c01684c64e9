"""What sums over cells know of a set-up that is off, against exposure and walked trajectories."""

import numpy as np
import pytest

from simulations.fold import sum_voxels
from simulations.instrument import coarsen
from tests.simulations.likelihood.doubted import doubted_germanium

PSI_DEG = (10.0, 55.0, 100.0)


@pytest.fixture(scope="module")
def germanium():
    """The reference experiment, its trajectories, merged exposure and drift, on fewer pixels."""
    measurement = doubted_germanium()
    pixels = coarsen(measurement.instrument, 8)
    walked = [measurement.trajectories(psi, pixels) for psi in PSI_DEG]
    seen = [measurement.exposure(psi, pixels).merged(measurement.merged) for psi in PSI_DEG]
    drifts = [measurement.drift(one, measurement.exact.missetting) for one in walked]
    return measurement, walked, seen[0] + seen[1] + seen[2], drifts[0] + drifts[1] + drifts[2]


def test_a_lattice_that_is_off_moves_every_neutron_by_its_share_of_q(germanium):
    measurement, _, exposure, drift = germanium
    lattice = measurement.exact.missetting.names.index("lattice abc")
    off = np.zeros(6)
    off[lattice] = 1.0  # %
    mean = drift.mean[..., lattice, :]
    squared = drift.spread(off)[..., :3].sum(-1) + (mean**2).sum(-1)
    weight = sum_voxels(exposure.weight, measurement.merged)
    expected = 1e-4 * sum_voxels(exposure.q_squared, measurement.merged)
    n = weight.shape[1]
    known = weight > 1e-3 * weight.max()
    ratio = squared[:, :n][known] * weight[known] / expected[known]
    assert np.all(np.abs(ratio - 1) < 0.02)
    # No cell's mean move is larger than the root of the mean square.
    assert np.all((mean**2).sum(-1) <= squared + 1e-15)


def test_derivatives_by_the_set_up_are_those_of_the_rate(germanium):
    measurement, _, exposure, drift = germanium
    model, ways = measurement.coarse_forward, measurement.exact.missetting
    state = model.prepare(measurement.model.values)
    rate, slope = model.rates(exposure, state, drift=drift, off=np.zeros(6))
    still, still_slope = model.rates(exposure, state)
    np.testing.assert_array_equal(rate, still)
    np.testing.assert_array_equal(slope[..., :-6], still_slope)
    inelastic = measurement.energy.centres_meV > measurement.elastic_cut_meV
    for g, step in enumerate(1e-2 * ways.sigma):
        up, down = (
            model.rates(exposure, state, drift=drift, off=s * step * np.eye(6)[g], gradient=False)[
                0
            ]
            for s in (1, -1)
        )
        difference = ((up - down) / (2 * step))[:, inelastic]
        ours = slope[..., g - 6][:, inelastic]
        away = np.abs(ours - difference).sum() / np.abs(difference).sum()
        assert away < 0.03, ways.names[g]


def test_folded_rates_follow_a_set_up_that_is_off(germanium):
    """Merged voxels are as wide as what moves: of the change of cells they foresee a good third."""
    measurement, walked, exposure, drift = germanium
    model, exact = measurement.coarse_forward, measurement.exact
    values = measurement.model.values
    state, exact_state = model.prepare(values), exact.prepare(values)

    def of(off):
        folded = model.rates(exposure, state, drift=drift, off=off, gradient=False)[0]
        each = [exact.rates(one, exact_state, off=off, gradient=False)[0] for one in walked]
        return folded, np.sum(each, axis=0)

    inelastic = measurement.energy.centres_meV > measurement.elastic_cut_meV
    still = [one[:, inelastic] for one in of(np.zeros(6))]
    error = np.sqrt(still[1] + 0.05 * still[1].mean())
    for sign in (1, -1):
        moved = [one[:, inelastic] for one in of(sign * exact.missetting.sigma)]
        ours, true = ((moved[k] - still[k]) / error for k in (0, 1))
        assert np.corrcoef(ours.ravel(), true.ravel())[0, 1] > 0.6
        assert np.linalg.norm(true - ours) < 0.85 * np.linalg.norm(true)
