"""Motion of single atoms, direction by direction, for incoherent and multiphonon scattering.

Along a direction n of Q an atom's motion is Gaussian and one-dimensional: its spectrum is the
density of states weighted with ``(n e)^2 / E`` and the occupation, and p phonons have the p-fold
convolution of that, gain and loss together. A powder averages over n.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse, stats
from scipy.integrate import lebedev_rule

from simulations.arrays import FloatArray, IntArray
from simulations.constants import HBAR2_OVER_U
from simulations.crystal import Crystal, space_group_operations
from simulations.dynamics import VOIGT, PhononDos
from simulations.errors import InputError
from simulations.kernels import njit
from simulations.scattering.one_phonon import SigmaOfEnergy, bose, gaussian_bins

MAX_ORDER = 10
DIRECTIONS = 17
"""Degree of the rule that averages over directions; scattering up to some ten phonons needs it."""

_STEPS = 1000  # of the grid, at least, up to the highest energy
_REACH = 8.0  # standard deviations of a line
_NEGLIGIBLE = 1e-6  # of what an atom scatters
_LITTLE, _FEWEST = 1e-3, 6
_GAUSSIANS = 300  # for numbers of phonons that are not convolved, at most
_DEBYE = 0.05  # of the highest energy: below, a density without directions is taken as c E^2
_DEBYE_MEV = 4.0  # at most: with hydrogen in it the highest energy says nothing of the lowest


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AtomMotion:
    """Spectra of one direction of an atom, on a uniform energy grid symmetric about zero."""

    atom: int  # that stands for all equivalent ones
    share: float  # atoms times share of the directions that this stands for
    mean_square: float  # displacement along the direction, angstrom^2
    orders: FloatArray  # (p, grid) of 1, 2, ... phonons, 1/meV, each integrating to 1


def energy_grid(
    dos: PhononDos,
    energy_edges_meV: FloatArray,
    max_order: int,
    sigma_of: SigmaOfEnergy | None = None,
) -> FloatArray:
    """Uniform grid for `atom_motions`, symmetric about zero, meV.

    It is wide enough that what a convolution loses at its ends never comes back into the bins, and
    finer than what bins and resolution could show.
    """
    if not 1 <= max_order <= MAX_ORDER:
        raise InputError(f"max_order is {max_order}; expected 1 to {MAX_ORDER}")
    top = float(dos.energy_edges_meV[-1])
    seen = np.diff(energy_edges_meV)
    if sigma_of is not None:
        centres = 0.5 * (energy_edges_meV[1:] + energy_edges_meV[:-1])
        seen = np.maximum(seen, sigma_of(centres))
    step = min(top / _STEPS, float(seen.min()) / 3)
    reach = float(np.abs(energy_edges_meV).max()) + max_order * top
    count = int(np.ceil(reach / step))
    return np.arange(-count, count + 1, dtype=np.float64) * step


def atom_motions(
    crystal: Crystal,
    dos: PhononDos,
    temperature_K: float,
    grid: FloatArray,
    max_order: int,
    *,
    displacement: FloatArray | None = None,
    degree: int = DIRECTIONS,
) -> Iterator[AtomMotion]:
    """Gaussian motion of every inequivalent atom along every direction of a powder.

    An atom of cross section sigma scatters ``share sigma / 4 pi exp(-x) x**p / p!`` times the
    spectrum of order p, with ``x = Q^2 <u^2>``.

    Parameters
    ----------
    crystal : Crystal
    dos : PhononDos
        Of the crystal. Without tensors the motion is isotropic; so it is where it says itself
        which atoms are alike.
    temperature_K : float
    grid : (grid,) float64
        From `energy_grid`.
    max_order : int
    displacement : (atoms, 3, 3) float64 or None
        Debye-Waller tensors, to which the integral of the one-phonon function is scaled so that
        elastic line and phonons obey one sum rule; None: what the density itself gives.
    degree : int
        Of the rule for directions, as Lebedev's are numbered.

    Raises
    ------
    ValueError
        If a density of states is empty.

    References
    ----------
    A. Sjolander, Arkiv Fysik 14, 315 (1958).
    """
    group, orbit = None, dos.alike
    if orbit is None:
        group = space_group_operations(crystal)
        orbit = group.permutation.min(axis=0)
    length = int(fft.next_fast_len(len(grid), True) or len(grid))
    step = float(grid[1] - grid[0])
    half = len(grid) // 2
    gain, loss = thermal_weights(dos.energy_edges_meV, temperature_K)
    for atom in np.unique(orbit):
        members = int(np.count_nonzero(orbit == atom))
        along, weights = _along_directions(dos, int(atom), group, degree)
        scale = 0.5 * HBAR2_OVER_U / float(crystal.masses_u[atom])
        for n, weight, density in zip(along.directions, weights, along.density, strict=True):
            one, mean_square = _one_phonon(dos.energy_edges_meV, density, gain, loss, grid)
            mean_square *= scale
            if displacement is not None:
                mean_square = float(n @ displacement[atom] @ n)
                if along.isotropic:
                    mean_square = float(np.trace(displacement[atom])) / 3
            wrapped = np.zeros(length)
            wrapped[: half + 1], wrapped[-half:] = one[half:], one[:half]
            power = transform = np.asarray(fft.rfft(wrapped)) * step
            orders = np.empty((max_order, len(grid)))
            orders[0] = one
            for p in range(1, max_order):
                power = power * transform
                many = np.asarray(fft.irfft(power, length)) / step
                orders[p, half:], orders[p, :half] = many[: half + 1], many[-half:]
            yield AtomMotion(
                atom=int(atom),
                share=members * float(weight),
                mean_square=mean_square,
                orders=np.maximum(orders, 0.0),
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Along:
    directions: FloatArray  # (D, 3)
    density: FloatArray  # (D, E) modes/meV, integrating to 1
    isotropic: bool


def beyond_orders(
    motion: AtomMotion,
    grid: FloatArray,
    squared_momentum: FloatArray,
    energy_edges_meV: FloatArray,
    sigma_of: SigmaOfEnergy,
    *,
    along: bool = False,
) -> FloatArray:
    """What more phonons scatter than ``motion.orders`` has, over ``share sigma / 4 pi``, (Q, E).

    Approximate: p of many phonons have a Gaussian of p times the mean and variance of one. Their
    intensity is exact, so that all orders together scatter what the sum rule says.

    Parameters
    ----------
    motion : AtomMotion
        On ``grid``.
    grid : (grid,) float64
        From `energy_grid`.
    squared_momentum : (Q,) float64
        1/angstrom^2.
    energy_edges_meV : (E + 1,) float64
    sigma_of : callable
        Resolution, meV, of energy transfers.
    along : bool
        Momenta are those of the energy bins, one each: (E,) comes back.
    """
    x = squared_momentum * motion.mean_square
    known, top = len(motion.orders), float(x.max(initial=0.0))
    if stats.poisson.sf(known, top) < _NEGLIGIBLE:
        return np.zeros(len(x) if along else (len(x), len(energy_edges_meV) - 1))
    last = int(stats.poisson.isf(_NEGLIGIBLE, top)) + 1
    stride = -(-(last - known) // _GAUSSIANS)  # neighbours of very many are as one
    upper = known + stride * np.arange((last - known) // stride + 2)
    weight = np.diff(stats.poisson.cdf(upper, x[:, None]), axis=1)
    number = np.asarray(0.5 * (upper[1:] + upper[:-1] + 1), dtype=np.float64)
    one = motion.orders[0] * (grid[1] - grid[0])
    mean = float(one @ grid)
    variance = max(float(one @ grid**2) - mean**2, 0.0)
    centre = number * mean
    within = np.clip(centre, energy_edges_meV[0], energy_edges_meV[-1])
    sigma = np.sqrt(number * variance + np.asarray(sigma_of(within), dtype=float) ** 2)
    lines = gaussian_bins(energy_edges_meV, centre, sigma)
    return np.sum(weight * lines.T, axis=1) if along else weight @ lines


def orders_that_serve(
    crystal: Crystal,
    dos: PhononDos,
    temperature_K: float,
    most_momentum: float,
    *,
    displacement: FloatArray | None = None,
) -> int:
    """How many orders are worth to be convolved up to a momentum, 1/angstrom.

    As many as leave a thousandth of what the loosest atom scatters there, 6 at least and
    `MAX_ORDER` at most; `beyond_orders` has the rest.
    """
    if displacement is None:
        gain, loss = thermal_weights(dos.energy_edges_meV, temperature_K)
        along = dos.partial / 3 @ (np.diff(dos.energy_edges_meV) * (gain + loss))
        squares = 0.5 * HBAR2_OVER_U / crystal.masses_u * along
    else:
        squares = np.trace(displacement, axis1=1, axis2=2) / 3
    x = most_momentum**2 * float(np.max(squares))
    return int(np.clip(stats.poisson.isf(_LITTLE, x), _FEWEST, MAX_ORDER))


def many_phonons(orders: int) -> str:
    """What multiphonon scattering holds where orders beyond so many are there, too."""
    return f"2 and more phonons, more than {orders} as Gaussians of their mean and width"


def _along_directions(
    dos: PhononDos, atom: int, group: Any, degree: int
) -> tuple[_Along, FloatArray]:
    """Density of states of an atom along directions, and their weights."""
    width = np.diff(dos.energy_edges_meV)
    partial = dos.partial[atom] / 3
    if not float(np.sum(partial * width)) > 0:
        raise InputError("density of states is empty; expected modes at positive energies")
    one = np.array([[0.0, 0.0, 1.0]])
    if dos.tensors is None or group is None:
        density = _debye_below(dos.energy_edges_meV, partial)
        return _Along(directions=one, density=density[None], isotropic=True), np.ones(1)
    tensor = dos.tensors[atom]
    uneven = np.abs(tensor[:3] - partial).sum() + np.abs(tensor[3:]).sum()
    if uneven < 1e-4 * partial.sum():
        return _Along(directions=one, density=partial[None], isotropic=True), np.ones(1)
    directions, weights = _directions(group.cartesian[group.permutation[:, atom] == atom], degree)
    factor = np.stack(
        [directions[:, a] * directions[:, b] * (1 if a == b else 2) for a, b in VOIGT], axis=1
    )
    return _Along(directions=directions, density=factor @ tensor, isotropic=False), weights


def _directions(rotations: FloatArray, degree: int) -> tuple[FloatArray, FloatArray]:
    """Rule for averages over the sphere, one direction of those that a site's symmetry equals."""
    points, weights = lebedev_rule(degree)
    images = np.einsum("gab,bp->pga", np.concatenate([rotations, -rotations]), points)
    images = np.round(images, 8) + 0.0
    first = [max(map(tuple, star)) for star in images]
    distinct = sorted(set(first))
    place = {direction: k for k, direction in enumerate(distinct)}
    total = np.bincount([place[d] for d in first], weights, minlength=len(distinct))
    out = np.array(distinct)
    return out / np.linalg.norm(out, axis=1, keepdims=True), total / total.sum()


def _debye_below(edges: FloatArray, density: FloatArray) -> FloatArray:
    """Make the lowest energies c E^2 with the same integral, where the origin is not known.

    What smears a density made elsewhere would else diverge in g / E^2.
    """
    low = edges[1:] <= min(_DEBYE * edges[-1], _DEBYE_MEV)
    if not low.any():
        return density
    out = density.copy()
    cubes = np.diff(edges**3)[low]
    out[low] = np.sum((density * np.diff(edges))[low]) * cubes / cubes.sum() / np.diff(edges)[low]
    return out


def thermal_weights(edges: FloatArray, temperature_K: float) -> tuple[FloatArray, FloatArray]:
    """Bin averages of n / E and (n + 1) / E for a density that grows as E^2 within a bin, 1/meV."""
    x, w = np.polynomial.legendre.leggauss(4)
    low, high = np.maximum(edges[:-1], 0.0), np.maximum(edges[1:], 1e-12)
    energy = 0.5 * (low + high)[:, None] + 0.5 * (high - low)[:, None] * x
    occupation = bose(energy, temperature_K)
    norm = (w * energy**2).sum(axis=1)
    return (w * energy * occupation).sum(axis=1) / norm, (w * energy * (occupation + 1)).sum(
        axis=1
    ) / norm


def _one_phonon(
    edges: FloatArray, density: FloatArray, gain: FloatArray, loss: FloatArray, grid: FloatArray
) -> tuple[FloatArray, float]:
    """One-phonon function on the grid, integrating to 1, and its integral before."""
    step = float(grid[1] - grid[0])
    width = np.diff(edges)
    up = np.concatenate([[0.0], np.cumsum(density * loss * width)])
    down = np.concatenate([[0.0], np.cumsum(density * gain * width)])
    ends = np.append(grid - 0.5 * step, grid[-1] + 0.5 * step)
    whole = np.where(ends >= 0, np.interp(ends, edges, up), -np.interp(-ends, edges, down))
    norm = float(up[-1] + down[-1])
    return np.diff(whole) / step / norm, norm


def grid_smearing(
    grid: FloatArray, energy_edges_meV: FloatArray, sigma_of: SigmaOfEnergy
) -> tuple[NDArray[np.bool_], Any]:
    """What turns a density on the grid into averages over energy bins with resolution.

    Returns
    -------
    seen : (grid,) bool
        Grid points near enough to the bins to count.
    smear : (seen, E) sparse matrix
        ``density[..., seen] @ smear`` has the unit of the density. The width of the grid's own
        cells is taken out of the resolution.
    """
    step = float(grid[1] - grid[0])
    widest = 10 * float(np.max(sigma_of(energy_edges_meV)))
    seen = (grid > energy_edges_meV[0] - widest) & (grid < energy_edges_meV[-1] + widest)
    sigma = np.asarray(sigma_of(grid[seen]), dtype=float)
    own = np.sqrt(np.maximum(sigma**2 - step**2 / 12, 0.01 * sigma**2))
    data, indices, starts = _line_shapes(grid[seen], own, energy_edges_meV)
    shape = (int(np.count_nonzero(seen)), len(energy_edges_meV) - 1)
    return seen, sparse.csr_matrix((data * step, indices, starts), shape=shape)


@njit(cache=True)
def _line_shapes(
    centre: FloatArray, sigma: FloatArray, edges: FloatArray
) -> tuple[FloatArray, IntArray, IntArray]:
    """Normalised Gaussians averaged over bins, as the rows of a sparse matrix."""
    n_e = len(edges) - 1
    starts = np.zeros(len(centre) + 1, np.int64)
    first = np.empty(len(centre), np.int64)
    for k in range(len(centre)):
        reach = _REACH * sigma[k]
        first[k] = min(n_e, max(0, np.searchsorted(edges, centre[k] - reach) - 1))
        last = min(n_e, np.searchsorted(edges, centre[k] + reach))
        starts[k + 1] = starts[k] + max(0, last - first[k])
    data = np.empty(starts[-1])
    indices = np.empty(starts[-1], np.int64)
    for k in range(len(centre)):
        count = starts[k + 1] - starts[k]
        if count == 0:
            continue
        scale = 1 / (sigma[k] * math.sqrt(2.0))
        before = math.erf((edges[first[k]] - centre[k]) * scale)
        for m in range(count):
            e = first[k] + m
            after = math.erf((edges[e + 1] - centre[k]) * scale)
            data[starts[k] + m] = 0.5 * (after - before) / (edges[e + 1] - edges[e])
            indices[starts[k] + m] = e
            before = after
    return data, indices, starts
