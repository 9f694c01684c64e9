"""Expected counts along every pixel's trajectory: what the folded model approximates.

Time of flight smears energy along a trajectory ``Q(E) = k_i - k_f(E) n``. A neutron that was
scattered at ``E*``, where a branch crosses the trajectory, is counted at a measured ``E`` with the
``Q`` that the pixel has there, which may be in another cell of the path or in none. Here each
trajectory is walked in the *true* energy transfer, through the whole zone, with the modes, ``Q``,
``k_f`` and width of each step, and every step is spread over the cells that its pixel has there:
no linear smearing, no moments, no mean slope.

Modes are those of the nearest point of a zone grid, continued from it by perturbation theory; modes
that come close or cross are diagonalised anew where they are needed. A branch is found by a
Gaussian of a quarter of the resolution's width; the rest of the resolution spreads what is found.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import ComplexArray, FloatArray, SingleArray
from simulations.constants import BOLTZMANN_MEV_PER_K
from simulations.constants import NEUTRON_MEV_A2 as MEV_PER_K2
from simulations.crystal import Crystal
from simulations.dynamics import ForceConstantModel
from simulations.errors import InputError
from simulations.fold import (
    PAIRS,
)
from simulations.instrument import Resolution, wave_vector
from simulations.kernels import share_out
from simulations.likelihood.inversion import Inversion
from simulations.likelihood.missetting import NONE_OFF, Missetting
from simulations.likelihood.q_spread import NO_SPREAD
from simulations.likelihood.trajectories import Trajectories
from simulations.likelihood.trajectory_arguments import (
    Continued,
    Grid,
    Line,
    Moves,
    Over,
    QBlur,
    Rays,
    Scatterers,
    Stretches,
    TrueAxis,
)
from simulations.likelihood.trajectory_kernel import walk
from simulations.likelihood.trajectory_steps import fill_spread, pass_gamma
from simulations.likelihood.zone_map import ZoneMap
from simulations.likelihood.zone_state import ZoneState, empty_state, fill_state
from simulations.reciprocal import EnergyAxis
from simulations.scattering import Pockets

STEP_SIGMAS = 0.3  # steps in true energy, widths of the resolution
COARSE_STEP_SIGMAS = 0.6  # of rates to look around with
WARM_STEP = (
    0.5  # of those steps below ``WARM_SHARE`` of kT, where acoustic modes outshine all else,
)
WARM_SHARE = 0.3  # growing to whole steps at twice that: the width that finds a branch grows slowly
FOUND_STEPS = 0.65  # width in which a branch is found, steps
COARSE_FOUND_STEPS = 0.55  # in fewer of the coarse ones
FINER = 2  # times as many steps of stretches that pass Gamma of a polar crystal
TURNING = 2.0  # radii of the zone map's core: so near do its modes turn within a few steps
LINE_SIGMA_MEV = 0.05  # own width of a phonon line
REACH_SIGMAS = 3.7
LOWEST_ENERGY_MEV = 0.3  # as in the folded model
BASIS_BYTES = 2.5e8  # of derivatives of D by the parameters: more are computed where needed
CHUNK = 512  # points of the zone diagonalised together, at most
CHUNK_BYTES = 6.4e7  # or as many as their derivatives take this
STATES = 2  # of the latest parameters, that are kept
BLOCKS = 16  # of trajectories; each is summed alone, so that threads do not change the sum
OFF_AXIS_INVERSE_A = np.array([3.1e-4, 7.3e-4, 5.7e-4])  # see the folded model


class TrajectoryPhonons:
    """One-phonon ``ExactModel`` of path cells by walking trajectories; see the module's head.

    Parameters
    ----------
    model : ForceConstantModel
        Free parameters and fixed part.
    crystal : Crystal
    zone : ZoneMap
        Where modes are evaluated.
    energy : EnergyAxis
        Bins of the path.
    n_path_bins : int
    ei_meV, temperature_K : float
    resolution : Resolution
    pockets : Pockets or None
        How imaginary modes count; None: the crystal has none.
    missetting : Missetting
        Ways the set-up may be off that are fitted, G of them.
    aside : Missetting
        Others, H of them, that rates are known along to first order.
    q_blur : QBlur
        What blurs Q, see ``q_spread``.
    typical_blur : QBlur, optional
        What may blur it where nobody said.
    real : bool
        With real matrices where the crystal has a centre of inversion. False: as if it had none,
        for the same rates in more time.
    """

    def __init__(
        self,
        *,
        model: ForceConstantModel,
        crystal: Crystal,
        zone: ZoneMap,
        energy: EnergyAxis,
        n_path_bins: int,
        ei_meV: float,
        temperature_K: float,
        resolution: Resolution,
        pockets: Pockets | None = None,
        missetting: Missetting = NONE_OFF,
        aside: Missetting = NONE_OFF,
        q_blur: QBlur = NO_SPREAD,
        typical_blur: QBlur | None = None,
        real: bool = True,
    ) -> None:
        self.pockets = pockets
        self.missetting, self.aside, self.q_blur = missetting, aside, q_blur
        self._typical_blur = typical_blur
        self._coarse = False
        self._states: dict[bytes, ZoneState] = {}
        self._every_way = missetting.and_then(aside)
        self.crystal = crystal
        self.zone = zone
        self.energy = energy
        self.n_path_bins = n_path_bins
        self.ei_meV = float(ei_meV)
        self.temperature_K = temperature_K
        self.resolution = resolution
        self.model = model
        self.parameter_names = model.names
        self.points_inverse_A = zone.cartesian + OFF_AXIS_INVERSE_A
        n, n_k = model.n_modes, len(model.names)
        count = len(self.points_inverse_A)
        none = np.zeros(n_k)
        few = self._chunks()[0]
        given = model.fixed_matrices(self.points_inverse_A[few])
        self._inversion = Inversion.of(crystal, given) if real else None
        kinds = (np.complex128, np.complex64) if self._inversion is None else (float, np.float32)
        kept = np.dtype(kinds[0]).itemsize * count * n_k * n**2 <= BASIS_BYTES
        self._fixed = np.empty((count, n, n), dtype=kinds[0])
        self._basis = np.empty((count, n_k, n, n), dtype=kinds[0]) if kept else None
        self._fixed_derivatives = np.empty((count, 9, n, n), dtype=kinds[1])
        for some in self._chunks():
            q = self.points_inverse_A[some]
            if self._basis is None:
                self._fixed[some] = self._real(model.fixed_matrices(q))
            else:
                fixed, basis = model.matrices(q)
                self._fixed[some], self._basis[some] = self._real(fixed), self._real(basis)
            self._fixed_derivatives[some, :3] = self._real(model.matrix_gradients(q, none))
            bend = _bend(lambda at: model.matrix_gradients(at, none), q)
            self._fixed_derivatives[some, 3:] = self._real(bend)

    def _real(self, matrices: NDArray[np.complexfloating]) -> NDArray[np.inexact]:
        """Matrices (..., n, n) in the coordinates that modes are computed in."""
        return matrices if self._inversion is None else self._inversion.real(matrices)

    def doubting(self) -> TrajectoryPhonons:
        """The same with all ways fitted that the set-up may be off; shares all arrays."""
        other, free = copy(self), self.aside.sigma > 0
        other.missetting = self.missetting.and_then(self.aside.where(free))
        other.aside = self.aside.where(~free)
        other._every_way = other.missetting.and_then(other.aside)
        return other

    def typical(self) -> TrajectoryPhonons | None:
        """The same with a typical spread of q, if none was given; shares all arrays."""
        if self._typical_blur is None:
            return None
        other = copy(self)
        other.q_blur, other._typical_blur = self._typical_blur, None
        return other

    def coarsely(self) -> TrajectoryPhonons:
        """The same in steps twice as long, in three quarters of the time; shares all arrays.

        Of one orientation of RuP2 and of RuS2 on ARCS, one trajectory in several walked: what they
        change over a step of one sigma is as near to that of all as in short steps (0.15 and 0.25
        to 0.29 of chi-square), and averaged derivatives are missed by 1 % of theirs.
        """
        other = copy(self)
        other._coarse = True
        return other

    def _chunks(self) -> list[slice]:
        """Points whose matrices are at hand together."""
        count = len(self.points_inverse_A)
        point = 8 * (len(self.parameter_names) + 9) * self.model.n_modes**2
        size = int(np.clip(CHUNK_BYTES // point, 1, CHUNK))
        return [slice(low, min(low + size, count)) for low in range(0, count, size)]

    def prepare(self, phi: FloatArray) -> ZoneState:
        """Diagonalise every point of the zone grid at ``phi`` (K,), eV/angstrom^2.

        The latest states are kept and given again; nobody may change them.
        """
        phi = np.asarray(phi, dtype=float)
        key = phi.tobytes()
        state = self._states.pop(key, None)
        self._states[key] = state = self._diagonalised(phi) if state is None else state
        for old in list(self._states)[:-STATES]:
            self._states.pop(old, None)
        return state

    def _diagonalised(self, phi: FloatArray) -> ZoneState:
        n, n_k = self.model.n_modes, len(phi)
        count, parts = len(self.points_inverse_A), 2 if self._inversion is None else 1
        state = empty_state(count, n, n_k, parts)
        for some in self._chunks():
            q = self.points_inverse_A[some]
            free, derivatives = self.model.free_expansion(q, phi)
            square, vectors = np.linalg.eigh(self._fixed[some] + self._real(free))
            derivatives = self._fixed_derivatives[some] + self._real(derivatives)
            basis = self._basis_at(some).astype(derivatives.dtype)
            fill_state(state, some, square, vectors, basis, derivatives, self.zone.reach)
        return state

    def _basis_at(self, some: slice) -> NDArray[np.inexact]:
        if self._basis is not None:
            return self._basis[some]
        return self._real(self.model.basis_matrices(self.points_inverse_A[some]))

    def _scatterers(self, displacement: FloatArray) -> Scatterers:
        """The atoms with their mean-square tensors (atoms, 6), in the coordinates of modes."""
        amplitude = self.crystal.scattering_length / np.sqrt(self.crystal.masses_u)
        place = self.crystal.positions
        if self._inversion is not None:
            place, amplitude = self._inversion.place, amplitude * self._inversion.scale
            displacement = self._inversion.mean(displacement)
        return Scatterers(
            positions=np.ascontiguousarray(place), amplitude=amplitude, displacement=displacement
        )

    def _over(self, state: ZoneState, covariance: FloatArray | None, rays: Rays) -> Over:
        """What rates are averaged over, and how far a line may be looked for then."""
        n_k, ways = len(self.parameter_names), self.missetting
        if covariance is None:
            none = np.zeros((0, 0))
            return Over(root=none, along=none[..., None], rest=none, uncertain=none)
        order = np.roll(np.arange(len(covariance)), -n_k)  # what is mis-set first
        root = np.asarray(np.linalg.cholesky(covariance[np.ix_(order, order)]), dtype=np.float64)
        own = np.einsum("psks->psk", state.coupling[:, :, :n_k, 0])
        along, rest = own @ root[len(ways) :, : len(ways)], own @ root[len(ways) :, len(ways) :]
        rest = np.sum(rest**2, axis=-1)
        by_parameters = np.sqrt(rest + np.sum(along**2, axis=-1))
        same = state.block[:, :, None] == state.block[:, None, :]
        by_parameters = np.max(by_parameters[:, None] * same, axis=-1)
        sigma = np.sqrt(np.diag(covariance)[n_k:])
        moves = ways.moves(self.true_edges_meV(), self.ei_meV)
        k_i = float(np.linalg.norm(rays.beam))
        most_q = float(np.linalg.norm(rays.beam - k_i * rays.direction, axis=1).max(initial=0.0))
        far = np.linalg.norm(moves.linear, ord=2, axis=(1, 2)) * most_q
        far += np.abs(moves.beam) * k_i + np.abs(moves.final).max(axis=1, initial=0.0)
        by_set_up = np.linalg.norm(state.slope, axis=-1) * np.linalg.norm(sigma * far)
        late = np.linalg.norm(sigma * np.abs(moves.shift).max(axis=1, initial=0.0))
        by_set_up += 2 * np.sqrt(np.abs(state.square)) * late
        return Over(
            root=np.ascontiguousarray(root[: len(ways), : len(ways)]),
            along=along,
            rest=rest,
            uncertain=by_parameters + by_set_up,
        )

    def true_edges_meV(self, finer: int = 1) -> FloatArray:
        """Edges of the steps in true energy, a share of the resolution's width each or finer."""
        edges = [LOWEST_ENERGY_MEV]
        top = 0.995 * self.ei_meV
        sigmas = COARSE_STEP_SIGMAS if self._coarse else STEP_SIGMAS
        warm = WARM_SHARE * BOLTZMANN_MEV_PER_K * self.temperature_K
        while edges[-1] < top:
            sigma = float(self.resolution.sigma_meV(np.array([edges[-1]]), self.ei_meV)[0])
            step = max(sigmas * sigma, 2e-3 * self.ei_meV)
            cold = float(np.clip(edges[-1] / max(warm, 1e-9) - 1, 0, 1))
            edges.append(edges[-1] + step * (WARM_STEP + (1 - WARM_STEP) * cold))
        place = np.arange(finer * (len(edges) - 1) + 1) / finer
        return np.minimum(np.interp(place, np.arange(len(edges)), edges), 0.998 * self.ei_meV)

    def _true_axis(
        self, trajectories: Trajectories, log_width: float, off: FloatArray, finer: int
    ) -> tuple[TrueAxis, Moves]:
        """Steps in true energy, what of each is counted in which measured step, and its moves."""
        edges = self.true_edges_meV(finer)
        true = 0.5 * (edges[1:] + edges[:-1])
        width = np.diff(edges)
        sigma = self.resolution.sigma_meV(true, self.ei_meV) * np.exp(log_width)
        steps = COARSE_FOUND_STEPS if self._coarse else FOUND_STEPS
        found = np.minimum(steps * width, 0.9 * sigma)
        rest = np.sqrt(sigma**2 - found**2)
        moves = self._every_way.moves(true, self.ei_meV)
        left = 1 + off @ moves.blur
        moves = moves._replace(blur=moves.blur / left if left else 0 * moves.blur)
        kf = wave_vector(self.ei_meV - true) + off @ moves.final
        low = trajectories.step_edges_meV
        centre = true + off @ moves.shift
        first = np.searchsorted(low[1:], centre - REACH_SIGMAS * rest)
        last = np.searchsorted(low[:-1], centre + REACH_SIGMAS * rest)
        spread, by_width, by_shift = np.zeros((3, len(true), max(1, int(np.max(last - first)))))
        fill_spread(centre, rest, sigma, low, first, last, spread, by_width, by_shift)
        factor = np.full(len(true), 1.0)
        if trajectories.reduced[0]:  # counts were divided by k_f/k_i of the measured energy
            measured_kf = wave_vector(self.ei_meV - 0.5 * (low[1:] + low[:-1]))
            at = np.minimum(first[:, None] + np.arange(spread.shape[1]), len(low) - 2)
            for share in (spread, by_width, by_shift):
                share *= kf[:, None] / measured_kf[at]
        else:
            factor = kf / float(wave_vector(self.ei_meV))
        axis = TrueAxis(
            measured_edges=low,
            true=true,
            kf=kf,
            weight=width * factor,
            found=found,
            slope_of_step=1 / (2 * MEV_PER_K2 * kf),
            spread_first=first,
            spread_last=last,
            spread=spread,
            by_width=by_width,
            by_shift=by_shift,
            reach=REACH_SIGMAS * float(np.max(rest)) + float(np.max(np.abs(centre - true))),
        )
        return axis, moves

    def _turning(self, trajectories: Trajectories) -> NDArray[np.bool_]:
        """Which stretches pass Gamma of a polar crystal so near that modes turn within a step.

        As the set-up is believed, so that rates stay smooth in how far it is off.
        """
        turning = np.zeros(len(trajectories.pixel), dtype=np.bool_)
        if self.zone.core_radius > 0:
            edges = trajectories.step_edges_meV
            to_fractional = np.linalg.inv(self.crystal.reciprocal)
            pass_gamma(
                trajectories.pixel,
                trajectories.first_step,
                trajectories.start,
                trajectories.direction @ to_fractional,
                trajectories.beam @ to_fractional,
                wave_vector(self.ei_meV - 0.5 * (edges[1:] + edges[:-1])),
                self.crystal.reciprocal,
                (TURNING * self.zone.core_radius) ** 2,
                turning,
            )
        return turning

    def rates(
        self,
        trajectories: Trajectories,
        state: ZoneState,
        *,
        log_width: float = 0.0,
        off: FloatArray | None = None,
        gradient: bool = True,
        steepness: SingleArray | None = None,
        over: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Phonon rate of every path cell with scale 1.

        Parameters
        ----------
        trajectories : Trajectories
        state : ZoneState
        log_width : float
            Logarithm of the resolution's width over the nominal one.
        off : (G,) float64, optional
            How far the set-up is off in each way of ``missetting``; None: not at all.
        gradient : bool
            False leaves the jacobian without components.
        steepness : (stretches,) float32, optional
            Filled with the size of what each stretch adds to the derivatives by the parameters,
            over all cells; left as it is without ``gradient``.
        over : (K + G, K + G) float64, optional
            Covariance of the parameters and of what is mis-set, that rates and derivatives are
            averaged over, approximately: lines are wider by what their energies are uncertain by,
            all else is as it is at their mean. Only with ``gradient``.

        Returns
        -------
        rate : (path_bins, energy_bins) float64
            barn/meV/sr x exposure, as ``FoldedPhonons.rates``.
        jacobian : (path_bins, energy_bins, K + 1 + G + H) float64
            Derivatives by the parameters, with divided differences between branches, by the
            logarithm of the width, and by each way that the set-up may be off.
        """
        cells = self.n_path_bins * self.energy.n_bins
        if trajectories.cell.max(initial=-1) >= cells or len(trajectories.displacement) != (
            self.crystal.n_atoms
        ):
            raise InputError(
                f"trajectories have cell {trajectories.cell.max(initial=-1)} and "
                f"{len(trajectories.displacement)} atoms; expected cells below {cells} and "
                f"{self.crystal.n_atoms} atoms, as this experiment has"
            )
        fitted = np.zeros(len(self.missetting)) if off is None else np.asarray(off, dtype=float)
        off = np.concatenate([fitted, np.zeros(len(self.aside))])
        columns = len(self.parameter_names) + 1 + len(off) if gradient else 0
        out = np.zeros((BLOCKS, cells))
        slopes = np.zeros((BLOCKS, cells, columns))
        spread = abs(1 + float(off @ self._every_way.blur))  # a mirror at none: rates stay smooth
        zone = self.zone
        crystal = self.crystal
        to_fractional = np.linalg.inv(crystal.reciprocal)
        turn = self._every_way.turn(off)
        direction = np.ascontiguousarray(trajectories.direction @ turn.T)
        beam = turn @ trajectories.beam * (1 + off @ self._every_way.beam)
        rays = Rays(
            direction=direction,
            fractional=direction @ to_fractional,
            beam=beam,
            beam_fractional=beam @ to_fractional,
        )
        medium = (
            Grid(
                divisions=zone.divisions,
                index=zone.index,
                operation=zone.operation,
                fine_divisions=zone.fine_divisions,
                fine_radius=zone.fine_radius,
                fine_index=zone.fine_index,
                fine_operation=zone.fine_operation,
                core_divisions=zone.core_divisions,
                core_radius=zone.core_radius,
                core_index=zone.core_index,
                core_operation=zone.core_operation,
                operation_fractional=zone.operation_fractional.astype(np.float64),
                operation_cartesian=zone.operation_cartesian,
                point=zone.fractional,
                reciprocal=np.ascontiguousarray(crystal.reciprocal),
            ),
            Continued(
                off_axis=OFF_AXIS_INVERSE_A,
                reach=zone.reach,
                square=state.square,
                gradient=np.ascontiguousarray(state.slope.swapaxes(1, 2)),
                curvature=state.curvature,
                bend=state.bend,
                vectors=state.vectors,
                columns=np.ascontiguousarray(state.vectors.swapaxes(1, 3)),
                block_of=state.block,
                mixing=state.mixing,
                coupling=state.coupling.reshape(*state.coupling.shape[:3], -1),
            ),
            self._scatterers(trajectories.displacement),
            Line(
                thermal=self.temperature_K * BOLTZMANN_MEV_PER_K,
                own_width=LINE_SIGMA_MEV,
                lowest=LOWEST_ENERGY_MEV,
            ),
            self.q_blur.widened(spread),
            self._over(state, over if gradient else None, rays),
            None
            if self.pockets is None
            else (
                self.pockets.floor_meV,
                self.pockets.damped,
                self.temperature_K * BOLTZMANN_MEV_PER_K,
            ),
            None if self._inversion is None else self._inversion.phase,
        )
        length, turning = np.diff(trajectories.start), self._turning(trajectories)
        for some, finer in ((~turning, 1), (turning, FINER)):
            if not some.any():
                continue
            stretches = Stretches(
                exposure=trajectories.weight[trajectories.pixel[some]],
                first_step=trajectories.first_step[some],
                start=trajectories.start[:-1][some],
                length=length[some],
                cell=trajectories.cell,
                pixel=trajectories.pixel[some],
            )
            axis, moves = self._true_axis(trajectories, log_width, off, finer)
            marked = steepness is not None and gradient
            steep = np.zeros(len(stretches.pixel) if marked else 0, dtype=np.float32)
            arguments = (stretches, rays, axis, moves, *medium, out, slopes, steep)

            def walk_blocks(first: int, last: int, arguments: tuple[Any, ...] = arguments) -> None:
                for block in range(first, last):
                    walk(np.int64(block), *arguments)

            share_out(BLOCKS, walk_blocks)
            if steepness is not None and marked:
                steepness[some] = steep
        shape = (self.n_path_bins, self.energy.n_bins)
        rate, slope = out.sum(axis=0), slopes.sum(axis=0)
        return (
            trajectories.of_all(rate).reshape(shape),
            trajectories.of_all(slope).reshape(*shape, columns),
        )


def bytes_per_point(model: ForceConstantModel, *, basis: bool = True) -> int:
    """Memory of :class:`TrajectoryPhonons` and one :class:`ZoneState` for a point of the grid.

    Large grids (``BASIS_BYTES``) keep no ``basis``. Half of it where a crystal has a centre of
    inversion, whose two states of the latest parameters are then no more than this.
    """
    free = len(model.names)
    double, single = 16 * (1 + free * basis), 8 * (1 + 3 + 6 + 3 + free + 3)
    return (double + single) * model.n_modes**2


def _bend(gradients: Callable[[FloatArray], ComplexArray], q: FloatArray) -> ComplexArray:
    """Differences of gradients at every point, (points, 6, n, n), packed as ``PAIRS``."""
    step = 1e-3
    slopes = [
        (gradients(q + step * axis) - gradients(q - step * axis)) / (2 * step) for axis in np.eye(3)
    ]
    return np.stack([0.5 * (slopes[a][:, b] + slopes[b][:, a]) for a, b in PAIRS], axis=1)
