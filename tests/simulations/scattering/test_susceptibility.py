from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.scattering import broadened, one_phonon_lines
from simulations.scattering.susceptibility import scattering_function, susceptibility
from tests.simulations.phonon_oracles import germanium

ENERGY = np.linspace(-60, 60, 121)[[*range(60), *range(61, 121)]]


@given(temperature=st.floats(2.0, 2000.0), seed=st.integers(0, 2**32 - 1))
def test_there_and_back_is_the_identity(temperature, seed):
    S = np.random.default_rng(seed).lognormal(size=(3, len(ENERGY)))
    chi = susceptibility(S, ENERGY, temperature)
    np.testing.assert_allclose(scattering_function(chi, ENERGY, temperature), S, rtol=1e-13)


@given(temperature=st.floats(2.0, 2000.0), seed=st.integers(0, 2**32 - 1))
def test_an_odd_susceptibility_scatters_in_detailed_balance(temperature, seed):
    half = np.random.default_rng(seed).lognormal(size=60)
    chi = np.concatenate([-half[::-1], half])
    S = scattering_function(chi, ENERGY, temperature)
    assert np.all(S >= 0)
    gain, loss = S[:60][::-1], S[60:]
    expected = loss * np.exp(-ENERGY[60:] / (0.08617333262 * temperature))
    np.testing.assert_allclose(gain, expected, rtol=1e-6)


def test_phonons_have_one_susceptibility_at_every_temperature():
    Q = np.random.default_rng(3).normal(size=(5, 3)) * 2
    edges = np.arange(-60.005, 60.01, 0.01)  # bins far narrower than kT
    centre = 0.5 * (edges[1:] + edges[:-1])
    chi = [
        susceptibility(broadened(one_phonon_lines(germanium(), Q, T), edges, 1e-3), centre, T)
        for T in (60.0, 150.0, 600.0)
    ]
    for other in chi[1:]:
        np.testing.assert_allclose(other, chi[0], rtol=2e-3, atol=1e-9 * chi[0].max())
    # odd: what phonons absorb from the neutron they would give back
    loss, gain = chi[0][:, centre > 1], chi[0][:, centre < -1][:, ::-1]
    np.testing.assert_allclose(gain.sum(axis=1), -loss.sum(axis=1), rtol=2e-3)


def test_a_cold_crystal_says_nothing_about_energy_gain():
    energy = np.array([-20.0, 0.0, 20.0])
    chi = susceptibility([0.0, 3.0, 5.0], energy, 0.0)
    np.testing.assert_allclose(chi, [np.nan, 0.0, 5 * np.pi])
    back = scattering_function([-5 * np.pi, 0.0, 5 * np.pi], energy, 0.0)
    np.testing.assert_allclose(back, [0.0, np.nan, 5.0])
    assert np.isfinite(susceptibility([1e-30, 1.0], [-20.0, 20.0], 1e-3)[1])


@pytest.mark.parametrize(
    ("values", "energy", "temperature", "message"),
    [
        ([1.0], [1.0], -1.0, "temperature_K is -1"),
        ([1.0], [1.0], np.nan, "temperature_K is nan"),
        ([1.0, 2.0], [1.0], 5.0, "shape"),
        ([1.0], [np.nan], 5.0, "energy_meV holds NaN"),
    ],
)
def test_input_out_of_range_is_refused(values, energy, temperature, message):
    for function in (susceptibility, scattering_function):
        with pytest.raises(ValueError, match=message):
            function(values, energy, temperature)
