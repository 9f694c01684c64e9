"""Coherent one-phonon scattering at single vectors Q, Debye-Waller tensors, Bose factors.

All intensities are per primitive cell. A line's weight is in barn/sr; times a normalised line shape
in 1/meV it is S(Q,E) in barn/meV/sr. (Euphonic's structure factor is this over the atoms' number.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import ComplexArray, FloatArray
from simulations.constants import BOLTZMANN_MEV_PER_K, HBAR2_OVER_U
from simulations.crystal import Crystal
from simulations.dynamics import ForceConstantModel, divided_differences, eigenmodes, modes
from simulations.errors import InputError
from simulations.reciprocal import (
    ZonePoints,
    irreducible_mesh,
    mesh_divisions,
    symmetrised_site_tensors,
)
from simulations.scattering.pockets import STABLE_MEV, Pockets, counted

SigmaOfEnergy = Callable[[FloatArray], FloatArray]
"""Standard deviation of the energy resolution, meV, at energy transfers in meV."""

TOLERANCE = 0.005
"""Wanted relative error of Debye-Waller tensors, and of powder maps in the mean of their cells."""

_MESH_STEP = 0.25  # 1/angstrom, the coarser of the two meshes of Debye-Waller tensors
_MOST_WORK = 3e9  # points times modes cubed
_MOST_POINTS = 2e5  # beside a pocket, where errors fall unevenly

log = logging.getLogger(__name__)


def bose(energy_meV: ArrayLike, temperature_K: float) -> FloatArray:
    """Bose-Einstein occupation ``1 / (exp(E / kT) - 1)`` of positive energies; 0 at T = 0.

    Raises
    ------
    ValueError
        If the temperature is negative or not finite.
    """
    if not (np.isfinite(temperature_K) and temperature_K >= 0):
        raise InputError(f"temperature_K is {temperature_K}; expected a number >= 0")
    energy = np.asarray(energy_meV, dtype=float)
    if temperature_K == 0:
        return np.zeros_like(energy)
    thermal = max(BOLTZMANN_MEV_PER_K * temperature_K, 1e-200)  # the quotient must not overflow
    x = np.minimum(energy / thermal, 700.0)
    return 1 / np.expm1(x)


def _coth(energy: FloatArray, temperature_K: float) -> FloatArray:
    return 1 + 2 * bose(energy, temperature_K)


def default_zone(
    crystal: Crystal,
    divisions: tuple[int, int, int] | None = None,
    *,
    extrapolated: bool = True,
) -> ZonePoints:
    """Points for Debye-Waller tensors: two meshes, extrapolated to an infinitely fine one.

    Long acoustic waves make the error of one mesh proportional to its step, 1 % at a step of
    0.12 1/angstrom; twice a mesh less one of double step removes it. Some weights are negative.
    The finer one has ``divisions``, those of `converged_displacements` for example; None: a fixed
    step, with which tensors of most crystals are within 1e-3 and those of soft ones are not.
    Not ``extrapolated``: that one alone, as `Displacements` of a crystal with pockets have it.
    """
    if divisions is not None and not extrapolated:
        return irreducible_mesh(crystal, np.array(divisions), shifted=True)
    if divisions is None:
        coarse = np.array(mesh_divisions(crystal, _MESH_STEP))
    else:
        coarse = np.array(divisions) // 2
    near = irreducible_mesh(crystal, 2 * coarse, shifted=True)
    far = irreducible_mesh(crystal, coarse, shifted=True)
    return ZonePoints(
        q_cart=np.concatenate([near.q_cart, far.q_cart]),
        weights=np.concatenate([2 * near.weights, -far.weights]),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Displacements:
    """Debye-Waller tensors and how well they are converged."""

    tensors: FloatArray  # (atoms, 3, 3) angstrom^2
    error: float  # estimated, of the largest component
    divisions: tuple[int, int, int]  # of the finest mesh
    points: int  # diagonalised
    extrapolated: bool = True  # to an infinitely fine mesh; False: of the finest one alone

    @property
    def words(self) -> str:
        """In one line, with the price of half the error."""
        n = " x ".join(map(str, self.divisions))
        met = "" if self.error <= TOLERANCE else f", above the wanted {TOLERANCE:.1%}"
        how, less = (" extrapolated", "a quarter") if self.extrapolated else ("", "half")
        return f"mesh {n}{how}, error {self.error:.2g}{met}; {less} of it takes 8 x more"


def converged_displacements(
    model: ForceConstantModel,
    temperature_K: float,
    phi: ArrayLike | None = None,
    *,
    pockets: Pockets | None = None,
    tolerance: float = TOLERANCE,
) -> Displacements:
    """Mean squared displacements on meshes that are halved until they agree.

    Each answer is twice a mesh less one of double step, which removes the error of long acoustic
    waves, proportional to the step. What is left falls with its power 1.5 to 2, so that two such
    answers tell the error of the finer one. Beside a pocket the error has no such power: there the
    answer is that of the finest mesh, its error the last difference.

    Parameters
    ----------
    model, temperature_K, phi
        As of `displacement_tensors`.
    pockets : Pockets or None
        None: imaginary modes are refused.
    tolerance : float
        Wanted relative error of the largest component.
    """
    crystal = model.crystal
    count = 0

    def mesh(n: FloatArray) -> FloatArray:
        nonlocal count
        zone = irreducible_mesh(crystal, n, shifted=True)
        count += len(zone.q_cart)
        energies, vectors = modes(model, zone.q_cart, phi)
        return _displacements(crystal, energies, vectors, zone, temperature_K, pockets)

    n = np.array(mesh_divisions(crystal, _MESH_STEP))
    half = np.maximum(1, n // 2)
    ratio = float(np.prod(n / half)) ** (1 / 3)
    rough, coarse, fine = mesh(half), mesh(n), mesh(2 * n)
    before = (ratio * coarse - rough) / (ratio - 1) if ratio > 1.2 else np.full_like(coarse, np.nan)
    n = 2 * n
    while True:
        if pockets is None:
            found = 2 * fine - coarse
            error = float(np.abs(found - before).max() / 1.8 / np.abs(found).max())
        else:
            found = fine
            error = float(np.abs(fine - coarse).max() / np.abs(fine).max())
        points = len(irreducible_mesh(crystal, 2 * n, shifted=True).q_cart)
        if error <= tolerance or points * model.n_modes**3 > _MOST_WORK:
            break
        if pockets is not None and points > _MOST_POINTS:
            break
        n = 2 * n
        before, coarse, fine = found, fine, mesh(n)
    a, b, c = (int(k) for k in n)
    log.info("debye_waller_converged divisions=%s points=%d error=%.2g", (a, b, c), count, error)
    return Displacements(
        tensors=found,
        error=error,
        divisions=(a, b, c),
        points=count,
        extrapolated=pockets is None,
    )


def displacement_tensors(
    model: ForceConstantModel,
    temperature_K: float,
    phi: ArrayLike | None = None,
    zone: ZonePoints | None = None,
) -> FloatArray:
    """Mean squared displacements U of the atoms; the Debye-Waller exponent is ``W = Q U Q / 2``.

    Parameters
    ----------
    model : ForceConstantModel
    temperature_K : float
    phi : (K,) float64 or None
        Free parameters, eV/angstrom^2; None: the reference.
    zone : ZonePoints or None
        Points up to the Laue group; None: those of `converged_displacements`. Acoustic modes at
        Gamma are left out.

    Returns
    -------
    (atoms, 3, 3) float64
        angstrom^2.

    Raises
    ------
    ValueError
        If modes are imaginary: no harmonic crystal has such displacements.
    """
    if zone is None:
        return converged_displacements(model, temperature_K, phi).tensors
    energies, vectors = modes(model, zone.q_cart, phi)
    return _displacements(model.crystal, energies, vectors, zone, temperature_K, None)


def _displacements(
    crystal: Crystal,
    energies: FloatArray,
    vectors: ComplexArray,
    zone: ZonePoints,
    temperature_K: float,
    pockets: Pockets | None,
) -> FloatArray:
    live, size, _ = counted(energies, zone.q_cart, pockets)
    factor = np.where(live, _coth(size, temperature_K) / size, 0.0) * zone.weights[:, None]
    e = vectors.reshape(len(vectors), crystal.n_atoms, 3, -1)
    sums = np.einsum("qs,qias,qibs->iab", factor, e, e.conj(), optimize=True).real
    sums *= 0.5 * HBAR2_OVER_U / crystal.masses_u[:, None, None]
    return symmetrised_site_tensors(crystal, sums)


def displacements_of_sets(
    model: ForceConstantModel,
    sets: ArrayLike,
    temperatures_K: ArrayLike,
    divisions: tuple[int, int, int],
) -> Iterator[FloatArray | None]:
    """Mean squared displacements of many sets of force constants, all on the same meshes.

    Parameters
    ----------
    model : ForceConstantModel
    sets : (sets, K) float64
        Free parameters, eV/angstrom^2.
    temperatures_K : (T,) float64
    divisions : tuple of int
        Of the finer mesh, for example those of a `Displacements`. What the sets share is computed
        once.

    Yields
    ------
    (T, atoms, 3, 3) float64 or None
        angstrom^2; None: modes of this set are imaginary.
    """
    crystal = model.crystal
    zone = default_zone(crystal, divisions)
    fixed = model.fixed_matrices(zone.q_cart)
    temperatures = np.asarray(temperatures_K, dtype=float)
    for phi in np.asarray(sets, dtype=float):
        energies, vectors = eigenmodes(fixed + model.free_matrices(zone.q_cart, phi))
        try:
            live, size, _ = counted(energies, zone.q_cart, None)
        except InputError:
            yield None
            continue
        e = vectors.reshape(len(vectors), crystal.n_atoms, 3, -1)
        sites = np.einsum("qias,qibs->qsiab", e, e.conj(), optimize=True).real
        factor = np.stack([np.where(live, _coth(size, T) / size, 0.0) for T in temperatures])
        sums = np.asarray(np.tensordot(factor * zone.weights[:, None], sites, axes=2), dtype=float)
        sums *= 0.5 * HBAR2_OVER_U / crystal.masses_u[:, None, None]
        yield symmetrised_site_tensors(crystal, sums)


def displacement_gradients(
    model: ForceConstantModel,
    temperature_K: float,
    phi: ArrayLike | None = None,
    zone: ZonePoints | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Displacement tensors and their derivatives by the free parameters.

    Without points, on those of `converged_displacements`, so that the tensors are the same.

    Returns
    -------
    tensors : (atoms, 3, 3) float64
        angstrom^2, as `displacement_tensors`.
    gradients : (K, atoms, 3, 3) float64
        angstrom^2 per eV/angstrom^2.
    """
    crystal = model.crystal
    if zone is None:
        found = converged_displacements(model, temperature_K, phi)
        zone = default_zone(crystal, found.divisions)
    energies, vectors = modes(model, zone.q_cart, phi)
    tensors = _displacements(crystal, energies, vectors, zone, temperature_K, None)
    live = energies > STABLE_MEV
    size = np.where(live, energies, 1.0)
    coth = _coth(size, temperature_K)
    value = np.where(live, coth / size, 0.0)
    slope = np.where(live, (_coth_slope(size, temperature_K) - coth / size) / (2 * size**2), 0.0)
    kernel = divided_differences(value, slope, energies * np.abs(energies))
    kernel *= live[:, :, None] & live[:, None, :]
    _, basis = model.matrices(zone.q_cart)
    e = vectors.reshape(len(vectors), crystal.n_atoms, 3, -1)
    out = np.empty((basis.shape[1], crystal.n_atoms, 3, 3))
    for k in range(basis.shape[1]):
        inner = vectors.conj().swapaxes(-1, -2) @ basis[:, k] @ vectors
        inner = inner * kernel * zone.weights[:, None, None]
        out[k] = np.einsum("qias,qst,qibt->iab", e, inner, e.conj(), optimize=True).real
    out *= 0.5 * HBAR2_OVER_U / crystal.masses_u[:, None, None]
    return tensors, symmetrised_site_tensors(crystal, out)


def _coth_slope(energy: FloatArray, temperature_K: float) -> FloatArray:
    """Derivative of coth(E / 2kT) by E."""
    if temperature_K == 0:
        return np.zeros_like(energy)
    n = bose(energy, temperature_K)
    return -2 * n * (n + 1) / (BOLTZMANN_MEV_PER_K * temperature_K)


def amplitudes(crystal: Crystal, Q: ArrayLike, displacement: FloatArray | None) -> FloatArray:
    """Vectors f with ``|e^dagger f|^2`` the one-phonon weight of eigenvector e taken at Q itself.

    Parameters
    ----------
    crystal : Crystal
    Q : (Q, 3) float64
        1/angstrom.
    displacement : (atoms, 3, 3) float64 or None
        Tensors U, angstrom^2; None: no Debye-Waller factor.

    Returns
    -------
    (Q, 3 atoms) float64
        ``b_kappa Q exp(-W_kappa(Q)) / sqrt(m_kappa)``, sqrt(barn) / (angstrom sqrt(u)). With
        eigenvectors of q = Q - G instead of Q, multiply atom kappa by ``exp(i G r_kappa)``.
    """
    Q = np.asarray(Q, dtype=float)
    factor = crystal.scattering_length / np.sqrt(crystal.masses_u)
    scale = factor * np.exp(-_exponents(crystal, Q, displacement))
    return (scale[:, :, None] * Q[:, None, :]).reshape(len(Q), -1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OnePhononLines:
    """Lines of coherent one-phonon scattering at vectors Q."""

    energies_meV: FloatArray  # (Q, n); negative: imaginary, without weight
    creation: FloatArray  # (Q, n) barn/sr, at E = +energy
    annihilation: FloatArray  # (Q, n) barn/sr, at E = -energy
    width_meV: FloatArray | None = None  # (Q, n) beyond the resolution; None: none


def one_phonon_lines(
    model: ForceConstantModel,
    Q: ArrayLike,
    temperature_K: float,
    phi: ArrayLike | None = None,
    displacement: FloatArray | None = None,
    pockets: Pockets | None = None,
) -> OnePhononLines:
    """Coherent one-phonon lines at arbitrary Q, per primitive cell.

    Parameters
    ----------
    model : ForceConstantModel
    Q : (Q, 3) float64
        1/angstrom.
    temperature_K : float
    phi : (K,) float64 or None
        Free parameters, eV/angstrom^2; None: the reference.
    displacement : (atoms, 3, 3) float64 or None
        Debye-Waller tensors of `displacement_tensors`; None leaves the Debye-Waller factor out.
    pockets : Pockets or None
        How imaginary modes count; None: they have no weight.

    Returns
    -------
    OnePhononLines
        Weights ``(hbar^2 / 2 E) |sum b e.Q exp(-W) / sqrt(m)|^2`` times n + 1 and n. Inside a
        degenerate group only the sum over the group is meaningful.

    References
    ----------
    M. T. Dove, Structure and Dynamics (OUP, 2003), pp. 225-226.
    """
    Q = np.asarray(Q, dtype=float)
    energies, vectors = modes(model, Q, phi)
    f = amplitudes(model.crystal, Q, displacement)
    overlap = np.einsum("qis,qi->qs", vectors.conj(), f)
    live = energies > STABLE_MEV
    size = np.where(live, energies, 1.0)
    width = None
    if pockets is not None:
        live, size, width = counted(energies, Q, pockets)
        energies = np.where(live, size, energies)
    weight = np.where(live, 0.5 * HBAR2_OVER_U / size, 0.0) * np.abs(overlap) ** 2
    n = bose(size, temperature_K)
    return OnePhononLines(
        energies_meV=energies, creation=weight * (n + 1), annihilation=weight * n, width_meV=width
    )


def one_phonon_pairs(
    model: ForceConstantModel,
    Q: ArrayLike,
    temperature_K: float,
    phi: ArrayLike | None = None,
    displacement: FloatArray | None = None,
) -> dict[tuple[str, str], OnePhononLines]:
    """Coherent one-phonon lines split by pairs of elements.

    With ``F_a`` the part of the structure factor that atoms of element a make, the pair (a, a) has
    the weight of ``|F_a|^2`` and the pair (a, b) that of ``2 Re(F_a^* F_b)``, which may be
    negative. The pairs sum to `one_phonon_lines`, whose parameters these are.

    Returns
    -------
    dict
        Lines of every pair of elements, in the order of their first atoms.
    """
    Q = np.asarray(Q, dtype=float)
    crystal = model.crystal
    energies, vectors = modes(model, Q, phi)
    f = amplitudes(crystal, Q, displacement)
    elements = tuple(dict.fromkeys(crystal.symbols))
    member = np.repeat([[s == e for s in crystal.symbols] for e in elements], 3, axis=1)
    F = np.einsum("qis,qi,ei->eqs", vectors.conj(), f, member.astype(float), optimize=True)
    live = energies > STABLE_MEV
    size = np.where(live, energies, 1.0)
    factor = np.where(live, 0.5 * HBAR2_OVER_U / size, 0.0)
    n = bose(size, temperature_K)
    out: dict[tuple[str, str], OnePhononLines] = {}
    for k, first in enumerate(elements):
        for m in range(k, len(elements)):
            weight = factor * (F[k].conj() * F[m]).real * (1 if k == m else 2)
            out[first, elements[m]] = OnePhononLines(
                energies_meV=energies, creation=weight * (n + 1), annihilation=weight * n
            )
    return out


def bragg_intensities(
    crystal: Crystal, G: ArrayLike, displacement: FloatArray | None = None
) -> FloatArray:
    """Squared structure factor ``|sum b exp(-W) exp(i G r)|^2`` of Bragg reflections.

    Coherent elastic scattering per primitive cell of volume V is
    ``S(Q,E) = delta(E) (2 pi)^3 / V sum_G delta(Q - G)`` times this.

    Parameters
    ----------
    crystal : Crystal
    G : (G, 3) float64
        Reciprocal-lattice vectors, 1/angstrom.
    displacement : (atoms, 3, 3) float64 or None
        Tensors U, angstrom^2; None: no Debye-Waller factor.

    Returns
    -------
    (G,) float64
        barn/sr.

    References
    ----------
    G. L. Squires, Introduction to the Theory of Thermal Neutron Scattering (1978), section 3.6.
    """
    G = np.asarray(G, dtype=float)
    decay = np.exp(-_exponents(crystal, G, displacement))
    phase = np.exp(1j * G @ (crystal.positions @ crystal.lattice).T)
    return np.abs((decay * phase) @ crystal.scattering_length) ** 2


def incoherent_elastic(
    crystal: Crystal, Q: ArrayLike, displacement: FloatArray | None = None
) -> FloatArray:
    """Incoherent elastic scattering ``sum sigma_inc / 4 pi exp(-2 W(Q))`` per primitive cell.

    Parameters
    ----------
    crystal : Crystal
    Q : (Q, 3) float64
        1/angstrom.
    displacement : (atoms, 3, 3) float64 or None
        Tensors U, angstrom^2; None: no Debye-Waller factor.

    Returns
    -------
    (Q,) float64
        barn/sr, the factor of delta(E).
    """
    Q = np.asarray(Q, dtype=float)
    decay = np.exp(-2 * _exponents(crystal, Q, displacement))
    return decay @ crystal.incoherent_barn / (4 * np.pi)


def _exponents(crystal: Crystal, Q: FloatArray, displacement: FloatArray | None) -> FloatArray:
    """Debye-Waller exponents W, (Q, atoms)."""
    if displacement is None:
        return np.zeros((len(Q), crystal.n_atoms))
    return 0.5 * np.einsum("qa,iab,qb->qi", Q, displacement, Q, optimize=True)


def broadened(
    lines: OnePhononLines,
    energy_edges_meV: ArrayLike,
    sigma_meV: FloatArray | float | Callable[[FloatArray], FloatArray],
) -> FloatArray:
    """S(Q,E) averaged over energy bins, Gaussian lines.

    Parameters
    ----------
    lines : OnePhononLines
    energy_edges_meV : (E + 1,) float64
    sigma_meV : float, (Q, n) float64 or callable
        Standard deviation of every line; a function is called with signed energy transfers.

    Returns
    -------
    (Q, E) float64
        barn/meV/sr.
    """
    edges = np.asarray(energy_edges_meV, dtype=float)
    out = np.zeros((len(lines.energies_meV), len(edges) - 1))
    for sign, weight in ((1, lines.creation), (-1, lines.annihilation)):
        if np.any(weight):
            place = sign * lines.energies_meV
            sigma = np.asarray(sigma_meV(place) if callable(sigma_meV) else sigma_meV, dtype=float)
            if lines.width_meV is not None:
                sigma = np.hypot(sigma, lines.width_meV)
            shape = gaussian_bins(edges, place, np.broadcast_to(sigma, place.shape))
            out += np.einsum("qs,qse->qe", weight, shape)
    return out


def gaussian_bins(edges: FloatArray, centre: FloatArray, sigma: FloatArray) -> FloatArray:
    """Normalised Gaussians averaged over bins, (..., bins), 1/meV."""
    from scipy.special import ndtr

    z = (edges - centre[..., None]) / sigma[..., None]
    return np.diff(ndtr(z), axis=-1) / np.diff(edges)
