"""Compiled diagonalisation of blocks of modes against numpy."""

import numpy as np
import pytest

from simulations.likelihood.trajectory_blocks import diagonalise, fill_block, turned_slope

MODES, START = 8, 1


def _blocks(size, rng):
    """Couplings (1, n, 3, 2, n) of a block, and its matrices by q (3, size, size)."""
    made = rng.normal(size=(3, size, size)) + 1j * rng.normal(size=(3, size, size))
    made = made + made.conj().swapaxes(1, 2)
    part = slice(START, START + size)
    mixing = np.full((1, MODES, 3, 2, MODES), np.nan)
    mixing[0, part, :, 0, part] = made.real.swapaxes(0, 1)
    mixing[0, part, :, 1, part] = made.imag.swapaxes(0, 1)
    return mixing, made


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("closeness", [1.0, 1e-3, 0.0])  # of the levels, over their couplings
def test_a_block_is_diagonalised_and_the_rest_left_alone(size, closeness):
    rng = np.random.default_rng(size)
    mixing, by_q = _blocks(size, rng)
    step, slope = rng.normal(size=(2, 3))
    alone, steep = np.zeros((2, MODES))
    part = slice(START, START + size)
    alone[part] = closeness * rng.normal(size=size)
    steep[part] = rng.normal(size=size)
    own = np.eye(size, dtype=bool)
    whole = np.where(own, np.diag(alone[part]), np.tensordot(step, by_q, axes=1))
    along = np.where(own, np.diag(steep[part]), np.tensordot(slope, by_q, axes=1))
    matrix, turned = np.full((2, MODES, MODES), np.nan), np.full((2, MODES, MODES), 7.0)
    fill_block(mixing, 0, step, alone, START, START + size, matrix, turned)
    np.testing.assert_allclose(matrix[0, :size, :size] + 1j * matrix[1, :size, :size], whole)
    diagonalise(matrix, turned, START, size)
    rows = turned[0, part, :size] + 1j * turned[1, part, :size]
    np.testing.assert_allclose(rows.conj() @ rows.T, np.eye(size), atol=1e-12)
    new = rows.conj() @ whole @ rows.T
    off = new - np.diag(np.diag(new))
    assert np.abs(off).max() < 1e-5 * np.abs(whole).max()
    found = np.diag(matrix[0, :size, :size])
    np.testing.assert_allclose(found, np.diag(new).real, atol=1e-10)
    np.testing.assert_allclose(np.sort(found), np.linalg.eigvalsh(whole), atol=1e-8)
    slopes = np.diag(rows.conj() @ along @ rows.T).real
    for i in range(size):
        one = turned_slope(mixing, 0, slope, steep, turned, START + i, START, START + size)
        np.testing.assert_allclose(one, slopes[i], atol=1e-10)
    assert np.all(turned[:, 0] == 7.0)
    assert np.all(turned[:, START + size :] == 7.0)
