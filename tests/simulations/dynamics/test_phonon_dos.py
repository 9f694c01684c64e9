from __future__ import annotations

import numpy as np
import pytest

from simulations.constants import BOLTZMANN_MEV_PER_K
from simulations.dynamics import (
    densities_of_sets,
    heat_capacity,
    modes,
    phonon_dos,
)
from simulations.reciprocal import irreducible_mesh, mesh_divisions, quasi_random_points
from simulations.scattering import debye_dos
from tests.simulations.phonon_oracles import (
    MEV_PER_THZ,
    aluminium,
    germanium,
    phonopy_model,
)


@pytest.mark.parametrize("sigma", [None, 0.0, 0.3])
def test_every_atom_has_three_modes(sigma):
    edges, model = np.linspace(0, 60, 241), germanium()
    dos = phonon_dos(model, edges)
    if sigma is not None:
        mesh = irreducible_mesh(model.crystal, 12, shifted=True)
        dos = phonon_dos(model, edges, zone=mesh, sigma_meV=sigma)
    np.testing.assert_allclose(dos.partial.sum(axis=1) * 0.25, 3, rtol=1e-6)
    assert dos.total.sum() * 0.25 == pytest.approx(6, rel=1e-6)
    assert dos.imaginary_share == 0


def test_the_second_moment_is_the_mean_onsite_constant():
    # mean of E^2 = tr D averaged over the zone = on-site constants over mass
    model = germanium()
    dos = phonon_dos(model, np.linspace(0, 45, 9001))
    second = np.sum(dos.total * dos.energies_meV**2) * 0.005 / 6
    expected = model.onsite()[0, 0, 0] / 72.63 * 64.6541**2
    assert second == pytest.approx(expected, rel=1e-4)


@pytest.mark.shared_data
def test_partial_densities_agree_with_phonopy(shared_data):
    phonon, model = phonopy_model(shared_data, "SnO2")
    zone = irreducible_mesh(model.crystal, 6)
    edges = np.linspace(0, 95, 39)
    ours = phonon_dos(model, edges, zone=zone, sigma_meV=0.0)
    phonon.run_mesh([6, 6, 6], with_eigenvectors=True, is_mesh_symmetry=False, is_gamma_center=True)
    e = phonon.mesh.frequencies * MEV_PER_THZ
    weight = (np.abs(phonon.mesh.eigenvectors.reshape(len(e), 6, 3, 18)) ** 2).sum(axis=2)
    symbols = np.array(phonon.primitive.symbols)
    for species in ("Sn", "O"):
        mine = ours.partial[[s == species for s in model.crystal.symbols]].sum(axis=0)
        theirs = weight[:, symbols == species].sum(axis=1).ravel()
        theirs = np.histogram(np.abs(e.ravel()), edges, weights=theirs)[0] / len(e)
        np.testing.assert_allclose(mine * np.diff(edges), theirs, atol=2e-6)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["NaCl", "MgB2", "ZnO", "TiO2-anatase", "P-3m1"])
def test_integrals_and_heat_capacity_agree_with_phonopy(shared_data, name):
    phonon, model = phonopy_model(shared_data, name)
    zone = irreducible_mesh(model.crystal, 4, shifted=True)
    phonon.run_mesh([4, 4, 4], is_mesh_symmetry=False, is_gamma_center=False)  # off Gamma
    e = np.abs(phonon.mesh.frequencies.ravel()) * MEV_PER_THZ
    n_modes = phonon.mesh.frequencies.shape[1]
    # states below energies that keep away from any mode
    order = np.sort(e)
    gaps = np.flatnonzero(np.diff(order) > 1e-3)
    edges = 0.5 * (order[gaps] + order[gaps + 1])
    edges = np.concatenate([[0.0], edges[np.linspace(0, len(edges) - 1, 30).astype(int)], [200.0]])
    dos = phonon_dos(model, np.unique(edges), zone=zone, sigma_meV=0.0)
    ours = np.cumsum(dos.total * np.diff(dos.energy_edges_meV))
    theirs = np.searchsorted(order, dos.energy_edges_meV[1:]) / len(e) * n_modes
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(
        (dos.partial * np.diff(dos.energy_edges_meV)).sum(axis=1), 3, rtol=1e-6
    )
    # moments and heat capacity from bins fine enough
    fine = phonon_dos(model, np.arange(0, e.max() + 1, 5e-4), zone=zone, sigma_meV=0.0)
    for power in (1, 2):
        mine = np.sum(fine.total * fine.energies_meV**power) * 5e-4
        assert mine == pytest.approx(np.mean(e**power) * n_modes, rel=1e-5)
    phonon.run_thermal_properties(temperatures=[30.0, 100.0, 300.0, 1000.0])
    capacity = phonon.thermal_properties.heat_capacity / 8.31446262
    for T, expected in zip((30.0, 100.0, 300.0, 1000.0), capacity, strict=True):
        assert heat_capacity(fine, T) == pytest.approx(expected, rel=2e-5, abs=1e-6)


def test_the_irreducible_mesh_counts_every_point():
    model = aluminium()
    reduced = irreducible_mesh(model.crystal, 8)
    assert len(reduced.q_cart) == 29  # known for fcc, Gamma-centred 8x8x8
    assert reduced.weights.sum() == pytest.approx(1)
    random = phonon_dos(
        model, np.linspace(0, 45, 19), zone=quasi_random_points(model.crystal, 6000)
    )
    mesh = phonon_dos(model, np.linspace(0, 45, 19))
    np.testing.assert_allclose(mesh.total, random.total, atol=0.01 * mesh.total.max())
    assert mesh_divisions(model.crystal, 0.5) == (6, 6, 6)


def test_imaginary_modes_are_counted_not_hidden():
    model = aluminium()
    dos = phonon_dos(model, np.linspace(0, 60, 61), phi=-model.values)
    assert dos.imaginary_share > 0.5


def test_heat_capacity_goes_from_debye_to_dulong_and_petit():
    dos = phonon_dos(germanium())
    assert heat_capacity(dos, 5000) == pytest.approx(6, rel=1e-3)
    assert heat_capacity(dos, 0) == 0
    theta = 30 / BOLTZMANN_MEV_PER_K
    low = heat_capacity(debye_dos(30.0, 4000), theta / 30)
    assert low == pytest.approx(12 * np.pi**4 / 5 / 30**3, rel=0.01)


def test_a_density_meets_its_error_and_holds_it_in_every_direction():
    model = germanium()
    edges = np.linspace(0, 40, 101)
    found = phonon_dos(model, edges, tolerance=0.02)
    assert found.sampling is not None
    assert found.sampling.error <= 0.02
    assert "half the error would take" in found.sampling.words
    better = phonon_dos(model, edges, tolerance=0.005)
    assert better.sampling.points > found.sampling.points
    off = np.abs(found.total - better.total).sum() / better.total.sum()
    assert off < found.sampling.error
    np.testing.assert_allclose(found.tensors[:, :3].sum(axis=1), found.partial)
    # a cubic site moves alike in all directions
    scale = found.partial.max()
    np.testing.assert_allclose(found.tensors[:, 3:], 0, atol=1e-5 * scale)
    np.testing.assert_allclose(found.tensors[:, 0], found.tensors[:, 2], atol=1e-5 * scale)


def test_the_lowest_modes_are_those_of_sound():
    # g = E^2 V / (2 pi^2 v^3): germanium counts as many below 1 meV as a mesh around Gamma finds
    model = germanium()
    low = phonon_dos(model, [0.0, 1.0]).total[0]
    directions = np.random.default_rng(1).normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    slope = modes(model, 1e-3 * directions)[0][:, :3] / 1e-3  # meV angstrom
    volume = abs(np.linalg.det(model.crystal.lattice))
    expected = volume / (6 * np.pi**2) * np.mean(1 / slope**3, axis=0).sum()
    assert low == pytest.approx(expected, rel=0.02)


def test_axes_that_do_not_increase_are_refused():
    with pytest.raises(ValueError, match="energy_edges_meV"):
        phonon_dos(aluminium(), [0, 0, 1])


def test_densities_of_many_sets_are_each_as_on_their_own():
    model = germanium(None)
    dos = phonon_dos(model, tolerance=0.02)
    sets = np.stack([model.values, 1.1 * model.values])
    first, second = densities_of_sets(model, sets, dos.sampling.divisions)
    np.testing.assert_allclose(first.partial, dos.partial, atol=1e-7 * dos.partial.max())
    np.testing.assert_allclose(second.energy_edges_meV, np.sqrt(1.1) * dos.energy_edges_meV)
