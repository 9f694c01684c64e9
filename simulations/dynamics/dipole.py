"""Dipole-dipole part of the dynamical matrix of polar crystals (Ewald sum, reciprocal space).

The reciprocal half of the Ewald sum is added to force constants from which its own transform over
the supercell's q points was taken away, as phonopy's Gonze method does; what the real-space half
would add is short-ranged and stays in those force constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.arrays import ComplexArray, FloatArray, IntArray
from simulations.crystal import Crystal
from simulations.errors import InputError

PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # of products of components
_UNPACKED = [0, 5, 4, 5, 1, 3, 4, 3, 2]

_G_POINTS = 300  # phonopy's rule for the Ewald parameter
_G_MARGIN = 1.35  # our sum goes this much further than the rule, so that it is smooth in q
_TERMS = 200_000  # pairs of q and G summed together


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dipole:
    """Born charges and dielectric tensor in the crystal's Cartesian frame."""

    born: FloatArray  # (atoms, 3, 3) e; rows: field, columns: displacement
    dielectric: FloatArray  # (3, 3) high-frequency
    coulomb_eV_A: float  # e^2 / 4 pi eps0
    ewald: float = 1.0
    """Ewald parameter over that of phonopy's rule. At 1 energies are phonopy's; towards 2 what the
    real-space sum would add beyond the supercell vanishes, and they are those of a full Ewald sum,
    Euphonic's for one."""
    sphere: bool = False
    """Whether reciprocal vectors are those of phonopy's sphere. Terms fall with G eps G: where eps
    is anisotropic, the sphere leaves out terms that count, and phonopy's energies are not converged
    (0.03 to 20 meV in layered crystals of phonondb)."""


class DipoleSum:
    """Dipole-dipole matrices of one crystal, not mass weighted, eV/angstrom^2."""

    def __init__(self, crystal: Crystal, dipole: Dipole) -> None:
        volume = abs(np.linalg.det(crystal.lattice))
        cutoff = _cutoff(crystal, dipole)
        mean_eps = float(np.trace(dipole.dielectric)) / 3
        self._four_lambda2 = -(cutoff**2) * mean_eps / np.log(1e-10)
        self._crystal = crystal
        self._born = dipole.born
        self._eps = 0.5 * (dipole.dielectric + dipole.dielectric.T)
        self._factor = dipole.coulomb_eV_A * 4 * np.pi / volume
        self._positions = crystal.positions @ crystal.lattice
        reciprocal = crystal.reciprocal
        self._G = _inside(crystal.lattice, *_region(dipole, cutoff))
        atoms = range(len(self._positions))
        self._pairs = [(i, j) for i in atoms for j in atoms if i <= j]
        between = np.array([self._positions[i] - self._positions[j] for i, j in self._pairs])
        wave = self._factor * np.exp(1j * self._G @ between.T)
        self._wave = np.concatenate([wave.real, wave.imag], axis=1)  # (G, 2 pairs)
        near = np.stack(np.meshgrid(*([[-1, 0, 1]] * 3), indexing="ij"), axis=-1).reshape(-1, 3)
        self._near = near @ reciprocal
        q0 = self._sum(np.zeros((1, 3)))[0]
        drift = q0.sum(axis=1)
        self._drift = 0.5 * (drift + drift.transpose(0, 2, 1).conj()).real

    @staticmethod
    def count(crystal: Crystal, dipole: Dipole) -> int:
        """About how many reciprocal vectors a sum would take."""
        metric, reach = _region(dipole, _cutoff(crystal, dipole))
        inside = 4 * np.pi / 3 * reach**3 / np.sqrt(np.linalg.det(metric))
        return int(inside * abs(np.linalg.det(crystal.lattice)) / (2 * np.pi) ** 3)

    def _into_zone(self, q_cart: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Split q into the shortest equivalent vector and a reciprocal-lattice vector."""
        fractional = q_cart @ self._crystal.lattice.T / (2 * np.pi)
        base = np.rint(fractional) @ self._crystal.reciprocal
        q = q_cart - base
        lengths = np.linalg.norm(q[:, None, :] + self._near[None], axis=2)
        step = self._near[np.argmin(np.round(lengths, 9), axis=1)]
        return q + step, base - step

    def _chunks(self, q: FloatArray, terms: int) -> list[FloatArray]:
        """Split q so that about so many pairs with G are in memory at a time."""
        return np.array_split(q, len(q) * len(self._G) // terms + 1)

    def _terms(self, q: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """K = q + G with G last, exp(-K eps K / 4 L^2) / K eps K (0 at K = 0), and K eps K."""
        K = q[:, :, None] + self._G.T[None]
        k2 = np.sum(K * (self._eps @ K), axis=1)
        zero = k2 < 1e-14
        k2 = np.where(zero, np.inf, k2)
        return K, np.where(zero, 0.0, np.exp(-k2 / self._four_lambda2) / k2), k2

    def _charged(self, products: FloatArray) -> ComplexArray:
        """Blocks Z_i^T M_ij Z_j from the six products K_a K_b of every G, (..., 6, G)."""
        real, imaginary = np.split(products @ self._wave, 2, axis=-1)
        sums = (real + 1j * imaginary)[..., _UNPACKED, :]
        n = len(self._positions)
        full = np.empty((*sums.shape[:-2], n, n, 3, 3), dtype=np.complex128)
        for p, (i, j) in enumerate(self._pairs):
            tensor = sums[..., p].reshape(*sums.shape[:-2], 3, 3)
            full[..., i, j, :, :] = self._born[i].T @ tensor @ self._born[j]
            if i != j:
                # M is symmetric in its components, and its conjugate belongs to the pair (j, i).
                full[..., j, i, :, :] = self._born[j].T @ tensor.conj() @ self._born[i]
        return full

    def _sum(self, q: FloatArray) -> ComplexArray:
        """Sum of the reciprocal terms, (Q, atoms, atoms, 3, 3), phase exp(i q (r_j - r_i))."""
        K, weight, _ = self._terms(q)
        products = np.stack([K[:, a] * K[:, b] * weight for a, b in PAIRS], axis=1)
        return self._charged(products)

    def _sum_gradient(self, q: FloatArray) -> ComplexArray:
        """Derivative of :meth:`_sum` by q, (Q, 3, atoms, atoms, 3, 3)."""
        K, weight, k2 = self._terms(q)
        slope = -2 * (self._eps @ K) * (weight * (1 / self._four_lambda2 + 1 / k2))[:, None]
        turned = K * weight[:, None]
        products = np.empty((len(q), 3, len(PAIRS), K.shape[2]))
        for i, (a, b) in enumerate(PAIRS):
            products[:, :, i] = slope * (K[:, a] * K[:, b])[:, None]
            products[:, a, i] += turned[:, b]
            products[:, b, i] += turned[:, a]
        return self._charged(products)

    def matrices(self, q_cart: FloatArray) -> ComplexArray:
        """Dipole-dipole blocks that obey the acoustic sum rule.

        Parameters
        ----------
        q_cart : (Q, 3) float64
            1/angstrom. At a reciprocal-lattice vector the non-analytic term is left out.

        Returns
        -------
        (Q, atoms, atoms, 3, 3) complex128
            eV/angstrom^2, phase exp(i q (r_j - r_i)), Hermitian.

        References
        ----------
        X. Gonze and C. Lee, Phys. Rev. B 55, 10355 (1997), eq. 71 and 72.
        """
        blocks = []
        for chunk in self._chunks(q_cart, _TERMS):
            q, base = self._into_zone(chunk)
            out = self._sum(q)
            atoms = np.arange(len(self._positions))
            out[:, atoms, atoms] -= self._drift[None]
            phase = np.exp(1j * base @ self._positions.T)
            blocks.append(out * (phase.conj()[:, :, None] * phase[:, None, :])[..., None, None])
        return np.concatenate(blocks)

    def gradients(self, q_cart: FloatArray) -> ComplexArray:
        """Derivatives by q, (Q, 3, atoms, atoms, 3, 3), eV/angstrom; see :meth:`matrices`."""
        blocks = []
        for chunk in self._chunks(q_cart, _TERMS // 4):
            q, base = self._into_zone(chunk)
            phase = np.exp(1j * base @ self._positions.T)
            turn = (phase.conj()[:, :, None] * phase[:, None, :])[:, None, :, :, None, None]
            blocks.append(self._sum_gradient(q) * turn)
        return np.concatenate(blocks)

    def supercell_constants(
        self, supercell: IntArray, first: IntArray, second: IntArray, cell: IntArray
    ) -> FloatArray:
        """Transform of :meth:`matrices` over the supercell's own q points, per supercell pair.

        Parameters
        ----------
        supercell : (3, 3) int64
            Supercell vectors in rows, in units of the primitive vectors.
        first, second : (bonds,) int64
        cell : (bonds, 3) int64
            A bond goes from atom ``first`` of the home cell to atom ``second`` of ``cell``.

        Returns
        -------
        (bonds, 3, 3) float64
            eV/angstrom^2, not divided by the number of equidistant images.
        """
        q_fractional = commensurate_points(supercell)
        q = q_fractional @ self._crystal.reciprocal
        blocks = self.matrices(q)
        vector = self._positions[second] - self._positions[first] + cell @ self._crystal.lattice
        phase = np.exp(-1j * q @ vector.T) / len(q)  # (Q, bonds)
        out = np.empty((len(first), 3, 3))
        for i in range(len(self._positions)):
            for j in range(len(self._positions)):
                pick = np.flatnonzero((first == i) & (second == j))
                out[pick] = np.einsum("qb,qac->bac", phase[:, pick], blocks[:, i, j]).real
        return out


def _cutoff(crystal: Crystal, dipole: Dipole) -> float:
    """Radius of phonopy's sphere of reciprocal vectors times the Ewald parameter, 1/angstrom."""
    if not (np.isfinite(dipole.ewald) and dipole.ewald > 0):
        raise InputError(f"dipole: ewald is {dipole.ewald}; expected a positive number, say 1")
    volume = abs(np.linalg.det(crystal.lattice))
    return 2 * np.pi * (3 * _G_POINTS / (4 * np.pi) / volume) ** (1 / 3) * dipole.ewald


def _region(dipole: Dipole, cutoff: float) -> tuple[FloatArray, float]:
    """Metric M and reach of the vectors to be summed: ``G M G < reach^2``."""
    if dipole.sphere:
        return np.eye(3), cutoff
    eps = 0.5 * (dipole.dielectric + dipole.dielectric.T)
    return eps, _G_MARGIN * cutoff * float(np.sqrt(np.trace(eps) / 3))


def _inside(lattice: FloatArray, metric: FloatArray, reach: float) -> FloatArray:
    """Reciprocal-lattice vectors with ``G M G < reach^2``, (G, 3), 1/angstrom."""
    basis = 2 * np.pi * np.linalg.inv(lattice).T
    # With a triangular basis of the metric's unit sphere, each coordinate bounds the next; a box
    # round a long ellipsoid would hold thousands of times more vectors.
    R = np.linalg.qr((basis @ np.linalg.cholesky(metric)).T)[1]
    n, squared = np.zeros((1, 0)), np.zeros(1)
    for row in (2, 1, 0):
        centre = -(n @ R[row, row + 1 :]) / R[row, row]
        half = np.sqrt(np.maximum(reach**2 - squared, 0.0)) / abs(R[row, row])
        low = np.ceil(centre - half)
        count = np.maximum(np.floor(centre + half) - low + 1, 0).astype(np.int64)
        of = np.repeat(np.arange(len(n)), count)
        value = low[of] + np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
        squared = squared[of] + (R[row, row] * (value - centre[of])) ** 2
        n = np.column_stack([value, n[of]])
    return n @ basis


def commensurate_points(supercell: IntArray) -> FloatArray:
    """Return q points that a supercell resolves, (cells, 3), in primitive reciprocal vectors."""
    supercell = np.asarray(supercell, dtype=np.int64)
    count = int(round(abs(np.linalg.det(supercell))))
    inverse = np.linalg.inv(supercell)
    reach = np.abs(supercell).sum(axis=0)
    # q = n @ inv(S)^T with integer n; distinct modulo 1
    n = np.stack(
        np.meshgrid(*([np.arange(int(reach.max()) + 1)] * 3), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    q = (n @ inverse.T) % 1.0
    q = np.where(q > 1 - 1e-9, 0.0, q)
    unique = np.unique(np.round(q * count).astype(np.int64) % count, axis=0)
    if len(unique) != count:
        n = np.stack(np.meshgrid(*([np.arange(count)] * 3), indexing="ij"), axis=-1).reshape(-1, 3)
        q = (n @ inverse.T) % 1.0
        unique = np.unique(np.round(q * count).astype(np.int64) % count, axis=0)
    return unique / count
