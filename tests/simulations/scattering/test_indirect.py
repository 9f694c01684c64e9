from __future__ import annotations

from dataclasses import replace
from math import factorial

import numpy as np
import pytest

from simulations.constants import BOLTZMANN_MEV_PER_K, HBAR2_OVER_U
from simulations.dynamics import PhononDos, phonon_dos
from simulations.scattering import incoherent_spectrum, resolved_edges, vibrational_spectrum
from simulations.scattering.indirect import (
    INDIRECT_INSTRUMENTS,
    bank_momentum,
    fractional_resolution,
)
from tests.simulations.phonon_oracles import germanium

EDGES = np.arange(-3.0, 200.0, 0.25)
CENTRES = 0.5 * (EDGES[1:] + EDGES[:-1])


def oscillators(*energies_meV, width=0.5):
    """Density of states of narrow bands of equal weight, one atom."""
    edges = np.arange(0, max(energies_meV) * 1.2, 0.1)
    centres = 0.5 * (edges[1:] + edges[:-1])
    bands = sum(np.exp(-0.5 * ((centres - e) / width) ** 2) for e in energies_meV)
    return PhononDos(
        energy_edges_meV=edges, partial=3 * bands[None] / (bands.sum() * 0.1), imaginary_share=0.0
    )


def hydrogen():
    crystal = germanium().crystal
    return replace(
        crystal, positions=np.zeros((1, 3)), symbols=("H",), masses_u=np.array([1.008]),
        scattering_length=np.array([-0.374]), incoherent_barn=np.array([80.26]),
    )  # fmt: skip


def test_momentum_follows_the_scattering_triangle():
    tosca = INDIRECT_INSTRUMENTS["TOSCA"]
    # ki - kf in two dimensions
    k = lambda e: np.sqrt(e / 2.0721248)  # noqa: E731
    ki, kf, angle = k(100 + tosca.final_energy_meV), k(tosca.final_energy_meV), np.deg2rad(45)
    expected = np.hypot(ki - kf * np.cos(angle), kf * np.sin(angle))
    assert bank_momentum(100.0, tosca.final_energy_meV, 45.0) == pytest.approx(expected, rel=1e-6)
    # the rule of thumb for such spectrometers: energy in 1/cm is about 16 Q^2
    both = [bank_momentum(1000 * 0.12398, tosca.final_energy_meV, a) for a in tosca.two_theta_deg]
    assert 1000 / np.mean(np.square(both)) == pytest.approx(16, rel=0.05)
    assert np.isnan(bank_momentum(-4.0, 3.5, 135.0))


def test_an_oscillator_has_the_poisson_weights_of_its_overtones():
    got = vibrational_spectrum(
        hydrogen(), oscillators(20.0, width=0.3), EDGES, temperature_K=1.0, resolution=0.3
    )
    assert got.banks == ("forward", "backward")
    assert got.partials.shape == (1, 2, 11, len(CENTRES))
    mean_square = 0.5 * HBAR2_OVER_U / 1.008 / 20.0
    strength = 80.26 / (4 * np.pi) + 0.374**2
    for bank, angle in enumerate((45.0, 135.0)):
        for order in range(1, 10):
            x = bank_momentum(20.0 * order, 3.5, angle) ** 2 * mean_square
            area = got.orders[bank, order].sum() * 0.25
            expected = strength * np.exp(-x) * x**order / factorial(order)
            assert area == pytest.approx(expected, rel=0.01)
            mean = np.average(CENTRES, weights=got.orders[bank, order])
            assert mean == pytest.approx(20.0 * order, abs=0.15)
    np.testing.assert_allclose(got.total, got.orders.sum(axis=1))


def test_orders_that_are_not_convolved_have_their_poisson_weights_along_the_trajectory():
    got = vibrational_spectrum(
        hydrogen(), oscillators(20.0, width=0.3), EDGES, temperature_K=1.0, resolution=0.3,
        max_order=4, beyond=True,
    )  # fmt: skip
    mean_square = 0.5 * HBAR2_OVER_U / 1.008 / 20.0
    strength = 80.26 / (4 * np.pi) + 0.374**2
    for bank, angle in enumerate((45.0, 135.0)):
        for order in range(5, int(EDGES[-1] / 20)):
            x = bank_momentum(20.0 * order, 3.5, angle) ** 2 * mean_square
            near = np.abs(CENTRES - 20.0 * order) < 8
            expected = strength * np.exp(-x) * x**order / factorial(order)
            area = got.orders[bank, 4, near].sum() * 0.25
            assert area == pytest.approx(expected, rel=0.02)


def test_second_order_holds_overtones_and_combinations():
    got = vibrational_spectrum(
        hydrogen(), oscillators(20.0, 50.0), EDGES, temperature_K=5.0, resolution=0.5
    ).orders[1, 2]
    places = {e: got[np.abs(CENTRES - e) < 4].sum() * 0.25 for e in (40.0, 70.0, 100.0)}
    assert sum(places.values()) == pytest.approx(got.sum() * 0.25, rel=1e-3)
    assert all(got[np.abs(CENTRES - e).argmin()] > 5 * got[CENTRES > 110].max() for e in places)


def test_a_bank_reads_the_powder_map_along_its_trajectory():
    model = germanium()
    dos = phonon_dos(model)
    edges = np.arange(5.0, 80.0, 0.5)
    got = vibrational_spectrum(
        model.crystal, dos, edges, temperature_K=300.0, instrument="TOSCA", resolution=0.4
    )
    for k in (20, 60, 100):
        Q = got.momentum[1, k]
        row = incoherent_spectrum(
            model.crystal, dos, [Q - 1e-4, Q + 1e-4], edges, temperature_K=300.0, resolution=0.4
        )
        # order 1 of the map has the incoherent cross section alone
        share = 1 + 4 * np.pi * 0.8185**2 / 0.18
        np.testing.assert_allclose(got.orders[1, 1, k], share * row.orders[1, 0, k], rtol=0.01)
        np.testing.assert_allclose(got.orders[1, 2:5, k], row.orders[2:5, 0, k], rtol=0.01)


def test_elements_sum_to_the_total():
    crystal = replace(germanium().crystal, symbols=("Ge", "C"))
    got = vibrational_spectrum(
        crystal, phonon_dos(germanium()), EDGES, temperature_K=50.0, max_order=4
    )
    assert got.elements == ("Ge", "C")
    np.testing.assert_allclose(got.partials.sum(axis=(0, 2)), got.total)
    # only the name differs
    np.testing.assert_allclose(got.partials[0], got.partials[1], atol=1e-12)


def test_energy_gain_is_in_detailed_balance_along_equal_momentum():
    edges = np.array([-2.05, -1.95, 1.95, 2.05])
    heavy = replace(hydrogen(), masses_u=np.array([70.0]))
    got = vibrational_spectrum(
        heavy, oscillators(20.0, 2.0, width=0.2), edges, temperature_K=30.0, resolution=0.01
    )
    gain, loss = got.orders[1, 1, 0], got.orders[1, 1, 2]
    x = [bank_momentum(e, 3.5, 135.0) ** 2 for e in (-2.0, 2.0)]
    U = 0.5 * HBAR2_OVER_U / 70.0
    U *= 0.5 * sum(1 / e / np.tanh(e / 2 / BOLTZMANN_MEV_PER_K / 30) for e in (2.0, 20.0))
    ratio = x[0] / x[1] * np.exp(U * (x[1] - x[0])) * np.exp(-2.0 / BOLTZMANN_MEV_PER_K / 30)
    assert gain / loss == pytest.approx(ratio, rel=0.03)
    below = vibrational_spectrum(
        hydrogen(), oscillators(20.0), [-30.0, -10.0, -8.0], temperature_K=300.0
    )
    assert np.all(below.total < 1e-12)  # less than nothing is left of 3.5 meV


def test_the_width_is_a_share_of_the_energy_transfer():
    sigma = fractional_resolution()
    np.testing.assert_allclose(sigma(np.array([100.0, -100.0])) * 2.3548, 1.24, rtol=1e-4)
    assert sigma(np.zeros(1))[0] * 2.3548 == pytest.approx(0.1, rel=1e-4)
    tosca = INDIRECT_INSTRUMENTS["TOSCA"].sigma_meV(np.array([1000 * 0.1239841984]))
    np.testing.assert_allclose(tosca, 7.6 * 0.1239841984)
    with pytest.raises(ValueError, match="floor 0"):
        fractional_resolution(0.01, 0)


@pytest.mark.parametrize(("instrument", "least"), [("VISION", 0.28), ("TOSCA", 0.28)])
def test_bins_are_as_narrow_as_the_resolution_at_every_energy(instrument, least):
    edges = resolved_edges(1125.0, instrument)
    assert edges[0] == 0.0
    assert edges[-2] < 1125.0 <= edges[-1]
    step = np.diff(edges)
    full_width = 2.354820045 * INDIRECT_INSTRUMENTS[instrument].sigma_meV(edges[:-1])
    np.testing.assert_allclose(step, np.maximum(full_width / 3, 1125 / 4000), rtol=1e-9)
    assert step[0] == pytest.approx(least, rel=0.01)
    np.testing.assert_allclose(np.diff(resolved_edges(90.0, resolution=0.3)), 0.2354820045)


def test_bands_far_below_a_stretch_of_hydrogen_stay_apart():
    """Lattice modes at 10 and 12 meV beside a stretch at 440 meV."""
    dos = oscillators(10.0, 12.0, 440.0, width=0.2)
    edges = resolved_edges(2.5 * 440.0)
    found = vibrational_spectrum(hydrogen(), dos, edges, temperature_K=10.0).orders[0, 1]
    at = dict.fromkeys((10.0, 11.0, 12.0))
    for energy in at:
        at[energy] = found[np.searchsorted(edges, energy) - 1]
    assert at[11.0] < 0.2 * min(at[10.0], at[12.0])


def test_input_out_of_range_is_refused():
    dos = oscillators(20.0)
    with pytest.raises(ValueError, match="TOSCA, VISION"):
        vibrational_spectrum(hydrogen(), dos, EDGES, temperature_K=5, instrument="ARCS")
    with pytest.raises(ValueError, match="max_order is 12"):
        vibrational_spectrum(hydrogen(), dos, EDGES, temperature_K=5, max_order=12)
    with pytest.raises(ValueError, match="increasing"):
        vibrational_spectrum(hydrogen(), dos, [3, 2], temperature_K=5)
    with pytest.raises(ValueError, match="final_energy_meV"):
        bank_momentum(10.0, 0.0, 45.0)
