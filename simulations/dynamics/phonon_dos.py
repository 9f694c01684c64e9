"""Phonon density of states, total and per atom, and the heat capacity that follows from it.

Without points of one's own, energies are interpolated in tetrahedra of a mesh that is made finer
until the density is as exact as asked; nothing is broadened.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from simulations.arrays import ComplexArray, FloatArray, IntArray
from simulations.constants import BOLTZMANN_MEV_PER_K, NOISE_MEV
from simulations.crystal import Crystal, space_group_operations
from simulations.dynamics.force_constants import ForceConstantModel
from simulations.dynamics.modes import eigenmodes, modes
from simulations.dynamics.tetrahedra import binned_tensors
from simulations.errors import InputError
from simulations.reciprocal import (
    ZoneCells,
    ZonePoints,
    irreducible_mesh,
    mesh_divisions,
    symmetrised_site_tensors,
    zone_cells,
)

log = logging.getLogger(__name__)

TOLERANCE = 0.005
"""Wanted share of the modes that lie in a wrong one of `JUDGED_BINS` bins."""

JUDGED_BINS = 100
"""Bins by which meshes are judged: 1 % of the highest energy, as wide as the best resolutions."""

SHOWN_BINS = 300
_FINER = 14  # bins kept per bin shown
_FIRST_STEP = 0.16  # 1/angstrom
_LEAST_DIVISIONS = 8
_HALVINGS = 3
_MOST_WORK = 6e9  # points times modes cubed: minutes
_MOST_CELLS = 4e5  # of the whole zone
_CHUNK = 3_000_000  # complex numbers of matrices held at a time
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Components that site tensors are kept by."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sampling:
    """How a zone was sampled and how far the result may be off."""

    divisions: tuple[int, int, int]
    points: int  # diagonalised
    error: float  # estimated, relative
    tolerance: float  # wanted
    seconds: float  # of processor
    half_error_costs: float = 2.8  # times as many seconds
    split: bool = False  # finer where modes are soft

    @property
    def words(self) -> str:
        """In one line, with the price of half the error."""
        n = " x ".join(map(str, self.divisions))
        if self.split:
            n += ", finer where modes are soft"
        met = "" if self.error <= self.tolerance else f", above the wanted {self.tolerance:.2%}"
        return (
            f"mesh {n} ({self.points} points), error {self.error:.2%}{met}; half the error would "
            f"take about {self.half_error_costs * self.seconds:.2g} s of processor"
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImaginaryPart:
    """Modes below zero, by their energies counted negative."""

    energy_edges_meV: FloatArray  # (E + 1,) negative, up to zero
    density: FloatArray  # (E,) modes/meV per primitive cell
    tensors: FloatArray  # (atoms, 6) share of every site in all of them, as `PhononDos.tensors`
    lowest_meV: float  # negative
    q_cart: FloatArray  # (3,) where the lowest one is, 1/angstrom


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PhononDos:
    """Density of states per primitive cell, averaged over energy bins."""

    energy_edges_meV: FloatArray  # (E + 1,)
    partial: FloatArray  # (atoms, E) modes/meV; an atom integrates to 3
    imaginary_share: float  # of all modes; their weight is missing from `partial`
    tensors: FloatArray | None = None  # (atoms, 6, E) modes/meV by direction: xx yy zz yz xz xy
    imaginary: ImaginaryPart | None = None
    sampling: Sampling | None = None
    alike: IntArray | None = None  # (atoms,) first atom of the same density; None: by symmetry

    @property
    def total(self) -> FloatArray:
        """Sum over atoms, (E,), modes/meV; integrates to 3 atoms."""
        return self.partial.sum(axis=0)

    @property
    def energies_meV(self) -> FloatArray:
        """Bin centres, (E,)."""
        return 0.5 * (self.energy_edges_meV[1:] + self.energy_edges_meV[:-1])

    def shown(self) -> PhononDos:
        """The same in about `SHOWN_BINS` wider bins, for people to look at."""
        group = max(1, self.partial.shape[1] // SHOWN_BINS)
        if self.partial.shape[1] % group or not np.allclose(
            np.diff(self.energy_edges_meV), self.energy_edges_meV[1] - self.energy_edges_meV[0]
        ):
            return self
        return PhononDos(
            energy_edges_meV=self.energy_edges_meV[::group],
            partial=self.partial.reshape(len(self.partial), -1, group).mean(axis=2),
            imaginary_share=self.imaginary_share,
            imaginary=self.imaginary,
            sampling=self.sampling,
            alike=self.alike,
        )


def default_dos_zone(crystal: Crystal) -> ZonePoints:
    """Irreducible mesh off Gamma with a step of about 0.08 1/angstrom."""
    return irreducible_mesh(crystal, mesh_divisions(crystal, 0.08), shifted=True)


def phonon_dos(
    model: ForceConstantModel,
    energy_edges_meV: ArrayLike | None = None,
    *,
    phi: ArrayLike | None = None,
    zone: ZonePoints | None = None,
    sigma_meV: float = 0.0,
    tolerance: float = TOLERANCE,
) -> PhononDos:
    """Total and partial densities of states.

    Parameters
    ----------
    model : ForceConstantModel
    energy_edges_meV : (E + 1,) float64 or None
        None: 4200 bins from 0 to 5 % above the highest mode.
    phi : (K,) float64 or None
        Free parameters, eV/angstrom^2; None: the reference.
    zone : ZonePoints or None
        Points up to the Laue group, whose modes are counted in bins. None: energies are
        interpolated on a mesh that meets ``tolerance``, and `PhononDos.tensors` are kept.
    sigma_meV : float
        Gaussian width of every mode of ``zone``; tails below zero are folded back.
    tolerance : float
        Wanted share of the modes in a wrong one of 100 bins. `PhononDos.sampling` tells what was
        met.

    Returns
    -------
    PhononDos
        Imaginary modes are left out and their share is reported.

    Raises
    ------
    InputError
        If edges do not increase, the tolerance is not positive, or a width is wanted without
        points.
    """
    edges = None
    if energy_edges_meV is not None:
        edges = np.asarray(energy_edges_meV, dtype=float)
        if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
            raise InputError("energy_edges_meV: expected at least two increasing edges")
    if zone is not None:
        return _sampled(model, edges, phi, zone, float(sigma_meV))
    if sigma_meV:
        raise InputError(f"sigma_meV is {sigma_meV} without a zone; expected 0, or points to widen")
    if not tolerance > 0:
        raise InputError(f"tolerance is {tolerance}; expected a positive share")
    found = _interpolated(model, phi, tolerance)
    return found if edges is None else rebinned(found, edges)


def densities_of_sets(
    model: ForceConstantModel, sets: ArrayLike, divisions: tuple[int, int, int]
) -> Iterator[PhononDos]:
    """Densities of states of many sets of force constants, all on one mesh.

    Parameters
    ----------
    model : ForceConstantModel
    sets : (sets, K) float64
        Free parameters, eV/angstrom^2.
    divisions : tuple of int
        Even; for example those of a `Sampling`. What the sets share is computed once.

    Yields
    ------
    PhononDos
        As of `phonon_dos` on such a mesh, without `PhononDos.sampling`.
    """
    n = np.array(divisions)
    crystal = model.crystal
    meshes = [zone_cells(crystal, n // 2, _HALVINGS, 1), zone_cells(crystal, n, _HALVINGS, 2)]
    fixed = [model.fixed_matrices(cells.q_cart) for cells in meshes]
    for phi in np.asarray(sets, dtype=float):
        coarse, fine = (
            _mesh(cells, _looking(model, cells, known, phi), model.n_modes)
            for cells, known in zip(meshes, fixed, strict=True)
        )
        yield _density(crystal, coarse, fine, None)


def _looking(
    model: ForceConstantModel, cells: ZoneCells, fixed: ComplexArray, phi: FloatArray
) -> Callable[[slice], tuple[FloatArray, ComplexArray]]:
    def look(part: slice) -> tuple[FloatArray, ComplexArray]:
        return eigenmodes(fixed[part] + model.free_matrices(cells.q_cart[part], phi))

    return look


# ------------------------------------------------------------------------------- interpolated


def _interpolated(model: ForceConstantModel, phi: ArrayLike | None, tolerance: float) -> PhononDos:
    """Refine the mesh until halving it changes the density by less than the tolerance allows."""
    crystal = model.crystal
    begun = time.process_time()
    least = np.array(mesh_divisions(crystal, _FIRST_STEP))
    n = 2 * np.maximum(_LEAST_DIVISIONS // 2, np.ceil(least / 2).astype(int))
    while True:
        coarse = _on_cells(model, phi, zone_cells(crystal, n // 2, _HALVINGS, 1))
        fine = _on_cells(model, phi, zone_cells(crystal, n, _HALVINGS, 2))
        error = _difference(coarse, fine) / 3  # the error falls with the square of the step
        work = len(fine.cells.q_cart) * model.n_modes**3
        grow = min(2.0, max(1.2, 1.1 * np.sqrt(error / tolerance)))
        cells = float(np.prod(n)) * grow**3
        if error <= tolerance or work * grow**3 > _MOST_WORK or cells > _MOST_CELLS:
            break
        n = 2 * np.ceil(0.5 * grow * n).astype(int)
    a, b, c = (int(k) for k in n)
    sampling = Sampling(
        divisions=(a, b, c),
        points=len(fine.cells.q_cart),
        error=float(error),
        tolerance=tolerance,
        seconds=time.process_time() - begun,
    )
    log.info(
        "density_of_states_converged divisions=%s points=%d error=%.2g seconds=%.3g",
        sampling.divisions, sampling.points, sampling.error, sampling.seconds,
    )  # fmt: skip
    return _density(crystal, coarse, fine, sampling)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Mesh:
    cells: ZoneCells
    energies: FloatArray  # (Q, n) noise at Gamma set to zero
    tensors: NDArray[np.float32]  # (Q, n, 6 atoms)


def _on_cells(model: ForceConstantModel, phi: ArrayLike | None, cells: ZoneCells) -> _Mesh:
    return _mesh(cells, lambda part: modes(model, cells.q_cart[part], phi), model.n_modes)


def _mesh(
    cells: ZoneCells, look: Callable[[slice], tuple[FloatArray, ComplexArray]], n: int
) -> _Mesh:
    """Energies and tensors at all corners; ``look`` gives the modes of a part of them."""
    atoms = n // 3
    energies = np.empty((len(cells.q_cart), n))
    tensors = np.empty((len(cells.q_cart), n, 6 * atoms), dtype=np.float32)
    step = max(1, _CHUNK // (n * n))
    for start in range(0, len(cells.q_cart), step):
        part = slice(start, start + step)
        energies[part], vectors = look(part)
        tensors[part] = site_tensors(vectors, atoms).reshape(-1, n, 6 * atoms)
    energies = np.where((energies < 0) & (energies > -NOISE_MEV), 0.0, energies)
    return _Mesh(cells=cells, energies=energies, tensors=tensors)


def site_tensors(vectors: ComplexArray, atoms: int) -> FloatArray:
    """Real part of e e^dagger of every mode and atom, (Q, n, atoms, 6), components as `VOIGT`."""
    e = vectors.reshape(len(vectors), atoms, 3, -1).transpose(0, 3, 1, 2)
    return np.stack([(e[..., a] * e[..., b].conj()).real for a, b in VOIGT], axis=-1)


def _axis(energies: FloatArray, bins: int) -> FloatArray:
    """Uniform edges that hold all energies, one of them zero, ``bins`` of them above it."""
    top = max(float(energies.max()), 1e-3)
    step = 1.05 * top / bins
    below = int(np.ceil(min(-float(energies.min()), 4 * top) / step * (1 + 1e-9)))
    return np.asarray(step * np.arange(-below, bins + 1), dtype=np.float64)


def _difference(coarse: _Mesh, fine: _Mesh) -> float:
    """Share of the modes that lie in another bin."""
    edges = _axis(np.concatenate([coarse.energies, fine.energies]), JUDGED_BINS)
    ones = [np.ones((*m.energies.shape, 1), dtype=np.float32) for m in (coarse, fine)]
    a, b = (
        binned_tensors(m.cells, m.energies, one, edges)[0]
        for m, one in zip((coarse, fine), ones, strict=True)
    )
    return float(np.abs(a - b).sum() / b.sum())


def _density(crystal: Crystal, coarse: _Mesh, mesh: _Mesh, sampling: Sampling | None) -> PhononDos:
    """Both meshes, extrapolated: what curvature adds to interpolated energies goes with step^2.

    Around Gamma, where cones curve most, that is most of the error. A bin moves by at most a
    quarter, so that sharp edges of one mesh do not make it negative.
    """
    edges = _axis(np.concatenate([mesh.energies, coarse.energies]), SHOWN_BINS * _FINER)
    rough, counts = (
        (_projector(crystal) @ binned_tensors(m.cells, m.energies, m.tensors, edges)).reshape(
            crystal.n_atoms, 6, -1
        )
        for m in (coarse, mesh)
    )
    whole = counts[:, :3].sum(axis=1)  # (atoms, E)
    move = (whole - rough[:, :3].sum(axis=1)) / 3
    share = np.clip(move / np.maximum(whole, 1e-300), -0.25, 0.25)
    share[whole < 1e-12] = 0.0
    packed = counts * (1 + share)[:, None]
    packed *= (whole.sum(axis=1) / packed[:, :3].sum(axis=(1, 2)))[:, None, None]
    real = edges[1:] > 0.5 * (edges[-1] - edges[-2])
    width = float(edges[1] - edges[0])
    below = packed[..., ~real]
    imaginary, share = None, 0.0
    if below.any():
        share = float(below[:, :3].sum() / (3 * crystal.n_atoms))
        worst = int(np.argmin(mesh.energies[:, 0]))
        imaginary = ImaginaryPart(
            energy_edges_meV=edges[: np.count_nonzero(~real) + 1],
            density=below[:, :3].sum(axis=(0, 1)) / width,
            tensors=below.sum(axis=2),
            lowest_meV=float(mesh.energies[worst, 0]),
            q_cart=mesh.cells.q_cart[worst],
        )
    tensors = packed[..., real] / width
    return PhononDos(
        energy_edges_meV=edges[np.count_nonzero(~real) :],
        partial=tensors[:, :3].sum(axis=1),
        imaginary_share=share,
        tensors=tensors,
        imaginary=imaginary,
        sampling=sampling,
    )


def _projector(crystal: Crystal) -> FloatArray:
    """Average over the space group as a matrix of components, (6 atoms, 6 atoms)."""
    n = crystal.n_atoms
    units = np.zeros((6 * n, n, 3, 3))
    for k in range(6 * n):
        a, b = VOIGT[k % 6]
        units[k, k // 6, a, b] = units[k, k // 6, b, a] = 1.0
    site = symmetrised_site_tensors(crystal, units)
    return np.stack([site[..., a, b] for a, b in VOIGT], axis=-1).reshape(6 * n, 6 * n).T


def rebinned(dos: PhononDos, edges: FloatArray) -> PhononDos:
    """The same integrals in other bins, (E + 1,) edges in meV; of a converged mesh only."""
    if dos.tensors is None:
        raise ValueError("the density of states has no tensors; expected one of a converged mesh")
    width = np.diff(dos.energy_edges_meV)
    whole = np.cumsum(dos.tensors * width, axis=-1)
    whole = np.concatenate([np.zeros((*whole.shape[:-1], 1)), whole], axis=-1)
    place = np.interp(edges, dos.energy_edges_meV, np.arange(whole.shape[-1]))
    low = np.minimum(place.astype(int), whole.shape[-1] - 2)
    share = place - low
    at = whole[..., low] * (1 - share) + whole[..., low + 1] * share
    tensors = np.diff(at, axis=-1) / np.diff(edges)
    return PhononDos(
        energy_edges_meV=edges,
        partial=tensors[:, :3].sum(axis=1),
        imaginary_share=dos.imaginary_share,
        tensors=tensors,
        imaginary=dos.imaginary,
        sampling=dos.sampling,
    )


# ------------------------------------------------------------------------------------ sampled


def _sampled(
    model: ForceConstantModel,
    edges: FloatArray | None,
    phi: ArrayLike | None,
    zone: ZonePoints,
    width: float,
) -> PhononDos:
    """Modes of given points, each counted in its bin or as a Gaussian."""
    energies, vectors = modes(model, zone.q_cart, phi)
    if edges is None:
        edges = np.linspace(0.0, 1.05 * float(energies.max()), SHOWN_BINS + 1)
    n_atoms = model.crystal.n_atoms
    weight = (np.abs(vectors.reshape(len(vectors), n_atoms, 3, -1)) ** 2).sum(axis=2)
    weight = weight * zone.weights[:, None, None]  # (Q, atoms, modes)
    real = energies > -NOISE_MEV
    weight = np.where(real[:, None, :], weight, 0.0).transpose(1, 0, 2).reshape(n_atoms, -1)
    flat = np.abs(energies.ravel())
    if width > 0:
        fine, step = _fine_histogram(flat, weight, edges, width)
        partial = _smoothed(fine, step, edges, width)
    else:
        partial = np.array([np.histogram(flat, edges, weights=w)[0] for w in weight])
        partial = partial / np.diff(edges)
    share = float(np.sum(zone.weights[:, None] * ~real) / energies.shape[1])
    return PhononDos(
        energy_edges_meV=edges,
        partial=_symmetrised(model.crystal, partial),
        imaginary_share=share,
    )


def _fine_histogram(
    energies: FloatArray, weight: FloatArray, edges: FloatArray, width: float
) -> tuple[FloatArray, float]:
    """Modes collected in cells far narrower than their width, linear sharing between two cells."""
    step = width / 20
    count = int(max(energies.max(), edges[-1]) / step) + 2
    place = energies / step
    low = np.floor(place).astype(int)
    part = place - low
    out = np.zeros((len(weight), count + 1))
    for a, w in enumerate(weight):
        out[a] = np.bincount(low, w * (1 - part), minlength=count + 1)[: count + 1]
        out[a] += np.bincount(low + 1, w * part, minlength=count + 1)[: count + 1]
    return out, step


def _smoothed(fine: FloatArray, step: float, edges: FloatArray, width: float) -> FloatArray:
    """Gaussian of every cell averaged over the bins, mirrored at zero."""
    centres = step * np.arange(fine.shape[1])
    used = np.flatnonzero(fine.any(axis=0))
    out = np.zeros((len(fine), len(edges) - 1))
    for part in np.array_split(used, max(1, len(used) // 2048)):
        z = (edges[None] - centres[part, None]) / width
        mirror = (edges[None] + centres[part, None]) / width
        out += fine[:, part] @ np.diff(ndtr(z) + ndtr(mirror), axis=1)
    return out / np.diff(edges)


def _symmetrised(crystal: Crystal, partial: FloatArray) -> FloatArray:
    out = np.zeros_like(partial)
    group = space_group_operations(crystal)
    for target in group.permutation:
        out[target] += partial
    return out / len(group)


def heat_capacity(dos: PhononDos, temperature_K: float) -> float:
    """Harmonic heat capacity at constant volume, in units of the Boltzmann constant per cell.

    Parameters
    ----------
    dos : PhononDos
    temperature_K : float

    Returns
    -------
    float
        Between 0 and 3 atoms.
    """
    if temperature_K <= 0:
        return 0.0
    x = np.maximum(dos.energies_meV, 1e-9) / (BOLTZMANN_MEV_PER_K * temperature_K)
    x = np.minimum(x, 500.0)
    kernel = (0.5 * x / np.sinh(0.5 * x)) ** 2
    keep = dos.energies_meV > 0
    return float(np.sum((kernel * dos.total * np.diff(dos.energy_edges_meV))[keep]))
