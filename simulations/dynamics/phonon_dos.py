"""Phonon density of states, total and per atom, and the heat capacity that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from simulations.arrays import FloatArray
from simulations.constants import BOLTZMANN_MEV_PER_K
from simulations.crystal import Crystal, space_group_operations
from simulations.dynamics.force_constants import ForceConstantModel
from simulations.dynamics.modes import modes
from simulations.errors import InputError
from simulations.reciprocal import ZonePoints, irreducible_mesh, mesh_divisions


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PhononDos:
    """Density of states per primitive cell, averaged over energy bins."""

    energy_edges_meV: FloatArray  # (E + 1,)
    partial: FloatArray  # (atoms, E) modes/meV; an atom integrates to 3
    imaginary_share: float  # of all modes; their weight is missing from `partial`

    @property
    def total(self) -> FloatArray:
        """Sum over atoms, (E,), modes/meV; integrates to 3 atoms."""
        return self.partial.sum(axis=0)

    @property
    def energies_meV(self) -> FloatArray:
        """Bin centres, (E,)."""
        return 0.5 * (self.energy_edges_meV[1:] + self.energy_edges_meV[:-1])


def default_dos_zone(crystal: Crystal) -> ZonePoints:
    """Irreducible mesh off Gamma with a step of about 0.08 1/angstrom."""
    return irreducible_mesh(crystal, mesh_divisions(crystal, 0.08), shifted=True)


def phonon_dos(
    model: ForceConstantModel,
    energy_edges_meV: ArrayLike | None = None,
    *,
    phi: ArrayLike | None = None,
    zone: ZonePoints | None = None,
    sigma_meV: float | None = None,
) -> PhononDos:
    """Total and partial densities of states.

    Parameters
    ----------
    model : ForceConstantModel
    energy_edges_meV : (E + 1,) float64 or None
        None: 300 bins from 0 to 5 % above the highest mode.
    phi : (K,) float64 or None
        Free parameters, eV/angstrom^2; None: the reference.
    zone : ZonePoints or None
        Points up to the Laue group; None: `default_dos_zone`.
    sigma_meV : float or None
        Gaussian width of every mode; 0 counts modes in bins. None: 0.6 % of the highest mode, about
        the spread of energies between neighbouring mesh points. Tails below zero are folded back.

    Returns
    -------
    PhononDos
        Imaginary modes are left out and their share is reported.
    """
    zone = default_dos_zone(model.crystal) if zone is None else zone
    energies, vectors = modes(model, zone.q_cart, phi)
    top = float(energies.max())
    if energy_edges_meV is None:
        edges = np.linspace(0.0, 1.05 * top, 301)
    else:
        edges = np.asarray(energy_edges_meV, dtype=float)
        if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
            raise InputError("energy_edges_meV: expected at least two increasing edges")
    width = 0.006 * top if sigma_meV is None else float(sigma_meV)
    n_atoms = model.crystal.n_atoms
    weight = (np.abs(vectors.reshape(len(vectors), n_atoms, 3, -1)) ** 2).sum(axis=2)
    weight = weight * zone.weights[:, None, None]  # (Q, atoms, modes)
    real = energies > -0.05  # numerical noise of acoustic modes at Gamma is no instability
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
