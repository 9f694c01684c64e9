"""Compiled parts of the walk against numpy."""

import numpy as np
import pytest

from simulations.likelihood.trajectory_kernel import diagonalise


@pytest.mark.parametrize("size", [2, 3, 6])
def test_a_block_is_diagonalised_and_the_rest_left_alone(size):
    rng = np.random.default_rng(size)
    part = slice(1, 1 + size)
    for closeness in (1.0, 1e-3, 0.0):  # of the levels, over their couplings
        made = rng.normal(size=(8, 8)) + 1j * rng.normal(size=(8, 8))
        made = made + made.conj().T
        made[np.diag_indices(8)] *= closeness
        matrix, turn = made.copy(), np.eye(8, dtype=complex)
        diagonalise(matrix, turn, 1, 1 + size)
        turned = turn[part, part]
        np.testing.assert_allclose(turned.conj().T @ turned, np.eye(size), atol=1e-12)
        new = turned.conj().T @ made[part, part] @ turned
        off = new - np.diag(np.diag(new))
        assert np.abs(off).max() < 1e-5 * np.abs(made[part, part]).max()
        found = np.diag(matrix[part, part]).real
        np.testing.assert_allclose(found, np.diag(new).real, atol=1e-10)
        np.testing.assert_allclose(np.sort(found), np.linalg.eigvalsh(made[part, part]), atol=1e-8)
        assert np.array_equal(matrix[0], made[0])
        assert np.array_equal(turn[7], np.eye(8)[7])
