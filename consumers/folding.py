"""Folding: neutrons of one chunk become counts per path cell. Only adds to sums.

Everything about geometry lies below, in ``simulations.exposure``; an event is looked up by the
energy sub-step it falls into, so that counts and exposure have the same support.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from simulations.exposure import PixelView, grid_index
from simulations.voxel_map import VoxelMap

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class EventAccount:
    """Where the events of a chunk went; ``read`` is the sum of the other five."""

    read: int = 0
    folded: int = 0
    outside_path: int = 0
    outside_energy: int = 0
    masked: int = 0
    filtered: int = 0

    def __add__(self, other: EventAccount) -> EventAccount:
        """Both together."""
        return EventAccount(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__slots__}
        )

    @property
    def complete(self) -> bool:
        """Whether every event read is accounted for."""
        parts = self.folded + self.outside_path + self.outside_energy + self.masked + self.filtered
        return self.read == parts


@njit(cache=True)
def _count(
    pixel, energy, step_edges, kf, bin_of_step, masked, fractional, beam_fractional,
    divisions, voxel, path_bin, counts, account,
):  # fmt: skip
    """Add events to ``counts`` (path_bins, bins); account: folded, path, energy, masked."""
    n0, n1, n2 = divisions
    low = step_edges[0]
    per_step = len(kf) / (step_edges[-1] - low)
    for i in range(len(pixel)):
        p = pixel[i]
        if p < 0 or p >= len(masked) or masked[p]:
            account[3] += 1
            continue
        x = (energy[i] - low) * per_step
        if not (x >= 0.0 and x < len(kf)):
            account[2] += 1
            continue
        step = int(x)
        k = kf[step]
        v = voxel[
            grid_index(beam_fractional[0] - k * fractional[p, 0], n0),
            grid_index(beam_fractional[1] - k * fractional[p, 1], n1),
            grid_index(beam_fractional[2] - k * fractional[p, 2], n2),
        ]
        if v < 0:
            account[1] += 1
            continue
        counts[path_bin[v], bin_of_step[step]] += 1
        account[0] += 1


def fold_events(
    pixel: NDArray[np.int32],
    energy_transfer_meV: FloatArray,
    *,
    view: PixelView,
    voxels: VoxelMap,
    counts: IntArray,
) -> EventAccount:
    """Add the events of one block to ``counts`` in place.

    Parameters
    ----------
    pixel : (events,)
        Index into the pixels of ``view``; anything outside counts as masked.
    energy_transfer_meV : (events,)
        NaN counts as outside the energy range.
    view : PixelView
        Orientation of the chunk.
    voxels : VoxelMap
        Look-up of tubes.
    counts : (path_bins, energy_bins) int64
        Grows by one per folded event.

    Returns
    -------
    EventAccount
        With ``filtered`` 0: sources filter before blocks are made.
    """
    account = np.zeros(4, dtype=np.int64)
    _count(
        np.ascontiguousarray(pixel),
        np.ascontiguousarray(energy_transfer_meV, dtype=np.float64),
        view.step_edges_meV,
        view.kf,
        view.bin_of_step,
        view.masked,
        view.fractional,
        view.beam_fractional,
        voxels.divisions,
        voxels.voxel,
        voxels.path_bin,
        counts,
        account,
    )
    folded, outside_path, outside_energy, masked = (int(n) for n in account)
    return EventAccount(
        read=len(pixel),
        folded=folded,
        outside_path=outside_path,
        outside_energy=outside_energy,
        masked=masked,
    )


@njit(cache=True)
def _sum_histogram(
    intensity, error, weight, skip, kf, bin_of_step, masked, fractional, beam_fractional,
    divisions, voxel, path_bin, signal, variance, account,
):  # fmt: skip
    """Add (pixels, steps) histograms to S and V; account: folded, path, energy, masked."""
    n0, n1, n2 = divisions
    for p in range(len(masked)):
        for step in range(len(kf)):
            if masked[p] or skip[p, step]:
                account[3] += 1
                continue
            k = kf[step]
            v = voxel[
                grid_index(beam_fractional[0] - k * fractional[p, 0], n0),
                grid_index(beam_fractional[1] - k * fractional[p, 1], n1),
                grid_index(beam_fractional[2] - k * fractional[p, 2], n2),
            ]
            if v < 0:
                account[1] += 1
                continue
            w = weight[p, step]
            signal[path_bin[v], bin_of_step[step]] += w * intensity[p, step]
            variance[path_bin[v], bin_of_step[step]] += (w * error[p, step]) ** 2
            account[0] += 1


def fold_histogram(
    intensity: FloatArray,
    error: FloatArray,
    *,
    weight: FloatArray,
    skip: NDArray[np.bool_],
    view: PixelView,
    voxels: VoxelMap,
    signal: FloatArray,
    variance: FloatArray,
) -> EventAccount:
    """Add a histogram to S and V in place: ``S += w I``, ``V += (w err)^2``.

    Parameters
    ----------
    intensity, error, weight : (pixels, steps)
        On the steps of ``view``; the weights are those that make D.
    skip : (pixels, steps) bool
        Bins that count nowhere; the exposure must skip the same.
    view, voxels
        As in ``fold_events``.
    signal, variance : (path_bins, energy_bins)
        Grow in place.

    Returns
    -------
    EventAccount
        Of (pixel, bin) pairs.
    """
    account = np.zeros(4, dtype=np.int64)
    _sum_histogram(
        np.ascontiguousarray(np.where(skip, 0.0, intensity)),
        np.ascontiguousarray(np.where(skip, 0.0, error)),
        np.ascontiguousarray(weight),
        np.ascontiguousarray(skip),
        view.kf,
        view.bin_of_step,
        view.masked,
        view.fractional,
        view.beam_fractional,
        voxels.divisions,
        voxels.voxel,
        voxels.path_bin,
        signal,
        variance,
        account,
    )
    folded, outside_path, outside_energy, masked = (int(n) for n in account)
    return EventAccount(
        read=intensity.size,
        folded=folded,
        outside_path=outside_path,
        outside_energy=outside_energy,
        masked=masked,
    )
