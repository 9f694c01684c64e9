"""Dipole-dipole forces of a virtual polar crystal: a plain Ewald sum in reciprocal space.

    D_ij(q) = 4 pi e^2 / (V sqrt(m_i m_j))
              sum_K exp(i K (r_i - r_j)) (Z_i^T K) (K^T Z_j) / (K eps K) exp(-K eps K / 4 L^2)

over all ``K = q + G`` but 0, periodic in q. The term of the shortest K is what has no limit at
Gamma and splits longitudinal from transverse modes; whatever the width L, the rest of the crystal's
forces is of short range. Written out here and shared with nobody: the likelihood has a sum of its
own, and the virtual crystal is read off its model only after this one was taken away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.constants as codata
from numpy.typing import NDArray

from simulations.arrays import ComplexArray, FloatArray
from simulations.crystal import Crystal
from simulations.kernels import njit

if TYPE_CHECKING:
    from simulations.dynamics import PairForceConstants


MEV2_PER_FORCE_CONSTANT = 1e26 * codata.hbar**2 / codata.atomic_mass / codata.e
"""hbar^2 / u as meV^2 u per eV/angstrom^2."""
VECTORS = 100
"""Reciprocal vectors where the screening factor is above 1e-10, which sets its width: fewer leave
more to real space, 100 take the least time. The sum of both does not depend on it."""
FORGOTTEN = 1e-12
"""Screening factor below which a wave vector counts as nothing."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VirtualDipoles:
    """Dipoles of one crystal, ready to be summed."""

    first: NDArray[np.int64]  # (pairs,) atom i of a pair, i <= j
    second: NDArray[np.int64]  # (pairs,) atom j
    between: FloatArray  # (pairs, 3) r_i - r_j, angstrom
    born: FloatArray  # (atoms, 3, 3) e / sqrt(u); rows: field, columns: displacement
    dielectric: FloatArray  # (3, 3)
    screening: float  # 4 L^2, 1/angstrom^2
    strength: float  # 4 pi e^2 / V, meV^2 u
    reciprocal: FloatArray  # (3, 3) vectors in rows, 1/angstrom
    G: FloatArray  # (G, 3)
    wave: FloatArray  # (G, 2 pairs) cos and sin of G (r_i - r_j)

    def matrices(self, fraction: FloatArray) -> ComplexArray:
        """Dipole part of the periodic dynamical matrices.

        Parameters
        ----------
        fraction : (points, 3) float64
            q in primitive reciprocal vectors. At whole numbers the term K = 0 is left out.

        Returns
        -------
        (points, n, n) complex128
            meV^2, Hermitian, without what the acoustic sum rule takes off the diagonal.

        References
        ----------
        X. Gonze and C. Lee, Phys. Rev. B 55, 10355 (1997), eq. 69 to 75.
        """
        q = (fraction - np.rint(fraction)) @ self.reciprocal
        return _summed(
            q, self.G, self.wave, self.first, self.second, self.between, self.born,
            self.dielectric, self.screening, self.strength,
        )  # fmt: skip


def virtual_dipoles(forces: PairForceConstants) -> VirtualDipoles | None:
    """Dipoles that a crystal's force constants come with; None where it has none."""
    dipole, crystal = forces.dipole, forces.crystal
    if dipole is None or forces.supercell is None:
        return None
    volume = abs(float(np.linalg.det(crystal.lattice)))
    reach = 2 * np.pi * (3 * VECTORS / (4 * np.pi * volume)) ** (1 / 3)
    dielectric = 0.5 * (dipole.dielectric + dipole.dielectric.T)
    screening = reach**2 * float(np.trace(dipole.dielectric)) / 3 / np.log(1e10)
    first, second = np.triu_indices(crystal.n_atoms)
    r = crystal.positions @ crystal.lattice
    G = _vectors(crystal, dielectric, -screening * np.log(FORGOTTEN))
    phase = G @ (r[first] - r[second]).T
    return VirtualDipoles(
        first=first,
        second=second,
        between=r[first] - r[second],
        born=dipole.born / np.sqrt(crystal.masses_u)[:, None, None],
        dielectric=dielectric,
        screening=screening,
        strength=MEV2_PER_FORCE_CONSTANT * dipole.coulomb_eV_A * 4 * np.pi / volume,
        reciprocal=crystal.reciprocal,
        G=G,
        wave=np.concatenate([np.cos(phase), np.sin(phase)], axis=1),
    )


def _vectors(crystal: Crystal, dielectric: FloatArray, limit: float) -> FloatArray:
    """Reciprocal-lattice vectors G with K eps K below ``limit`` for some q of the home cell."""
    corner = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    corner = corner @ crystal.reciprocal
    margin = np.sqrt(np.einsum("ka,ab,kb->k", corner, dielectric, corner).max())
    longest = (np.sqrt(limit) + margin) / np.sqrt(np.linalg.eigvalsh(dielectric)[0])
    n = np.ceil(longest * np.linalg.norm(crystal.lattice, axis=1) / (2 * np.pi)).astype(int)
    axes = (np.arange(-k, k + 1) for k in n)
    G = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) @ crystal.reciprocal
    squared = np.einsum("ka,ab,kb->k", G, dielectric, G)
    return np.ascontiguousarray(G[squared < (np.sqrt(limit) + margin) ** 2])


@njit(cache=True)
def _summed(q, G, wave, first, second, between, born, dielectric, screening, strength):
    """Matrices (points, n, n); products K_a K_b are summed per pair, charges come last."""
    pairs, n = len(first), 3 * len(born)
    out = np.zeros((len(q), n, n), dtype=np.complex128)
    limit = -screening * np.log(FORGOTTEN)
    product = np.empty(6)
    total = np.empty((6, 2 * pairs))
    M = np.empty((3, 3), dtype=np.complex128)
    for p in range(len(q)):
        total[:] = 0.0
        for g in range(len(G)):
            x, y, z = q[p, 0] + G[g, 0], q[p, 1] + G[g, 1], q[p, 2] + G[g, 2]
            squared = (
                x * (dielectric[0, 0] * x + 2 * (dielectric[0, 1] * y + dielectric[0, 2] * z))
                + y * (dielectric[1, 1] * y + 2 * dielectric[1, 2] * z)
                + z * dielectric[2, 2] * z
            )
            if squared < 1e-14 or squared > limit:
                continue
            weight = strength * np.exp(-squared / screening) / squared
            product[0], product[1], product[2] = weight * x * x, weight * y * y, weight * z * z
            product[3], product[4], product[5] = weight * y * z, weight * x * z, weight * x * y
            for c in range(6):
                for t in range(2 * pairs):
                    total[c, t] += product[c] * wave[g, t]
        for t in range(pairs):
            i, j = first[t], second[t]
            angle = q[p, 0] * between[t, 0] + q[p, 1] * between[t, 1] + q[p, 2] * between[t, 2]
            turn = complex(np.cos(angle), np.sin(angle))
            for c in range(6):
                value = turn * complex(total[c, t], total[c, pairs + t])
                if c < 3:
                    M[c, c] = value
                else:
                    a, b = (1, 2) if c == 3 else ((0, 2) if c == 4 else (0, 1))
                    M[a, b] = value
                    M[b, a] = value
            for a in range(3):
                for b in range(3):
                    value = 0j
                    for c in range(3):
                        for d in range(3):
                            value += born[i, c, a] * M[c, d] * born[j, d, b]
                    out[p, 3 * i + a, 3 * j + b] = value
                    out[p, 3 * j + b, 3 * i + a] = value.conjugate()
    return out
