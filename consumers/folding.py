"""Folding: neutrons of one chunk become counts per path cell. Only adds to sums.

Everything about geometry lies below, in ``simulations.exposure``; an event is looked up by the
energy sub-step it falls into, so that counts and exposure have the same support.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from simulations.exposure import PixelView, grid_index
from simulations.voxel_map import VoxelMap

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BLOCK = 256  # events


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


@njit(cache=True, error_model="numpy")
def _count(
    pixel, energy, step_edges, kf, bin_of_step, pixels, beam_fractional,
    divisions, row, inside, counts, account,
):  # fmt: skip
    """Add events to ``counts`` (path_bins, bins); account: folded, path, energy, masked.

    Works through short blocks, one table at a time: what a block needs of a table is then on its
    way from memory all at once, and nine in ten events end at the small table ``inside``.
    """
    n0, n1, n2 = divisions
    b0, b1, b2 = beam_fractional
    low = step_edges[0]
    n_steps = len(kf)
    per_step = n_steps / (step_edges[-1] - low)
    n_pixels = len(pixels)
    point = np.empty(BLOCK, np.int64)
    step_of = np.empty(BLOCK, np.int32)
    touched = 0.0
    for start in range(0, len(pixel), BLOCK):
        stop = min(start + BLOCK, len(pixel))
        for i in range(start, stop):
            p = pixel[i]
            touched += pixels[p if (p >= 0) & (p < n_pixels) else 0, 3]
        found = 0
        for i in range(start, stop):
            p = pixel[i]
            if p < 0 or p >= n_pixels or pixels[p, 3] != 0.0:
                account[3] += 1
                continue
            x = (energy[i] - low) * per_step
            if not (x >= 0.0 and x < n_steps):
                account[2] += 1
                continue
            step = int(x)
            k = kf[step]
            i0 = grid_index(b0 - k * pixels[p, 0], n0)
            i1 = grid_index(b1 - k * pixels[p, 1], n1)
            i2 = grid_index(b2 - k * pixels[p, 2], n2)
            point[found] = (i0 * n1 + i1) * n2 + i2
            step_of[found] = step
            found += 1
        kept = 0
        for j in range(found):
            at = point[j]
            point[kept] = at
            step_of[kept] = step_of[j]
            kept += (inside[at >> 3] >> (at & 7)) & 1
        for j in range(kept):
            counts[row[point[j]], bin_of_step[step_of[j]]] += 1
        account[0] += kept
        account[1] += found - kept
    return touched  # or the compiler would leave the first loop out


@lru_cache(maxsize=2)
def _points(voxels: VoxelMap) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
    """Path bin of every grid point, and one bit that says whether it has one."""
    known = voxels.voxel >= 0
    bins = np.where(known, voxels.path_bin[np.maximum(voxels.voxel, 0)], -1).ravel()
    small = np.int16 if voxels.n_path_bins < 2**15 else np.int32
    return bins.astype(small), np.packbits(known.ravel(), bitorder="little")


@lru_cache(maxsize=2)
def _pixels(view: PixelView) -> FloatArray:
    """Fractional direction of every pixel and 1 where it is masked, side by side in memory."""
    return np.ascontiguousarray(np.column_stack([view.fractional, view.masked.astype(float)]))


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
    if len(view.masked):
        _count(
            np.ascontiguousarray(pixel),
            np.ascontiguousarray(energy_transfer_meV, dtype=np.float64),
            view.step_edges_meV,
            view.kf,
            view.bin_of_step,
            _pixels(view),
            view.beam_fractional,
            voxels.divisions,
            *_points(voxels),
            counts,
            account,
        )
    else:
        account[3] = len(pixel)
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
