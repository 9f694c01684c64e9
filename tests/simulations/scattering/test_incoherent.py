from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulations.constants import HBAR2_OVER_U
from simulations.crystal import neutron_data
from simulations.dynamics import PhononDos, modes, phonon_dos
from simulations.reciprocal import irreducible_mesh, quasi_random_points
from simulations.scattering import (
    CAN_MATERIALS,
    can_background,
    displacement_tensors,
    incoherent_lines,
    incoherent_spectrum,
    orders_that_serve,
)
from simulations.scattering.one_phonon import bose
from tests.simulations.phonon_oracles import germanium, phonopy_model

MOMENTUM = np.array([0.5, 2.0, 2.1, 5.0, 5.1, 9.9, 10.0])
ENERGY = np.linspace(-150, 250, 801)
CENTRES = 0.5 * (ENERGY[1:] + ENERGY[:-1])
MEAN_Q2 = np.diff(MOMENTUM**3) / 3 / np.diff(MOMENTUM)


def spectrum(temperature=300.0, **options):
    model = germanium()
    return incoherent_spectrum(
        model.crystal, phonon_dos(model), MOMENTUM, ENERGY, temperature_K=temperature,
        resolution=0.7, coherent_multiphonon=False, **options,
    )  # fmt: skip


def test_all_orders_together_scatter_with_the_incoherent_cross_section():
    total = spectrum().orders.sum(axis=(0, 2)) * 0.5
    np.testing.assert_allclose(total, 2 * 0.18 / (4 * np.pi), rtol=1e-4)


def test_the_mean_energy_transfer_is_the_recoil_energy():
    got = spectrum().orders.sum(axis=0)
    mean = (got * CENTRES).sum(axis=1) / got.sum(axis=1)
    np.testing.assert_allclose(mean, 0.5 * HBAR2_OVER_U * MEAN_Q2 / 72.63, rtol=2e-3)


def test_the_elastic_line_carries_the_debye_waller_factor():
    elastic = spectrum().orders[0].sum(axis=1) * 0.5
    U = displacement_tensors(germanium(), 300.0)[0, 0, 0]
    np.testing.assert_allclose(elastic, 2 * 0.18 / (4 * np.pi) * np.exp(-MEAN_Q2 * U), rtol=0.005)


def test_one_phonon_agrees_with_the_sum_over_modes():
    model = germanium()
    zone = quasi_random_points(model.crystal, 3000)
    energies, vectors = modes(model, zone.q_cart)
    U = displacement_tensors(model, 300.0)[0, 0, 0]
    # per mode and atom |e|^2 Q^2 / 3, both atoms alike
    weight = 0.5 * HBAR2_OVER_U / 72.63 / energies * (bose(energies, 300.0) + 1)
    weight = weight * (np.abs(vectors) ** 2).sum(axis=1) / 3 / len(energies)
    window = (CENTRES > 6) & (CENTRES < 45)
    binned = np.histogram(energies, ENERGY[:-1][window], weights=weight)[0] / 0.5
    row = 3
    expected = 0.18 / (4 * np.pi) * MEAN_Q2[row] * np.exp(-MEAN_Q2[row] * U) * binned.sum()
    assert spectrum().one_phonon[row, window].sum() == pytest.approx(expected, rel=0.02)


def test_every_order_is_in_detailed_balance():
    got = incoherent_spectrum(
        germanium().crystal, phonon_dos(germanium()), MOMENTUM, ENERGY, temperature_K=300.0,
        resolution=0.02,
    )  # fmt: skip
    up = np.abs(CENTRES - 20.25) < 0.01
    down = np.abs(CENTRES + 20.25) < 0.01
    for order in (1, 2, 3, 5):
        ratio = got.orders[order][:, down] / got.orders[order][:, up]
        np.testing.assert_allclose(ratio, np.exp(-20.25 / (0.08617333 * 300)), rtol=0.05)


def test_multiphonon_grows_with_momentum_and_temperature():
    cold, warm = spectrum(5.0), spectrum(600.0)
    assert warm.multiphonon.sum() > 3 * cold.multiphonon.sum()
    share = warm.multiphonon.sum(axis=1) / warm.inelastic.sum(axis=1)
    assert np.all(np.diff(share) > 0)
    assert share[0] < 0.05 < 0.5 < share[-1]


def test_coherent_scatterers_lend_their_cross_section_to_many_phonons():
    model = germanium()
    dos = phonon_dos(model)
    options = {"temperature_K": 300.0, "resolution": 1.0}
    both = incoherent_spectrum(model.crystal, dos, MOMENTUM, ENERGY, **options)
    alone = spectrum()
    factor = 1 + 4 * np.pi * 0.8185**2 / 0.18
    np.testing.assert_allclose(
        both.multiphonon.sum(axis=1), factor * alone.multiphonon.sum(axis=1), rtol=1e-6
    )
    np.testing.assert_allclose(both.one_phonon.sum(), alone.one_phonon.sum(), rtol=1e-6)
    assert "incoherent approximation" in both.approximation


def test_elements_sum_to_the_spectrum_and_scatter_by_themselves():
    crystal = replace(
        germanium().crystal, symbols=("Ge", "C"), masses_u=np.array([72.6, 12.0]),
        incoherent_barn=np.array([0.2, 1.0]),
    )  # fmt: skip
    dos = phonon_dos(germanium())
    options = {"temperature_K": 300.0, "resolution": 1.0}
    got = incoherent_spectrum(crystal, dos, MOMENTUM, ENERGY, **options)
    assert got.elements == ("Ge", "C")
    np.testing.assert_allclose(got.partials.sum(axis=0), got.orders, atol=1e-15)
    silent = replace(
        crystal, incoherent_barn=np.array([0.2, 0.0]),
        scattering_length=crystal.scattering_length * [1, 0],
    )  # fmt: skip
    alone = incoherent_spectrum(silent, dos, MOMENTUM, ENERGY, **options)
    np.testing.assert_allclose(got.partials[0], alone.orders, atol=1e-15)


def test_a_cubic_crystal_scatters_alike_in_every_direction():
    model = germanium()
    Q = np.array([[3.0, 0, 0], [0, -3.0, 0], [3 / 3**0.5] * 3])
    energy = np.arange(-45.0, 45.25, 0.5)
    options = {"temperature_K": 300.0, "resolution": 0.7}
    got = incoherent_lines(model, Q, energy, **options)
    assert got.shape == (1, 3, len(energy) - 1)
    np.testing.assert_allclose(got[0, 1:], got[0, :1].repeat(2, axis=0), rtol=1e-9, atol=1e-12)
    dos = phonon_dos(model)
    powder = incoherent_spectrum(
        model.crystal, dos, [2.999, 3.001], energy, coherent_multiphonon=False, **options
    ).one_phonon[0]
    assert np.abs(got[0, 0] - powder).sum() / powder.sum() < 0.02


@pytest.mark.shared_data
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), temperature=st.floats(0, 800))
def test_incoherent_lines_obey_the_first_moment_for_anisotropic_sites(
    shared_data, seed, temperature
):
    _, model = phonopy_model(shared_data, "MgB2")
    zone = irreducible_mesh(model.crystal, 3, shifted=True)
    U = displacement_tensors(model, temperature, zone=zone)
    Q = np.random.default_rng(seed).normal(size=(4, 3)) * 3
    energy = np.arange(-140.0, 140.5, 0.5)
    got = incoherent_lines(
        model, Q, energy, temperature_K=temperature, resolution=1.0, zone=zone, displacement=U
    )
    moment = got @ (0.5 * (energy[1:] + energy[:-1])) * 0.5
    decay = np.exp(-np.einsum("qa,iab,qb->iq", Q, U, Q))
    recoil = decay * 0.5 * HBAR2_OVER_U * np.sum(Q**2, axis=1)
    recoil *= (model.crystal.incoherent_barn / model.crystal.masses_u / 4 / np.pi)[:, None]
    magnesium = np.array([s == "Mg" for s in model.crystal.symbols])
    expected = np.array([recoil[magnesium].sum(axis=0), recoil[~magnesium].sum(axis=0)])
    np.testing.assert_allclose(moment, expected, rtol=1e-9)


def test_an_empty_density_of_states_is_refused():
    model = germanium()
    dos = phonon_dos(model)
    empty = replace(dos, partial=np.zeros_like(dos.partial))
    with pytest.raises(ValueError, match="density of states is empty"):
        incoherent_spectrum(model.crystal, empty, MOMENTUM, ENERGY, temperature_K=5, resolution=1.0)


def test_an_order_out_of_range_is_refused():
    with pytest.raises(ValueError, match="max_order is 11"):
        spectrum(max_order=11)


@pytest.mark.parametrize(("material", "barn"), [("aluminium", 1.503), ("vanadium", 5.10)])
def test_a_can_scatters_with_its_total_cross_section(material, barn):
    got = can_background(material, MOMENTUM, ENERGY, temperature_K=300.0, resolution=1.0)
    total = got.orders.sum(axis=(0, 2)) * 0.5
    np.testing.assert_allclose(total[:-1], barn / (4 * np.pi), rtol=0.02)
    assert "Debye" in got.approximation
    assert material in got.approximation


def test_an_unknown_can_lists_the_known_ones():
    with pytest.raises(ValueError, match="aluminium, stainless steel, vanadium"):
        can_background("steel", MOMENTUM, ENERGY, temperature_K=5, resolution=1.0)


def test_what_the_lengths_of_an_alloy_differ_by_is_incoherent():
    steel = CAN_MATERIALS["stainless steel"]
    mass, length, incoherent = steel.atom
    elements, shares = zip(*steel.composition, strict=True)
    masses, lengths, own = neutron_data(elements)
    assert sum(shares) == pytest.approx(1.0)
    assert mass == pytest.approx(55.3, abs=0.2)
    total = np.array(shares) @ (own + 4 * np.pi * lengths**2)  # of single atoms: none is lost
    assert incoherent + 4 * np.pi * length**2 == pytest.approx(total)
    assert incoherent[0] > np.array(shares) @ own
    one = CAN_MATERIALS["vanadium"].atom
    np.testing.assert_array_equal(one, neutron_data(("V",)))


def test_a_stretch_of_hydrogen_leaves_the_lowest_modes_where_they_are():
    """A density without directions, a band about 12 meV and a tenth of the modes at 440 meV."""
    model = germanium()
    edges = np.arange(0.0, 451.0, 1.0)
    middle = 0.5 * (edges[1:] + edges[:-1])
    band = np.exp(-0.5 * ((middle - 12) / 1.5) ** 2)
    density = 2.7 * band / band.sum()
    density[440] += 0.3
    found = incoherent_spectrum(
        model.crystal,
        PhononDos(energy_edges_meV=edges, partial=np.array([density] * 2), imaginary_share=0.0),
        np.array([0.9, 1.1]),
        np.arange(0.0, 31.0, 1.0),
        temperature_K=0.0,
        resolution=0.1,
        max_order=1,
    ).one_phonon[0]
    expected = density[:30] / middle[:30]
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), atol=0.012)


FAR = np.array([9.0, 9.1, 20.0, 20.1, 40.0, 40.1])
"""x = Q^2 <u^2> of germanium at 300 K: 0.6, 3 and 12; of hydrogen more."""
WIDE = np.linspace(-400, 900, 1301)


def beyond(orders, momentum=FAR, temperature=300.0, edges=WIDE):
    model = germanium()
    return incoherent_spectrum(
        model.crystal, phonon_dos(model), momentum, edges, temperature_K=temperature,
        resolution=0.7, coherent_multiphonon=False, max_order=orders, beyond=True,
    )  # fmt: skip


@pytest.mark.parametrize("orders", [2, 6, 10])
def test_all_that_is_scattered_is_there_however_far_the_momentum_is(orders):
    """However few orders are convolved: the sum rule and the recoil of the whole."""
    found = beyond(orders).orders.sum(axis=0)
    np.testing.assert_allclose(found.sum(axis=1), 2 * 0.18 / (4 * np.pi), rtol=2e-4)
    mean_q2 = np.diff(FAR**3) / 3 / np.diff(FAR)
    mean = (found @ (0.5 * (WIDE[1:] + WIDE[:-1]))) / found.sum(axis=1)
    np.testing.assert_allclose(mean, 0.5 * HBAR2_OVER_U * mean_q2 / 72.63, rtol=3e-3, atol=0.05)


def test_gaussians_of_many_phonons_are_near_their_convolutions():
    """Orders 7 to 10 as Gaussians beside themselves, where they scatter most."""
    edges = np.linspace(-100, 250, 351)
    some = np.array([28.0, 28.1])
    few, many = (beyond(n, some, edges=edges).multiphonon[0] for n in (6, 10))
    assert np.abs(few - many).sum() < 0.02 * many.sum()


def test_nothing_is_added_where_few_phonons_are_all():
    near = np.array([0.5, 1.0])
    with_rest = beyond(6, near, temperature=5.0).orders
    model = germanium()
    alone = incoherent_spectrum(
        model.crystal, phonon_dos(model), near, WIDE, temperature_K=5.0, resolution=0.7,
        coherent_multiphonon=False, max_order=6,
    )  # fmt: skip
    np.testing.assert_array_equal(with_rest, alone.orders)


def test_as_many_orders_are_convolved_as_the_loosest_atom_asks_for():
    model = germanium()
    dos = phonon_dos(model)
    asked = [orders_that_serve(model.crystal, dos, T, q) for T, q in ((5, 5), (300, 15), (300, 60))]
    assert asked[0] == 6
    assert asked[0] <= asked[1] <= asked[2] == 10
    U = displacement_tensors(model, 300.0)
    given = orders_that_serve(model.crystal, dos, 300.0, 15.0, displacement=U)
    assert abs(given - asked[1]) <= 1
