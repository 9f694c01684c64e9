"""Coherent one-phonon scattering of a powder, S(|Q|, E), and its gradient by the force constants.

Every sampled q of the zone is combined with all reciprocal-lattice vectors G: modes are computed
once per q. Averages over a |Q| bin are averages over the sampled vectors in it. The spectrum comes
from a compiled loop over all Q = q + G; its gradient from `powder_slopes`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulations.arrays import ComplexArray, FloatArray
from simulations.constants import HBAR2_OVER_U, NEUTRON_MEV_A2
from simulations.crystal import Crystal
from simulations.dynamics import ForceConstantModel, Sampling, eigenmodes
from simulations.errors import InputError
from simulations.instrument import Resolution
from simulations.kernels import njit
from simulations.reciprocal import ZonePoints, irreducible_mesh, mesh_divisions
from simulations.scattering.one_phonon import (
    TOLERANCE,
    SigmaOfEnergy,
    bose,
    converged_displacements,
    displacement_gradients,
    gaussian_bins,
)
from simulations.scattering.pockets import Pockets, counted
from simulations.scattering.powder_slopes import PowderAxes, summed_slopes
from simulations.scattering.soft_cells import SplitCells, split_soft_cells

_BATCH = 2_000_000  # complex numbers held at a time
_FIRST_STEP = 0.1  # 1/angstrom, of the mesh that convergence to the usual tolerance starts from
_LINES, _FEWEST = 100.0, 300.0  # of a |Q| bin where the tolerance is loose, see `_kept_shares`
_FALL = 2.0  # the error falls with about this power of the step
_MOST_WORK = 1.2e11  # modes times atoms times vectors Q, of all meshes: minutes

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PowderSpectrum:
    """S(|Q|, E) per primitive cell, averaged over directions and over the bins."""

    momentum_edges: FloatArray  # (Q + 1,) 1/angstrom
    energy_edges_meV: FloatArray  # (E + 1,)
    intensity: FloatArray  # (Q, E) barn/meV/sr
    accessible: NDArray[np.bool_]  # (Q, E) bins whose centre the instrument can reach
    gradient: FloatArray | None = None  # (K, Q, E) per eV/angstrom^2
    names: tuple[str, ...] = ()  # (K,)
    partials: FloatArray | None = None  # (pairs, Q, E) barn/meV/sr, summing to `intensity`
    pairs: tuple[tuple[str, str], ...] = ()  # (pairs,) symbols
    sampling: Sampling | None = None  # where the mesh was not given


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
    Q = _centres(momentum_edges)[:, None]
    nearest, farthest = momentum_limits(_centres(energy_edges_meV), ei_meV, two_theta_deg)
    return (Q >= nearest) & (Q <= farthest)


def momentum_limits(
    energy_meV: ArrayLike, ei_meV: float, two_theta_deg: tuple[float, float] = (0.0, 180.0)
) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest |Q| that direct geometry reaches at an energy transfer.

    Parameters
    ----------
    energy_meV : (...) float64
        Positive when the neutron loses energy.
    ei_meV : float
        Incident energy.
    two_theta_deg : (float, float)
        Smallest and largest scattering angle.

    Returns
    -------
    smallest, largest : (...) float64
        1/angstrom; NaN where no neutron can lose that much.
    """
    if not ei_meV > 0:
        raise InputError(f"instrument.ei_meV is {ei_meV}; expected a positive energy")
    ki2 = ei_meV / NEUTRON_MEV_A2
    kf2 = (ei_meV - np.asarray(energy_meV, dtype=float)) / NEUTRON_MEV_A2
    product = 2 * np.sqrt(ki2) * np.sqrt(np.where(kf2 > 0, kf2, np.nan))
    low, high = np.sort(np.deg2rad(two_theta_deg))
    return (
        np.sqrt(np.maximum(ki2 + kf2 - product * np.cos(low), 0.0)),
        np.sqrt(np.maximum(ki2 + kf2 - product * np.cos(high), 0.0)),
    )


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
            raise InputError("ei_meV is None; expected the incident energy of the resolution")
        polynomial, ei = resolution, ei_meV
        return lambda energy: polynomial.sigma_meV(energy, ei)
    if callable(resolution):
        return resolution
    width = float(resolution)
    if not width > 0:
        raise InputError(f"resolution is {width} meV; expected a positive standard deviation")
    return lambda energy: np.full(np.shape(energy), width)


@njit(cache=True)
def _drawn(i: int, g: int) -> float:
    """A number in [0, 1) that looks random and belongs to a vector (SplitMix64)."""
    z = np.uint64(i) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(g) * np.uint64(0xD1B54A32D192ED03)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * 2.0**-53


@njit(cache=True, fastmath={"contract", "nsz"})
def _pair_weights(
    q_cart: FloatArray,
    weights: FloatArray,
    vectors: ComplexArray,
    G: FloatArray,
    wave: ComplexArray,
    tensors: FloatArray,
    tensor_of: NDArray[np.int64],
    group_of: NDArray[np.int64],
    edges: FloatArray,
    keep: FloatArray,
    first: int,
    out: FloatArray,
    norm: FloatArray,
) -> None:
    """Add ``w Re(F_a^* F_b)`` of every mode, |Q| bin and pair of groups of atoms.

    A share ``keep`` (bins,) of the vectors of a bin counts, drawn by their numbers, of which that
    of the first q is ``first``.

    ``F_a`` sums ``wave exp(-Q U Q / 2) Q.e^*`` over the atoms of group a. ``vectors`` is
    (q, mode, atom, 3) and conjugate, ``wave`` (atoms, G), ``out`` (q, modes, pairs, bins). One q at
    a time, all G in the innermost loops.
    """
    n_q, n_modes, n_atoms, _ = vectors.shape
    n_g, bins = len(G), len(edges) - 1
    groups = group_of.max() + 1
    low, high = edges[0], edges[bins]
    guess = np.zeros(4 * bins + 2, np.int64)  # bin at or below the true one
    scale = 4 * bins / (high - low)
    for k in range(len(guess)):
        while guess[k] + 1 < bins and edges[guess[k] + 1] <= low + k / scale:
            guess[k] += 1
        if k + 1 < len(guess):
            guess[k + 1] = guess[k]
    place = np.empty(n_g, np.int64)
    x, y, z = np.empty(n_g), np.empty(n_g), np.empty(n_g)
    decay = np.empty((len(tensors), n_g))
    real, imaginary = np.empty((n_atoms, n_g)), np.empty((n_atoms, n_g))
    part_real, part_imaginary = np.empty((groups, n_g)), np.empty((groups, n_g))
    for i in range(n_q):
        m = 0
        used = np.empty(n_g, np.int64)
        for g in range(n_g):
            qx, qy, qz = q_cart[i, 0] + G[g, 0], q_cart[i, 1] + G[g, 1], q_cart[i, 2] + G[g, 2]
            length = math.sqrt(qx * qx + qy * qy + qz * qz)
            if low <= length < high:
                b = guess[max(0, int((length - low) * scale) - 1)]
                while edges[b + 1] <= length:
                    b += 1
                if keep[b] < 1.0 and _drawn(first + i, g) >= keep[b]:
                    continue
                place[m], used[m] = b, g
                x[m], y[m], z[m] = qx, qy, qz
                norm[b] += weights[i]
                m += 1
        for t in range(len(tensors)):
            U = tensors[t]
            for g in range(m):
                exponent = (
                    U[0, 0] * x[g] * x[g]
                    + U[1, 1] * y[g] * y[g]
                    + U[2, 2] * z[g] * z[g]
                    + 2 * (U[1, 2] * y[g] * z[g] + U[0, 2] * x[g] * z[g] + U[0, 1] * x[g] * y[g])
                )
                decay[t, g] = math.exp(-0.5 * exponent)
        for a in range(n_atoms):
            for g in range(m):
                value = wave[a, used[g]] * decay[tensor_of[a], g]
                real[a, g], imaginary[a, g] = value.real, value.imag
        for s in range(n_modes):
            part_real[:, :m] = 0.0
            part_imaginary[:, :m] = 0.0
            for a in range(n_atoms):
                ax, ay, az = vectors[i, s, a, 0], vectors[i, s, a, 1], vectors[i, s, a, 2]
                rx, ry, rz = ax.real, ay.real, az.real
                jx, jy, jz = ax.imag, ay.imag, az.imag
                c, d = real[a], imaginary[a]
                u, v = part_real[group_of[a]], part_imaginary[group_of[a]]
                for g in range(m):
                    p = rx * x[g] + ry * y[g] + rz * z[g]
                    r = jx * x[g] + jy * y[g] + jz * z[g]
                    u[g] += p * c[g] - r * d[g]
                    v[g] += p * d[g] + r * c[g]
            pair = 0
            for a in range(groups):
                for b in range(a, groups):
                    weight = weights[i] if a == b else 2 * weights[i]
                    ua, va, ub, vb = (
                        part_real[a],
                        part_imaginary[a],
                        part_real[b],
                        part_imaginary[b],
                    )
                    for g in range(m):
                        out[i, s, pair, place[g]] += weight * (ua[g] * ub[g] + va[g] * vb[g])
                    pair += 1


@njit(cache=True)
def spread_lines(
    weights: FloatArray,
    strength: FloatArray,
    centre: FloatArray,
    sigma: FloatArray,
    edges: FloatArray,
    out: FloatArray,
) -> None:
    """Add Gaussian lines, averaged over energy bins, to ``out`` (E, pairs * bins).

    ``weights`` is (lines, rows); ``strength``, ``centre`` and ``sigma`` are (lines,). Tails beyond
    eight standard deviations, 1e-15 of a line, are left out.
    """
    n_e = len(edges) - 1
    for k in range(len(centre)):
        if strength[k] == 0.0:
            continue
        reach = 8 * sigma[k]
        first = max(0, np.searchsorted(edges, centre[k] - reach) - 1)
        last = min(n_e, np.searchsorted(edges, centre[k] + reach))
        scale = 1 / (sigma[k] * math.sqrt(2.0))
        before = math.erf((edges[first] - centre[k]) * scale)
        for e in range(first, last):
            after = math.erf((edges[e + 1] - centre[k]) * scale)
            height = 0.5 * strength[k] * (after - before) / (edges[e + 1] - edges[e])
            before = after
            for row in range(weights.shape[1]):
                out[e, row] += height * weights[k, row]


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
    partials: bool = False,
    tolerance: float = TOLERANCE,
    pockets: Pockets | None = None,
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
        Sampled q points; None: a mesh, split where modes are soft, that is made finer until the map
        meets ``tolerance`` or takes minutes, told in `PowderSpectrum.sampling`; for a gradient,
        `default_powder_zone`.
    displacement : (atoms, 3, 3) float64 or None
        Debye-Waller tensors; None: computed from the model at this temperature, and then followed
        by the gradient.
    gradient : bool
        Also return the derivative by the free parameters, exact at degeneracies.
    partials : bool
        Also split the intensity into pairs of elements: with ``F_a`` the part of the structure
        factor that atoms of element a make, a pair (a, a) has ``|F_a|^2`` and (a, b) has
        ``2 Re(F_a^* F_b)``, which may be negative. The pairs sum to the intensity.
    tolerance : float
        Wanted error: sum of absolute errors over the sum of the intensity, of reached cells.
    pockets : Pockets or None
        How imaginary modes count, without a gradient; None: they are refused.

    Returns
    -------
    PowderSpectrum
        ``gradient`` and ``partials`` are None unless asked for.

    Raises
    ------
    ValueError
        If axes are not increasing, or modes are imaginary.
    """
    crystal = model.crystal
    momentum_edges = _checked_edges(momentum_edges, "momentum_edges")
    edges = _checked_edges(energy_edges_meV, "energy_edges_meV")
    sigma_of = sigma_function(resolution, ei_meV)
    if gradient and zone is None:
        zone = default_powder_zone(crystal)
    names = model.names if gradient else ()

    moving = gradient and displacement is None
    shift = np.zeros((0, crystal.n_atoms, 3, 3))
    if moving:
        displacement, shift = displacement_gradients(model, temperature_K, phi)
    elif displacement is None:
        found = converged_displacements(model, temperature_K, phi, pockets=pockets)
        displacement = found.tensors
    axes = PowderAxes(momentum=momentum_edges, energy=edges, sigma_of=sigma_of)
    split, pairs = _element_pairs(crystal) if partials else (np.zeros(crystal.n_atoms, int), ())
    accessible = np.ones((len(momentum_edges) - 1, len(edges) - 1), dtype=bool)
    if ei_meV is not None:
        accessible = kinematic_mask(momentum_edges, edges, ei_meV, two_theta_deg)
    smear = np.eye(len(momentum_edges) - 1)
    if momentum_sigma > 0:
        smear = momentum_smearing(momentum_edges, momentum_sigma)

    def mesh(step: float) -> ZonePoints:
        regular = irreducible_mesh(crystal, mesh_divisions(crystal, step), shifted=True)
        return split_soft_cells(model, regular, temperature_K, phi, pockets)

    def sampled(points: ZonePoints, finer: float = 1.0) -> tuple[FloatArray, FloatArray]:
        """Parts of the map (pairs, Q, E), and the summed weights of its rows.

        ``finer`` times as many vectors count as at first, where not all do.
        """
        keep = None
        if zone is None:
            keep = _kept_shares(crystal, momentum_edges, len(points.q_cart), tolerance, finer)
        parts, norm = _summed_lines(
            model, phi, points, axes, displacement, temperature_K, split, pockets, keep
        )
        return smear @ (parts * _inverse(norm)), norm

    sampling = None
    if zone is None:
        parts, sampling = _converged(crystal, mesh, sampled, momentum_edges, accessible, tolerance)
        norm = np.ones(len(momentum_edges) - 1)
    else:
        parts, norm = sampled(zone)
    slopes = np.zeros((len(names), *parts.shape[1:]))
    if gradient and zone is not None:
        slopes = smear @ (
            _inverse(norm)
            * summed_slopes(
                model, phi, zone, axes, displacement, shift if moving else None, temperature_K
            )
        )
    return PowderSpectrum(
        momentum_edges=momentum_edges,
        energy_edges_meV=edges,
        intensity=parts.sum(axis=0),
        accessible=accessible,
        gradient=slopes if gradient else None,
        names=names,
        partials=parts if partials else None,
        pairs=pairs,
        sampling=sampling,
    )


def _inverse(norm: FloatArray) -> FloatArray:
    """One over the summed weights of the rows, (Q, 1); 0 where nothing was sampled."""
    return np.where(norm > 0, 1 / np.where(norm > 0, norm, 1.0), 0.0)[:, None]


def _converged(
    crystal: Crystal,
    mesh: Callable[[float], ZonePoints],
    sampled: Callable[[ZonePoints, float], tuple[FloatArray, FloatArray]],
    momentum_edges: FloatArray,
    accessible: NDArray[np.bool_],
    tolerance: float,
) -> tuple[FloatArray, Sampling]:
    """Make the mesh finer until two in a row tell that the finer one is good enough.

    Both are off, independently; half as much again is what single crystals need.
    """
    if not tolerance > 0:
        raise InputError(f"tolerance is {tolerance}; expected a positive share")
    volume = abs(float(np.linalg.det(crystal.reciprocal)))
    vectors = 4 / 3 * math.pi * float(momentum_edges[-1]) ** 3 / volume
    n = crystal.n_atoms
    lines = 100 * 3 * n * (len(momentum_edges) - 1)
    per_point = 3 * n * (n + 1) * vectors + (3 * n) ** 3 + lines
    begun = time.process_time()

    def on(step: float) -> tuple[ZonePoints, FloatArray, float]:
        start = time.process_time()
        zone = mesh(step)
        return zone, sampled(zone, max(1.0, (first / step) ** 2))[0], time.process_time() - start

    step = first = _FIRST_STEP * max(1.0, tolerance / TOLERANCE) ** (2 / 3)
    before, old, _ = on(1.5 * step)
    left = _MOST_WORK - per_point * len(before.q_cart)
    while True:
        zone, parts, seconds = on(step)
        new = parts.sum(axis=0)
        finer = max(1.0 + 1e-9, np.prod(zone.divisions or 1) / np.prod(before.divisions or 1))
        fall = float(finer) ** (_FALL / 3)
        whole = float(new[accessible].sum())
        change = float(np.abs(new - old.sum(axis=0))[accessible].sum()) / max(whole, 1e-300)
        error = 1.5 * change / math.sqrt(1 + fall**2)
        work = per_point * len(zone.q_cart)
        left -= work
        affordable = (work / max(left, 1e-300)) ** (1 / 3)
        wanted = min(0.8, max(0.4, 0.9 * (tolerance / max(error, 1e-9)) ** (1 / _FALL)))
        told = zone.divisions != before.divisions  # of one mesh taken twice no error is seen
        if (told and error <= tolerance) or affordable > 0.9:
            break
        before, old, step = zone, parts, step * max(wanted, affordable)
    found = Sampling(
        divisions=zone.divisions or (0, 0, 0),
        points=len(zone.q_cart),
        error=error,
        tolerance=tolerance,
        seconds=seconds,
        half_error_costs=2 ** (3 / _FALL),
        split=True,
    )
    log.info(
        "powder_map_converged divisions=%s points=%d error=%.2g seconds=%.3g",
        found.divisions, found.points, found.error, time.process_time() - begun,
    )  # fmt: skip
    return parts, found


def momentum_smearing(momentum_edges: ArrayLike, momentum_sigma: float) -> FloatArray:
    """Matrix (Q, Q) that smears rows of a map with a Gaussian in |Q|; its rows sum to 1.

    Parameters
    ----------
    momentum_edges : (Q + 1,) float64
        1/angstrom.
    momentum_sigma : float
        Standard deviation, 1/angstrom. At the ends of the axis what lies outside is not known; the
        bins inside share its weight.
    """
    edges = np.asarray(momentum_edges, dtype=float)
    centres = _centres(edges)
    smear = gaussian_bins(edges, centres, np.full(len(centres), momentum_sigma)) * np.diff(edges)
    return smear / smear.sum(axis=1, keepdims=True)


def _element_pairs(crystal: Crystal) -> tuple[NDArray[np.int64], tuple[tuple[str, str], ...]]:
    """Element of every atom, and the names of all pairs of elements in the kernel's order."""
    elements = tuple(dict.fromkeys(crystal.symbols))
    group = np.array([elements.index(symbol) for symbol in crystal.symbols], dtype=np.int64)
    pairs = tuple((a, b) for k, a in enumerate(elements) for b in elements[k:])
    return group, pairs


def _kept_shares(
    crystal: Crystal, momentum_edges: FloatArray, points: int, tolerance: float, finer: float
) -> FloatArray | None:
    """Share of the vectors of every |Q| bin that a loose tolerance needs, (Q,); None: all.

    A shell of a large cell holds tens of thousands. Lines of one mode scatter by about their mean
    from vector to vector, and some 3 % of the modes lie within a usual resolution.
    """
    if tolerance <= TOLERANCE:
        return None
    volume = (2 * np.pi) ** 3 / abs(float(np.linalg.det(crystal.reciprocal)))
    shells = 4 / 3 * np.pi * np.diff(momentum_edges**3) * volume / (2 * np.pi) ** 3
    wanted = finer * max(_FEWEST, _LINES / (3 * crystal.n_atoms * tolerance**2))
    return np.minimum(1.0, wanted / np.maximum(points * shells, 1e-300))


def _summed_lines(
    model: ForceConstantModel,
    phi: ArrayLike | None,
    zone: ZonePoints,
    axes: PowderAxes,
    displacement: FloatArray,
    temperature_K: float,
    group_of: NDArray[np.int64],
    pockets: Pockets | None,
    keep: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Weighted sum of S over all Q of every |Q| bin, (pairs, Q, E), and the summed weights."""
    crystal = model.crystal
    G = axes.vectors(crystal, zone)
    values = model.values if phi is None else np.asarray(phi, dtype=float)
    n, bins = model.n_modes, len(axes.momentum) - 1
    groups = int(group_of.max()) + 1
    pairs = groups * (groups + 1) // 2
    factor = crystal.scattering_length / np.sqrt(crystal.masses_u)
    wave = (factor[:, None] * np.exp(1j * (crystal.positions @ crystal.lattice) @ G.T)).astype(
        np.complex128
    )
    same = np.round(displacement, 13)  # equivalent atoms share one exponential
    _, distinct, tensor_of = np.unique(same, axis=0, return_index=True, return_inverse=True)
    tensors = np.ascontiguousarray(displacement[distinct])
    norm = np.zeros(bins)
    total = np.zeros((len(axes.energy) - 1, pairs * bins))
    shares = np.ones(bins) if keep is None else keep
    step = max(1, _BATCH // (n * pairs * bins))
    for start in range(0, len(zone.q_cart), step):
        part = slice(start, start + step)
        q = zone.q_cart[part]
        energies, vectors = eigenmodes(model.dynamical_matrices(q, values))
        live, size, width = counted(energies, q, pockets)
        weights = np.zeros((len(q), n, pairs, bins))
        _pair_weights(
            q, zone.weights[part],
            np.ascontiguousarray(vectors.conj().swapaxes(1, 2)).reshape(len(q), n, -1, 3),
            G, wave, tensors, tensor_of.reshape(-1), group_of, axes.momentum, shares, start,
            weights, norm,
        )  # fmt: skip
        occupation = bose(size, temperature_K)
        prefactor = np.where(live, 0.5 * HBAR2_OVER_U / size, 0.0)
        for places, inner in zone.inner if isinstance(zone, SplitCells) else ():
            soft = inner.shape[2]
            for k in np.flatnonzero((places >= start) & (places < start + step)):
                i = places[k] - start
                prefactor[i, :soft] = 0.0
                profiles = _inner_profiles(inner[k], temperature_K, pockets, axes)
                total += profiles @ weights[i, :soft].reshape(soft, -1)
        for sign, thermal in ((1.0, occupation + 1), (-1.0, occupation)):
            spread_lines(
                weights.reshape(-1, pairs * bins), (prefactor * thermal).ravel(),
                (sign * size).ravel(), np.hypot(axes.sigma_of(sign * size), width).ravel(),
                axes.energy, total,
            )  # fmt: skip
    return total.T.reshape(pairs, bins, -1), norm


def _inner_profiles(
    energies: FloatArray, temperature_K: float, pockets: Pockets | None, axes: PowderAxes
) -> FloatArray:
    """Lines of a cell's modes, averaged over points in it, (E, modes); energies (points, modes)."""
    live, size, width = counted(energies, np.zeros((len(energies), 3)), pockets)
    occupation = bose(size, temperature_K)
    prefactor = np.where(live, 0.5 * HBAR2_OVER_U / size / len(energies), 0.0)
    modes = np.tile(np.eye(energies.shape[1]), (len(energies), 1))
    out = np.zeros((len(axes.energy) - 1, energies.shape[1]))
    for sign, thermal in ((1.0, occupation + 1), (-1.0, occupation)):
        spread_lines(
            modes, (prefactor * thermal).ravel(), (sign * size).ravel(),
            np.hypot(axes.sigma_of(sign * size), width).ravel(), axes.energy, out,
        )  # fmt: skip
    return out
