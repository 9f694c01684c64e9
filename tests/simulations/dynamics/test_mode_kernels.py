"""The compiled kernel against LAPACK, on real and complex matrices, degenerate and not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.dynamics import (
    LANES,
    eigenmodes,
    linear_matrices,
    matrix_modes,
    real_form,
    unpacked_basis,
)
from simulations.dynamics.mode_kernels import batched_modes
from tests.simulations.phonon_oracles import aluminium, germanium, phonopy_model, zone_vectors


def same_modes(model, q, sets, least_meV=0.1):
    energies, vectors = batched_modes(model, q, sets)
    for k, phi in enumerate(sets):
        D = model.dynamical_matrices(q, phi)
        want, _ = eigenmodes(D)
        seen = np.abs(want) > least_meV
        np.testing.assert_allclose(energies[k][seen], want[seen], rtol=1e-9)
        squared = energies[k] * np.abs(energies[k])
        scale = np.abs(D).max()
        np.testing.assert_allclose(
            D @ vectors[k], vectors[k] * squared[:, None, :], atol=1e-12 * scale
        )
        unit = vectors[k].conj().swapaxes(1, 2) @ vectors[k]
        np.testing.assert_allclose(unit, np.broadcast_to(np.eye(D.shape[1]), D.shape), atol=1e-13)


@pytest.mark.parametrize("build", [germanium, aluminium])
def test_modes_equal_lapack_for_more_sets_than_a_block(build):
    model = build()
    model = model.with_free(model.elements[:3])
    rng = np.random.default_rng(0)
    sets = model.values * rng.uniform(0.8, 1.3, (LANES + 3, 3))
    same_modes(model, zone_vectors(model, 5), sets)


def test_modes_equal_lapack_where_branches_are_degenerate_and_matrices_fall_apart():
    model = germanium().with_free(["1NN xx", "1NN xy"])
    x, half = np.array([0, 0, 1.0]), np.full(3, 0.5)
    hkl = [0 * x, x, half, 0.3 * x, 0.5 * half, [0.5, 0, 1], 2 * half + x, 2 * x, 1e-4 * x]
    q = np.array(hkl) @ model.crystal.conventional_reciprocal
    same_modes(model, q, np.array([model.values, 1.2 * model.values]))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "is_real"), [("NaCl", True), ("ZnO", False), ("P-3m1", True), ("Amm2", False)]
)
def test_modes_of_other_crystals_equal_lapack(shared_data, name, is_real):
    _, model = phonopy_model(shared_data, name)
    model = model.with_free(model.elements[:3])
    q = zone_vectors(model, 3)
    fixed, basis = model.matrices(q)
    packed = linear_matrices(fixed, basis, real_form(model.crystal))
    assert packed.is_real == is_real
    same_modes(model, q, model.values * np.array([[1, 1, 1], [1.05, 0.95, 1.1]]))


def test_an_inversion_makes_every_dynamical_matrix_real():
    model = germanium()
    U = real_form(model.crystal)
    assert U is not None
    np.testing.assert_allclose(U.conj().T @ U, np.eye(6), atol=1e-15)
    D = U.conj().T @ model.dynamical_matrices(zone_vectors(model, 20)) @ U
    assert np.abs(D.imag).max() < 1e-12 * np.abs(D.real).max()
    assert np.abs(model.dynamical_matrices(zone_vectors(model, 20)).imag).max() > 100


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 9),
    ranks=st.integers(1, 9),
    real=st.booleans(),
)
def test_any_hermitian_matrix_is_diagonalised(seed, n, ranks, real):
    """Random spectra with repeated eigenvalues, zeros included."""
    rng = np.random.default_rng(seed)
    shape = (3, n, n)
    random = rng.normal(size=shape) + (0 if real else 1j * rng.normal(size=shape))
    frame = np.linalg.qr(random)[0]
    values = rng.choice(np.append(rng.normal(size=ranks), 0.0), size=(3, n))
    D = (frame * values[:, None, :]) @ frame.conj().swapaxes(1, 2)
    D = np.asarray(D + D.conj().swapaxes(1, 2), dtype=np.complex128)
    packed = linear_matrices(D, np.zeros((3, 1, n, n), complex), np.eye(n) + 0j if real else None)
    assert packed.is_real == real
    squared, vectors = matrix_modes(packed, np.zeros((2, 1)))
    np.testing.assert_allclose(squared[1], np.linalg.eigvalsh(D), atol=1e-13)
    np.testing.assert_allclose(D @ vectors[0], vectors[0] * squared[0][:, None, :], atol=1e-13)
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_packed_matrices_come_back_whole():
    model = germanium().with_free(["1NN xx", "2NN xy"])
    fixed, basis = model.matrices(zone_vectors(model, 4))
    np.testing.assert_allclose(unpacked_basis(linear_matrices(fixed, basis, None)), basis)


def test_bad_sets_are_refused():
    model = germanium().with_free(["1NN xx"])
    with pytest.raises(ValueError, match="K = 1"):
        batched_modes(model, np.zeros((1, 3)), np.zeros(1))
    with pytest.raises(ValueError, match="NaN or infinity"):
        batched_modes(model, np.zeros((1, 3)), [[np.inf]])
