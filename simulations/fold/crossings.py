"""Where trajectories cross from one voxel into the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.fold.pixel_view import PixelView, grid_index
from simulations.fold.voxel_map import VoxelMap
from simulations.kernels import njit

GROUPS = 62  # of sub-steps in one 64-bit word of ``Crossings``
LIVE_BIT = 62
MASKED_BIT = 63


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Crossings:
    """Where the pixels of one orientation cross the tubes: path bins of (pixel, sub-step) pairs.

    Neighbouring sub-steps of a pixel form groups, at most ``GROUPS`` of them; only groups with a
    step in a tube are kept, since nine in ten pairs lie in none. 8 MB for 117,760 pixels and narrow
    tubes.
    """

    groups: NDArray[np.uint64]  # (pixels + 1,) bit g: the g-th group is kept; two more say whether
    # the pixel is live or masked; the last word stands for unknown pixels, as if masked
    first: NDArray[np.uint32]  # (pixels,) where in ``path_bin`` the pixel's groups begin
    path_bin: NDArray[np.unsignedinteger]  # (kept groups, steps of a group); largest value: no tube

    @property
    def none(self) -> np.unsignedinteger:
        """What ``path_bin`` holds for steps outside every tube."""
        return self.path_bin.dtype.type(np.iinfo(self.path_bin.dtype).max)

    @property
    def shift(self) -> int:
        """A step belongs to group ``step >> shift``."""
        return int(self.path_bin.shape[1]).bit_length() - 1

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return self.groups.nbytes + self.first.nbytes + self.path_bin.nbytes


def find_crossings(view: PixelView, voxels: VoxelMap) -> Crossings:
    """Look every (pixel, sub-step) pair of an orientation up in the map of tubes.

    Parameters
    ----------
    view : PixelView
        From ``view_pixels``.
    voxels : VoxelMap

    Returns
    -------
    Crossings
        What events are folded with; it also spares ``expose`` and ``trace_trajectories``
        the pairs outside every tube.
    """
    shift = max(0, (-(-len(view.kf) // GROUPS) - 1).bit_length())
    kind = np.min_scalar_type(voxels.n_path_bins)  # unsigned; bins and one value for none
    none = kind.type(np.iinfo(kind).max)
    inside = voxels.voxel >= 0
    path_bin = np.where(inside, voxels.path_bin[np.maximum(voxels.voxel, 0)], none)
    groups, first, kept = _cross(
        view.fractional,
        view.beam_fractional,
        view.masked,
        view.kf,
        voxels.divisions,
        path_bin.astype(kind).ravel(),
        none,
        shift,
    )
    return Crossings(groups=groups, first=first, path_bin=kept.astype(kind, copy=False))


@njit(cache=True, nogil=True, error_model="numpy")
def _cross(fractional, beam_fractional, masked, kf, divisions, path_bin, none, shift):
    n0, n1, n2 = divisions
    n_pixels, n_steps = len(masked), len(kf)
    size = 1 << shift
    groups = np.zeros(n_pixels + 1, np.uint64)
    groups[n_pixels] = np.uint64(1) << np.uint64(MASKED_BIT)
    first = np.zeros(n_pixels, np.uint32)
    kept = np.empty((n_pixels + 1024, size), path_bin.dtype)
    count = 0
    point = np.empty(n_steps, np.int64)
    for p in range(n_pixels):
        first[p] = count
        if masked[p]:
            groups[p] = np.uint64(1) << np.uint64(MASKED_BIT)
            continue
        u0, u1, u2 = fractional[p, 0], fractional[p, 1], fractional[p, 2]
        for step in range(n_steps):  # apart from the look-up, so that the compiler vectorises it
            k = kf[step]
            i0 = grid_index(beam_fractional[0] - k * u0, n0)
            i1 = grid_index(beam_fractional[1] - k * u1, n1)
            i2 = grid_index(beam_fractional[2] - k * u2, n2)
            point[step] = (i0 * n1 + i1) * n2 + i2
        if count + GROUPS > len(kept):
            longer = np.empty((2 * len(kept), size), path_bin.dtype)
            longer[:count] = kept[:count]
            kept = longer
        word = np.uint64(1) << np.uint64(LIVE_BIT)
        for start in range(0, n_steps, size):
            found = False
            for step in range(start, min(start + size, n_steps)):
                b = path_bin[point[step]]
                kept[count, step - start] = b
                found |= b != none
            if found:
                for i in range(n_steps - start, size):
                    kept[count, i] = none
                word |= np.uint64(1) << np.uint64(start >> shift)
                count += 1
        groups[p] = word
    return groups, first, kept[:count].copy()
