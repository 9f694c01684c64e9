"""Scattering of an empty can, measured or predicted, as a part of what is expected.

A can does not turn with the crystal, so one empty-can run serves every psi: its events are folded
anew at each, and it has the support of the sample there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from scipy.ndimage import uniform_filter1d

from simulations.arrays import BoolArray, FloatArray
from simulations.fold.cell_sums import CellSums
from simulations.fold.pixel_view import PixelView, grid_index
from simulations.fold.voxel_map import VoxelMap
from simulations.instrument import Instrument
from simulations.kernels import njit
from simulations.reciprocal import EnergyAxis
from simulations.scattering import can_background

SMOOTH_PATH_BINS = 4
SMOOTH_ENERGY_BINS = 1
SMOOTH_COUNTS = 4.0  # weight of the mean over the path, counts
MOMENTUM_STEP = 0.05  # 1/angstrom, of a predicted can spectrum


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
        *_seen_geometry(view, voxels, skip),
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


def _seen_geometry(view: PixelView, voxels: VoxelMap, skip: BoolArray | None):
    """What the loop below needs to find the cell of a (pixel, sub-step)."""
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
