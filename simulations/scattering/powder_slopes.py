"""Derivative of a powder's S(|Q|, E) by the force constants.

It needs, for every q and |Q| bin, ``T = sum_G f f^dagger``: all that polarisation and structure
factors contribute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import ComplexArray, FloatArray
from simulations.constants import BOLTZMANN_MEV_PER_K, HBAR2_OVER_U
from simulations.crystal import Crystal
from simulations.dynamics import ForceConstantModel, divided_differences, signed_root
from simulations.reciprocal import ZonePoints
from simulations.scattering.one_phonon import SigmaOfEnergy, amplitudes, bose, gaussian_bins
from simulations.scattering.pockets import STABLE_MEV

_BATCH = 2_000_000  # complex numbers held at a time


def lattice_vectors_within(crystal: Crystal, radius: float) -> FloatArray:
    """Reciprocal-lattice vectors up to a length, (G, 3), 1/angstrom."""
    reach = np.ceil(radius * np.linalg.norm(crystal.lattice, axis=1) / (2 * np.pi)).astype(int)
    grid = np.stack(
        np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    G = grid @ crystal.reciprocal
    return G[np.linalg.norm(G, axis=1) <= radius]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PowderAxes:
    """Bins of a powder map and its energy resolution."""

    momentum: FloatArray  # (Q + 1,) 1/angstrom
    energy: FloatArray  # (E + 1,) meV
    sigma_of: SigmaOfEnergy

    def vectors(self, crystal: Crystal, zone: ZonePoints) -> FloatArray:
        """Reciprocal-lattice vectors that reach the bins from any point, (G, 3)."""
        reach = float(np.linalg.norm(zone.q_cart, axis=1).max())
        return lattice_vectors_within(crystal, float(self.momentum[-1]) + reach)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Coverage:
    """What the geometry gives each (q, |Q| bin)."""

    tensor: ComplexArray  # (q, bins, n, n) weighted sum of f f^dagger
    moments: ComplexArray  # (components, q, bins, n, n): the same with Q_a Q_b


_FULL = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def _coverage(
    crystal: Crystal,
    q_cart: FloatArray,
    weights: FloatArray,
    G: FloatArray,
    edges: FloatArray,
    displacement: FloatArray,
    moments: bool,
    isotropic: bool,
) -> _Coverage:
    """Sum f f^dagger over G for a batch of q points, in the phase of eigenvectors at q."""
    n = 3 * crystal.n_atoms
    bins = len(edges) - 1
    n_q = len(q_cart)
    Q = q_cart[:, None, :] + G[None]
    length = np.linalg.norm(Q, axis=2)
    place = np.searchsorted(edges, length, side="right") - 1
    inside = (place >= 0) & (place < bins)
    row, column = np.nonzero(inside)
    Q = Q[row, column]
    slot = row * bins + place[row, column]
    w = weights[row]
    f = amplitudes(crystal, Q, displacement).astype(np.complex128)
    wave = np.exp(1j * G @ (crystal.positions @ crystal.lattice).T)
    f *= np.repeat(wave, 3, axis=1)[column]
    order = np.argsort(slot, kind="stable")
    f, w, Q, slot = f[order], w[order], Q[order], slot[order]
    starts = np.flatnonzero(np.r_[True, slot[1:] != slot[:-1]]) if len(slot) else np.zeros(0, int)
    used = slot[starts]

    def summed(scale: FloatArray) -> ComplexArray:
        out = np.zeros((n_q * bins, n, n), dtype=np.complex128)
        if len(slot):
            left = f * scale[:, None]
            for a in range(n):
                column_sums = np.add.reduceat(left[:, a : a + 1] * f[:, a:].conj(), starts, axis=0)
                out[used, a, a:] = column_sums
                out[used, a:, a] = column_sums.conj()
        return out.reshape(n_q, bins, n, n)

    components = []
    if moments and isotropic:
        components = [summed(w * np.einsum("qa,qa->q", Q, Q))]
    elif moments:
        components = [summed(w * Q[:, a] * Q[:, b]) for a, b in _FULL]
    return _Coverage(
        tensor=summed(w),
        moments=np.array(components) if components else np.zeros((0, 1, 1, 1, 1), complex),
    )


def _line_shapes(
    energies: FloatArray,
    temperature_K: float,
    edges: FloatArray,
    sigma_of: SigmaOfEnergy,
) -> tuple[FloatArray, FloatArray]:
    """h_s(E) = (hbar^2 / 2 E_s) [(n+1) R(E - E_s) + n R(E + E_s)] and its derivative by E_s^2."""
    live = energies > STABLE_MEV
    size = np.where(live, energies, 1.0)
    occupation = bose(size, temperature_K)
    prefactor = np.where(live, 0.5 * HBAR2_OVER_U / size, 0.0)
    by_energy = 0.0
    if temperature_K > 0:
        by_energy = -occupation * (occupation + 1) / (BOLTZMANN_MEV_PER_K * temperature_K)
    value = np.zeros((*energies.shape, len(edges) - 1))
    slope = np.zeros_like(value)
    step = 1e-4
    for sign in (1.0, -1.0):
        weight = occupation + 1 if sign > 0 else occupation
        if not np.any(weight):
            continue
        sigma = sigma_of(sign * size)
        shape = gaussian_bins(edges, sign * size, sigma)
        value += (prefactor * weight)[..., None] * shape
        grow = (sigma_of(sign * size + step) - sigma_of(sign * size - step)) / (2 * step)
        z = (edges - sign * size[..., None]) / sigma[..., None]
        density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) / sigma[..., None]
        # d/dc of the bin average of a Gaussian at c with width sigma(c), c = sign * E_s
        change = np.diff(density * (-1 - z * grow[..., None]), axis=-1) / np.diff(edges)
        slope += (prefactor * (by_energy - weight / size))[..., None] * shape
        slope += (sign * prefactor * weight)[..., None] * change
    return value, slope * np.where(live, 0.5 / size, 0.0)[..., None]


def summed_slopes(
    model: ForceConstantModel,
    phi: ArrayLike | None,
    zone: ZonePoints,
    axes: PowderAxes,
    displacement: FloatArray,
    shift: FloatArray | None,
    temperature_K: float,
) -> FloatArray:
    """Derivative of what `_summed_lines` sums by the free parameters, (K, Q, E).

    ``shift`` holds the derivatives of the Debye-Waller tensors, None where they are fixed.
    """
    crystal = model.crystal
    G = axes.vectors(crystal, zone)
    moving = shift is not None
    both = np.concatenate([displacement[None], shift]) if moving else displacement[None]
    trace = np.trace(both, axis1=-2, axis2=-1)[..., None, None] / 3
    isotropic = bool(np.abs(both - trace * np.eye(3)).max() < 1e-9 * np.abs(both).max())
    values = model.values if phi is None else np.asarray(phi, dtype=float)
    n, bins, n_e = model.n_modes, len(axes.momentum) - 1, len(axes.energy) - 1
    slopes = np.zeros((len(model.names), bins, n_e))
    n_sums = 1 + (0 if not moving else 1 if isotropic else 6)
    step = max(1, _BATCH // max(n_sums * bins * n * n, len(G) * n, n * n * n_e))
    for start in range(0, len(zone.q_cart), step):
        part = slice(start, start + step)
        q, w = zone.q_cart[part], zone.weights[part]
        fixed, basis = model.matrices(q)
        squared, vectors = np.linalg.eigh(fixed + np.tensordot(values, basis, axes=(0, 1)))
        covered = _coverage(crystal, q, w, G, axes.momentum, displacement, moving, isotropic)
        energies = signed_root(squared)
        h, dh = _line_shapes(energies, temperature_K, axes.energy, axes.sigma_of)
        adjoint = vectors.conj().swapaxes(-1, -2)
        M = adjoint[:, None] @ covered.tensor @ vectors[:, None]  # (q, bins, s, t)
        slopes += _direct_slopes(squared, vectors, basis, M, h, dh)
        if shift is not None:
            slopes += _thermal_slopes(crystal, vectors, covered.moments, h, shift, isotropic)
    return slopes


def _direct_slopes(
    squared: FloatArray,
    vectors: ComplexArray,
    basis: ComplexArray,
    M: ComplexArray,
    h: FloatArray,
    dh: FloatArray,
) -> FloatArray:
    """Change of sum_q tr[T h(D)] with the force constants, (K, bins, E); Daleckii-Krein."""
    n_q, n, n_e = h.shape
    bins = M.shape[1]
    upper_s, upper_t = np.triu_indices(n)
    kernel = divided_differences(
        h.transpose(0, 2, 1), dh.transpose(0, 2, 1), squared[:, None, :]
    )  # (q, E, s, t)
    kernel = kernel[:, :, upper_s, upper_t].transpose(0, 2, 1)  # (q, pairs, E)
    kernel = kernel * np.where(upper_s == upper_t, 1.0, 2.0)[None, :, None]
    weight = M[:, :, upper_t, upper_s].transpose(1, 0, 2).reshape(bins, -1)
    weight = np.concatenate([weight.real, -weight.imag], axis=1)
    adjoint = vectors.conj().swapaxes(-1, -2)
    out: FloatArray = np.empty((basis.shape[1], bins, n_e), dtype=np.float64)
    for k in range(basis.shape[1]):
        inner = (adjoint @ basis[:, k] @ vectors)[:, upper_s, upper_t]
        columns = np.concatenate(
            [
                (inner.real[:, :, None] * kernel).reshape(-1, n_e),
                (inner.imag[:, :, None] * kernel).reshape(-1, n_e),
            ]
        )
        out[k] = weight @ columns
    return out


def _thermal_slopes(
    crystal: Crystal,
    vectors: ComplexArray,
    moments: ComplexArray,
    h: FloatArray,
    shift: FloatArray,
    isotropic: bool,
) -> FloatArray:
    """Change of the spectrum through the Debye-Waller tensors, (K, bins, E)."""
    n_q, n, n_e = h.shape
    bins = moments.shape[2]
    out = np.zeros((len(shift), bins, n_e))
    e = vectors.reshape(n_q, crystal.n_atoms, 3, n)
    for c in range(len(moments)):
        turned = (moments[c] @ vectors[:, None]).reshape(n_q, bins, crystal.n_atoms, 3, n)
        # -1/2 Q (dU_i + dU_j) Q, both halves equal: - dU_i times the share of atom i
        share = np.einsum("qias,qbias->ibqs", e.conj(), turned, optimize=True).real
        spectrum = share.reshape(crystal.n_atoms * bins, -1) @ h.reshape(-1, n_e)
        spectrum = spectrum.reshape(crystal.n_atoms, bins, n_e)
        if isotropic:
            change = np.trace(shift, axis1=-2, axis2=-1) / 3
        else:
            a, b = _FULL[c]
            change = shift[:, :, a, b] * (1.0 if a == b else 2.0)
        out = out - np.tensordot(change, spectrum, axes=(1, 0)).astype(np.float64)
    return out
