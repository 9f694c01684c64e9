"""What one orientation would see: exposure, coverage tensor and moments of every voxel.

Geometry alone decides these sums; they scale with proton charge and add over orientations, which
makes the folded intensity of any force constants exact without keeping events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray
from simulations.constants import METRE_PER_SECOND_PER_SQRT_MEV
from simulations.constants import NEUTRON_MEV_A2 as MEV_PER_K2
from simulations.crystal import Crystal
from simulations.errors import InputError
from simulations.fold.crossings import Crossings
from simulations.fold.pixel_view import PixelView, grid_index
from simulations.fold.voxel_map import MergedVoxels, VoxelMap
from simulations.instrument import (
    Instrument,
    wave_vector,
)
from simulations.kernels import njit
from simulations.reciprocal import EnergyAxis

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

    def thinned(self, stride: int) -> Self:
        """Nothing exposed but one of so many energy bins: for rates there alone."""
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

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, to be stored; ``from_arrays`` of the form takes them back."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, weakref_slot=True)
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
            raise InputError(f"tensor has {n_reals} components; expected 6 N^2 for N atoms")
        return cls(**arrays)

    def arrays(self) -> dict[str, NDArray[Any]]:
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
            raise InputError(
                f"exposure has {self.tensor.shape[-1]} reals of T; expected {expected}, those of "
                f"{crystal.n_atoms} atoms. Compute it for this crystal."
            )
        return Coverage(self.tensor, *_NO_IMAGES)

    def __add__(self, other: Exposure) -> Exposure:
        """Exposure of both together."""
        return Exposure(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def thinned(self, stride: int) -> Exposure:
        """Nothing exposed but one of so many energy bins: for rates there alone."""
        weight = np.zeros_like(self.weight)
        weight[:, ::stride] = self.weight[:, ::stride]
        return replace(self, weight=weight)

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
        raise InputError(f"arrays are {sorted(arrays)}; expected {sorted(names)}")


def check_array(name: str, array: NDArray, shape: tuple[int, ...], kind: type[np.generic]) -> None:
    """Refuse an array of another shape or kind than expected with a ValueError."""
    if array.shape != shape or array.dtype != np.dtype(kind):
        raise InputError(
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


class _Rays(NamedTuple):
    """Where the pixels look, as the kernel reads it."""

    direction: FloatArray  # (pixels, 3)
    fractional: FloatArray  # (pixels, 3), directions in units of the reciprocal lattice
    beam: FloatArray  # (3,)
    beam_fractional: FloatArray  # (3,)
    masked: NDArray[np.bool_]  # (pixels,)
    distance: FloatArray  # (pixels,) metres
    solid_angle: FloatArray  # (pixels,) sr


class _Steps(NamedTuple):
    """Sub-steps of energy transfer, each of shape (steps,)."""

    kf: FloatArray
    bin_of_step: NDArray[np.int64]
    trajectory_slope: FloatArray
    weight_step: FloatArray
    time_step: FloatArray
    offset_energy: FloatArray


class _Passed(NamedTuple):
    """Pairs of pixel and step that are passed over."""

    skip: NDArray[np.bool_]  # (pixels, steps), or empty
    groups: NDArray[np.uint64]  # of ``Crossings``, or empty
    shift: int


class _Tubes(NamedTuple):
    """The voxel map."""

    divisions: NDArray[np.int64]
    voxel: NDArray[np.int32]
    operation: NDArray[np.int16]
    operation_fractional: FloatArray
    operation_cartesian: FloatArray
    centre: FloatArray
    reciprocal: FloatArray


class _Atoms(NamedTuple):
    """What scatters."""

    positions: FloatArray  # (atoms, 3) fractional
    amplitude: FloatArray  # (atoms,) b / sqrt(m)
    displacement: FloatArray  # (atoms, 6) packed as ``PAIRS``


@njit(cache=True, nogil=True)
def _accumulate(rays, steps, passed, tubes, atoms, sums):
    """Add all (pixel, sub-step) pairs of a pixel range; see ``expose``."""
    direction, fractional, beam, beam_fractional, masked, distance, solid_angle = rays
    kf, bin_of_step, trajectory_slope, weight_step, time_step, offset_energy = steps
    skip, groups, shift = passed
    divisions, voxel, operation, op_fractional, op_cartesian, centre, reciprocal = tubes
    positions, amplitude, displacement = atoms
    out_weight, out_flat, out_q2, out_tensor, out_first, out_second, out_slope, out_slope_second = (
        sums
    )
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


def expose(
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
) -> Exposure:
    """Exposure of one orientation for a proton charge of 1 coulomb.

    Parameters
    ----------
    view : PixelView
        What the pixels look at. Masked pixels count nowhere.
    crystal, voxels, instrument, energy
        What is measured, onto what, with what.
    ei_meV : float
        Incident energy.
    displacement : (atoms, 3, 3)
        Mean-square displacement tensors U, angstrom^2: ``W = Q.U.Q / 2``.
    reduced : bool
        For input already divided by k_f/k_i and charge: weights without them.
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
        _Rays(
            direction=view.direction,
            fractional=view.fractional,
            beam=view.beam,
            beam_fractional=view.beam_fractional,
            masked=view.masked,
            distance=instrument.distance_m,
            solid_angle=instrument.solid_angle_sr,
        ),
        _Steps(
            kf=view.kf,
            bin_of_step=view.bin_of_step,
            trajectory_slope=1 / (2 * MEV_PER_K2 * view.kf),
            weight_step=weight_step,
            time_step=time_step,
            offset_energy=0.5 * (edges[1:] + edges[:-1]) - energy.centres_meV[view.bin_of_step],
        ),
        _Passed(
            skip=np.zeros((0, 0), dtype=np.bool_) if skip is None else skip,
            groups=np.zeros(0, dtype=np.uint64) if crossings is None else crossings.groups,
            shift=0 if crossings is None else crossings.shift,
        ),
        _Tubes(
            divisions=voxels.divisions,
            voxel=voxels.voxel,
            operation=voxels.operation,
            operation_fractional=voxels.operation_fractional.astype(np.float64),
            operation_cartesian=voxels.operation_cartesian,
            centre=voxels.centre_fractional,
            reciprocal=np.ascontiguousarray(crystal.reciprocal),
        ),
        _Atoms(
            positions=np.ascontiguousarray(crystal.positions),
            amplitude=crystal.scattering_length / np.sqrt(crystal.masses_u),
            displacement=packed,
        ),
        tuple(getattr(out, f.name) for f in fields(out)),
    )
    return out
