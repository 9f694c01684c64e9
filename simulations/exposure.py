"""What one orientation would see: exposure, coverage tensor and moments of every voxel.

Geometry alone decides these sums; they scale with proton charge and add over orientations, which
makes the folded intensity of any force constants exact without keeping events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, Protocol, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from simulations.crystal import Crystal
from simulations.instrument import Instrument
from simulations.kinematics import (
    METRE_PER_SECOND_PER_SQRT_MEV,
    MEV_PER_K2,
    wave_vector,
)
from simulations.path import EnergyAxis
from simulations.voxel_map import MergedVoxels, VoxelMap

FloatArray = NDArray[np.float64]

PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # order of packed symmetric tensors
_TAILS = {"first": 3, "second": 6, "slope": 3, "slope_second": 6}  # components of the moments
Form = Literal["tensor", "images"]


class Coverage(NamedTuple):
    """T of every (voxel, energy bin) as kernels read it: packed, or by images if there are any."""

    tensor: FloatArray  # (voxels, energy_bins, 6 N^2); without components if there are images
    start: NDArray[np.int64]  # the rest as in ``ImageExposure``; empty if there are none
    image: NDArray[np.int32]
    sums: FloatArray
    phases: NDArray[np.complex128]  # (images, N) b exp(i G' r) / sqrt(m)
    displacement: FloatArray  # (N, 6) packed as ``PAIRS``


class VoxelExposure(Protocol):
    """Exposure of every (voxel, energy bin), with T in whatever form; both are of one form.

    ``Exposure`` keeps the tensor itself, ``image_exposure.ImageExposure`` what it is summed from.
    """

    @property
    def form(self) -> Form:
        """How T is kept."""
        ...

    @property
    def moments(self) -> Exposure:
        """All but T; what it holds in place of T is not to be read."""
        ...

    @property
    def weight(self) -> FloatArray:
        """D (voxels, energy_bins)."""
        ...

    @property
    def q_squared(self) -> FloatArray:
        """Sum of w Q^2, (voxels, energy_bins)."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        ...

    def __add__(self, other: Self) -> Self:
        """Exposure of both together."""
        ...

    def scaled(self, factor: float) -> Self:
        """Same geometry with ``factor`` times the charge."""
        ...

    def merged(self, merged: MergedVoxels) -> Self:
        """Sums of larger voxels."""
        ...

    def path_sums(self, voxels: VoxelMap | MergedVoxels) -> tuple[FloatArray, FloatArray]:
        """D and the flat exposure of every path cell: two arrays (path_bins, energy_bins)."""
        ...

    def coverage(self, crystal: Crystal) -> Coverage:
        """T as kernels read it; ValueError if it is of another number of atoms."""
        ...

    def arrays(self) -> dict[str, NDArray]:
        """All arrays by name, to be stored; ``from_arrays`` of the form takes them back."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Exposure:
    """Sums over the pixels and energy sub-steps that fall into each (voxel, energy bin).

    Every array starts with (voxels, energy_bins); weights are ``w = charge x solid angle x energy
    step x k_f/k_i``. Positions are Cartesian, crystal frame, 1/angstrom, carried into the voxel and
    referred to the centre energy of the bin along the pixel's trajectory.
    """

    weight: FloatArray  # D = sum w, coulomb sr meV
    flat: FloatArray  # sum of charge x solid angle x time step, coulomb sr ms
    q_squared: FloatArray  # sum w Q^2
    tensor: FloatArray  # (..., 6 N^2) T = sum w f f^dagger, packed by ``unpack_tensor``
    first: FloatArray  # (..., 3) sum w (q' - q_voxel)
    second: FloatArray  # (..., 6) sum w of the products xx yy zz yz xz xy of the same
    slope: FloatArray  # (..., 3) sum w dQ'/dE, 1/(angstrom meV)
    slope_second: FloatArray  # (..., 6) sum w of the products of the same, as in ``second``

    @property
    def form(self) -> Form:
        """T is kept as such."""
        return "tensor"

    @property
    def moments(self) -> Exposure:
        """These very sums."""
        return self

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Exposure:
        """Exposure of stored arrays.

        Raises
        ------
        ValueError
            If one is missing, unknown, or of a shape or kind that does not fit.
        """
        check_arrays(arrays, [f.name for f in fields(cls)])
        cells = arrays["weight"].shape
        if len(cells) != 2:
            raise ValueError(f"weight has shape {cells}; expected voxels x energy bins")
        n_reals = (arrays["tensor"].shape or (0,))[-1]
        tails = {**_TAILS, "tensor": n_reals}
        for name, array in arrays.items():
            shape = (*cells, tails[name]) if name in tails else cells
            check_array(name, array, shape, np.float64)
        if tensor_reals(round((n_reals / 6) ** 0.5)) != n_reals:
            raise ValueError(f"tensor has {n_reals} components; expected 6 N^2 for N atoms")
        return cls(**arrays)

    def arrays(self) -> dict[str, NDArray]:
        """All arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def coverage(self, crystal: Crystal) -> Coverage:
        """The tensor, and no images.

        Raises
        ------
        ValueError
            If the tensor is of another number of atoms.
        """
        expected = tensor_reals(crystal.n_atoms)
        if self.tensor.shape[-1] != expected:
            raise ValueError(
                f"exposure has {self.tensor.shape[-1]} reals of T; expected {expected}, those of "
                f"{crystal.n_atoms} atoms. Compute it for this crystal."
            )
        return Coverage(self.tensor, *_NO_IMAGES)

    def __add__(self, other: Exposure) -> Exposure:
        """Exposure of both together."""
        return Exposure(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def scaled(self, factor: float) -> Exposure:
        """Same geometry with ``factor`` times the charge."""
        return Exposure(**{f.name: getattr(self, f.name) * factor for f in fields(self)})

    def merged(self, merged: MergedVoxels) -> Exposure:
        """Sums of larger voxels; exact, moments are carried to the new centres."""
        n = merged.n_voxels

        def joined(values: FloatArray) -> FloatArray:
            out = np.zeros((n, *values.shape[1:]))
            np.add.at(out, merged.group, values)
            return out

        o = merged.offset[:, None, :]
        w, f = self.weight[..., None], self.first
        second = self.second.copy()
        for i, (a, b) in enumerate(PAIRS):
            second[..., i] += (
                o[..., a] * f[..., b] + o[..., b] * f[..., a] + w[..., 0] * o[..., a] * o[..., b]
            )
        return Exposure(
            weight=joined(self.weight),
            flat=joined(self.flat),
            q_squared=joined(self.q_squared),
            tensor=joined(self.tensor),
            first=joined(f + w * o),
            second=joined(second),
            slope=joined(self.slope),
            slope_second=joined(self.slope_second),
        )

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))

    def path_sums(self, voxels: VoxelMap | MergedVoxels) -> tuple[FloatArray, FloatArray]:
        """D and the flat exposure of every path cell: two arrays (path_bins, energy_bins)."""
        return (
            sum_voxels(self.weight, voxels),
            sum_voxels(self.flat, voxels),
        )


_NO_IMAGES = (
    np.zeros(0, dtype=np.int64),
    np.zeros(0, dtype=np.int32),
    np.zeros((0, 7)),
    np.zeros((0, 0), dtype=np.complex128),
    np.zeros((0, 6)),
)


def check_arrays(arrays: Mapping[str, NDArray], names: list[str]) -> None:
    """Refuse arrays of other names than expected with a ValueError."""
    if set(arrays) != set(names):
        raise ValueError(f"arrays are {sorted(arrays)}; expected {sorted(names)}")


def check_array(name: str, array: NDArray, shape: tuple[int, ...], kind: type[np.generic]) -> None:
    """Refuse an array of another shape or kind than expected with a ValueError."""
    if array.shape != shape or array.dtype != np.dtype(kind):
        raise ValueError(
            f"{name} is {array.dtype} of shape {array.shape}; expected {np.dtype(kind)} of {shape}"
        )


def sum_voxels(values: FloatArray, voxels: VoxelMap | MergedVoxels) -> FloatArray:
    """Sum (voxels, ...) over the voxels of each path bin, (path_bins, ...)."""
    total = np.zeros((voxels.n_path_bins, *values.shape[1:]))
    np.add.at(total, voxels.path_bin, values)
    return total


def tensor_reals(n_atoms: int) -> int:
    """Real numbers that hold one Hermitian coverage tensor: 6 N^2."""
    return 6 * n_atoms * n_atoms


def unpack_tensor(packed: FloatArray, n_atoms: int) -> NDArray[np.complex128]:
    """Hermitian T (..., 3N, 3N) from its 6 N^2 reals (..., 6 N^2).

    Packed atom pair by atom pair (k <= l, row-major): the six products xx yy zz yz xz xy, and for
    k < l six more for the imaginary part.
    """
    out = np.zeros((*packed.shape[:-1], 3 * n_atoms, 3 * n_atoms), dtype=complex)
    at = 0
    for k in range(n_atoms):
        for m in range(k, n_atoms):
            for i, (a, b) in enumerate(PAIRS):
                value = packed[..., at + i].astype(complex)
                if m > k:
                    value = value + 1j * packed[..., at + 6 + i]
                for c, d in {(a, b), (b, a)}:
                    out[..., 3 * k + c, 3 * m + d] = value
                    out[..., 3 * m + d, 3 * k + c] = value.conj()
            at += 6 if m == k else 12
    return out


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PixelView:
    """What the pixels look at in one orientation: the common ground of counts and exposure.

    ``Q = beam - kf * direction`` in the crystal's Cartesian frame and
    ``beam_fractional - kf * fractional`` in primitive reciprocal coordinates.
    """

    direction: FloatArray  # (pixels, 3) crystal frame
    fractional: FloatArray  # (pixels, 3)
    beam: FloatArray  # (3,) k_i in the crystal frame, 1/angstrom
    beam_fractional: FloatArray  # (3,)
    masked: NDArray[np.bool_]  # (pixels,)
    step_edges_meV: FloatArray  # (steps + 1,)
    kf: FloatArray  # (steps,) 1/angstrom at the step centres
    bin_of_step: NDArray[np.int64]  # (steps,) energy bin


def view_pixels(
    *,
    crystal: Crystal,
    instrument: Instrument,
    energy: EnergyAxis,
    ei_meV: float,
    crystal_to_lab: FloatArray,
    histogram_edges_meV: FloatArray | None = None,
) -> PixelView:
    """Turn the pixels into the crystal's frame for one orientation.

    ``histogram_edges_meV`` replaces the sub-steps by the bins of histogram input; those whose
    centre lies on the reachable part of the axis are kept (``histogram_range``).

    Raises
    ------
    ValueError
        If no energy bin can be reached with ``ei_meV``.
    """
    n_e = energy.reachable_bins(ei_meV)
    if n_e == 0:
        raise ValueError(
            f"instrument.ei_meV is {ei_meV}; expected above the lowest energy bin "
            f"{energy.edges_meV[0]}..{energy.edges_meV[1]} meV of the path"
        )
    if histogram_edges_meV is None:
        edges = energy.substep_edges_meV[: n_e * energy.substeps + 1]
        bin_of_step = np.arange(n_e * energy.substeps) // energy.substeps
    else:
        kept = histogram_range(histogram_edges_meV, energy, ei_meV)
        edges = np.asarray(histogram_edges_meV)[kept.start : kept.stop + 1]
        middle = 0.5 * (edges[1:] + edges[:-1])
        bin_of_step = ((middle - energy.edges_meV[0]) / energy.step_meV).astype(np.int64)
    direction = instrument.direction @ crystal_to_lab
    beam = crystal_to_lab.T @ np.array([0.0, 0.0, float(wave_vector(ei_meV))])
    to_fractional = np.linalg.inv(crystal.reciprocal)
    return PixelView(
        direction=direction,
        fractional=direction @ to_fractional,
        beam=beam,
        beam_fractional=beam @ to_fractional,
        masked=instrument.masked,
        step_edges_meV=edges,
        kf=wave_vector(ei_meV - 0.5 * (edges[1:] + edges[:-1])),
        bin_of_step=bin_of_step,
    )


def histogram_range(histogram_edges_meV: FloatArray, energy: EnergyAxis, ei_meV: float) -> slice:
    """Bins of a histogram whose centre lies on the reachable part of the path's energy axis.

    Raises
    ------
    ValueError
        If there is none.
    """
    edges = np.asarray(histogram_edges_meV, dtype=float)
    middle = 0.5 * (edges[1:] + edges[:-1])
    top = energy.edges_meV[energy.reachable_bins(ei_meV)]
    inside = np.flatnonzero((middle >= energy.edges_meV[0]) & (middle < top - 1e-9))
    if len(inside) == 0:
        raise ValueError(
            f"energy bins of the histogram span {edges[0]:g}..{edges[-1]:g} meV; expected some "
            f"within the path's {energy.edges_meV[0]:g}..{top:g} meV"
        )
    return slice(int(inside[0]), int(inside[-1]) + 1)


@njit(cache=True, inline="always")
def grid_index(fractional, divisions):
    """Nearest grid point of a coordinate, 0 <= index < divisions."""
    i = int((fractional - np.floor(fractional)) * divisions + 0.5)
    return 0 if i >= divisions else i


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
        What events are folded with; it also spares ``compute_exposure`` and ``trace_trajectories``
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


@njit(cache=True, nogil=True)
def _accumulate(
    direction, fractional, beam, beam_fractional, masked, kf, bin_of_step,
    skip, groups, shift, distance, solid_angle, reciprocal,
    trajectory_slope, weight_step, time_step, offset_energy,
    divisions, voxel, operation, op_fractional, op_cartesian, centre,
    positions, amplitude, displacement,
    out_weight, out_flat, out_q2, out_tensor, out_first, out_second, out_slope, out_slope_second,
):  # fmt: skip
    """Add all (pixel, sub-step) pairs of a pixel range; see ``compute_exposure``."""
    n_atoms = len(amplitude)
    n0, n1, n2 = divisions
    use_skip, use_groups = skip.shape[0] > 0, len(groups) > 0
    g = np.empty(3)
    h = np.empty(3)
    q_in = np.empty(3)
    d = np.empty(3)
    s = np.empty(3)
    dw = np.empty(n_atoms)
    product = np.empty(6)
    for p in range(len(masked)):
        if masked[p]:
            continue
        dx, dy, dz = direction[p, 0], direction[p, 1], direction[p, 2]
        u0, u1, u2 = fractional[p, 0], fractional[p, 1], fractional[p, 2]
        for step in range(len(kf)):
            if use_groups and (groups[p] >> np.uint64(step >> shift)) & np.uint64(1) == 0:
                continue
            if use_skip and skip[p, step]:
                continue
            k = kf[step]
            f0 = beam_fractional[0] - k * u0
            f1 = beam_fractional[1] - k * u1
            f2 = beam_fractional[2] - k * u2
            i0 = grid_index(f0, n0)
            i1 = grid_index(f1, n1)
            i2 = grid_index(f2, n2)
            v = voxel[i0, i1, i2]
            if v < 0:
                continue
            o = operation[i0, i1, i2]
            for j in range(3):
                g[j] = (
                    f0 * op_fractional[o, 0, j]
                    + f1 * op_fractional[o, 1, j]
                    + f2 * op_fractional[o, 2, j]
                )
                h[j] = np.floor(g[j] - centre[v, j] + 0.5)
                g[j] = g[j] - h[j] - centre[v, j]
            qx = beam[0] - k * dx
            qy = beam[1] - k * dy
            qz = beam[2] - k * dz
            for a in range(3):
                q_in[a] = (
                    op_cartesian[o, a, 0] * qx
                    + op_cartesian[o, a, 1] * qy
                    + op_cartesian[o, a, 2] * qz
                )
                s[a] = (
                    op_cartesian[o, a, 0] * dx
                    + op_cartesian[o, a, 1] * dy
                    + op_cartesian[o, a, 2] * dz
                ) * trajectory_slope[step]
                d[a] = (
                    g[0] * reciprocal[0, a]
                    + g[1] * reciprocal[1, a]
                    + g[2] * reciprocal[2, a]
                    - s[a] * offset_energy[step]
                )
            e = bin_of_step[step]
            w = solid_angle[p] * weight_step[step]
            out_weight[v, e] += w
            out_flat[v, e] += solid_angle[p] * distance[p] * time_step[step]
            product[0] = q_in[0] * q_in[0]
            product[1] = q_in[1] * q_in[1]
            product[2] = q_in[2] * q_in[2]
            product[3] = q_in[1] * q_in[2]
            product[4] = q_in[0] * q_in[2]
            product[5] = q_in[0] * q_in[1]
            out_q2[v, e] += w * (product[0] + product[1] + product[2])
            for a in range(3):
                out_first[v, e, a] += w * d[a]
                out_slope[v, e, a] += w * s[a]
            out_slope_second[v, e, 0] += w * s[0] * s[0]
            out_slope_second[v, e, 1] += w * s[1] * s[1]
            out_slope_second[v, e, 2] += w * s[2] * s[2]
            out_slope_second[v, e, 3] += w * s[1] * s[2]
            out_slope_second[v, e, 4] += w * s[0] * s[2]
            out_slope_second[v, e, 5] += w * s[0] * s[1]
            out_second[v, e, 0] += w * d[0] * d[0]
            out_second[v, e, 1] += w * d[1] * d[1]
            out_second[v, e, 2] += w * d[2] * d[2]
            out_second[v, e, 3] += w * d[1] * d[2]
            out_second[v, e, 4] += w * d[0] * d[2]
            out_second[v, e, 5] += w * d[0] * d[1]
            for c in range(n_atoms):
                W = 0.5 * (
                    displacement[c, 0] * product[0]
                    + displacement[c, 1] * product[1]
                    + displacement[c, 2] * product[2]
                    + 2
                    * (
                        displacement[c, 3] * product[3]
                        + displacement[c, 4] * product[4]
                        + displacement[c, 5] * product[5]
                    )
                )
                dw[c] = amplitude[c] * np.exp(-W)
            at = 0
            for c in range(n_atoms):
                z = w * dw[c] * dw[c]
                for i in range(6):
                    out_tensor[v, e, at + i] += z * product[i]
                at += 6
                for m in range(c + 1, n_atoms):
                    angle = (
                        2
                        * np.pi
                        * (
                            h[0] * (positions[c, 0] - positions[m, 0])
                            + h[1] * (positions[c, 1] - positions[m, 1])
                            + h[2] * (positions[c, 2] - positions[m, 2])
                        )
                    )
                    re = w * dw[c] * dw[m] * np.cos(angle)
                    im = w * dw[c] * dw[m] * np.sin(angle)
                    for i in range(6):
                        out_tensor[v, e, at + i] += re * product[i]
                        out_tensor[v, e, at + 6 + i] += im * product[i]
                    at += 12


def compute_exposure(
    *,
    crystal: Crystal,
    voxels: VoxelMap,
    instrument: Instrument,
    energy: EnergyAxis,
    ei_meV: float,
    crystal_to_lab: FloatArray,
    displacement: FloatArray,
    reduced: bool = False,
    histogram_edges_meV: FloatArray | None = None,
    skip: NDArray[np.bool_] | None = None,
    crossings: Crossings | None = None,
) -> Exposure:
    """Exposure of one orientation for a proton charge of 1 coulomb.

    Parameters
    ----------
    crystal, voxels, instrument, energy
        What is measured, onto what, with what. Masked pixels count nowhere.
    ei_meV : float
        Incident energy.
    crystal_to_lab : (3, 3)
        From ``goniometer.crystal_to_lab``.
    displacement : (atoms, 3, 3)
        Mean-square displacement tensors U, angstrom^2: ``W = Q.U.Q / 2``.
    reduced : bool
        For input already divided by k_f/k_i and charge: weights without them.
    histogram_edges_meV : (bins + 1,), optional
        Bins of histogram input in place of the sub-steps.
    skip : (pixels, steps) bool, optional
        Pairs that count nowhere: masked or unknown bins of a histogram, steps as in the view.
    crossings : Crossings, optional
        From ``find_crossings`` with the same view and voxels: pairs outside every tube are then
        passed over. The sums are the same to the last bit.

    Returns
    -------
    Exposure
        Energy bins are cut to those reachable with ``ei_meV``.
    """
    view = view_pixels(
        crystal=crystal,
        instrument=instrument,
        energy=energy,
        ei_meV=ei_meV,
        crystal_to_lab=crystal_to_lab,
        histogram_edges_meV=histogram_edges_meV,
    )
    edges = view.step_edges_meV
    slowness = 1e3 / (METRE_PER_SECOND_PER_SQRT_MEV * np.sqrt(ei_meV - edges))  # ms per metre
    time_step = np.diff(slowness)
    if reduced:
        weight_step = np.diff(edges)
        time_step = time_step * wave_vector(ei_meV) / view.kf
    else:
        weight_step = np.diff(edges) * view.kf / wave_vector(ei_meV)
    shape = (voxels.n_voxels, energy.reachable_bins(ei_meV))
    out = Exposure(
        weight=np.zeros(shape),
        flat=np.zeros(shape),
        q_squared=np.zeros(shape),
        tensor=np.zeros((*shape, tensor_reals(crystal.n_atoms))),
        first=np.zeros((*shape, 3)),
        second=np.zeros((*shape, 6)),
        slope=np.zeros((*shape, 3)),
        slope_second=np.zeros((*shape, 6)),
    )
    U = np.asarray(displacement)
    packed = np.stack(
        [U[:, 0, 0], U[:, 1, 1], U[:, 2, 2], U[:, 1, 2], U[:, 0, 2], U[:, 0, 1]], axis=1
    )
    _accumulate(
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
        instrument.distance_m,
        instrument.solid_angle_sr,
        np.ascontiguousarray(crystal.reciprocal),
        1 / (2 * MEV_PER_K2 * view.kf),
        weight_step,
        time_step,
        0.5 * (edges[1:] + edges[:-1]) - energy.centres_meV[view.bin_of_step],
        voxels.divisions,
        voxels.voxel,
        voxels.operation,
        voxels.operation_fractional.astype(np.float64),
        voxels.operation_cartesian,
        voxels.centre_fractional,
        np.ascontiguousarray(crystal.positions),
        crystal.scattering_length / np.sqrt(crystal.masses_u),
        packed,
        out.weight,
        out.flat,
        out.q_squared,
        out.tensor,
        out.first,
        out.second,
        out.slope,
        out.slope_second,
    )
    return out
