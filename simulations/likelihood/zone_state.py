"""Modes of every point of a zone grid at one set of force constants, and how they continue."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import ComplexArray, FloatArray, SingleArray
from simulations.fold import PAIRS
from simulations.kernels import njit

NEAR = 4.0  # modes closer than this times what couples them in a cell of the grid make a block


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ZoneState:
    """Modes of every point, continued from it.

    Squares of energies to second order and eigenvectors to first order in the distance from the
    point. Modes too close to each other for that make a block of neighbouring modes: its matrix,
    with couplings to first order, is diagonalised wherever it is needed.

    P is 2, for real and imaginary parts, or 1 in the coordinates of an ``Inversion``: all is real.
    """

    square: FloatArray  # (points, n) E^2, meV^2
    slope: FloatArray  # (points, n, 3) d E^2 / dq
    curvature: FloatArray  # (points, n, 6) second derivatives of E^2: xx yy zz yz xz xy
    bend: FloatArray  # (points, n) most that this and the rest of its block move a mode in a cell
    vectors: SingleArray  # (points, n, P, n) eigenvectors in rows, conjugated
    block: NDArray[np.int8]  # (points, n) first mode of the block that each mode belongs to
    mixing: SingleArray
    """(points, n, 3, P, n). [s, a, :, s'] of two blocks: e_s'^dagger (dD/dq_a) e_s / (E_s^2 -
    E_s'^2); of one block: e_s^dagger (dD/dq_a) e_s'."""
    coupling: SingleArray
    """(points, n, K + 3, P, n) [s, k, :, s'] e_s^dagger B_k e_s', meV^2 / (eV/angstrom^2), and at
    the end e_s^dagger (dD/dq_a) e_s', meV^2 angstrom."""

    def vectors_at(self, point: int) -> ComplexArray:
        """Eigenvectors of a point in rows, conjugated, (n, n)."""
        return _whole(self.vectors[point].swapaxes(0, 1))

    def mixing_along(self, point: int, step: FloatArray) -> ComplexArray:
        """``mixing`` times a step (3,) from a point, (n, n)."""
        return _whole(np.einsum("sapi,a->psi", self.mixing[point], step))


def empty_state(points: int, n: int, n_k: int, parts: int) -> ZoneState:
    """One to be filled, of n modes, K parameters and P parts."""
    single = np.float32
    return ZoneState(
        square=np.empty((points, n)),
        slope=np.empty((points, n, 3)),
        curvature=np.empty((points, n, 6)),
        bend=np.empty((points, n)),
        vectors=np.empty((points, n, parts, n), dtype=single),
        block=np.empty((points, n), dtype=np.int8),
        mixing=np.empty((points, n, 3, parts, n), dtype=single),
        coupling=np.empty((points, n, n_k + 3, parts, n), dtype=single),
    )


def fill_state(
    state: ZoneState,
    some: slice,
    square: FloatArray,
    vectors: NDArray[np.inexact],
    basis: NDArray[np.inexact],
    derivatives: NDArray[np.inexact],
    reach: float,
) -> None:
    """Fill in some points.

    Parameters
    ----------
    state : ZoneState
    some : slice
        Of the points.
    square : (Q, n) float64
    vectors : (Q, n, n)
        Eigenvectors in columns.
    basis : (Q, K, n, n) single precision
        B, by the parameters.
    derivatives : (Q, 9, n, n) single precision
        Of D by q: x y z, and xx yy zz yz xz xy.
    reach : float
        How far a point's cell reaches, 1/angstrom.
    """
    count, n = square.shape
    ket = vectors.astype(derivatives.dtype)
    bra = ket.conj().swapaxes(1, 2)
    matrices = np.concatenate([basis, derivatives[:, :3]], axis=1)
    turned = _times(matrices, ket)
    between = bra @ turned.swapaxes(1, 2).reshape(count, n, -1)  # e^dagger (all of them) e
    turned = _times(derivatives[:, 3:], ket)
    own = np.einsum("vis,vpis->vsp", ket.conj(), turned).real
    for target, source in (
        (state.vectors[some], bra),
        (state.coupling[some], between.reshape(count, n, -1, n)),
    ):
        target[..., 0, :] = source.real
        if np.iscomplexobj(source):
            target[..., 1, :] = source.imag
    state.square[some] = square
    _continue(
        square,
        state.coupling[some][:, :, -3:],
        np.ascontiguousarray(own, dtype=np.float64),
        reach,
        state.slope[some],
        state.curvature[some],
        state.bend[some],
        state.block[some],
        state.mixing[some],
    )


def _times(matrices: NDArray[np.inexact], ket: NDArray[np.inexact]) -> NDArray[np.inexact]:
    """Matrices (Q, M, n, n) times (Q, n, n), one product for each point."""
    count, _, n, _ = matrices.shape
    return (matrices.reshape(count, -1, n) @ ket).reshape(matrices.shape)


def _whole(parts: FloatArray) -> ComplexArray:
    """What has real and imaginary parts along its first axis, or real ones alone."""
    return parts[0] + 1j * parts[1] if len(parts) > 1 else parts[0].astype(np.complex64)


@njit(cache=True, nogil=True)
def _continue(
    square: FloatArray,
    coupling: SingleArray,
    own: FloatArray,
    reach: float,
    slope: FloatArray,
    curvature: FloatArray,
    bend: FloatArray,
    block: NDArray[np.int8],
    mixing: SingleArray,
) -> None:
    """Blocks of modes that are near, and what is made of couplings (Q, n, 3, P, n) by them.

    A block takes in whatever lies between two near modes, so that it is a range of modes.
    """
    n, parts = square.shape[1], coupling.shape[3]
    for v in range(len(square)):
        last = 0  # mode that is near to one of those before
        for s in range(n):
            block[v, s] = block[v, s - 1] if 0 < s <= last else s
            for t in range(last + 1, n):
                size = 0.0
                for a in range(3):
                    for p in range(parts):
                        size += float(coupling[v, s, a, p, t]) ** 2
                if square[v, t] - square[v, s] <= NEAR * reach * math.sqrt(size):
                    last = t
        for s in range(n):
            for a in range(3):
                slope[v, s, a] = coupling[v, s, a, 0, s]
            for pair in range(6):
                curvature[v, s, pair] = own[v, s, pair]
            pull = 0.0
            for t in range(n):
                if block[v, s] == block[v, t]:
                    size = 0.0
                    for a in range(3):
                        for p in range(parts):
                            mixing[v, s, a, p, t] = coupling[v, s, a, p, t]
                            size += float(coupling[v, s, a, p, t]) ** 2
                    if s != t:
                        pull += math.sqrt(size)
                    continue
                inverse = 1 / (square[v, s] - square[v, t])
                for pair in range(6):
                    a, b = PAIRS[pair]
                    product = 0.0
                    for p in range(parts):
                        product += float(coupling[v, s, a, p, t]) * coupling[v, s, b, p, t]
                    curvature[v, s, pair] += 2 * product * inverse
                for a in range(3):
                    mixing[v, s, a, 0, t] = coupling[v, s, a, 0, t] * inverse
                    if parts > 1:  # of t and s, which is the conjugate of that of s and t
                        mixing[v, s, a, 1, t] = -coupling[v, s, a, 1, t] * inverse
            size = 0.0
            for pair in range(6):
                size += curvature[v, s, pair] ** 2
            bend[v, s] = reach * (pull + reach * math.sqrt(size))
