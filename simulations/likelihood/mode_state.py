"""Modes of all voxels at one set of force constants, as `FoldedPhonons` diagonalises them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray, SingleArray

CHUNK = 128  # voxels whose couplings are computed together


def parts(array: NDArray[np.inexact], axis: int) -> NDArray[np.floating]:
    """Real and imaginary parts along a new axis; of real ones there is one."""
    return np.stack([array.real, array.imag][: 1 + np.iscomplexobj(array)], axis=axis)


@dataclass(frozen=True, kw_only=True, eq=False)
class ModeState:
    """Modes of every voxel at one set of force constants.

    Vectors and B are real in the coordinates of an ``Inversion``, else complex. Derivatives have
    real and imaginary parts apart, along an axis of P: 1 or 2.
    """

    values: FloatArray  # (K,) eV/angstrom^2
    energy: FloatArray  # (voxels, n) meV; negative marks an imaginary mode
    vectors: NDArray[np.inexact]  # (voxels, n, n) eigenvectors in columns
    velocity: FloatArray  # (voxels, n, 3) dE/dq, meV angstrom
    basis_rows: NDArray[np.inexact]
    """(voxels, n K, n) row (i, k) of B, meV^2 / (eV/angstrom^2)."""

    @cached_property
    def rows(self) -> FloatArray:
        """(voxels, P, n, n) eigenvectors in rows."""
        return np.ascontiguousarray(parts(self.vectors.swapaxes(1, 2), 1), dtype=np.float64)

    @cached_property
    def coupling(self) -> SingleArray:
        """(voxels, n, K, P, n) [i, k, :, j] e_i^dagger B_k e_j; derivatives need it, rates do not.

        Single precision is enough for derivatives; to compute these in it is not, their basis
        cancels to some 1e-5.
        """
        count, n = self.energy.shape
        n_k = self.basis_rows.shape[1] // n
        both = np.iscomplexobj(self.vectors)
        out = np.empty((count, n, n_k, 1 + both, n), dtype=np.float32)
        for low in range(0, count, CHUNK):
            some = slice(low, low + CHUNK)
            ket = self.vectors[some]
            halfway = self.basis_rows[some] @ ket
            whole = ket.conj().swapaxes(1, 2) @ halfway.reshape(len(ket), n, -1)
            out[some] = parts(whole.reshape(len(ket), n, n_k, n), 3)
        return out

    @property
    def stable(self) -> bool:
        """Whether no voxel has an imaginary mode."""
        return bool(np.all(self.energy > -1e-3))
