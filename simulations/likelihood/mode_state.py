"""Modes of all voxels at one set of force constants, as `FoldedPhonons` diagonalises them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from simulations.arrays import ComplexArray, FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class ModeState:
    """Modes of every voxel at one set of force constants."""

    values: FloatArray  # (K,) eV/angstrom^2
    energy: FloatArray  # (voxels, n) meV; negative marks an imaginary mode
    vectors: ComplexArray  # (voxels, n, n) eigenvectors in columns
    velocity: FloatArray  # (voxels, n, 3) dE/dq, meV angstrom
    basis_rows: ComplexArray  # (voxels, n K, n) row (i, k) of B, meV^2 / (eV/angstrom^2)

    @cached_property
    def coupling(self) -> ComplexArray:
        """(voxels, n, n, K) e_i^dagger B_k e_j; derivatives need it, rates do not."""
        count, n = self.energy.shape
        halfway = (self.basis_rows @ self.vectors).reshape(count, n, -1)
        whole = self.vectors.conj().transpose(0, 2, 1) @ halfway
        return np.ascontiguousarray(whole.reshape(count, n, -1, n).transpose(0, 1, 3, 2))

    @property
    def stable(self) -> bool:
        """Whether no voxel has an imaginary mode."""
        return bool(np.all(self.energy > -1e-3))
