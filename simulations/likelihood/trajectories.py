"""Stretches of pixel trajectories inside the tubes: what is walked for rates of an orientation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.fold import (
    Crossings,
    PixelView,
    VoxelMap,
    check_array,
    check_arrays,
    grid_index,
)
from simulations.instrument import Instrument
from simulations.kernels import njit
from simulations.reciprocal import EnergyAxis


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trajectories:
    """Stretches of pixel trajectories inside the tubes, for one orientation."""

    direction: FloatArray  # (pixels, 3) of the pixels that cross a tube, crystal frame
    weight: FloatArray  # (pixels,) charge x solid angle, coulomb sr
    pixel: NDArray[np.int32]  # (stretches,) row of ``direction``
    first_step: NDArray[np.int32]  # (stretches,)
    start: NDArray[np.int64]  # (stretches + 1,) into ``cell``
    cell: NDArray[np.int32]  # path bin x energy bins + energy bin of each step; -1 outside
    beam: FloatArray  # (3,) k_i in the crystal frame, 1/angstrom
    step_edges_meV: FloatArray  # (steps + 1,) of measured energy transfer
    displacement: FloatArray  # (atoms, 6) mean-square tensors packed xx yy zz yz xz xy, angstrom^2
    reduced: NDArray[np.bool_]  # (1,) whether k_f/k_i is already divided out

    def scaled(self, factor: float) -> Trajectories:
        """Same geometry with ``factor`` times the charge."""
        return replace(self, weight=self.weight * factor)

    def of_all(self, rate: FloatArray) -> FloatArray:
        """Rates along these, (cells,) or (cells, columns), of all they stand for: as they are."""
        return rate

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))

    def arrays(self) -> dict[str, NDArray]:
        """Every array by its name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Trajectories:
        """Trajectories of stored arrays; no index in them points outside.

        Raises
        ------
        ValueError
            If arrays are missing, do not fit together, or point outside each other.
        """
        check_arrays(arrays, [f.name for f in fields(cls)])
        made = cls(**arrays)
        n = made.pixel.size
        for name, shape, kind in (
            ("direction", (made.weight.size, 3), np.float64),
            ("weight", (made.weight.size,), np.float64),
            ("pixel", (made.pixel.size,), np.int32),
            ("first_step", (n,), np.int32),
            ("start", (n + 1,), np.int64),
            ("cell", (int(made.start.flat[-1]) if made.start.size else 0,), np.int32),
            ("beam", (3,), np.float64),
            ("step_edges_meV", (made.step_edges_meV.size,), np.float64),
            ("displacement", (made.displacement.size // 6, 6), np.float64),
            ("reduced", (1,), np.bool_),
        ):
            check_array(f"trajectory {name}", arrays[name], shape, kind)
        steps = len(made.step_edges_meV) - 1
        length = np.diff(made.start)
        if n and not (
            made.start[0] == 0
            and length.min() > 0
            and made.pixel.min() >= 0
            and made.pixel.max() < len(made.weight)
            and made.first_step.min() >= 0
            and np.max(made.first_step + length) <= steps
            and made.cell.min() >= -1
        ):
            raise InputError("trajectories point outside their pixels or steps; expected stretches")
        return made


def trace_trajectories(
    *,
    view: PixelView,
    voxels: VoxelMap,
    instrument: Instrument,
    energy: EnergyAxis,
    displacement: FloatArray,
    reduced: bool = False,
    skip: NDArray[np.bool_] | None = None,
    crossings: Crossings | None = None,
) -> Trajectories:
    """Find where pixels cross the tubes, for a charge of 1 coulomb.

    Parameters
    ----------
    view : PixelView
        From ``exposure.view_pixels``.
    voxels, instrument, energy
        As for ``exposure.expose``.
    displacement : (atoms, 3, 3)
        Mean-square displacement tensors, angstrom^2.
    reduced : bool
        For input already divided by k_f/k_i and charge.
    skip : (pixels, steps) bool, optional
        Pairs that count nowhere.
    crossings : Crossings, optional
        Of the same view and voxels; spares the pairs outside every tube.

    Returns
    -------
    Trajectories
    """
    pixel, first, start, cell = _trace(
        view.fractional,
        view.beam_fractional,
        view.masked,
        view.kf,
        view.bin_of_step.astype(np.int64),
        np.zeros((0, 0), dtype=np.bool_) if skip is None else skip,
        np.zeros(0, dtype=np.uint64) if crossings is None else crossings.groups,
        0 if crossings is None else crossings.shift,
        voxels.divisions,
        voxels.voxel,
        voxels.path_bin,
        energy.n_bins,
    )
    U = np.asarray(displacement)
    used, row = np.unique(pixel, return_inverse=True)
    return Trajectories(
        direction=np.ascontiguousarray(view.direction[used]),
        weight=np.ascontiguousarray(instrument.solid_angle_sr[used]),
        pixel=row.astype(np.int32),
        first_step=first,
        start=start,
        cell=cell,
        beam=np.ascontiguousarray(view.beam),
        step_edges_meV=np.ascontiguousarray(view.step_edges_meV),
        displacement=np.stack(
            [U[:, 0, 0], U[:, 1, 1], U[:, 2, 2], U[:, 1, 2], U[:, 0, 2], U[:, 0, 1]], axis=1
        ),
        reduced=np.array([reduced]),
    )


@njit(cache=True, nogil=True)
def _trace(
    fractional, beam_fractional, masked, kf, bin_of_step, skip, groups, shift, divisions, voxel,
    path_bin, n_bins,
):  # fmt: skip
    n0, n1, n2 = divisions
    use_skip, use_groups = skip.shape[0] > 0, len(groups) > 0
    n_steps = len(kf)
    room = 1 << 16
    pixel = np.empty(room, dtype=np.int32)
    first = np.empty(room, dtype=np.int32)
    start = np.empty(room + 1, dtype=np.int64)
    cell_room = 1 << 20
    cell = np.empty(cell_room, dtype=np.int32)
    count = 0
    used = 0
    start[0] = 0
    merge = 8  # outside steps that do not end a stretch
    for p in range(len(masked)):
        if masked[p]:
            continue
        last = -1
        for step in range(n_steps):
            if use_groups and (groups[p] >> np.uint64(step >> shift)) & np.uint64(1) == 0:
                continue
            if use_skip and skip[p, step]:
                continue
            k = kf[step]
            v = voxel[
                grid_index(beam_fractional[0] - k * fractional[p, 0], n0),
                grid_index(beam_fractional[1] - k * fractional[p, 1], n1),
                grid_index(beam_fractional[2] - k * fractional[p, 2], n2),
            ]
            if v < 0:
                continue
            if used + merge + 2 > cell_room:
                cell_room *= 2
                cell = np.append(cell, np.empty(cell_room - len(cell), dtype=np.int32))
            if last < 0 or step - last > merge:
                if last >= 0:
                    count += 1
                    start[count] = used
                if count + 2 > room:
                    room *= 2
                    pixel = np.append(pixel, np.empty(room - len(pixel), dtype=np.int32))
                    first = np.append(first, np.empty(room - len(first), dtype=np.int32))
                    start = np.append(start, np.empty(room + 1 - len(start), dtype=np.int64))
                pixel[count] = p
                first[count] = step
            else:
                for _ in range(step - last - 1):
                    cell[used] = -1
                    used += 1
            cell[used] = path_bin[v] * n_bins + bin_of_step[step]
            used += 1
            last = step
        if last >= 0:
            count += 1
            start[count] = used
    return pixel[:count].copy(), first[:count].copy(), start[: count + 1].copy(), cell[:used].copy()
