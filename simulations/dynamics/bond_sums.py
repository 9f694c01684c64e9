"""Sums over bonds at many q: dynamical matrices and their derivatives by q."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import ComplexArray, FloatArray, IntArray
from simulations.constants import MEV2_PER_FORCE_CONSTANT
from simulations.dynamics.bonds import PairForceConstants
from simulations.kernels import njit


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BondSums:
    """Bond tensors of C columns, mass weighted and in meV^2, by pairs of atoms i <= j."""

    atoms: IntArray  # (pairs, 2) i, j
    first: IntArray  # (pairs + 1,) first bond of each pair
    vectors: FloatArray  # (bonds, 3) angstrom
    tables: FloatArray  # (bonds, 9 C)
    onsite: FloatArray  # (atoms, 3, 3, C)

    @property
    def n_modes(self) -> int:
        """Rows of the matrices that are summed."""
        return 3 * len(self.onsite)


def bond_sums(bonds: PairForceConstants, columns: FloatArray) -> BondSums:
    """Sort bond tensors (bonds, 9, C), eV/angstrom^2, by pair of atoms."""
    crystal = bonds.crystal
    mass = crystal.masses_u
    n_columns = columns.shape[2]
    onsite = np.zeros((crystal.n_atoms, 9, n_columns))
    np.subtract.at(onsite, bonds.first, columns)
    onsite *= (MEV2_PER_FORCE_CONSTANT / mass)[:, None, None]
    used = np.abs(columns).max(axis=(1, 2), initial=0.0) > 0
    pick = np.flatnonzero((bonds.first <= bonds.second) & used)
    pick = pick[np.lexsort((pick, bonds.second[pick], bonds.first[pick]))]
    i, j = bonds.first[pick], bonds.second[pick]
    begins = np.flatnonzero(np.diff(i * crystal.n_atoms + j, prepend=-1))
    weight = MEV2_PER_FORCE_CONSTANT / np.sqrt(mass[i] * mass[j])
    table = columns[pick] * weight[:, None, None]
    return BondSums(
        atoms=np.stack([i[begins], j[begins]], axis=1).astype(np.int64),
        first=np.append(begins, len(pick)).astype(np.int64),
        vectors=np.ascontiguousarray(bonds.vectors[pick]),
        tables=np.ascontiguousarray(table.reshape(len(pick), 9 * n_columns)),
        onsite=onsite.reshape(crystal.n_atoms, 3, 3, n_columns),
    )


def summed(sums: BondSums, q: FloatArray) -> ComplexArray:
    """Dynamical matrices (C, Q, n, n), meV^2."""
    n_atoms, n_columns = len(sums.onsite), sums.onsite.shape[3]
    out = np.zeros((n_columns, len(q), n_atoms, 3, n_atoms, 3), dtype=np.complex128)
    for (i, j), some in _pairs(sums):
        angle = q @ sums.vectors[some].T
        _add_pair(out, i, j, np.cos(angle) @ sums.tables[some], np.sin(angle) @ sums.tables[some])
    onsite = _onsite(sums)
    for i in range(n_atoms):
        out[:, :, i, :, i, :] += onsite[:, None, i]
    return out.reshape(n_columns, len(q), sums.n_modes, sums.n_modes)


def summed_gradients(sums: BondSums, q: FloatArray) -> ComplexArray:
    """Derivatives by q, (C, Q, 3, n, n), meV^2 angstrom."""
    n_atoms, n_columns = len(sums.onsite), sums.onsite.shape[3]
    out = np.zeros((n_columns, len(q), 3, n_atoms, 3, n_atoms, 3), dtype=np.complex128)
    for (i, j), some in _pairs(sums):
        vectors = sums.vectors[some]
        angle = q @ vectors.T
        cos, sin = np.cos(angle), np.sin(angle)
        for axis in range(3):
            moment = vectors[:, axis : axis + 1] * sums.tables[some]
            _add_pair(out[:, :, axis], i, j, -sin @ moment, cos @ moment)
    return out.reshape(n_columns, len(q), 3, sums.n_modes, sums.n_modes)


def summed_with_derivatives(
    sums: BondSums, q: FloatArray
) -> tuple[ComplexArray, NDArray[np.complex64]]:
    """Dynamical matrices of one column, and their first and second derivatives by q.

    Returns
    -------
    matrices : (Q, n, n) complex128
        meV^2.
    derivatives : (Q, 9, n, n) complex64
        By x y z in meV^2 angstrom, and by xx yy zz yz xz xy in meV^2 angstrom^2.
    """
    n = sums.n_modes
    matrices = np.zeros((len(q), n, n), dtype=np.complex128)
    derivatives = np.zeros((len(q), 9, n, n), dtype=np.complex64)
    _sum_with_derivatives(
        np.ascontiguousarray(q),
        sums.atoms,
        sums.first,
        sums.vectors,
        sums.tables,
        _onsite(sums)[0],
        matrices,
        derivatives,
    )
    return matrices, derivatives


def _onsite(sums: BondSums) -> FloatArray:
    """Symmetric on-site tensors, (C, atoms, 3, 3)."""
    onsite = sums.onsite.transpose(3, 0, 1, 2)
    return 0.5 * (onsite + onsite.swapaxes(-1, -2))


def _pairs(sums: BondSums) -> list[tuple[IntArray, slice]]:
    edges = sums.first
    return [(sums.atoms[k], slice(edges[k], edges[k + 1])) for k in range(len(sums.atoms))]


def _add_pair(out: ComplexArray, i: int, j: int, real: FloatArray, imaginary: FloatArray) -> None:
    """Add what one pair of atoms gives, parts (Q, 9 C), to (C, Q, atoms, 3, atoms, 3)."""
    block = np.empty(real.shape, dtype=np.complex128)
    block.real, block.imag = real, imaginary
    block = block.reshape(len(real), 3, 3, len(out)).transpose(3, 0, 1, 2)
    across = block.conj().swapaxes(-1, -2)
    if i == j:
        out[:, :, i, :, i, :] += 0.5 * (block + across)
    else:
        out[:, :, i, :, j, :] += block
        out[:, :, j, :, i, :] += across


@njit(cache=True, nogil=True)
def _sum_with_derivatives(
    q: FloatArray,
    atoms: IntArray,
    first: IntArray,
    vectors: FloatArray,
    tables: FloatArray,
    onsite: FloatArray,
    matrices: ComplexArray,
    derivatives: NDArray[np.complex64],
) -> None:
    real, imaginary = np.zeros((2, 10, 9))
    for v in range(len(q)):
        for i in range(len(onsite)):
            for a in range(3):
                for b in range(3):
                    matrices[v, 3 * i + a, 3 * i + b] = onsite[i, a, b]
        for pair in range(len(atoms)):
            i, j = 3 * atoms[pair, 0], 3 * atoms[pair, 1]
            real[:] = 0.0
            imaginary[:] = 0.0
            for bond in range(first[pair], first[pair + 1]):
                x, y, z = vectors[bond]
                angle = q[v, 0] * x + q[v, 1] * y + q[v, 2] * z
                c, s = math.cos(angle), math.sin(angle)
                # the phase, its first derivatives and its second ones: i r_a, - r_a r_b times it
                moments = (1.0, x, y, z, x * x, y * y, z * z, y * z, x * z, x * y)
                for m in range(10):
                    w = moments[m]
                    if m == 0:
                        re, im = c, s
                    elif m < 4:
                        re, im = -s * w, c * w
                    else:
                        re, im = -c * w, -s * w
                    for e in range(9):
                        real[m, e] += re * tables[bond, e]
                        imaginary[m, e] += im * tables[bond, e]
            half = 0.5 if i == j else 1.0
            for m in range(10):
                for a in range(3):
                    for b in range(3):
                        value = half * complex(real[m, 3 * a + b], imaginary[m, 3 * a + b])
                        if m == 0:
                            matrices[v, i + a, j + b] += value
                            matrices[v, j + b, i + a] += value.conjugate()
                        else:
                            derivatives[v, m - 1, i + a, j + b] += value
                            derivatives[v, m - 1, j + b, i + a] += value.conjugate()
