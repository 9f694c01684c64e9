"""I(cell; phi): the folded one-phonon intensity of any force constants, from exposure sums.

``lambda = sum over voxels of sum_s (hbar^2 / 2 E_s) e_s^dagger T e_s (n_s + 1) R`` with the
energies at the centroid of each voxel's exposure (first moment), the width of the voxel (second
moment) and the slope of the trajectories with its spread (``R((E - w)/(1 - g))/|1 - g|`` at the
mean of g plus and minus its standard deviation); k_f, Q^2, occupation and width are taken at the
energy at which the neutrons measured in a cell were scattered. Approximations: shifts are linear in
the group velocity, eigenvectors are those of the voxel's grid point, the Debye-Waller factor
inside T is that of the reference force constants, and only the energy-loss side is modelled.
Imaginary modes of a small pocket are counted by the rule of `simulations.scattering.Pockets`.
"""

from __future__ import annotations

from math import erf, exp, sqrt
from typing import NamedTuple

import numpy as np
from numba import prange

from simulations.arrays import ComplexArray, FloatArray
from simulations.constants import BOLTZMANN_MEV_PER_K, HBAR2_OVER_U, NEUTRON_MEV_A2
from simulations.dynamics import ForceConstantModel, modes
from simulations.errors import InputError
from simulations.fold import (
    Form,
    MergedVoxels,
    VoxelExposure,
    VoxelMap,
    damp,
    form_for,
)
from simulations.instrument import Resolution
from simulations.kernels import njit
from simulations.likelihood.drift import Drift
from simulations.likelihood.forward_model import Derived
from simulations.likelihood.mode_state import ModeState
from simulations.likelihood.q_spread import NO_SPREAD, BlurredMoments
from simulations.likelihood.trajectory_arguments import QBlur
from simulations.prior import BoxPrior
from simulations.reciprocal import EnergyAxis
from simulations.scattering import Pockets, count_mode, damped_line

LOWEST_ENERGY_MEV = 0.3  # modes below count as lying here: the weight 1/E has no limit at Gamma
OFF_AXIS_INVERSE_A = np.array([3.1e-4, 7.3e-4, 5.7e-4])
RANK_SHARE = 1e-6  # of w Q^2 that may be left out of an image
STABLE_AT_VOXELS = 60  # drawn sets must have no imaginary mode at about so many of them
STABLE_WITHIN_MEV = 0.5  # that lies deeper than this


class FoldedPhonons:
    """One-phonon ``ForwardModel`` of the folded path; see the module's head.

    Parameters
    ----------
    model : ForceConstantModel
        Free parameters and fixed part.
    voxels : VoxelMap or MergedVoxels
        Where exposure is kept.
    energy : EnergyAxis
        Bins of the path.
    ei_meV, temperature_K : float
        Incident energy and sample temperature.
    resolution : Resolution
        Gaussian width at every energy transfer.
    reach_sigmas : float
        Widths of a line beyond which it counts nothing; less is faster.
    pockets : Pockets or None
        How imaginary modes count; None: the crystal has none.
    q_blur : QBlur
        What blurs Q, approximately, see ``BlurredMoments``.
    """

    name = "one-phonon scattering"

    def __init__(
        self,
        *,
        model: ForceConstantModel,
        voxels: VoxelMap | MergedVoxels,
        energy: EnergyAxis,
        ei_meV: float,
        temperature_K: float,
        resolution: Resolution,
        reach_sigmas: float = 6.0,
        pockets: Pockets | None = None,
        q_blur: QBlur = NO_SPREAD,
    ) -> None:
        self.model = model
        self.pockets = pockets
        self._reach = reach_sigmas
        self.parameter_names = model.names
        self.parameter_units = ("eV/angstrom^2",) * len(model.names)
        self.form: Form = form_for(model.crystal)
        self.voxels = voxels
        self.energy = energy
        self.n_energy = energy.reachable_bins(ei_meV)
        self.temperature_K = temperature_K
        centres = energy.centres_meV[: self.n_energy]
        self._blurred = BlurredMoments(q_blur, ei_meV, centres)
        step = 1e-3 * ei_meV
        self._sigma_slope = (
            resolution.sigma_meV(centres + step, ei_meV)
            - resolution.sigma_meV(centres - step, ei_meV)
        ) / (2 * step)
        self._ei = float(ei_meV)
        # Along a pixel's trajectory dQ^2/dE = -(k_f^2 - k_i^2 + Q^2) / (2 c k_f^2), E = c k^2.
        final = ei_meV - centres
        self._q_squared_slope = (centres / (2 * final * NEUTRON_MEV_A2), -1 / (2 * final))
        self._voxel_order = np.argsort(voxels.path_bin, kind="stable")
        self._bin_start = np.searchsorted(
            voxels.path_bin[self._voxel_order], np.arange(voxels.n_path_bins + 1)
        )
        self.sigma_meV = resolution.sigma_meV(energy.centres_meV[: self.n_energy], ei_meV)
        # Off the symmetry axes by a hair, in a direction of no symmetry: eigenvectors of exactly
        # degenerate branches would be arbitrary, and their group velocities with them.
        q = voxels.centre_cartesian + OFF_AXIS_INVERSE_A
        self._fixed, basis = model.matrices(q)
        n = model.n_modes
        # Rows (i, k), so that whole blocks are multiplied at once.
        self._basis_rows = np.ascontiguousarray(basis.transpose(0, 2, 1, 3)).reshape(len(q), -1, n)
        self._uncoupled = np.zeros((0, n, n, 0), dtype=np.complex128)
        step = 1e-4
        slopes = []
        for axis in np.eye(3):
            up = model.matrices(q + step * axis)
            down = model.matrices(q - step * axis)
            slopes.append(((up[0] - down[0]) / (2 * step), (up[1] - down[1]) / (2 * step)))
        self._fixed_slope = np.stack([s[0] for s in slopes], axis=1)
        # (K, voxels * 3 * n * n): a sum over constants reads it once, in order.
        self._basis_slope = np.ascontiguousarray(
            np.stack([s[1] for s in slopes], axis=1).transpose(2, 0, 1, 3, 4)
        ).reshape(len(model.names), -1)

    @property
    def deepest_meV(self) -> float:
        """How far below zero modes of a set may lie: as those of the reference, or a rounding."""
        if self.pockets is None:
            return STABLE_WITHIN_MEV
        return max(STABLE_WITHIN_MEV, self.pockets.depth_meV)

    def prepare(self, phi: FloatArray) -> ModeState:
        """Diagonalise every voxel at ``phi`` (K,), eV/angstrom^2."""
        phi = np.asarray(phi, dtype=float)
        n = self.model.n_modes
        free = phi @ self._basis_rows.reshape(-1, len(phi), n)
        square, vectors = np.linalg.eigh(self._fixed + free.reshape(self._fixed.shape))
        energy = np.sign(square) * np.sqrt(np.abs(square))
        along = (phi @ self._basis_slope).reshape(self._fixed_slope.shape)
        turned = (self._fixed_slope + along) @ vectors[:, None]
        diagonal = np.einsum("vis,vais->vsa", vectors.conj(), turned).real
        velocity = diagonal / (2 * np.maximum(np.abs(energy), LOWEST_ENERGY_MEV))[..., None]
        return ModeState(
            values=phi,
            energy=energy,
            vectors=vectors,
            velocity=velocity,
            basis_rows=self._basis_rows,
        )

    def rates(
        self,
        exposure: VoxelExposure,
        state: ModeState,
        *,
        log_width: float = 0.0,
        gradient: bool = True,
        drift: Drift | None = None,
        off: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Phonon rate of every path cell for one exposure, with scale 1.

        Both forms of exposure give the same; images are made into T cell by cell.

        Parameters
        ----------
        exposure : VoxelExposure
        state : ModeState
        log_width : float
        gradient : bool
        drift : Drift, optional
            Of the same neutrons: how they move when the set-up is off. Approximate: every voxel of
            a path bin takes the mean move of its cell, and the coverage tensor stays.
        off : (G,) float64, optional
            How far the set-up is off; None: not at all.

        Returns
        -------
        rate : (path_bins, energy_bins) float64
            Expected counts per unit scale: barn/meV/sr x exposure.
        jacobian : (path_bins, energy_bins, K + 1 [+ G]) float64
            Derivatives by the parameters, by the logarithm of the resolution width and, with a
            ``drift``, by how far the set-up is off; without components when ``gradient`` is False.

        Raises
        ------
        ValueError
            If the exposure is of other voxels, energy bins or another number of atoms.
        """
        cells = (self.voxels.n_voxels, self.n_energy)
        if exposure.weight.shape != cells:
            raise InputError(
                f"exposure has {exposure.weight.shape} voxels x energy bins; expected {cells}, "
                "those of the model. Compute it for the same path and incident energy."
            )
        shape = (self.voxels.n_path_bins, self.energy.n_bins)
        rate = np.zeros(shape)
        jacobian = np.zeros((*shape, len(state.values) + 1 if gradient else 0))
        along = np.zeros((*shape, 4 if gradient and drift is not None else 0))
        moments, shift = self._blurred(exposure.moments), np.zeros(self.n_energy)
        if drift is not None and off is not None and np.any(off):
            moments = drift.moved(moments, off, self.voxels.path_bin)
            shift = drift.shift[: self.n_energy] @ off
        _rates(
            self._voxel_order,
            self._bin_start,
            _Moments(
                weight=moments.weight,
                first=moments.first,
                second=moments.second,
                slope=moments.slope,
                slope_second=moments.slope_second,
                q_squared=moments.q_squared,
            ),
            exposure.coverage(self.model.crystal),
            _Modes(
                energy=state.energy,
                vectors=state.vectors,
                coupling=state.coupling if gradient else self._uncoupled,
                velocity=state.velocity,
            ),
            _Lines(
                centres=self.energy.centres_meV[: self.n_energy],
                step=self.energy.step_meV,
                sigma=self.sigma_meV * np.exp(log_width),
                sigma_slope=self._sigma_slope * np.exp(log_width),
                ei=self._ei,
                thermal=self.temperature_K * BOLTZMANN_MEV_PER_K,
                q_slope_base=self._q_squared_slope[0],
                q_slope_rate=self._q_squared_slope[1],
                reach=self._reach,
                shift=shift,
            ),
            gradient,
            None if self.pockets is None else (self.pockets.floor_meV, self.pockets.damped),
            rate,
            jacobian,
            along,
        )
        if drift is None or not gradient:
            return rate, jacobian
        by_off = np.einsum("pega,pea->peg", drift.mean, along[..., :3])
        by_off += along[..., 3:] * drift.shift
        return rate, np.concatenate([jacobian, by_off], axis=-1)

    def derived(self, phi: FloatArray, covariance: FloatArray) -> tuple[Derived, ...]:
        """On-site constants, a third of their trace: one for each kind of site."""
        onsite = self.model.onsite(phi)
        slope = self.model.onsite_gradient()
        derived: list[Derived] = []
        seen: set[tuple[str, float]] = set()
        for atom, symbol in enumerate(self.model.crystal.symbols):
            value = float(np.trace(onsite[atom]) / 3)
            if (symbol, round(value, 9)) in seen:
                continue
            seen.add((symbol, round(value, 9)))
            by_parameter = np.einsum("kaa->k", slope[:, atom]) / 3
            sigma = float(np.sqrt(by_parameter @ covariance @ by_parameter))
            name, unit = f"on-site {symbol}", "eV/angstrom^2"
            derived.append(Derived(name=name, unit=unit, value=value, sigma=sigma))
        return tuple(derived)

    def branches(self, hkl: FloatArray, phi: FloatArray) -> FloatArray:
        """Phonon energies (points, n) at points (points, 3), meV, ascending; imaginary below 0."""
        q = hkl @ self.model.crystal.conventional_reciprocal
        return modes(self.model, q, phi)[0]

    def draw(self, prior: BoxPrior, n: int, rng: np.random.Generator) -> FloatArray:
        """Sets (n, K) of the box with a stable lattice, looked at in some of the voxels.

        Of a crystal with pockets: sets with none that are deeper.
        """
        q = self.voxels.centre_cartesian[:: max(1, self.voxels.n_voxels // STABLE_AT_VOXELS)]
        return prior.sample(n, rng, self.model, q, tolerance_meV=self.deepest_meV).values


@njit(cache=True)
def _bin_average(u, half, sigma):
    """Gaussian averaged over a bin centred at u, and its derivatives by u and by sigma."""
    a = (u + half) / (sigma * sqrt(2.0))
    b = (u - half) / (sigma * sqrt(2.0))
    value = (erf(a) - erf(b)) / (4.0 * half)
    ga = exp(-a * a)
    gb = exp(-b * b)
    norm = 1.0 / (sigma * sqrt(2.0 * np.pi) * 2.0 * half)
    by_u = (ga - gb) * norm
    by_sigma = -((u + half) * ga - (u - half) * gb) * norm / sigma
    return value, by_u, by_sigma


class _Moments(NamedTuple):
    """Exposure of every (voxel, energy bin) without T, as in ``Exposure``."""

    weight: FloatArray
    first: FloatArray
    second: FloatArray
    slope: FloatArray
    slope_second: FloatArray
    q_squared: FloatArray


class _Modes(NamedTuple):
    """Modes of every voxel, as in ``ModeState``."""

    energy: FloatArray
    vectors: ComplexArray
    coupling: ComplexArray
    velocity: FloatArray


class _Lines(NamedTuple):
    """How a line spreads over the energy axis, meV."""

    centres: FloatArray  # (bins,)
    step: float
    sigma: FloatArray  # (bins,) of the resolution
    sigma_slope: FloatArray  # (bins,) d sigma / d energy
    ei: float
    thermal: float  # k_B T
    q_slope_base: FloatArray  # (bins,) dQ^2/dE = base + rate Q^2 along a trajectory
    q_slope_rate: FloatArray  # (bins,)
    reach: float  # widths, beyond which a line counts nothing
    shift: FloatArray  # (bins,) of the measured energy, where the set-up is off


@njit(cache=True, error_model="numpy")
def _amplitudes(sums, atom, out, rank):
    """Add rows to ``out``, from ``rank`` on, whose outer products sum to an image's part of T.

    ``sums`` is w and w QQ (packed xx yy zz yz xz xy) of the image. An image within a voxel has
    almost one Q: one row, unless what is left of its trace is above ``RANK_SHARE``. Returns the
    number of rows.
    """
    rest = np.empty((3, 3))
    for i in range(6):
        a = i if i < 3 else (1 if i == 3 else 0)
        b = i if i < 3 else (1 if i == 5 else 2)
        rest[a, b] = sums[1 + i]
        rest[b, a] = sums[1 + i]
    left = RANK_SHARE * (rest[0, 0] + rest[1, 1] + rest[2, 2])
    u = np.empty(3)
    for _ in range(3):
        if rest[0, 0] + rest[1, 1] + rest[2, 2] <= left:
            break
        k = 0
        for a in range(1, 3):
            if rest[a, a] > rest[k, k]:
                k = a
        size = sqrt(rest[k, k])
        for a in range(3):
            u[a] = rest[a, k] / size
        for a in range(3):
            for b in range(3):
                rest[a, b] -= u[a] * u[b]
        for c in range(len(atom)):
            for a in range(3):
                out[rank, 3 * c + a] = atom[c] * u[a]
        rank += 1
    return rank


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})
def _rates_of_bin(
    path_bin, voxel_order, bin_start, moments, coverage, branches, lines, gradient, pockets,
    out_rate, out_jacobian, out_along,
):  # fmt: skip
    """Fill the rates of one path bin; see ``_rates``."""
    weight, first, second, slope, slope_second, q_squared = moments
    tensor, image_start, image, image_sums, image_phase, displacement = coverage
    energy, vectors, coupling, velocity = branches
    (
        centres, step, sigma, sigma_slope, ei, thermal, q_slope_base, q_slope_rate, reach, shift,
    ) = lines  # fmt: skip
    moved = out_along.shape[2] > 0
    n_e = weight.shape[1]
    n = energy.shape[1]
    n_atoms = n // 3
    by_image = len(image_start) > 0
    n_k = coupling.shape[3]
    half = 0.5 * step
    shifted = np.zeros(n)
    f = np.zeros(n)
    df = np.zeros(n)  # d f / d (E^2)
    dw = np.zeros(n)
    active = np.zeros(n, dtype=np.bool_)
    # Real and imaginary parts apart, innermost axes contiguous: the compiler makes vectors.
    vector_re, vector_im = np.empty((n, n)), np.empty((n, n))  # (mode, component)
    tensor_re, tensor_im = np.empty((n, n)), np.empty((n, n))
    te_re, te_im = np.empty(n), np.empty(n)
    row = np.empty(n_k)
    atom = np.zeros(n_atoms, dtype=np.complex128)
    amplitude = np.empty((3, n), dtype=np.complex128)  # of one image
    most = 0
    for place in range(bin_start[path_bin], bin_start[path_bin + 1] if by_image else 0):
        for e in range(n_e):
            cell = voxel_order[place] * n_e + e
            most = max(most, image_start[cell + 1] - image_start[cell])
    ray_re, ray_im = np.empty((3 * most, n)), np.empty((3 * most, n))
    for place in range(bin_start[path_bin], bin_start[path_bin + 1]):
        v = voxel_order[place]
        for a in range(n):
            for s in range(n):
                vector_re[s, a] = vectors[v, a, s].real
                vector_im[s, a] = vectors[v, a, s].imag
        for e in range(n_e):
            D = weight[v, e]
            if D <= 0.0:
                continue
            n_active = 0
            dx, dy, dz = first[v, e, 0] / D, first[v, e, 1] / D, first[v, e, 2] / D
            # Most that places and slopes within the voxel do to a line of unit velocity.
            places = second[v, e, 0] + second[v, e, 1] + second[v, e, 2]
            slopes = slope_second[v, e, 0] + slope_second[v, e, 1] + slope_second[v, e, 2]
            placed, sloped = sqrt(max(places, 0.0) / D), sqrt(2.0 * max(slopes, 0.0) / D)
            for s in range(n):
                vx, vy, vz = velocity[v, s, 0], velocity[v, s, 1], velocity[v, s, 2]
                E = energy[v, s] + vx * dx + vy * dy + vz * dz
                if pockets is not None:
                    signed = E
                    live, size, wide = count_mode(E, pockets[0], pockets[1])
                    flat = size != abs(E)  # the energy moves with nothing
                    shifted[s] = E
                    if not live or wide > 0.0:
                        f[s] = 0.0
                        df[s] = 0.0
                        dw[s] = 0.0
                        active[s] = wide > 0.0
                        if active[s]:
                            value, by_size = damped_line(
                                centres[e], size, sqrt(sigma[e] ** 2 + step * step / 12),
                                thermal,
                            )  # fmt: skip
                            f[s] = 0.5 * HBAR2_OVER_U * value
                            if not flat:
                                df[s] = -0.25 * HBAR2_OVER_U * by_size / size
                            n_active += 1
                        continue
                    if flat:
                        E = size
                        vx, vy, vz = 0.0, 0.0, 0.0
                if E < LOWEST_ENERGY_MEV:
                    E = LOWEST_ENERGY_MEV
                shifted[s] = E
                if pockets is not None:
                    shifted[s] = signed
                f[s] = 0.0
                df[s] = 0.0
                dw[s] = 0.0
                active[s] = False
                speed = sqrt(vx * vx + vy * vy + vz * vz)
                jac = 1.0 + speed * sloped
                away = abs(centres[e] - shift[e] - E)
                # The width is that of the true energy, which lies between here and the line.
                most = sigma[e] + away * abs(sigma_slope[e])
                if away > reach * (jac * most + speed * placed) + jac * half:
                    continue
                g = (vx * slope[v, e, 0] + vy * slope[v, e, 1] + vz * slope[v, e, 2]) / D
                spread = (
                    vx * vx * (second[v, e, 0] / D - dx * dx)
                    + vy * vy * (second[v, e, 1] / D - dy * dy)
                    + vz * vz * (second[v, e, 2] / D - dz * dz)
                    + 2 * vy * vz * (second[v, e, 3] / D - dy * dz)
                    + 2 * vx * vz * (second[v, e, 4] / D - dx * dz)
                    + 2 * vx * vy * (second[v, e, 5] / D - dx * dy)
                )
                g_spread = sqrt(
                    max(
                        (
                            vx * vx * slope_second[v, e, 0]
                            + vy * vy * slope_second[v, e, 1]
                            + vz * vz * slope_second[v, e, 2]
                            + 2 * vy * vz * slope_second[v, e, 3]
                            + 2 * vx * vz * slope_second[v, e, 4]
                            + 2 * vx * vy * slope_second[v, e, 5]
                        )
                        / D
                        - g * g,
                        0.0,
                    )
                )
                # Images of a cell are crossed by trajectories of other slopes: two of them
                # stand for mean and spread.
                for side in (-1.0, 1.0):
                    jac = 1.0 - (g + side * g_spread)
                    if abs(jac) < 0.05:
                        jac = 0.05 if jac >= 0 else -0.05
                    positional = max(spread, 0.0) / (jac * jac)
                    u = (centres[e] - shift[e] - E) / jac
                    # Energy at which the neutrons measured here were scattered: the
                    # resolution's share of the distance u. Rate, width and occupation
                    # are those of that energy.
                    share = sigma[e] * sigma[e] / (sigma[e] * sigma[e] + positional)
                    lost = centres[e] - share * u
                    if lost < LOWEST_ENERGY_MEV:
                        lost = LOWEST_ENERGY_MEV
                    if lost > 0.995 * ei:
                        lost = 0.995 * ei
                    true_sigma = sigma[e] + (lost - centres[e]) * sigma_slope[e]
                    width = sqrt(true_sigma * true_sigma + positional)
                    if abs(u) > reach * width + half:
                        continue
                    R, by_u, by_sigma = _bin_average(u, half, width)
                    x = exp(-lost / thermal) if thermal > 0 else 0.0
                    occupation = 1.0 / (1.0 - x)  # n + 1
                    by_lost = -1.0 / lost - 0.5 / (ei - lost)
                    if thermal > 0:
                        by_lost -= occupation * x / thermal
                    change = lost - centres[e]
                    mean_q_squared = q_squared[v, e] / D
                    q_factor = 1.0 + change * (
                        (q_slope_base[e] + mean_q_squared * q_slope_rate[e]) / mean_q_squared
                    )
                    if q_factor < 0.2:
                        q_factor = 0.2
                    elif q_factor > 5.0:
                        q_factor = 5.0
                    by_lost += (
                        (q_slope_base[e] + mean_q_squared * q_slope_rate[e])
                        / mean_q_squared
                        / q_factor
                    )
                    strength = (
                        0.5
                        * HBAR2_OVER_U
                        / lost
                        * occupation
                        / abs(jac)
                        * sqrt((ei - lost) / (ei - centres[e]))
                        * q_factor
                    )
                    f[s] += 0.5 * strength * R
                    by_width = by_sigma * true_sigma / width
                    by_shifted = (
                        strength * ((R * by_lost + by_width * sigma_slope[e]) * share - by_u) / jac
                    )
                    df[s] += by_shifted / (4.0 * E)
                    dw[s] += 0.5 * strength * by_width * sigma[e]
                    active[s] = True
                if pockets is not None:
                    if flat:
                        df[s] = 0.0
                n_active += active[s]
            if n_active == 0:
                continue
            rank = 0
            if by_image:
                for entry in range(image_start[v * n_e + e], image_start[v * n_e + e + 1]):
                    damp(image_sums[entry], image_phase[image[entry]], displacement, atom)
                    rays = _amplitudes(image_sums[entry], atom, amplitude, 0)
                    for p in range(rays):
                        for a in range(n):
                            ray_re[rank, a] = amplitude[p, a].real
                            ray_im[rank, a] = amplitude[p, a].imag
                        rank += 1
            else:
                at = 0
                for c in range(n_atoms):
                    for m in range(c, n_atoms):
                        for i in range(6):
                            a = i if i < 3 else (1 if i == 3 else 0)
                            b = i if i < 3 else (1 if i == 5 else 2)
                            re = tensor[v, e, at + i]
                            im = tensor[v, e, at + 6 + i] if m > c else 0.0
                            tensor_re[3 * c + a, 3 * m + b] = re
                            tensor_re[3 * c + b, 3 * m + a] = re
                            tensor_re[3 * m + b, 3 * c + a] = re
                            tensor_re[3 * m + a, 3 * c + b] = re
                            tensor_im[3 * c + a, 3 * m + b] = im
                            tensor_im[3 * c + b, 3 * m + a] = im
                            tensor_im[3 * m + b, 3 * c + a] = -im
                            tensor_im[3 * m + a, 3 * c + b] = -im
                        at += 6 if m == c else 12
            total = 0.0
            row[:] = 0.0
            for i in range(n):
                if not active[i]:
                    continue
                M = 0.0
                if by_image:  # T e is a sum over rays
                    for a in range(n):
                        te_re[a] = 0.0
                        te_im[a] = 0.0
                    for p in range(rank):
                        re, im = 0.0, 0.0
                        for a in range(n):
                            re += vector_re[i, a] * ray_re[p, a] + vector_im[i, a] * ray_im[p, a]
                            im += vector_im[i, a] * ray_re[p, a] - vector_re[i, a] * ray_im[p, a]
                        M += re * re + im * im
                        for a in range(n if gradient else 0):
                            te_re[a] += re * ray_re[p, a] - im * ray_im[p, a]
                            te_im[a] += re * ray_im[p, a] + im * ray_re[p, a]
                else:
                    for a in range(n):
                        re, im = 0.0, 0.0
                        for b in range(n):
                            re += (
                                tensor_re[a, b] * vector_re[i, b]
                                - tensor_im[a, b] * vector_im[i, b]
                            )
                            im += (
                                tensor_re[a, b] * vector_im[i, b]
                                + tensor_im[a, b] * vector_re[i, b]
                            )
                        te_re[a] = re
                        te_im[a] = im
                    for a in range(n):
                        M += vector_re[i, a] * te_re[a] + vector_im[i, a] * te_im[a]
                total += f[i] * M
                if not gradient:
                    continue
                out_jacobian[path_bin, e, n_k] += dw[i] * M
                if moved and shifted[i] > LOWEST_ENERGY_MEV:
                    by_energy = 2.0 * shifted[i] * df[i] * M
                    for a in range(3):
                        out_along[path_bin, e, a] += by_energy * velocity[v, i, a]
                    out_along[path_bin, e, 3] += by_energy
                for j in range(n):
                    if j == i:
                        factor = df[i]
                        re, im = M, 0.0
                    else:
                        gap = shifted[i] * shifted[i] - shifted[j] * shifted[j]
                        if pockets is not None:  # imaginary ones are negative
                            gap = shifted[i] * abs(shifted[i]) - shifted[j] * abs(shifted[j])
                        if abs(shifted[i] - shifted[j]) < 0.05:
                            factor = 0.5 * (df[i] + df[j])
                        else:
                            factor = (f[i] - f[j]) / gap
                        if not active[j]:
                            factor *= 2.0
                        re, im = 0.0, 0.0
                        for a in range(n):
                            re += vector_re[j, a] * te_re[a] + vector_im[j, a] * te_im[a]
                            im += vector_re[j, a] * te_im[a] - vector_im[j, a] * te_re[a]
                    # f1_ij (e_i^dagger B_k e_j)(e_j^dagger T e_i)
                    re *= factor
                    im *= factor
                    for k in range(n_k):
                        row[k] += coupling[v, i, j, k].real * re - coupling[v, i, j, k].imag * im
            for k in range(n_k if gradient else 0):
                out_jacobian[path_bin, e, k] += row[k]
            out_rate[path_bin, e] += total


@njit(cache=True, parallel=True)
def _rates(
    voxel_order, bin_start, moments, coverage, branches, lines, gradient, pockets, out_rate,
    out_jacobian, out_along,
):  # fmt: skip
    """Fill rate (path_bins, bins) and jacobian (..., K + 1); see ``FoldedPhonons.rates``.

    ``out_along`` (..., 4 or 0) takes the sum of dI/dE v over lines, then that of dI/dE.
    """
    for path_bin in prange(len(bin_start) - 1):
        _rates_of_bin(
            np.int64(path_bin), voxel_order, bin_start, moments, coverage, branches, lines,
            gradient, pockets, out_rate, out_jacobian, out_along,
        )  # fmt: skip
