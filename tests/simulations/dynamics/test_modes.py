from __future__ import annotations

import numpy as np
import pytest

from simulations.dynamics import divided_differences, modes
from simulations.dynamics.modes import energy_gradients, group_velocities, spectral_gradient
from tests.simulations.phonon_oracles import aluminium, germanium, phonopy_model, zone_vectors


def fourth_order(function, x, step):
    """Derivative by central differences of fourth order."""
    f = [function(x + k * step) for k in (-2, -1, 1, 2)]
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)


def with_phi(model, k, value):
    phi = model.values.copy()
    phi[k] = value
    return phi


def test_eigenvectors_diagonalise_the_dynamical_matrix():
    model = germanium()
    q = zone_vectors(model, 10)
    energies, vectors = modes(model, q)
    D = model.dynamical_matrices(q)
    np.testing.assert_allclose(
        D @ vectors, vectors * (energies * np.abs(energies))[:, None, :], atol=1e-8
    )
    assert energies.shape == (10, 6)
    top = modes(model, np.full((1, 3), 1e-4))[0].max()
    assert top == pytest.approx(37.439, abs=1e-3)  # phonopy on the DFT file, symmetrised


def test_many_sets_at_once_equal_one_at_a_time():
    model = germanium().with_free(["1NN xx", "2NN zz"])
    q = zone_vectors(model, 7)
    sets = model.values + np.array([[0, 0], [0.1, -0.02], [-0.3, 0.05]])
    energies, vectors = modes(model, q, sets)
    assert energies.shape == (3, 7, 6)
    assert vectors.shape == (3, 7, 6, 6)
    for phi, e in zip(sets, energies, strict=True):
        np.testing.assert_allclose(modes(model, q, phi)[0], e, atol=1e-9)


@pytest.mark.shared_data
def test_many_sets_of_a_large_cell_equal_one_at_a_time(shared_data):
    _, model = phonopy_model(shared_data, "Pc")  # 16 atoms: LAPACK instead of the kernel
    model = model.with_free(model.elements[:2])
    q = zone_vectors(model, 2)
    energies, vectors = modes(model, q, model.values * np.array([[1, 1], [1.1, 0.9]]))
    assert vectors.shape == (2, 2, 48, 48)
    np.testing.assert_allclose(
        energies[1], modes(model, q, model.values * [1.1, 0.9])[0], atol=1e-9
    )


def test_an_unstable_set_gives_negative_energies():
    model = germanium().with_free(["1NN xx", "1NN xy"])
    energies, _ = modes(model, zone_vectors(model, 5), -model.values)
    assert energies.min() < -5


def test_a_wrong_number_of_parameters_is_refused():
    with pytest.raises(ValueError, match="K = 21"):
        modes(germanium(), np.zeros((1, 3)), np.zeros(3))


@pytest.mark.parametrize("build", [germanium, aluminium])
def test_energy_gradients_agree_with_finite_differences(build):
    model = build()
    q = zone_vectors(model, 6)
    energies, vectors = modes(model, q)
    slope = energy_gradients(model, q, energies, vectors)
    for k in range(0, len(model.names), 3):
        numeric = fourth_order(
            lambda v, k=k: modes(model, q, with_phi(model, k, v))[0], model.values[k], 2e-4
        )
        np.testing.assert_allclose(slope[:, :, k], numeric, atol=1e-7 * np.abs(slope).max())


def test_gradients_of_a_degenerate_pair_are_right_as_a_sum():
    model = germanium()
    q = np.array([[0, 0, 0.6]])  # along Delta the transverse branches are degenerate
    energies, vectors = modes(model, q)
    assert energies[0, 1] - energies[0, 0] < 1e-9
    slope = energy_gradients(model, q, energies, vectors)[0, :2].sum(axis=0)
    assert np.isfinite(slope).all()
    for k in range(4):
        numeric = fourth_order(
            lambda v, k=k: modes(model, q, with_phi(model, k, v))[0][0, :2].sum(),
            model.values[k],
            1e-3,
        )
        assert slope[k] == pytest.approx(numeric, abs=1e-7 * np.abs(slope).max())


def velocities_agree(model):
    q = zone_vectors(model, 4, seed=3)
    energies, vectors = modes(model, q)
    slope = group_velocities(model, q, energies, vectors)
    for axis in range(3):
        step = np.eye(3)[axis]
        numeric = fourth_order(lambda t, step=step: modes(model, q + t * step)[0], 0.0, 3e-4)
        np.testing.assert_allclose(slope[:, :, axis], numeric, atol=1e-7 * np.abs(slope).max())


def test_group_velocities_agree_with_finite_differences():
    velocities_agree(germanium())


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["NaCl", "ZnO"])
def test_group_velocities_of_polar_crystals_agree_with_finite_differences(shared_data, name):
    velocities_agree(phonopy_model(shared_data, name)[1])


def test_divided_differences_meet_their_limits():
    x = np.array([1.0, 1.0, 1.0 + 1e-7, 4.0])
    table = divided_differences(np.sqrt(x), 0.5 / np.sqrt(x), x)
    a, b = np.meshgrid(x, x, indexing="ij")
    np.testing.assert_allclose(table, 1 / (np.sqrt(a) + np.sqrt(b)), rtol=1e-9)


@pytest.mark.parametrize("q", [[0.0, 0.0, 0.6], [0.4, 0.4, 0.4], [0.31, -0.2, 0.55]])
def test_spectral_gradients_are_exact_also_at_degeneracies(q):
    model = germanium()
    q = np.array([q])
    rng = np.random.default_rng(0)
    f = rng.normal(size=6) + 1j * rng.normal(size=6)
    weight = np.outer(f, f.conj())

    def spectrum(phi):
        energies, vectors = modes(model, q, phi)
        line = np.exp(-0.5 * ((energies[0] - 15.0) / 4.0) ** 2)
        return float(np.sum(line * np.abs(vectors[0].conj().T @ f) ** 2))

    energies, vectors = modes(model, q)
    line = np.exp(-0.5 * ((energies - 15.0) / 4.0) ** 2)
    slope = -line * (energies - 15.0) / 16.0 / (2 * energies)
    basis = model.matrices(q)[1]
    got = spectral_gradient(energies**2, vectors, line, slope, weight[None], basis)[0]
    assert np.isfinite(got).all()
    for k in range(len(model.names)):
        numeric = fourth_order(
            lambda v, k=k: spectrum(with_phi(model, k, v)), model.values[k], 1e-3
        )
        assert got[k] == pytest.approx(numeric, abs=1e-7 * np.abs(got).max())
