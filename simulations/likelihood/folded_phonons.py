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

from weakref import ref

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray
from simulations.constants import BOLTZMANN_MEV_PER_K, NEUTRON_MEV_A2
from simulations.dynamics import ForceConstantModel, modes
from simulations.errors import InputError
from simulations.fold import (
    Coverage,
    Form,
    ImageExposure,
    MergedVoxels,
    VoxelExposure,
    VoxelMap,
    form_for,
)
from simulations.instrument import Resolution
from simulations.kernels import share_out
from simulations.likelihood.drift import Drift
from simulations.likelihood.folded_kernel import (
    LOWEST_ENERGY_MEV,
    Lines,
    Modes,
    Moments,
    fill_rates,
)
from simulations.likelihood.forward_model import Derived
from simulations.likelihood.inversion import Inversion
from simulations.likelihood.mode_state import ModeState
from simulations.likelihood.q_spread import NO_SPREAD, BlurredMoments
from simulations.likelihood.trajectory_arguments import QBlur
from simulations.prior import BoxPrior
from simulations.reciprocal import EnergyAxis
from simulations.scattering import Pockets

OFF_AXIS_INVERSE_A = np.array([3.1e-4, 7.3e-4, 5.7e-4])
STABLE_AT_VOXELS = 60  # drawn sets must have no imaginary mode at about so many of them
STABLE_WITHIN_MEV = 0.5  # that lies deeper than this
_UNCOUPLED = np.zeros((0, 0, 0, 1, 0), dtype=np.float32)  # no derivatives


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
    real : bool
        With real matrices where the crystal has a centre of inversion. False: as if it had none,
        for the same rates in more time.
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
        real: bool = True,
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
        fixed, basis = model.matrices(q)
        self._inversion = Inversion.of(model.crystal, fixed) if real else None
        self._latest: tuple[ref[VoxelExposure], FloatArray] | None = None
        self._fixed, basis = self._real(fixed), self._real(basis)
        n = model.n_modes
        # Rows (i, k), so that whole blocks are multiplied at once.
        self._basis_rows = np.ascontiguousarray(basis.transpose(0, 2, 1, 3)).reshape(len(q), -1, n)
        step = 1e-4
        slopes: list[tuple[NDArray, NDArray]] = []
        for axis in np.eye(3):
            up = model.matrices(q + step * axis)
            down = model.matrices(q - step * axis)
            fixed, basis = ((a - b) / (2 * step) for a, b in zip(up, down, strict=True))
            slopes.append((self._real(fixed), self._real(basis)))
        self._fixed_slope = np.stack([s[0] for s in slopes], axis=1)
        # (K, voxels * 3 * n * n): a sum over constants reads it once, in order.
        self._basis_slope = np.ascontiguousarray(
            np.stack([s[1] for s in slopes], axis=1).transpose(2, 0, 1, 3, 4)
        ).reshape(len(model.names), -1)

    def _real(self, matrices: NDArray[np.complexfloating]) -> NDArray[np.inexact]:
        """Matrices (..., n, n) in the coordinates that modes are computed in."""
        return matrices if self._inversion is None else self._inversion.real(matrices)

    def _coverage(self, exposure: VoxelExposure) -> Coverage:
        """What was seen, in these coordinates."""
        given, inversion = exposure.coverage(self.model.crystal), self._inversion
        if inversion is None:
            return given
        if not isinstance(exposure, ImageExposure):
            return given._replace(tensor=self._turned(exposure, given.tensor, inversion))
        crystal = self.model.crystal
        return given._replace(
            phases=inversion.amplitudes(crystal, exposure.reciprocal),
            displacement=inversion.mean(given.displacement),
        )

    def _turned(
        self, exposure: VoxelExposure, tensor: FloatArray, inversion: Inversion
    ) -> FloatArray:
        """Tensors in real coordinates; those of the latest exposure are kept as long as it is."""
        latest = self._latest
        if latest is not None and latest[0]() is exposure:
            return latest[1]
        self._latest = None  # not both at a time
        found = inversion.tensors(tensor, np.flatnonzero(exposure.weight > 0))
        self._latest = (ref(exposure, self._forget_turned), found)
        return found

    def _forget_turned(self, _: ref[VoxelExposure]) -> None:
        self._latest = None

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
        arguments = (
            self._voxel_order,
            self._bin_start,
            Moments(
                weight=moments.weight,
                first=moments.first,
                second=moments.second,
                slope=moments.slope,
                slope_second=moments.slope_second,
                q_squared=moments.q_squared,
            ),
            self._coverage(exposure),
            Modes(
                energy=state.energy,
                vectors=state.rows,
                coupling=state.coupling if gradient else _UNCOUPLED,
                velocity=state.velocity,
            ),
            Lines(
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
            None if self._inversion is None else True,
            rate,
            jacobian,
            along,
        )
        share_out(
            shape[0], lambda first, last: fill_rates(np.int64(first), np.int64(last), *arguments)
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
