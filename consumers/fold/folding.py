"""Folding: neutrons of one chunk become counts per path cell. Only adds to sums.

Everything about geometry lies below, in ``simulations.fold.exposure``; an event is looked up by the
energy sub-step it falls into, so that counts and exposure have the same support.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray, IntArray
from simulations.fold import (
    LIVE_BIT,
    MASKED_BIT,
    Crossings,
    PixelView,
    VoxelMap,
    find_crossings,
    grid_index,
)
from simulations.kernels import njit

BLOCK = 16_384  # events


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
def _ones(word):
    """Number of set bits; compilers know these lines as one instruction."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    pairs = np.uint64(0x3333333333333333)
    word = (word & pairs) + ((word >> np.uint64(2)) & pairs)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@njit(cache=True, error_model="numpy")
def _find_steps(energy, low, per_step, n_steps, step):
    """Sub-step of every event; all events outside the axis get one beyond its end."""
    top, beyond = np.float64(n_steps[0]), np.float64(n_steps[1])
    for i in range(len(energy)):
        x = (energy[i] - low) * per_step
        x = x if (x >= 0.0) & (x < top) else beyond
        step[i] = np.uint32(np.int32(x))


@njit(cache=True, error_model="numpy")
def _find_near(pixel, step, groups, shift, near):
    """Number of events of live pixels near a tube or outside the axis, and of masked ones."""
    n_pixels = np.uint32(len(groups) - 1)
    count, masked = 0, np.uint64(0)
    for i in range(len(pixel)):
        p = np.uint32(pixel[i])
        p = p if p < n_pixels else n_pixels
        word = groups[p]
        near[count] = np.uint32(i)
        masked += word >> np.uint64(MASKED_BIT)
        count += np.int64((word >> np.uint64(step[i] >> shift)) & np.uint64(1))
    return count, np.int64(masked)


@njit(cache=True, error_model="numpy")
def _add_near(
    near, n_near, pixel, step, n_steps, groups, first, path_bin, shift, none, bin_of_step, n_bins,
    place, cell, counts,
):  # fmt: skip
    """Add what lies in a tube to ``counts`` (flat); number of those and of those on the axis."""
    one, long = np.uint64(1), np.uint64(shift)
    within = (one << long) - one
    on_axis = 0
    for j in range(n_near):
        i = near[j]
        p, s = np.uint32(pixel[i]), np.uint64(step[i])
        before = groups[p] & ((one << (s >> long)) - one)
        place[on_axis] = ((np.uint64(first[p]) + _ones(before)) << long) + (s & within)
        near[on_axis] = s
        on_axis += s < np.uint64(n_steps)
    found = 0
    for j in range(on_axis):
        b = path_bin[place[j]]
        cell[found] = np.uint32(b) * n_bins + bin_of_step[near[j]]
        found += np.int64(b != none)
    for j in range(found):
        counts[cell[j]] += 1
    return found, on_axis


@njit(cache=True, nogil=True, error_model="numpy")
def _count(
    pixel, energy, step_edges, bin_of_step, groups, first, path_bin, shift, none, counts, account,
):  # fmt: skip
    """Add events to ``counts`` (path_bins, bins); account: folded, path, energy, masked.

    Every loop does one thing to a whole block, without a branch: what the block needs of a table is
    then on its way from memory all at once, and no branch is guessed wrong. Indices are unsigned
    because only those are not checked for counting from the end.
    """
    n_steps = np.uint32(len(bin_of_step))
    low = step_edges[0]
    per_step = n_steps / (step_edges[-1] - low)
    ends = (n_steps, np.uint32(LIVE_BIT << shift))
    flat, n_bins = counts.reshape(-1), np.uint32(counts.shape[1])
    step = np.empty(BLOCK, np.uint32)
    near = np.empty(BLOCK, np.uint32)
    place = np.empty(BLOCK, np.uint64)
    cell = np.empty(BLOCK, np.uint32)
    for start in range(0, len(pixel), BLOCK):
        block = pixel[start : start + BLOCK]
        _find_steps(energy[start : start + BLOCK], low, per_step, ends, step)
        n_near, masked = _find_near(block, step, groups, np.uint32(shift), near)
        found, on_axis = _add_near(
            near, n_near, block, step, n_steps, groups, first, path_bin, shift, none, bin_of_step,
            n_bins, place, cell, flat,
        )  # fmt: skip
        account[0] += found
        account[1] += len(block) - masked - (n_near - on_axis) - found
        account[2] += n_near - on_axis
        account[3] += masked


def fold_events(
    pixel: NDArray[np.int32],
    energy_transfer_meV: FloatArray,
    *,
    view: PixelView,
    voxels: VoxelMap,
    counts: IntArray,
    crossings: Crossings | None = None,
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
    crossings : Crossings, optional
        Of the same view and voxels, for who folds block after block; found here if not given, which
        takes as long as folding twenty million events.

    Returns
    -------
    EventAccount
        With ``filtered`` 0: sources filter before blocks are made.
    """
    account = np.zeros(4, dtype=np.int64)
    known = find_crossings(view, voxels) if crossings is None else crossings
    _count(
        _as_int32(pixel, len(view.masked)),
        np.ascontiguousarray(energy_transfer_meV, dtype=np.float64),
        view.step_edges_meV,
        view.bin_of_step.astype(np.uint32),
        known.groups,
        known.first,
        known.path_bin.reshape(-1),
        known.shift,
        known.none,
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


def _as_int32(pixel: NDArray[np.integer], n_pixels: int) -> NDArray[np.int32]:
    """Pixels in a row of 32 bits; numbers that would wrap round become unknown ones."""
    if pixel.dtype != np.int32:
        pixel = np.where((pixel >= 0) & (pixel < n_pixels), pixel, -1)
    return np.ascontiguousarray(pixel, dtype=np.int32)


@njit(cache=True, nogil=True)
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
