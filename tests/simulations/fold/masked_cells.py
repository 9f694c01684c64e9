"""Masks of whole cells, and a can that is subtracted: what runs do not do, and are asked beside.

A run leaves out (pixel, sub-step) pairs and explains the can; both leave the support of the sums as
it is. Cells masked and a can subtracted are the plain way, and say whether phonons are left.
"""

from __future__ import annotations

import numpy as np

from simulations.arrays import BoolArray, FloatArray
from simulations.crystal import Crystal
from simulations.errors import InputError
from simulations.fold import BRAGG_REACH, ELASTIC_REACH, CellSums, PixelView, VoxelMap, grid_index
from simulations.fold.can import CanSpectrum
from simulations.fold.masks import _apart, bragg_distance
from simulations.instrument import Resolution
from simulations.reciprocal import EnergyAxis


def elastic_distance(energy: EnergyAxis, resolution: Resolution, ei_meV: float) -> FloatArray:
    """How far every energy bin is from E = 0, in standard deviations of the elastic line.

    Returns
    -------
    (energy_bins,) float64
        Of the bin's nearer edge; 0 where the bin holds E = 0.
    """
    return _apart(energy.edges_meV, resolution, ei_meV)


def background_mask(
    *,
    view: PixelView,
    voxels: VoxelMap,
    energy: EnergyAxis,
    crystal: Crystal,
    resolution: Resolution,
    ei_meV: float,
    mosaic_deg: float = 0.3,
    width: float = 0.03,
    elastic_reach: float = ELASTIC_REACH,
    bragg_reach: float = BRAGG_REACH,
) -> BoolArray:
    """Cells of one orientation that elastic scattering spoils.

    Parameters
    ----------
    view, voxels, energy, crystal, resolution, ei_meV, mosaic_deg, width
        As in ``bragg_distance`` and ``cell_distance``.
    elastic_reach, bragg_reach : float
        Standard deviations within which a cell is masked.

    Returns
    -------
    (path_bins, energy_bins) bool
        True: leave the cell out.
    """
    near_zero = elastic_distance(energy, resolution, ei_meV) < elastic_reach
    tails = cell_distance(
        bragg_distance(view, crystal, mosaic_deg=mosaic_deg, width=width),
        view=view,
        voxels=voxels,
        energy=energy,
        resolution=resolution,
        ei_meV=ei_meV,
    )
    return near_zero[None, :] | (tails < bragg_reach)


def masked_sums(sums: CellSums, mask: BoolArray) -> CellSums:
    """Sums without the masked cells, which become unknown: no signal and no exposure.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if mask.shape != sums.signal.shape:
        raise ValueError(f"mask has shape {mask.shape}; expected {sums.signal.shape}")
    return CellSums(
        signal=np.where(mask, 0, sums.signal),
        variance=np.where(mask, 0, sums.variance),
        counts=np.where(mask, 0, sums.counts),
        exposure=np.where(mask, 0, sums.exposure),
        flat=np.where(mask, 0, sums.flat),
        gaussian=sums.gaussian,
    )


def measured_can(sums: CellSums, *, transmission: float = 1.0) -> CanSpectrum:
    """Spectrum of an empty-can run, folded at the psi of the sample's chunk.

    Parameters
    ----------
    sums : CellSums
        S, V, N and D of the can alone, same pixels, masks and voxel map as the sample's.
    transmission : float
        Share of the can's signal that the sample lets through, above 0, 1 for a thin sample.

    Raises
    ------
    ValueError
        If the transmission is out of range.
    """
    if not 0 < transmission <= 1:
        raise InputError(f"transmission is {transmission}; expected above 0, at most 1")
    known = sums.exposure > 0
    D = np.where(known, sums.exposure, 1.0)
    return CanSpectrum(
        intensity=np.where(known, transmission * sums.signal / D, 0.0),
        variance=np.where(known, transmission**2 * sums.variance / D**2, 0.0),
        flat=np.where(known, transmission * sums.flat / D, 0.0),
        known=known,
    )


def subtract_can(sums: CellSums, can: CanSpectrum) -> CellSums:
    """Sums of one orientation without its can; cells where the can is unknown become unknown.

    ``S - D c`` and ``V + D^2 var(c)``. Subtract chunk by chunk and add afterwards: over several
    orientations a cell's sums have another support than the can's. Events of one can run serve
    every psi, so the can's errors of different psi are not quite independent.

    Parameters
    ----------
    sums : CellSums
        Of the sample in its can, one orientation.
    can : CanSpectrum
        Folded at the same psi.

    Returns
    -------
    CellSums
        With the Gaussian likelihood; counts are effective, S^2/V where S is positive.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if can.intensity.shape != sums.signal.shape:
        raise ValueError(
            f"can has shape {can.intensity.shape}; expected that of the sums, {sums.signal.shape}"
        )
    D = np.where(can.known, sums.exposure, 0.0)
    seen = D > 0
    signal = np.where(seen, sums.signal - D * can.intensity, 0.0)
    variance = np.where(seen, sums.variance + D**2 * can.variance, 0.0)
    positive = np.where(variance > 0, variance, 1.0)
    return CellSums(
        signal=signal,
        variance=variance,
        counts=np.where(variance > 0, np.maximum(signal, 0.0) ** 2 / positive, 0.0),
        exposure=D,
        flat=np.where(seen, sums.flat - D * can.flat, 0.0),
        gaussian=True,
    )


def cell_distance(
    pixel_distance: FloatArray,
    *,
    view: PixelView,
    voxels: VoxelMap,
    energy: EnergyAxis,
    resolution: Resolution,
    ei_meV: float,
) -> FloatArray:
    """Least ``sqrt(z_Q^2 + z_E^2)`` over what falls into every cell, (path_bins, energy_bins).

    Standard deviations; infinite where no pixel looks.
    """
    out = np.full((voxels.n_path_bins, energy.n_bins), np.inf)
    z = np.hypot(pixel_distance[:, None], _apart(view.step_edges_meV, resolution, ei_meV))
    cell = cells(view, voxels, energy)
    np.minimum.at(out.ravel(), cell[cell >= 0], z[cell >= 0])
    return out


def cells(view: PixelView, voxels: VoxelMap, energy: EnergyAxis) -> np.ndarray:
    """Path cell of every (pixel, sub-step) that counts, by the plain rule; -1 outside."""
    f = view.beam_fractional - view.kf[:, None] * view.fractional[:, None, :]
    n = voxels.divisions
    index = tuple(np.vectorize(grid_index.py_func)(f[..., a], n[a]) for a in range(3))
    voxel = voxels.voxel[index]
    cell = voxels.path_bin[voxel] * energy.n_bins + view.bin_of_step
    return np.where((voxel < 0) | view.masked[:, None], -1, cell)
