"""How modes continue from a point, against their diagonalisation beside it."""

import numpy as np
import pytest

from simulations.fold import PAIRS
from simulations.likelihood.zone_state import empty_state, fill_state

N, K, POINTS, REACH = 6, 4, 5, 1e-3


def hermitian(rng, parts, *shape):
    matrix = rng.normal(size=(*shape, N, N)) + 1j * (parts > 1) * rng.normal(size=(*shape, N, N))
    matrix = matrix + matrix.conj().swapaxes(-1, -2)
    return matrix if parts > 1 else matrix.real


def filled(parts, near=()):
    """A state of random matrices, modes of ``near`` moved onto those before, and its matrices."""
    rng = np.random.default_rng(7)
    turn = np.linalg.eigh(hermitian(rng, parts, POINTS))[1]
    square = np.tile(10.0 * np.arange(1, N + 1), (POINTS, 1))
    for mode in near:
        square[:, mode] = square[:, mode - 1] + 1e-4
    matrices = np.einsum("vis,vs,vjs->vij", turn, square, turn.conj())
    basis, derivatives = hermitian(rng, parts, POINTS, K), hermitian(rng, parts, POINTS, 9)
    square, vectors = np.linalg.eigh(matrices)
    kind = np.complex64 if parts > 1 else np.float32
    state = empty_state(POINTS, N, K, parts)
    some = slice(0, POINTS)
    fill_state(state, some, square, vectors, basis.astype(kind), derivatives.astype(kind), REACH)
    return state, matrices, vectors, basis, derivatives


def moved(matrices, derivatives, step):
    """Matrices at a step (3,) from every point."""
    bent = [(1.0 if a != b else 0.5) * step[a] * step[b] for a, b in PAIRS]
    return matrices + np.tensordot(np.concatenate([step, bent]), derivatives, axes=(0, 1))


@pytest.mark.parametrize("parts", [1, 2])
def test_modes_continue_to_second_order(parts):
    state, matrices, vectors, _, derivatives = filled(parts)
    assert (state.block == np.arange(N)).all()
    step = 0.05 * np.array([0.6, -0.3, 0.7])
    bent = [(1.0 if a != b else 0.5) * step[a] * step[b] for a, b in PAIRS]
    found = state.square + state.slope @ step + state.curvature @ bent
    there, turned = np.linalg.eigh(moved(matrices, derivatives, step))
    np.testing.assert_allclose(found, there, atol=2e-4)
    assert np.abs(state.square + state.slope @ step - there).max() > 3e-3  # the second order counts
    for v in range(POINTS):
        mixing = state.mixing_along(v, step)
        mixing[np.diag_indices(N)] = 1
        ket = mixing @ state.vectors_at(v).conj()
        overlap = np.abs(np.einsum("si,is->s", ket.conj(), turned[v]))
        np.testing.assert_allclose(overlap, np.linalg.norm(ket, axis=1), rtol=1e-5)


@pytest.mark.parametrize("parts", [1, 2])
def test_couplings_are_those_between_eigenvectors(parts):
    state, _, vectors, basis, derivatives = filled(parts)
    matrices = np.concatenate([basis, derivatives[:, :3]], axis=1)
    expected = np.einsum("vis,vkij,vjt->vskt", vectors.conj(), matrices, vectors)
    found = state.coupling[:, :, :, 0] + (1j * state.coupling[:, :, :, 1] if parts > 1 else 0)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("parts", [1, 2])
def test_modes_that_are_near_make_a_block_that_is_a_range(parts):
    state, matrices, _, _, derivatives = filled(parts, near=(2, 3))
    assert state.block.tolist() == [[0, 1, 1, 1, 4, 5]] * POINTS
    step = 0.5 * REACH * np.array([0.6, -0.3, 0.7])
    there = np.linalg.eigvalsh(moved(matrices, derivatives, step))
    bent = [(1.0 if a != b else 0.5) * step[a] * step[b] for a, b in PAIRS]
    alone = state.square + state.slope @ step + state.curvature @ bent
    for v in range(POINTS):
        block = state.mixing_along(v, step)[1:4, 1:4]
        block[np.diag_indices(3)] = alone[v, 1:4]
        np.testing.assert_allclose(np.linalg.eigvalsh(block), there[v, 1:4], atol=2e-6)
        pull = np.abs(there[v] - state.square[v] - (state.slope @ step)[v])
        assert (pull <= state.bend[v] + 1e-6).all()
        assert np.argmax(state.bend[v]) in (1, 2, 3)
