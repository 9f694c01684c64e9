"""Exposure of crystals with many atoms: sums per zone that a voxel was seen in, in place of T.

The coverage tensor holds 6 N^2 reals for every (voxel, energy bin), whatever was seen. The same
neutrons came from few zones: with ``w`` and ``w Q Q`` summed per (voxel, energy bin, reciprocal
vector G), T is a sum over G of products of phases, the mean ``Q Q`` and Debye-Waller factors at it.
Only how the latter vary within a voxel is lost, less than 1e-4 of T on the three crystals tested;
with ``w Q`` alone cells at low Q were off by 1e-3. What is kept does not depend on the number of
atoms, nor on scattering lengths or displacements, which come in when rates are computed: other
Debye-Waller factors and models that are no phonons read the same sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import ComplexArray, FloatArray, IntArray
from simulations.crystal import Crystal
from simulations.errors import InputError
from simulations.fold.crossings import Crossings
from simulations.fold.exposure import (
    PAIRS,
    Coverage,
    Exposure,
    Form,
    VoxelExposure,
    check_array,
    check_arrays,
    expose,
    tensor_reals,
)
from simulations.fold.pixel_view import PixelView, grid_index
from simulations.fold.voxel_map import MergedVoxels, VoxelMap
from simulations.instrument import Instrument, wave_vector
from simulations.kernels import njit
from simulations.reciprocal import EnergyAxis

IMAGES_FROM_ATOMS = 6
"""Runs take images for primitive cells of at least so many atoms: they are cheaper there."""

_OWN = ("start", "image", "sums", "reciprocal", "displacement")
_MOMENTS = tuple(f.name for f in fields(Exposure) if f.name != "tensor")


def form_for(crystal: Crystal) -> Form:
    """Form in which runs keep the exposure of a crystal."""
    return "images" if crystal.n_atoms >= IMAGES_FROM_ATOMS else "tensor"


def exposure_of_arrays(form: Form, arrays: Mapping[str, NDArray]) -> VoxelExposure:
    """Exposure of either form from what its ``arrays`` gave.

    Raises
    ------
    ValueError
        If the form is unknown, or the arrays are not of it or do not fit together.
    """
    if form == "tensor":
        return Exposure.from_arrays(arrays)
    if form == "images":
        return ImageExposure.from_arrays(arrays)
    raise InputError(f"exposure has form {form!r}; expected 'tensor' or 'images'")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, weakref_slot=True)
class ImageExposure:
    """As ``Exposure``, with the images of every (voxel, energy bin) in place of T.

    Images of cell ``c = voxel x energy bins + energy bin`` are rows ``start[c]`` to
    ``start[c + 1]`` of ``image`` and ``sums``, in order of ``image``.
    """

    moments: Exposure  # everything but T, which has no components here
    start: IntArray  # (voxels x energy bins + 1,)
    image: NDArray[np.int32]  # (entries,) row of ``reciprocal``
    sums: FloatArray  # (entries, 7) w, and w Q'Q' Cartesian, carried into the voxel: xx ... xy
    reciprocal: NDArray[np.int32]  # (images, 3) G' = Q' - q', primitive reciprocal coordinates
    displacement: FloatArray  # (atoms, 3, 3) mean-square tensors, angstrom^2

    @property
    def form(self) -> Form:
        """T is kept as images."""
        return "images"

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> ImageExposure:
        """Exposure of stored arrays; no index in it points outside.

        Raises
        ------
        ValueError
            If one is missing, unknown, or of a shape, kind or content that does not fit.
        """
        check_arrays(arrays, [*_MOMENTS, *_OWN])
        cells = arrays["weight"].shape
        moments = {name: arrays[name] for name in _MOMENTS}
        moments = Exposure.from_arrays({**moments, "tensor": np.zeros((*cells, 0))})
        start, image, reciprocal = (arrays[name] for name in ("start", "image", "reciprocal"))
        check_array("start", start, (moments.weight.size + 1,), np.int64)
        check_array("image", image, (image.size,), np.int32)
        check_array("sums", arrays["sums"], (image.size, 7), np.float64)
        check_array("reciprocal", reciprocal, (reciprocal.size // 3, 3), np.int32)
        displacement = arrays["displacement"]
        check_array("displacement", displacement, (displacement.size // 9, 3, 3), np.float64)
        if start[0] != 0 or start[-1] != image.size or np.any(np.diff(start) < 0):
            raise InputError(
                f"start runs from {start[0]} to {start[-1]}; expected it to rise from 0 to "
                f"{image.size}, the number of entries"
            )
        if image.size and not 0 <= image.min() <= image.max() < len(reciprocal):
            raise InputError(
                f"image holds {image.min()} to {image.max()}; expected rows of reciprocal, which "
                f"has {len(reciprocal)}"
            )
        return cls(moments=moments, **{name: arrays[name] for name in _OWN})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name."""
        moments = {name: getattr(self.moments, name) for name in _MOMENTS}
        return moments | {name: getattr(self, name) for name in _OWN}

    def coverage(self, crystal: Crystal) -> Coverage:
        """The images with the phases of the crystal's atoms.

        Raises
        ------
        ValueError
            If the displacements are of another number of atoms.
        """
        if len(self.displacement) != crystal.n_atoms:
            raise InputError(
                f"exposure has displacements of {len(self.displacement)} atoms; expected "
                f"{crystal.n_atoms}. Compute it for this crystal."
            )
        return Coverage(
            self.moments.tensor,
            self.start,
            self.image,
            self.sums,
            self.phases(crystal),
            packed_displacement(self.displacement),
        )

    @property
    def weight(self) -> FloatArray:
        """D (voxels, energy bins)."""
        return self.moments.weight

    @property
    def flat(self) -> FloatArray:
        """Exposure of a background flat in time of flight, (voxels, energy bins)."""
        return self.moments.flat

    @property
    def q_squared(self) -> FloatArray:
        """Sum of w Q^2, (voxels, energy bins)."""
        return self.moments.q_squared

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    def __add__(self, other: ImageExposure) -> ImageExposure:
        """Exposure of both together."""
        reciprocal, row = np.unique(
            np.concatenate([self.reciprocal, other.reciprocal]), axis=0, return_inverse=True
        )
        row = row.ravel()
        n = len(self.reciprocal)
        return _gathered(
            self.moments + other.moments,
            np.concatenate([self._cells(), other._cells()]),
            np.concatenate([row[:n][self.image], row[n:][other.image]]),
            np.concatenate([self.sums, other.sums]),
            reciprocal,
            self.displacement,
        )

    def thinned(self, stride: int) -> ImageExposure:
        """Nothing exposed but one of so many energy bins: for rates there alone."""
        return replace(self, moments=self.moments.thinned(stride))

    def scaled(self, factor: float) -> ImageExposure:
        """Same geometry with ``factor`` times the charge."""
        return replace(self, moments=self.moments.scaled(factor), sums=self.sums * factor)

    def merged(self, merged: MergedVoxels) -> ImageExposure:
        """Sums of larger voxels; exact but for Debye-Waller factors at the mean of more of them."""
        n_energy = self.weight.shape[1]
        voxel, energy = np.divmod(self._cells(), n_energy)
        return _gathered(
            self.moments.merged(merged),
            np.asarray(merged.group)[voxel] * n_energy + energy,
            self.image,
            self.sums,
            self.reciprocal,
            self.displacement,
        )

    def path_sums(self, voxels: VoxelMap | MergedVoxels) -> tuple[FloatArray, FloatArray]:
        """D and the flat exposure of every path cell: two arrays (path_bins, energy_bins)."""
        return self.moments.path_sums(voxels)

    def phases(self, crystal: Crystal) -> ComplexArray:
        """Amplitudes b exp(i G' r) / sqrt(m), (images, atoms) complex128, sqrt(barn / u)."""
        amplitude = crystal.scattering_length / np.sqrt(crystal.masses_u)
        turns = self.reciprocal @ crystal.positions.T
        return np.asarray(amplitude * np.exp(2j * np.pi * turns), dtype=np.complex128)

    def with_tensor(self, crystal: Crystal) -> Exposure:
        """The same exposure with T (packed as ``exposure.unpack_tensor`` reads it)."""
        tensor = np.zeros((len(self.start) - 1, tensor_reals(crystal.n_atoms)))
        _tensors(*self.coverage(crystal)[1:], tensor)
        return replace(self.moments, tensor=tensor.reshape(*self.weight.shape, -1))

    def _cells(self) -> IntArray:
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))


def packed_displacement(displacement: FloatArray) -> FloatArray:
    """Tensors (atoms, 3, 3) as (atoms, 6), packed as ``exposure.PAIRS``."""
    return np.stack([displacement[:, a, b] for a, b in PAIRS], axis=1)


def expose_images(
    view: PixelView,
    *,
    crystal: Crystal,
    voxels: VoxelMap,
    instrument: Instrument,
    energy: EnergyAxis,
    ei_meV: float,
    displacement: FloatArray,
    reduced: bool = False,
    skip: NDArray[np.bool_] | None = None,
    crossings: Crossings | None = None,
) -> ImageExposure:
    """Exposure of one orientation for a proton charge of 1 coulomb, by images.

    Parameters and errors are those of ``exposure.expose``; time and memory do not grow with the
    square of the number of atoms.
    """
    moments = expose(
        view,
        crystal=_empty(crystal),
        voxels=voxels,
        instrument=instrument,
        energy=energy,
        ei_meV=ei_meV,
        displacement=np.zeros((0, 3, 3)),
        reduced=reduced,
        skip=skip,
        crossings=crossings,
    )
    step = np.diff(view.step_edges_meV)
    step = step if reduced else step * view.kf / wave_vector(ei_meV)
    reach = _reach(view, crystal)
    n_energy = moments.weight.shape[1]
    key, sums = _images(
        view.direction,
        view.fractional,
        view.beam,
        view.beam_fractional,
        view.masked,
        view.kf,
        view.bin_of_step,
        np.zeros((0, 0), dtype=np.bool_) if skip is None else skip,
        np.zeros(0, dtype=np.uint64) if crossings is None else crossings.groups,
        0 if crossings is None else crossings.shift,
        instrument.solid_angle_sr,
        step,
        voxels.divisions,
        voxels.voxel,
        voxels.operation,
        voxels.operation_fractional.astype(np.float64),
        voxels.operation_cartesian,
        voxels.centre_fractional,
        n_energy,
        reach,
    )
    side = 2 * reach + 1
    cell, place = np.divmod(key, np.prod(side))
    used, row = np.unique(place, return_inverse=True)
    reciprocal = np.stack(np.unravel_index(used, tuple(side)), axis=1) - reach
    return _gathered(moments, cell, row, sums, reciprocal, np.asarray(displacement, dtype=float))


def _empty(crystal: Crystal) -> Crystal:
    """The lattice without atoms, whose coverage tensor has no components."""
    return replace(
        crystal,
        positions=crystal.positions[:0],
        symbols=(),
        masses_u=crystal.masses_u[:0],
        scattering_length=crystal.scattering_length[:0],
        incoherent_barn=crystal.incoherent_barn[:0],
    )


def _reach(view: PixelView, crystal: Crystal) -> IntArray:
    """Largest reciprocal coordinate that any pixel can have, (3,)."""
    longest = np.linalg.norm(view.beam) + float(np.max(view.kf))
    by_axis = longest * np.linalg.norm(crystal.lattice, axis=1) / (2 * np.pi)
    return np.ceil(by_axis).astype(np.int64) + 2


def _gathered(
    moments: Exposure,
    cell: IntArray,
    image: NDArray[np.integer],
    sums: FloatArray,
    reciprocal: NDArray[np.integer],
    displacement: FloatArray,
) -> ImageExposure:
    """Entries in order of cell and image, those of the same two added."""
    key = cell * len(reciprocal) + image
    used, row = np.unique(key, return_inverse=True)
    total = np.empty((len(used), sums.shape[1]))
    for i, column in enumerate(sums.T):
        total[:, i] = np.bincount(row, column, len(used))
    cell, image = np.divmod(used, max(len(reciprocal), 1))
    return ImageExposure(
        moments=moments,
        start=np.searchsorted(cell, np.arange(moments.weight.size + 1)),
        image=image.astype(np.int32),
        sums=total,
        reciprocal=np.asarray(reciprocal, dtype=np.int32),
        displacement=displacement,
    )


@njit(cache=True)
def _place(table, keys, key):
    """Slot of an open table that holds the row of a key, or the free one (-1) where it belongs."""
    mask = len(table) - 1
    slot = ((key * 0x9E3779B97F4A7C1) >> 20) & mask
    while table[slot] >= 0 and keys[table[slot]] != key:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True)
def _images(
    direction, fractional, beam, beam_fractional, masked, kf, bin_of_step, skip, groups, shift,
    solid_angle, weight_step, divisions, voxel, operation, op_fractional, op_cartesian, centre,
    n_energy, reach,
):  # fmt: skip
    """Keys and sums of every (voxel, energy bin, image) that any (pixel, sub-step) pair hits."""
    n0, n1, n2 = divisions
    side1, side2 = 2 * reach[1] + 1, 2 * reach[2] + 1
    n_images = (2 * reach[0] + 1) * side1 * side2
    use_skip, use_groups = skip.shape[0] > 0, len(groups) > 0
    table = np.full(1 << 17, -1, dtype=np.int32)
    keys = np.empty(1 << 16, dtype=np.int64)
    sums = np.zeros((1 << 16, 7))
    count = 0
    h = np.empty(3, dtype=np.int64)
    q = np.empty(3)
    last_key = -1
    row = 0
    for p in range(len(masked)):
        if masked[p]:
            continue
        for step in range(len(kf)):
            if use_groups and (groups[p] >> np.uint64(step >> shift)) & np.uint64(1) == 0:
                continue
            if use_skip and skip[p, step]:
                continue
            k = kf[step]
            f0 = beam_fractional[0] - k * fractional[p, 0]
            f1 = beam_fractional[1] - k * fractional[p, 1]
            f2 = beam_fractional[2] - k * fractional[p, 2]
            i0 = grid_index(f0, n0)
            i1 = grid_index(f1, n1)
            i2 = grid_index(f2, n2)
            v = voxel[i0, i1, i2]
            if v < 0:
                continue
            o = operation[i0, i1, i2]
            for j in range(3):
                g = (
                    f0 * op_fractional[o, 0, j]
                    + f1 * op_fractional[o, 1, j]
                    + f2 * op_fractional[o, 2, j]
                )
                h[j] = int(np.floor(g - centre[v, j] + 0.5)) + reach[j]
            key = (v * n_energy + bin_of_step[step]) * n_images
            key += (h[0] * side1 + h[1]) * side2 + h[2]
            if key != last_key:
                slot = _place(table, keys, key)
                if table[slot] < 0:
                    if count == len(keys):
                        keys = np.concatenate((keys, np.empty_like(keys)))
                        sums = np.concatenate((sums, np.zeros_like(sums)))
                        table = np.full(2 * len(table), -1, dtype=np.int32)
                        for i in range(count):
                            table[_place(table, keys, keys[i])] = i
                        slot = _place(table, keys, key)
                    table[slot] = count
                    keys[count] = key
                    count += 1
                row = table[slot]
                last_key = key
            w = solid_angle[p] * weight_step[step]
            qx = beam[0] - k * direction[p, 0]
            qy = beam[1] - k * direction[p, 1]
            qz = beam[2] - k * direction[p, 2]
            for a in range(3):
                q[a] = (
                    op_cartesian[o, a, 0] * qx
                    + op_cartesian[o, a, 1] * qy
                    + op_cartesian[o, a, 2] * qz
                )
            sums[row, 0] += w
            sums[row, 1] += w * q[0] * q[0]
            sums[row, 2] += w * q[1] * q[1]
            sums[row, 3] += w * q[2] * q[2]
            sums[row, 4] += w * q[1] * q[2]
            sums[row, 5] += w * q[0] * q[2]
            sums[row, 6] += w * q[0] * q[1]
    return keys[:count], sums[:count]


@njit(cache=True, inline="always")
def damp(sums, phase, displacement, out):
    """Fill ``out`` (atoms,) with b exp(i G' r) exp(-W) / sqrt(m) of one entry."""
    for c in range(len(phase)):
        W = 0.0
        for i in range(6):
            W += (0.5 if i < 3 else 1.0) * displacement[c, i] * sums[1 + i]
        out[c] = phase[c] * np.exp(-W / max(sums[0], 1e-300))


@njit(cache=True)
def _tensors(start, image, sums, phase, displacement, out):
    """Pack the tensor of every cell, (cells, 6 N^2)."""
    n_atoms = phase.shape[1]
    f = np.empty(n_atoms, dtype=np.complex128)
    for cell in range(len(start) - 1):
        for entry in range(start[cell], start[cell + 1]):
            damp(sums[entry], phase[image[entry]], displacement, f)
            at = 0
            for c in range(n_atoms):
                for m in range(c, n_atoms):
                    z = f[c] * f[m].conjugate()
                    for i in range(6):
                        out[cell, at + i] += z.real * sums[entry, 1 + i]
                        if m > c:
                            out[cell, at + 6 + i] += z.imag * sums[entry, 1 + i]
                    at += 6 if m == c else 12
