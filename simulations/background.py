"""What is under the phonons: cells spoilt by elastic scattering, and the signal of the can.

Masks come from geometry, not from boxes set by hand. A cell is told by how many standard
deviations it is away from E = 0 (the elastic band) and from the nearest Bragg reflection that one
of its pixels reflects at E = 0 (Bragg tails): energy resolution, mosaic and width of a reflection
count together. A masked cell loses signal and exposure alike, so it becomes unknown, never empty.

The can is carried by itself, as intensity per exposure of every cell of one orientation. Folded at
the psi of the sample's chunk, it has the sample's support; only then are the two subtracted. A can
does not turn with the crystal, so one empty-can run serves every psi: fold its events anew at each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from simulations.cell_sums import CellSums
from simulations.crystal import Crystal
from simulations.exposure import PixelView, grid_index
from simulations.incoherent import can_background
from simulations.instrument import Instrument, Resolution
from simulations.path import EnergyAxis
from simulations.voxel_map import VoxelMap

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

ELASTIC_REACH = 4.0
"""Standard deviations at which a line of incoherent strength is below 1e-3 of the phonons."""
BRAGG_REACH = 6.0
"""The same of a Bragg reflection, a million times stronger than phonons at its peak."""
FAINT = 1e-6  # share of the largest possible |F|^2 below which a reflection counts as absent
SMOOTH_PATH_BINS = 4
SMOOTH_ENERGY_BINS = 1
SMOOTH_COUNTS = 4.0  # weight of the mean over the path, counts
MOMENTUM_STEP = 0.05  # 1/angstrom, of a predicted can spectrum


def elastic_distance(energy: EnergyAxis, resolution: Resolution, ei_meV: float) -> FloatArray:
    """How far every energy bin is from E = 0, in standard deviations of the elastic line.

    Returns
    -------
    (energy_bins,) float64
        Of the bin's nearer edge; 0 where the bin holds E = 0.
    """
    return _apart(energy.edges_meV, resolution, ei_meV)


def bragg_distance(
    view: PixelView, crystal: Crystal, *, mosaic_deg: float = 0.3, width: float = 0.03
) -> FloatArray:
    """How far the elastic Q of every pixel is from a Bragg reflection, in standard deviations.

    Parameters
    ----------
    view : PixelView
        Of one orientation.
    crystal : Crystal
        Reflections without structure factor, and the direct beam, do not count.
    mosaic_deg : float
        Standard deviation of the crystal's mosaic about each axis.
    width : float
        Standard deviation of a reflection in all directions, 1/angstrom: beam divergence, pixel
        and strain together.

    Returns
    -------
    (pixels,) float64

    Raises
    ------
    ValueError
        If ``width`` is not positive or ``mosaic_deg`` is negative.
    """
    if not width > 0 or not mosaic_deg >= 0:
        raise ValueError(
            f"width is {width} and mosaic_deg is {mosaic_deg}; expected above 0, and 0 or more"
        )
    ki = float(np.linalg.norm(view.beam))
    Q = view.beam - ki * view.direction
    below = np.floor(Q @ np.linalg.inv(crystal.reciprocal))
    across = np.radians(mosaic_deg) ** 2
    strongest = float(np.sum(np.abs(crystal.scattering_length))) ** 2
    nearest = np.full(len(Q), np.inf)
    for corner in product((0, 1), repeat=3):
        hkl = below + corner
        G = hkl @ crystal.reciprocal
        F = np.exp(2j * np.pi * hkl @ crystal.positions.T) @ crystal.scattering_length
        off = Q - G
        length = np.maximum(np.einsum("pa,pa->p", G, G), 1e-12)
        along = np.einsum("pa,pa->p", off, G) ** 2 / length
        rest = np.maximum(np.einsum("pa,pa->p", off, off) - along, 0.0)
        distance = np.sqrt(along / width**2 + rest / (width**2 + across * length))
        real = (np.abs(F) ** 2 > FAINT * strongest) & np.any(hkl != 0, axis=1)
        nearest = np.where(real, np.minimum(nearest, distance), nearest)
    return nearest


def cell_distance(
    pixel_distance: FloatArray,
    *,
    view: PixelView,
    voxels: VoxelMap,
    energy: EnergyAxis,
    resolution: Resolution,
    ei_meV: float,
    skip: BoolArray | None = None,
) -> FloatArray:
    """How far the nearest Bragg reflection is from what falls into every cell.

    Parameters
    ----------
    pixel_distance : (pixels,)
        From ``bragg_distance``.
    view, voxels, energy
        As they make the exposure of the orientation.
    resolution, ei_meV
        Width of the elastic line.
    skip : (pixels, steps) bool, optional
        Pairs that count nowhere.

    Returns
    -------
    (path_bins, energy_bins) float64
        Least ``sqrt(z_Q^2 + z_E^2)`` over the cell's pixels and sub-steps, standard deviations;
        infinite where no pixel looks.
    """
    out = np.full((voxels.n_path_bins, energy.n_bins), np.inf)
    _least(
        pixel_distance,
        _apart(view.step_edges_meV, resolution, ei_meV),
        *_geometry(view, voxels, skip),
        out,
    )
    return out


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
    skip: BoolArray | None = None,
) -> BoolArray:
    """Cells of one orientation that elastic scattering spoils.

    Parameters
    ----------
    view, voxels, energy, crystal, resolution, ei_meV, mosaic_deg, width, skip
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
        skip=skip,
    )
    return near_zero[None, :] | (tails < bragg_reach)


def spoilt_pairs(
    view: PixelView,
    *,
    crystal: Crystal,
    resolution: Resolution,
    ei_meV: float,
    mosaic_deg: float = 0.3,
    width: float = 0.03,
    elastic_reach: float = ELASTIC_REACH,
    bragg_reach: float = BRAGG_REACH,
) -> BoolArray:
    """(pixel, step) pairs of one orientation that elastic scattering spoils.

    The finest mask there is, and the one that a run uses: a pair left out of the counts, of the
    exposure and of the trajectories alike leaves the support of all of them equal. A pixel loses
    whole energy bins of the path, never a part of one.

    Parameters
    ----------
    view, crystal, resolution, ei_meV, mosaic_deg, width, elastic_reach, bragg_reach
        As in ``background_mask``; a reach of 0 masks nothing.

    Returns
    -------
    (pixels, steps) bool
        True: leave the pair out.
    """
    least = np.full(int(view.bin_of_step.max()) + 1, np.inf)
    np.minimum.at(least, view.bin_of_step, _apart(view.step_edges_meV, resolution, ei_meV))
    z = least[view.bin_of_step]
    out = np.broadcast_to(z < elastic_reach, (len(view.masked), len(z))).copy()
    if bragg_reach > 0:
        pixel = bragg_distance(view, crystal, mosaic_deg=mosaic_deg, width=width)
        near = np.flatnonzero(pixel < bragg_reach)
        out[near] |= pixel[near, None] ** 2 + z**2 < bragg_reach**2
    return out


def without_spoilt(
    pixel: NDArray[np.int32], energy_transfer_meV: FloatArray, view: PixelView, skip: BoolArray
) -> NDArray[np.int32]:
    """Pixels of events, -1 where the event's (pixel, step) pair is in ``skip``.

    Parameters
    ----------
    pixel, energy_transfer_meV : (events,)
        As in ``EventBlock``.
    view : PixelView
    skip : (pixels, steps) bool
        Steps as in the view; an event falls into the step that the fold finds for it.
    """
    pixel = np.asarray(pixel)
    low, n_steps = view.step_edges_meV[0], len(view.kf)
    x = (energy_transfer_meV - low) * (n_steps / (view.step_edges_meV[-1] - low))
    inside = (x >= 0) & (x < n_steps) & (pixel >= 0) & (pixel < len(skip))
    step = np.where(inside, x, 0.0).astype(np.int64)
    return np.where(inside & skip[np.where(inside, pixel, 0), step], -1, pixel)


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


# --------------------------------------------------------------------------------------- the can


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CanSpectrum:
    """What a can adds to every cell of one orientation; arrays are (path_bins, energy_bins)."""

    intensity: FloatArray  # per unit of exposure; the unit of S/D
    variance: FloatArray  # of the same
    flat: FloatArray  # flat exposure per unit of exposure that the intensity holds already, ms/meV
    known: BoolArray  # False: the can was not measured there

    def counts(self, exposure: FloatArray) -> FloatArray:
        """Expected signal of the can in cells of exposure D; NaN where the can is unknown."""
        return np.where(self.known, self.intensity * exposure, np.nan)


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
        raise ValueError(f"transmission is {transmission}; expected above 0, at most 1")
    known = sums.exposure > 0
    D = np.where(known, sums.exposure, 1.0)
    return CanSpectrum(
        intensity=np.where(known, transmission * sums.signal / D, 0.0),
        variance=np.where(known, transmission**2 * sums.variance / D**2, 0.0),
        flat=np.where(known, transmission * sums.flat / D, 0.0),
        known=known,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CanRate:
    """What the can adds to the expected counts of one orientation.

    With the can's strength a (1 as measured or predicted) and the scale A of the sample:
    ``fixed + (a - 1) shape``, or ``A a shape`` where ``fixed`` is None (a predicted can).
    """

    shape: FloatArray  # (path_bins, energy_bins)
    fixed: FloatArray | None  # (path_bins, energy_bins)

    def __add__(self, other: CanRate) -> CanRate:
        """Of both orientations together."""
        if self.fixed is None or other.fixed is None:
            return CanRate(shape=self.shape + other.shape, fixed=None)
        return CanRate(shape=self.shape + other.shape, fixed=self.fixed + other.fixed)


def smooth_signal(sums: CellSums) -> FloatArray:
    """Expected signal of every cell from that of its neighbours, itself left out.

    A cell's own counts would pull its own weight: they are not used. Neighbours are
    ``SMOOTH_PATH_BINS`` and ``SMOOTH_ENERGY_BINS`` to either side; where they hold few counts the
    mean over the path at that energy speaks.

    Returns
    -------
    (path_bins, energy_bins) float64
        0 where there is no exposure.
    """
    signal, exposure = sums.signal, sums.exposure
    reach = (2 * SMOOTH_PATH_BINS + 1, 2 * SMOOTH_ENERGY_BINS + 1)
    around = [
        uniform_filter1d(
            uniform_filter1d(np.asarray(a, dtype=float), reach[0], axis=0, mode="constant"),
            reach[1],
            axis=1,
            mode="constant",
        )
        * (reach[0] * reach[1])
        - a
        for a in (signal, exposure)
    ]
    # At each energy: an elastic line would rule the mean over all cells, which is worth one count.
    whole = max(float(exposure.sum()), 1e-300)
    per = max(float(sums.counts.sum()), 1.0) / whole
    seen = exposure.sum(axis=0) - exposure
    rate = (sums.counts.sum(axis=0) - sums.counts + 1) / (np.maximum(seen, 0.0) + 1 / per)
    mean = rate
    if sums.gaussian:
        known = seen > 1e-12 * whole
        others = signal.sum(axis=0) - signal
        mean = np.where(known, others / np.where(known, seen, 1.0), float(signal.sum()) / whole)
    held = SMOOTH_COUNTS / rate  # exposure in which so many counts are expected
    above = np.maximum(around[0], 0.0) + held * mean
    return exposure * above / (np.maximum(around[1], 0.0) + held)


def likelihood_of_can(
    sums: CellSums, can: CellSums, *, transmission: float, total_share: float
) -> tuple[CellSums, CanRate]:
    """How a measured can enters the likelihood of one orientation.

    The can is expected to add ``tau m``: its own counts m times ``tau = transmission D / D_can``.
    Their error is counting, ``tau^2 mu``; the same events of the can serve every orientation, so
    their errors add coherently in the worst case, which ``tau T mu`` bounds (Cauchy and Schwarz; T
    is the sum of tau over all orientations). The residual ``n - lambda - tau m`` then has the
    variance ``lambda + B`` with ``B = tau (1 + T) mu``, and mu from neighbouring cells: a Poisson
    term with ``n - tau m + B`` in the place of the counts and ``lambda + B`` in that of the rate
    has just this residual and this variance. Nothing is biased where a cell holds few counts.

    Parameters
    ----------
    sums : CellSums
        Of the sample in its can.
    can : CellSums
        Of the can alone with the same orientation and support.
    transmission : float
    total_share : float
        T.

    Returns
    -------
    CellSums
        With ``n - tau m + B`` as signal; of reduced input ``S - tau S_can``, its variance widened
        by ``tau T V_can``.
    CanRate
    """
    share = can_share(sums, can, transmission)
    shape = share * smooth_signal(can)
    if sums.gaussian:
        fixed = np.zeros_like(shape)
        variance = np.where(
            sums.variance > 0, sums.variance + share * total_share * can.variance, 0.0
        )
    else:
        fixed = (1 + total_share) * shape
        variance = sums.variance + share * total_share * can.variance
    changed = replace(sums, signal=sums.signal - share * can.signal + fixed, variance=variance)
    return changed, CanRate(shape=shape, fixed=fixed)


def can_share(sums: CellSums, can: CellSums, transmission: float) -> FloatArray:
    """``tau = transmission D / D_can`` of every cell; 0 without exposure."""
    known = can.exposure > 0
    return transmission * np.where(known, sums.exposure / np.where(known, can.exposure, 1.0), 0.0)


def can_elsewhere(can: CanRate | None, exposure: FloatArray, wanted: FloatArray) -> CanRate | None:
    """Expected rate of the can in an orientation without data, from one that has them.

    Parameters
    ----------
    can : CanRate or None
        Of the orientations measured, together.
    exposure : (path_bins, energy_bins)
        Theirs.
    wanted : (path_bins, energy_bins)
        Exposure of the orientation asked for; its can is the mean over the path at each energy.
    """
    if can is None:
        return None
    seen = exposure.sum(axis=0)
    per = np.where(seen > 0, 1 / np.where(seen > 0, seen, 1.0), 0.0)
    shape, fixed = (
        None if a is None else wanted * (a.sum(axis=0) * per) for a in (can.shape, can.fixed)
    )
    return CanRate(shape=np.zeros_like(wanted) if shape is None else shape, fixed=fixed)


def predicted_can(
    *,
    view: PixelView,
    voxels: VoxelMap,
    energy: EnergyAxis,
    instrument: Instrument,
    ei_meV: float,
    material: str,
    scale: float,
    temperature_K: float,
    relative_sigma: float = 0.3,
    reduced: bool = False,
    skip: BoolArray | None = None,
) -> CanSpectrum:
    """Inelastic spectrum of a can from the incoherent approximation, in the form of a measured one.

    Powder lines and the elastic line are missing: they lie in the elastic band.

    Parameters
    ----------
    view, voxels, energy, instrument, skip
        As they make the exposure of the orientation.
    ei_meV, temperature_K : float
    material : str
        As in ``incoherent.can_background``.
    scale : float
        Intensity (S/D) per barn/meV/sr, times can atoms per primitive cell of the sample.
    relative_sigma : float
        Standard deviation of the prediction over its value; enters the variance.
    reduced : bool
        For input already divided by k_f/k_i.

    Returns
    -------
    CanSpectrum
    """
    ki = float(np.linalg.norm(view.beam))
    top = ki + float(view.kf.max()) + MOMENTUM_STEP
    momentum = np.arange(0.0, top + 2 * MOMENTUM_STEP, MOMENTUM_STEP)
    spectrum = can_background(
        material,
        momentum,
        energy.edges_meV,
        temperature_K=temperature_K,
        resolution=instrument.resolution,
        ei_meV=ei_meV,
    ).inelastic
    step = np.diff(view.step_edges_meV) * (1.0 if reduced else view.kf / ki)
    weight = np.zeros((voxels.n_path_bins, energy.n_bins))
    signal = np.zeros_like(weight)
    _mean(
        np.ascontiguousarray(instrument.solid_angle_sr),
        step,
        view.direction @ view.beam,
        ki,
        np.ascontiguousarray(spectrum),
        MOMENTUM_STEP,
        *_geometry(view, voxels, skip),
        weight,
        signal,
    )
    known = weight > 0
    intensity = scale * np.where(known, signal / np.where(known, weight, 1.0), 0.0)
    return CanSpectrum(
        intensity=intensity,
        variance=(relative_sigma * intensity) ** 2,
        flat=np.zeros_like(weight),
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


def _apart(edges_meV: FloatArray, resolution: Resolution, ei_meV: float) -> FloatArray:
    """Distance of each bin from E = 0, standard deviations of the elastic line, (bins,)."""
    sigma = float(resolution.sigma_meV(np.zeros(1), ei_meV)[0])
    low, high = np.asarray(edges_meV)[:-1], np.asarray(edges_meV)[1:]
    return np.maximum(np.maximum(low, -high), 0.0) / sigma


def _geometry(view: PixelView, voxels: VoxelMap, skip: BoolArray | None):
    """What the loops below need to find the cell of a (pixel, sub-step)."""
    return (
        view.fractional,
        view.beam_fractional,
        view.masked,
        view.kf,
        view.bin_of_step,
        np.zeros((0, 0), dtype=np.bool_) if skip is None else skip,
        voxels.divisions,
        voxels.voxel,
        voxels.path_bin,
    )


@njit(cache=True)
def _least(
    pixel_distance, step_distance, fractional, beam, masked, kf, bin_of_step, skip, divisions,
    voxel, path_bin, out,
):  # fmt: skip
    """Least combined distance of every cell."""
    n0, n1, n2 = divisions
    for p in range(len(masked)):
        if masked[p] or not pixel_distance[p] < np.inf:
            continue
        square = pixel_distance[p] ** 2
        for t in range(len(kf)):
            if skip.shape[0] > 0 and skip[p, t]:
                continue
            v = voxel[
                grid_index(beam[0] - kf[t] * fractional[p, 0], n0),
                grid_index(beam[1] - kf[t] * fractional[p, 1], n1),
                grid_index(beam[2] - kf[t] * fractional[p, 2], n2),
            ]
            if v < 0:
                continue
            z = sqrt(square + step_distance[t] ** 2)
            if z < out[path_bin[v], bin_of_step[t]]:
                out[path_bin[v], bin_of_step[t]] = z


@njit(cache=True)
def _mean(
    solid_angle, weight_step, along, ki, spectrum, momentum_step, fractional, beam, masked, kf,
    bin_of_step, skip, divisions, voxel, path_bin, weight, signal,
):  # fmt: skip
    """Weight of every cell and weight times the spectrum, interpolated over |Q|."""
    n0, n1, n2 = divisions
    for p in range(len(masked)):
        if masked[p]:
            continue
        for t in range(len(kf)):
            if skip.shape[0] > 0 and skip[p, t]:
                continue
            k = kf[t]
            v = voxel[
                grid_index(beam[0] - k * fractional[p, 0], n0),
                grid_index(beam[1] - k * fractional[p, 1], n1),
                grid_index(beam[2] - k * fractional[p, 2], n2),
            ]
            if v < 0:
                continue
            e = bin_of_step[t]
            q = sqrt(max(ki * ki + k * k - 2.0 * k * along[p], 0.0))
            x = max(q / momentum_step - 0.5, 0.0)
            i = min(int(x), spectrum.shape[0] - 2)
            value = (1.0 - x + i) * spectrum[i, e] + (x - i) * spectrum[i + 1, e]
            w = solid_angle[p] * weight_step[t]
            weight[path_bin[v], e] += w
            signal[path_bin[v], e] += w * value
