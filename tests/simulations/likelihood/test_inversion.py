"""Coordinates in which crystals with a centre of inversion have real matrices."""

from dataclasses import replace

import numpy as np
import pytest

from simulations.fold import PAIRS
from simulations.fold.exposure import unpack_tensor
from simulations.likelihood.inversion import Inversion
from tests.simulations.phonon_oracles import germanium, phonopy_model, zone_vectors

CENTRED = ["NaCl", "P-3m1"]


def strengths(q, square, vectors, places, amplitude, phase=None):
    """Energies^2 and what modes scatter at q + G, for some G."""
    found = []
    for g in ([0, 0, 0], [1, 0, 0], [2, -1, 3]):
        angle = 2 * np.pi * places @ np.array(g)
        wave = np.exp(1j * angle) if phase is None else np.cos(angle + phase)
        f = (amplitude * wave)[:, None] * (q + np.array(g) @ strengths.reciprocal)
        found.append(np.abs(vectors.conj().T @ f.ravel()) ** 2)
    return np.array(found)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["germanium", *CENTRED])
def test_real_modes_scatter_as_complex_ones(shared_data, name):
    model = germanium() if name == "germanium" else phonopy_model(shared_data, name)[1]
    crystal = model.crystal
    strengths.reciprocal = crystal.reciprocal
    amplitude = crystal.scattering_length / np.sqrt(crystal.masses_u)
    q = zone_vectors(model, 12)
    matrices = model.dynamical_matrices(q)
    if name != "NaCl":  # every atom of it is a centre
        assert np.abs(matrices.imag).max() > 1e-3 * np.abs(matrices.real).max()
    inversion = Inversion.of(crystal, matrices)
    assert inversion is not None
    for single in (False, True):  # either precision
        real = inversion.real(matrices.astype(np.complex64) if single else matrices)
        assert real.dtype == (np.float32 if single else np.float64)
        np.testing.assert_allclose(
            np.linalg.eigvalsh(real.astype(float)),
            np.linalg.eigvalsh(matrices),
            rtol=1e-5 if single else 1e-12,
            atol=(1e-4 if single else 1e-11) * np.abs(matrices).max(),
        )
    real = inversion.real(matrices)
    np.testing.assert_array_equal(inversion.real(matrices[:, None])[:, 0], real)
    for k, one in enumerate(q):
        squares, vectors = np.linalg.eigh(matrices[k])
        _, turned = np.linalg.eigh(real[k])
        plain = strengths(one, squares, vectors, crystal.positions, amplitude)
        ours = strengths(
            one, squares, turned, inversion.place, amplitude * inversion.scale, inversion.phase
        )
        np.testing.assert_allclose(ours, plain, rtol=1e-7, atol=1e-9 * plain.max())


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["germanium", *CENTRED])
def test_packed_tensors_are_turned_as_matrices_are(shared_data, name):
    model = germanium() if name == "germanium" else phonopy_model(shared_data, name)[1]
    n = model.crystal.n_atoms
    inversion = Inversion.of(model.crystal, model.dynamical_matrices(zone_vectors(model, 3)))
    assert inversion is not None
    packed = np.random.default_rng(1).normal(size=(3, 2, 6 * n * n))
    turned = inversion.tensors(packed, np.array([0, 2, 3, 5]))
    assert turned.shape == (3, 2, 3 * n * (n + 1))
    whole = inversion.real(unpack_tensor(packed, n))
    blocks = whole.reshape(3, 2, n, 3, n, 3).swapaxes(-3, -2)
    k, m = np.triu_indices(n)
    wanted = np.stack([blocks[..., k, m, a, b] for a, b in PAIRS], axis=-1).reshape(turned.shape)
    wanted[0, 1] = wanted[2, 0] = 0.0  # cells that were not asked for
    np.testing.assert_allclose(turned, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.shared_data
def test_crystals_without_a_centre_have_none(shared_data):
    _, model = phonopy_model(shared_data, "ZnO")
    matrices = model.dynamical_matrices(zone_vectors(model, 3))
    assert Inversion.of(model.crystal, matrices) is None


def test_matrices_that_break_the_symmetry_stay_complex():
    model = germanium()
    matrices = model.dynamical_matrices(zone_vectors(model, 3))
    assert Inversion.of(model.crystal, matrices) is not None
    broken = matrices.copy()
    broken[:, 0, 0] *= 1.001  # of one of the two atoms
    assert Inversion.of(model.crystal, broken) is None


def test_positions_as_files_round_them_still_have_their_centre():
    model = germanium()
    q = zone_vectors(model, 3)
    rounded = np.round(model.crystal.positions + 1 / 3, 6)
    crystal = replace(model.crystal, positions=rounded)
    matrices = model.dynamical_matrices(q)
    phase = np.exp(
        1j * q @ (np.diff(rounded - model.crystal.positions, axis=0) @ crystal.lattice).T
    )
    turn = np.ones((len(q), 6), dtype=complex)
    turn[:, 3:] = phase
    matrices = turn[:, :, None].conj() * matrices * turn[:, None, :]
    found = Inversion.of(crystal, matrices)
    assert found is not None
    np.testing.assert_allclose(
        np.linalg.eigvalsh(found.real(matrices)), np.linalg.eigvalsh(matrices), rtol=1e-4
    )
