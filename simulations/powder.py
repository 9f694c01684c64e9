"""Coherent one-phonon scattering of a powder, S(|Q|, E), and its gradient by the force constants.

Every sampled q of the zone is combined with all reciprocal-lattice vectors G: modes are computed
once, and ``T = sum_G f f^dagger`` per (q, |Q| bin) holds all that polarisation and structure
factors contribute. Averages over a |Q| bin are averages over the sampled vectors in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulations.brillouin_zone import ZonePoints, irreducible_mesh, mesh_divisions
from simulations.constants import BOLTZMANN_MEV_PER_K, HBAR2_OVER_U, NEUTRON_MEV_A2
from simulations.crystal import Crystal
from simulations.dynamics import divided_differences
from simulations.force_constants import ForceConstantModel
from simulations.instrument import Resolution
from simulations.scattering import (
    STABLE_MEV,
    amplitudes,
    bose,
    displacement_gradients,
    displacement_tensors,
    gaussian_bins,
    refuse_imaginary,
)

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

SigmaOfEnergy = Callable[[FloatArray], FloatArray]

_BATCH = 2_000_000  # complex numbers held at a time


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PowderSpectrum:
    """S(|Q|, E) per primitive cell, averaged over directions and over the bins."""

    momentum_edges: FloatArray  # (Q + 1,) 1/angstrom
    energy_edges_meV: FloatArray  # (E + 1,)
    intensity: FloatArray  # (Q, E) barn/meV/sr
    accessible: NDArray[np.bool_]  # (Q, E) bins whose centre the instrument can reach
    gradient: FloatArray | None = None  # (K, Q, E) per eV/angstrom^2
    names: tuple[str, ...] = ()  # (K,)


def kinematic_mask(
    momentum_edges: ArrayLike,
    energy_edges_meV: ArrayLike,
    ei_meV: float,
    two_theta_deg: tuple[float, float] = (0.0, 180.0),
) -> NDArray[np.bool_]:
    """Bins whose centre a direct-geometry instrument reaches.

    Parameters
    ----------
    momentum_edges : (Q + 1,) float64
        1/angstrom.
    energy_edges_meV : (E + 1,) float64
        Energy transfer, positive when the neutron loses energy.
    ei_meV : float
        Incident energy.
    two_theta_deg : (float, float)
        Smallest and largest scattering angle.

    Returns
    -------
    (Q, E) bool
    """
    Q = _centres(momentum_edges)
    energy = _centres(energy_edges_meV)
    if not ei_meV > 0:
        raise ValueError(f"instrument.ei_meV is {ei_meV}; expected a positive energy")
    ki2 = ei_meV / NEUTRON_MEV_A2
    kf2 = (ei_meV - energy) / NEUTRON_MEV_A2
    kf = np.sqrt(np.maximum(kf2, 0.0))
    low, high = np.sort(np.deg2rad(two_theta_deg))
    nearest = np.sqrt(np.maximum(ki2 + kf**2 - 2 * np.sqrt(ki2) * kf * np.cos(low), 0.0))
    farthest = np.sqrt(np.maximum(ki2 + kf**2 - 2 * np.sqrt(ki2) * kf * np.cos(high), 0.0))
    return (Q[:, None] >= nearest) & (Q[:, None] <= farthest) & (kf2 > 0)


def _centres(edges: ArrayLike) -> FloatArray:
    edges = np.asarray(edges, dtype=float)
    return 0.5 * (edges[1:] + edges[:-1])


def _checked_edges(edges: ArrayLike, field: str) -> FloatArray:
    out = np.asarray(edges, dtype=float)
    if out.ndim != 1 or len(out) < 2 or not np.all(np.diff(out) > 0):
        raise ValueError(f"{field} has shape {out.shape}; expected at least two increasing edges")
    return out


def sigma_function(
    resolution: Resolution | SigmaOfEnergy | float, ei_meV: float | None
) -> SigmaOfEnergy:
    """Standard deviation in meV as a function of energy transfer, from whatever describes it.

    Parameters
    ----------
    resolution : Resolution, callable or float
        An instrument's polynomial, a function of energy transfer, or one number (meV).
    ei_meV : float or None
        Needed by a `Resolution`.
    """
    if isinstance(resolution, Resolution):
        if ei_meV is None:
            raise ValueError("ei_meV is None; expected the incident energy of the resolution")
        polynomial, ei = resolution, ei_meV
        return lambda energy: polynomial.sigma_meV(energy, ei)
    if callable(resolution):
        return resolution
    width = float(resolution)
    if not width > 0:
        raise ValueError(f"resolution is {width} meV; expected a positive standard deviation")
    return lambda energy: np.full(np.shape(energy), width)


def lattice_vectors_within(crystal: Crystal, radius: float) -> FloatArray:
    """Reciprocal-lattice vectors up to a length, (G, 3), 1/angstrom."""
    reach = np.ceil(radius * np.linalg.norm(crystal.lattice, axis=1) / (2 * np.pi)).astype(int)
    grid = np.stack(
        np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    G = grid @ crystal.reciprocal
    return G[np.linalg.norm(G, axis=1) <= radius]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Coverage:
    """What the geometry gives each (q, |Q| bin)."""

    tensor: ComplexArray  # (q, bins, n, n) weighted sum of f f^dagger
    moments: ComplexArray  # (components, q, bins, n, n): the same with Q_a Q_b
    norm: FloatArray  # (bins,) summed weights


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
        norm=np.bincount(slot % bins, w, minlength=bins).astype(np.float64),
    )


def _line_shapes(
    energies: FloatArray,
    temperature_K: float,
    edges: FloatArray,
    sigma_of: SigmaOfEnergy,
    slopes: bool,
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
    slope = np.zeros_like(value) if slopes else value
    step = 1e-4
    for sign in (1.0, -1.0):
        weight = occupation + 1 if sign > 0 else occupation
        if not np.any(weight):
            continue
        sigma = sigma_of(sign * size)
        shape = gaussian_bins(edges, sign * size, sigma)
        value += (prefactor * weight)[..., None] * shape
        if slopes:
            grow = (sigma_of(sign * size + step) - sigma_of(sign * size - step)) / (2 * step)
            z = (edges - sign * size[..., None]) / sigma[..., None]
            density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) / sigma[..., None]
            # d/dc of the bin average of a Gaussian at c with width sigma(c), c = sign * E_s
            change = np.diff(density * (-1 - z * grow[..., None]), axis=-1) / np.diff(edges)
            slope += (prefactor * (by_energy - weight / size))[..., None] * shape
            slope += (sign * prefactor * weight)[..., None] * change
    if slopes:
        slope = slope * np.where(live, 0.5 / size, 0.0)[..., None]
    return value, slope


def default_powder_zone(crystal: Crystal) -> ZonePoints:
    """Irreducible mesh off Gamma with a step of about 0.135 1/angstrom."""
    return irreducible_mesh(crystal, mesh_divisions(crystal, 0.135), shifted=True)


def powder_spectrum(
    model: ForceConstantModel,
    momentum_edges: ArrayLike,
    energy_edges_meV: ArrayLike,
    *,
    temperature_K: float,
    resolution: Resolution | SigmaOfEnergy | float,
    ei_meV: float | None = None,
    two_theta_deg: tuple[float, float] = (0.0, 180.0),
    momentum_sigma: float = 0.0,
    phi: ArrayLike | None = None,
    zone: ZonePoints | None = None,
    displacement: FloatArray | None = None,
    gradient: bool = False,
) -> PowderSpectrum:
    """Coherent one-phonon S(|Q|, E) of a powder.

    Parameters
    ----------
    model : ForceConstantModel
    momentum_edges : (Q + 1,) float64
        1/angstrom.
    energy_edges_meV : (E + 1,) float64
        Both signs allowed: both sides carry their Bose factor.
    temperature_K : float
    resolution : Resolution, callable or float
        Energy resolution: an instrument's polynomial, a function of energy transfer or one standard
        deviation in meV. Gaussian, evaluated at the line.
    ei_meV : float or None
        Incident energy; None: every bin counts as accessible.
    two_theta_deg : (float, float)
        Scattering angles that the detectors span.
    momentum_sigma : float
        Standard deviation of a Gaussian resolution in |Q|, 1/angstrom; 0: none.
    phi : (K,) float64 or None
        Free parameters, eV/angstrom^2; None: the reference.
    zone : ZonePoints or None
        Sampled q points; None: `default_powder_zone`, whose sampling noise is below 2 % of the
        intensity in the mean over bins of 0.1 1/angstrom and 0.5 meV (aluminium).
    displacement : (atoms, 3, 3) float64 or None
        Debye-Waller tensors; None: computed from the model at this temperature, and then followed
        by the gradient.
    gradient : bool
        Also return the derivative by the free parameters, exact at degeneracies.

    Returns
    -------
    PowderSpectrum
        ``gradient`` is None unless asked for.

    Raises
    ------
    ValueError
        If axes are not increasing, or modes are imaginary.
    """
    crystal = model.crystal
    momentum_edges = _checked_edges(momentum_edges, "momentum_edges")
    edges = _checked_edges(energy_edges_meV, "energy_edges_meV")
    sigma_of = sigma_function(resolution, ei_meV)
    zone = default_powder_zone(crystal) if zone is None else zone
    names = model.names if gradient else ()

    moving = gradient and displacement is None
    shift = np.zeros((0, crystal.n_atoms, 3, 3))
    if moving:
        displacement, shift = displacement_gradients(model, temperature_K, phi)
    elif displacement is None:
        displacement = displacement_tensors(model, temperature_K, phi)
    both = np.concatenate([displacement[None], shift])
    trace = np.trace(both, axis1=-2, axis2=-1)[..., None, None] / 3
    isotropic = bool(np.abs(both - trace * np.eye(3)).max() < 1e-9 * np.abs(both).max())

    reach = float(np.linalg.norm(zone.q_cart, axis=1).max())
    G = lattice_vectors_within(crystal, momentum_edges[-1] + reach)
    n, bins, n_e = model.n_modes, len(momentum_edges) - 1, len(edges) - 1
    total = np.zeros((bins, n_e))
    slopes = np.zeros((len(names), bins, n_e))
    norm = np.zeros(bins)
    n_sums = 1 + (0 if not moving else 1 if isotropic else 6)
    per_q = max(n_sums * bins * n * n, len(G) * n, n * n * n_e)
    step = max(1, _BATCH // per_q)
    for start in range(0, len(zone.q_cart), step):
        part = slice(start, start + step)
        q, w = zone.q_cart[part], zone.weights[part]
        fixed, basis = model.matrices(q)
        values = model.values if phi is None else np.asarray(phi, dtype=float)
        squared, vectors = np.linalg.eigh(fixed + np.tensordot(values, basis, axes=(0, 1)))
        energies = np.sign(squared) * np.sqrt(np.abs(squared))
        refuse_imaginary(energies, q)
        covered = _coverage(crystal, q, w, G, momentum_edges, displacement, moving, isotropic)
        norm += covered.norm
        h, dh = _line_shapes(energies, temperature_K, edges, sigma_of, gradient)
        adjoint = vectors.conj().swapaxes(-1, -2)
        M = adjoint[:, None] @ covered.tensor @ vectors[:, None]  # (q, bins, s, t)
        diagonal = np.einsum("qbss->bqs", M).real
        total += diagonal.reshape(bins, -1) @ h.reshape(-1, n_e)
        if gradient:
            slopes += _direct_slopes(squared, vectors, basis, M, h, dh)
        if moving:
            slopes += _thermal_slopes(crystal, vectors, covered.moments, h, shift, isotropic)
    filled = norm > 0
    scale = np.where(filled, 1 / np.where(filled, norm, 1.0), 0.0)[:, None]
    intensity, slopes = total * scale, slopes * scale
    if momentum_sigma > 0:
        smear = gaussian_bins(
            momentum_edges, _centres(momentum_edges), np.full(bins, momentum_sigma)
        ).T
        smear = smear / smear.sum(axis=1, keepdims=True)
        intensity, slopes = smear @ intensity, smear @ slopes
    accessible = np.ones((bins, n_e), dtype=bool)
    if ei_meV is not None:
        accessible = kinematic_mask(momentum_edges, edges, ei_meV, two_theta_deg)
    return PowderSpectrum(
        momentum_edges=momentum_edges,
        energy_edges_meV=edges,
        intensity=intensity,
        accessible=accessible,
        gradient=slopes if gradient else None,
        names=names,
    )


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
