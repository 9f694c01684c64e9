from __future__ import annotations

import numpy as np
import pytest

from simulations.instrument import fit_beam_energy, flight_time_us


def test_energy_and_emission_time_are_recovered_within_their_errors():
    rng = np.random.default_rng(1)
    distance = np.array([11.8, 18.5, 43.0])
    error = np.array([2.0, 1.0, 0.5])
    frame = np.array([np.nan, 16667.0, np.nan])
    pulls = []
    for _ in range(300):
        placed = distance + rng.normal(0, 0.005, 3)
        time = 27.0 + flight_time_us(placed, 24.3) + rng.normal(0, error)
        time[1] %= frame[1]
        found = fit_beam_energy(distance, time, error, nominal_ei_meV=25.0, frame_us=frame)
        pulls.append(
            ((found.ei_meV - 24.3) / found.ei_sigma_meV, (found.t0_us - 27.0) / found.t0_sigma_us)
        )
    assert found.places == 3
    np.testing.assert_allclose(np.mean(pulls, axis=0), 0.0, atol=0.25)
    np.testing.assert_allclose(np.std(pulls, axis=0), 1.0, atol=0.15)


def test_one_place_is_not_enough_and_time_must_grow():
    with pytest.raises(ValueError, match="expected two places"):
        fit_beam_energy(np.array([9.0]), np.array([1.0]), np.array([1.0]), nominal_ei_meV=25.0)
    with pytest.raises(ValueError, match="do not grow with distance"):
        fit_beam_energy(
            np.array([9.0, 20.0]), np.array([9e3, 1e3]), np.ones(2), nominal_ei_meV=25.0
        )
