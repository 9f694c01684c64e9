"""Refinement: force constants from counts by Poisson scoring, with honest nuisances and prior.

``lambda = A I(cell; phi, width) + b1 F + b2 D`` for every (cell, orientation): scale A, a
background flat in time of flight (F) and one proportional to exposure (D), and the resolution
width. All of theta is fitted together; the Laplace covariance of the parameters is marginal over
the nuisances. Where the experiment names an empty can, its expected rate is added, and theta gets
one more nuisance, the can's strength.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import nnls

from simulations.background import CanRate
from simulations.cell_sums import CellSums
from simulations.exposure import VoxelExposure
from simulations.folded_model import ForwardModel, ModeState
from simulations.trajectories import Trajectories, TrajectoryPhonons, ZoneState
from simulations.voxel_map import MergedVoxels

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NUISANCES = ("ln scale", "ln flat background", "ln exposure background", "ln resolution width")
NUISANCE_SIGMA = (5.0, 3.0, 3.0, 0.05)  # prior widths; the resolution is known to 5 %
ANCHOR_SIGMAS = 1.0  # the folded model carries exact rates over this many sigma
ANCHOR_LOG_WIDTH = 0.03
ANCHOR_ROUNDS = 6
NEGLIGIBLE_DECREASE = 0.01  # of minus log posterior: a tenth of a sigma
BLURS_MEV = (6.0, 3.0, 1.5, 0.75, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Observation:
    """Counts of one orientation with the exposure they were taken under."""

    sums: CellSums
    exposure: Callable[[], VoxelExposure]  # loads or computes; not kept between calls
    trajectories: Callable[[], Trajectories] | None = None  # for the exact rate, likewise
    key: str = ""  # names the orientation; its exact rate is kept between fits
    can: CanRate | None = None  # what the empty can adds; ``sums`` are then those that go with it


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GaussianPrior:
    """Independent Gaussian prior with the mean and width of the sampling box."""

    names: tuple[str, ...]
    mean: FloatArray  # (K,) eV/angstrom^2
    sigma: FloatArray  # (K,)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Posterior:
    """Laplace posterior of the force constants and nuisances."""

    names: tuple[str, ...]
    values: FloatArray  # (K,) eV/angstrom^2
    covariance: FloatArray  # (K, K), marginal over nuisances
    theta: FloatArray  # (P,) values, NUISANCES, and the logarithm of the can's strength if any
    precision: FloatArray  # (P, P), prior included
    objective: float  # minus log posterior up to a constant
    converged: bool
    iterations: int
    expected: FloatArray = field(repr=False)  # (path_bins, energy_bins) lambda, all orientations
    phonon: FloatArray = field(repr=False)  # the one-phonon part of the same
    totals: FloatArray = field(repr=False)  # (orientations,) expected counts in the usable cells
    can: FloatArray | None = field(default=None, repr=False)  # the can's part of ``expected``

    @property
    def sigma(self) -> FloatArray:
        """Standard deviations of the parameters, (K,)."""
        return np.sqrt(np.diag(self.covariance))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Anchor:
    """Exact and folded rates of one orientation where the folded model was last corrected."""

    values: FloatArray  # (K,)
    log_width: float
    exact: FloatArray  # (path_bins, energy_bins), scale 1
    rate: FloatArray  # exact minus folded, scale 1
    slope: FloatArray  # (path_bins, energy_bins, K) the same for the derivatives

    def carry(
        self, values: FloatArray, rate: FloatArray, slope: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Correct the folded rate and its derivatives at ``values``, scale 1."""
        k = len(values)
        corrected = rate + self.rate + self.slope @ (values - self.values)
        slope = slope.copy()
        slope[..., :k] += self.slope
        return np.maximum(corrected, 0.1 * np.minimum(self.exact, rate)), slope


@dataclass(slots=True)
class _Linear:
    """One orientation at the current theta, cells flattened to those that count."""

    data: FloatArray
    rate: FloatArray
    slope: FloatArray  # (cells, P)
    variance: FloatArray | None  # reduced input


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Coarse:
    """A refinement of the same experiment on merged voxels, and the way to it."""

    refinement: Refinement
    merged: MergedVoxels

    def of(self, observation: Observation) -> Observation:
        """The same observation on merged voxels."""
        exposure = observation.exposure().merged(self.merged)
        return Observation(sums=observation.sums, exposure=lambda: exposure, can=observation.can)


def usable_cells(
    sums: CellSums, energy_centres_meV: FloatArray, elastic_cut_meV: float
) -> BoolArray:
    """Exposed cells on the energy-loss side of the elastic band; reduced ones need an error."""
    use = (sums.exposure > 0) & (energy_centres_meV > elastic_cut_meV)[None, :]
    if sums.gaussian:
        use &= sums.variance > 0
    return use


def pool(observations: Sequence[Observation]) -> Observation:
    """All orientations as one; exact for the coverage tensor, loses some information."""
    sums = observations[0].sums
    exposure = observations[0].exposure()
    can = observations[0].can
    for other in observations[1:]:
        sums = sums + other.sums
        exposure = exposure + other.exposure()
        can = None if can is None or other.can is None else can + other.can
    return Observation(sums=sums, exposure=lambda: exposure, can=can)


class Refinement:
    """Fits one forward model to observations under a prior.

    Parameters
    ----------
    model : ForwardModel
    prior : GaussianPrior
        Over ``model.names``.
    energy_centres_meV : (energy_bins,)
    elastic_cut_meV : float
        Cells nearer to zero energy transfer are left out.
    exact : TrajectoryPhonons, optional
        Rates by walking trajectories. The folded model then only carries them from one answer to
        the next and gives the derivatives; without it the folded model stands alone.
    can_sigma : float, optional
        Relative standard deviation of the can's strength. Theta ends with its logarithm then.
    """

    def __init__(
        self,
        *,
        model: ForwardModel,
        prior: GaussianPrior,
        energy_centres_meV: FloatArray,
        elastic_cut_meV: float,
        exact: TrajectoryPhonons | None = None,
        can_sigma: float | None = None,
    ) -> None:
        if tuple(prior.names) != tuple(model.names):
            raise ValueError(
                f"prior is over {prior.names}; expected the model's parameters {model.names}"
            )
        self.model = model
        self.prior = prior
        self.energy = np.asarray(energy_centres_meV)
        self.elastic_cut = elastic_cut_meV
        self.exact = exact
        self._anchors: dict[str, _Anchor] = {}
        self.n_parameters = len(prior.mean)
        self.nuisance_sigma = NUISANCE_SIGMA if can_sigma is None else (*NUISANCE_SIGMA, can_sigma)
        step = float(self.energy[1] - self.energy[0])
        gap = np.abs(self.energy[:, None] - self.energy[None, :])
        self._spread_of: dict[str, Any] = {}
        self._blur = {
            b: np.exp(-0.5 * (gap / b) ** 2) * step / (b * np.sqrt(2 * np.pi))
            for b in BLURS_MEV
            if b > 0
        }

    def fit(
        self,
        observations: Sequence[Observation],
        *,
        starts: Sequence[FloatArray] = (),
        warm: Posterior | None = None,
        pooled: Observation | None = None,
        coarse: Coarse | None = None,
        iterations: int = 15,
    ) -> Posterior:
        """Fit all orientations, one Poisson term per (cell, orientation).

        Parameters
        ----------
        observations : sequence of Observation
        starts : sequence of (K,)
            Places to anneal from beside the prior mean (the encoder's answer, draws of the prior).
        warm : Posterior, optional
            The answer before the newest chunk; competes with the annealed ones.
        pooled : Observation, optional
            The same orientations as one, where the caller has them.
        coarse : Coarse, optional
            The same fit on merged voxels, for the blurred stages of annealing.
        iterations : int
            Most scoring steps.

        Returns
        -------
        Posterior
        """
        if not observations:
            raise ValueError("observations is empty; expected at least one folded orientation")
        pooled = pool(observations) if pooled is None else pooled
        coarse_model = self if coarse is None else coarse.refinement
        coarse_pooled = pooled if coarse is None else coarse.of(pooled)
        first = [coarse_model._first_theta(coarse_pooled, s) for s in (self.prior.mean, *starts)]
        blurred = [coarse_model._anneal(coarse_pooled, t, BLURS_MEV[:3], 6) for t in first]
        distinct: list[Posterior] = []
        for candidate in sorted(blurred, key=lambda p: p.objective):
            gaps = [np.abs((candidate.values - d.values) / d.sigma).max() for d in distinct]
            if len(distinct) < 2 and min(gaps, default=np.inf) > 1.0:
                distinct.append(candidate)
        candidates = [self._anneal(pooled, p.theta.copy(), BLURS_MEV[3:], 8) for p in distinct]
        if warm is not None:
            candidates.append(self._score([pooled], warm.theta.copy(), 8))
        best = min(candidates, key=lambda p: p.objective)
        if self.exact is None or any(o.trajectories is None for o in observations):
            return self._score(observations, best.theta.copy(), iterations)
        # Where the answer before still holds, the rates anchored there do too.
        theta = warm.theta if warm is not None and best is candidates[-1] else best.theta
        return self._score_exactly(self.exact, observations, theta, best.sigma, iterations)

    def _score_exactly(
        self,
        exact: TrajectoryPhonons,
        observations: Sequence[Observation],
        theta: FloatArray,
        sigma: FloatArray,
        iterations: int,
    ) -> Posterior:
        """Score with the folded rates corrected to the exact ones, until the answer stays."""
        k = self.n_parameters
        for _ in range(ANCHOR_ROUNDS):
            anchors = self._anchored(exact, observations, theta, sigma)
            posterior = self._score(observations, theta.copy(), iterations, anchors=anchors)
            sigma = posterior.sigma
            gaps = [np.abs(posterior.values - a.values) / sigma for a in anchors]
            widths = [abs(posterior.theta[k + 3] - a.log_width) for a in anchors]
            if np.max(gaps) < ANCHOR_SIGMAS and max(widths) < ANCHOR_LOG_WIDTH:
                return posterior
            theta = posterior.theta
        return replace(posterior, converged=False)

    def _anchored(
        self,
        exact: TrajectoryPhonons,
        observations: Sequence[Observation],
        theta: FloatArray,
        sigma: FloatArray,
    ) -> list[_Anchor]:
        """Exact rates of every orientation, computed anew where theta has moved away."""
        k = self.n_parameters
        states: list[tuple[ModeState, ZoneState]] = []
        anchors = []
        for observation in observations:
            anchor = self._anchors.get(observation.key)
            if (
                anchor is None
                or np.max(np.abs(theta[:k] - anchor.values) / sigma) > 0.5 * ANCHOR_SIGMAS
                or abs(theta[k + 3] - anchor.log_width) > 0.5 * ANCHOR_LOG_WIDTH
            ):
                if not states:
                    states.append((self.model.prepare(theta[:k]), exact.prepare(theta[:k])))
                if observation.trajectories is None:
                    raise ValueError("observation has no trajectories; the exact rate needs them")
                width = float(theta[k + 3])
                folded, zone = states[0]
                rate, slope = self.model.rates(
                    observation.exposure(), folded, log_width=width, gradient=True
                )
                exactly, along = exact.rates(observation.trajectories(), zone, log_width=width)
                anchor = _Anchor(
                    values=theta[:k].copy(),
                    log_width=width,
                    exact=exactly,
                    rate=exactly - rate,
                    slope=along - slope[..., :k],
                )
                if observation.key:
                    self._anchors[observation.key] = anchor
            anchors.append(anchor)
        return anchors

    def forget(self, key: str) -> None:
        """Drop the exact rates kept of an orientation that left the run."""
        self._anchors.pop(key, None)

    def remembered(self) -> dict[str, Any]:
        """Exact rates kept between fits, by orientation; a later ``recall`` goes back to them."""
        return dict(self._anchors)

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Keep exactly these rates: the next fit does not depend on fits since then."""
        self._anchors = dict(remembered)

    def information_of(
        self, theta: FloatArray, observation: Observation, state: ModeState | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """What an exposure brings at theta, whatever it counts; the prior is not included.

        Returns
        -------
        rate : (path_bins, energy_bins) float64
            Expected counts.
        information : (P, P) float64
            Fisher information.
        """
        if state is None:
            state = self.model.prepare(theta[: self.n_parameters])
        linear, total, _, _ = self._linearise(theta, state, observation)
        return total, _fisher(linear)

    def prior_precision(self) -> FloatArray:
        """Precision of the prior over theta, (P, P)."""
        nuisances = np.asarray(self.nuisance_sigma) ** -2.0
        return np.diag(np.concatenate([self.prior.sigma**-2.0, nuisances]))

    # -- one step -------------------------------------------------------------------------------

    def _linearise(
        self,
        theta: FloatArray,
        state: ModeState,
        observation: Observation,
        blur: float = 0.0,
        anchor: _Anchor | None = None,
    ) -> tuple[_Linear, FloatArray, FloatArray, FloatArray]:
        """Usable cells at theta; and lambda, its phonon and its can part in all cells."""
        k = self.n_parameters
        scale, flat, constant = np.exp(theta[k : k + 3])
        sums = observation.sums
        rate, slope = self.model.rates(
            observation.exposure(), state, log_width=float(theta[k + 3]), gradient=True
        )
        if anchor is not None:
            rate, slope = anchor.carry(theta[:k], rate, slope)
        phonon = scale * rate
        total = phonon + flat * sums.flat + constant * sums.exposure
        by_scale, can, by_strength = self._can(theta, observation, phonon)
        if observation.can is not None:
            total = total + can
        use = usable_cells(sums, self.energy, self.elastic_cut)
        columns = np.concatenate(
            [
                scale * slope[use][:, :k],
                np.stack([by_scale[use], flat * sums.flat[use], constant * sums.exposure[use]], 1),
                scale * slope[use][:, k:],
                by_strength[use][:, : len(theta) - k - 4],
            ],
            axis=1,
        )
        data, rates = sums.signal[use], total[use]
        variance = sums.variance[use] if sums.gaussian else None
        if blur > 0:
            spread = self._spread(use, blur)
            data, rates, columns = spread @ data, spread @ rates, spread @ columns
            variance = None if variance is None else spread @ variance
        linear = _Linear(data=data, rate=np.maximum(rates, 1e-12), slope=columns, variance=variance)
        return linear, total, phonon, can

    def _can(
        self, theta: FloatArray, observation: Observation, phonon: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Derivative of lambda by ln scale, the can's rate, and its derivative by ln strength."""
        k, can = self.n_parameters, observation.can
        if can is None:
            return phonon, np.zeros_like(phonon), np.zeros((*phonon.shape, 1))
        if len(theta) < k + 5:
            raise ValueError(
                "observation has a can; expected a refinement with can_sigma. Give it one."
            )
        strength = float(np.exp(theta[k + 4]))
        if can.fixed is None:
            rate = np.exp(theta[k]) * strength * can.shape
            return phonon + rate, rate, rate[..., None]
        rate = can.fixed + (strength - 1) * can.shape
        return phonon, rate, (strength * can.shape)[..., None]

    def _spread(self, use: BoolArray, blur: float) -> sparse.csr_matrix:
        """Gaussian blur in energy, within each path bin, over the usable cells."""
        key = (blur, use.tobytes())
        if self._spread_of.get("key") != key:
            kernel = self._blur[blur]
            blocks = []
            for row in use:
                at = np.flatnonzero(row)
                blocks.append(kernel[np.ix_(at, at)])
            self._spread_of = {
                "key": key,
                "matrix": sparse.csr_matrix(sparse.block_diag(blocks, format="csr")),
            }
        return self._spread_of["matrix"]

    def _objective(self, theta, linears: Sequence[_Linear], centre) -> float:
        value = 0.0
        for one in linears:
            if one.variance is None:
                value += float(np.sum(one.rate - one.data * np.log(one.rate)))
            else:
                value += 0.5 * float(np.sum((one.data - one.rate) ** 2 / one.variance))
        offset = theta - centre
        return value + 0.5 * float(offset @ (np.diag(self.prior_precision()) * offset))

    def _anneal(
        self, pooled: Observation, theta: FloatArray, blurs: Sequence[float], iterations: int
    ) -> Posterior:
        posterior = self._score([pooled], theta, iterations, blur=blurs[0])
        for blur in blurs[1:]:
            posterior = self._score([pooled], posterior.theta.copy(), iterations, blur=blur)
        return posterior

    def _first_theta(self, observation: Observation, values: FloatArray) -> FloatArray:
        """Scale and backgrounds by non-negative least squares on blurred counts."""
        sums = observation.sums
        rate, _ = self.model.rates(
            observation.exposure(), self.model.prepare(values), log_width=0.0, gradient=False
        )
        signal = sums.signal
        if observation.can is not None and observation.can.fixed is None:
            rate = rate + observation.can.shape
        elif observation.can is not None and observation.can.fixed is not None:
            signal = signal - observation.can.fixed
        use = usable_cells(sums, self.energy, self.elastic_cut).astype(float)
        kernel = self._blur[BLURS_MEV[0]]
        columns = np.stack(
            [((a * use) @ kernel).ravel() for a in (rate, sums.flat, sums.exposure)], axis=1
        )
        data = ((signal * use) @ kernel).ravel()
        weight = 1 / np.sqrt(np.abs(data) + max(float(np.abs(data).mean()), 1e-12))
        size = np.maximum(np.linalg.norm(columns * weight[:, None], axis=0), 1e-300)
        solution = nnls(columns * weight[:, None] / size, data * weight)[0] / size
        # A part that got nothing starts at a thousandth of the data, of their error where they are
        # zero or negative, or of one count: its logarithm must stay finite.
        error = float(np.sqrt((sums.variance * use).sum()))
        amount = max(float(data.sum()), error, 0.0 if sums.gaussian else 1.0)
        reach = columns.sum(0)
        floor = np.where(reach > 0, 1e-3 * amount / np.where(reach > 0, reach, 1.0), 1.0)
        floor = np.where(floor > 0, floor, 1.0)
        rest = np.zeros(len(self.nuisance_sigma) - 3)
        return np.concatenate([values, np.log(np.maximum(solution, floor)), rest])

    def _score(
        self,
        observations: Sequence[Observation],
        theta: FloatArray,
        iterations: int,
        blur: float = 0.0,
        anchors: Sequence[_Anchor] | None = None,
    ) -> Posterior:
        k = self.n_parameters
        of = anchors if anchors is not None else [None] * len(observations)
        centre = theta.copy()
        centre[:k] = self.prior.mean
        centre[k + 3 :] = 0.0
        prior = self.prior_precision()

        def at(candidate):
            state = self.model.prepare(candidate[:k])
            parts = [
                self._linearise(candidate, state, o, blur, a)
                for o, a in zip(observations, of, strict=True)
            ]
            linears = [p[0] for p in parts]
            return linears, parts, self._objective(candidate, linears, centre)

        linears, parts, value = at(theta)
        converged = False
        damping = 1e-3 if blur else 0.0
        step_count = 0
        while step_count < iterations and not converged:
            fisher = sum((_fisher(one) for one in linears), np.zeros_like(prior))
            gradient = sum((_score_vector(one) for one in linears), np.zeros(len(theta)))
            gradient -= prior @ (theta - centre)
            while step_count < iterations:
                step_count += 1
                damped = prior + fisher + damping * np.diag(np.diag(fisher) + np.diag(prior))
                step = cho_solve(cho_factor(damped), gradient)
                step *= min(1.0, 2.0 / max(np.max(np.abs(step[k:])), 1e-12))
                if gradient @ step < NEGLIGIBLE_DECREASE:
                    converged = True
                    break
                trial = at(theta + step)
                if trial[2] < value:
                    theta = theta + step
                    linears, parts, value = trial
                    damping = damping / 10 if damping > 1e-4 else 0.0
                    break
                damping = max(10 * damping, 1e-2)
        precision = prior + sum((_fisher(one) for one in linears), np.zeros_like(prior))
        covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
        return Posterior(
            names=self.prior.names,
            values=theta[:k],
            covariance=covariance[:k, :k],
            theta=theta,
            precision=precision,
            objective=value,
            converged=converged,
            iterations=step_count,
            expected=np.sum([p[1] for p in parts], axis=0),
            phonon=np.sum([p[2] for p in parts], axis=0),
            totals=np.array([float(one.rate.sum()) for one in linears]),
            can=None if observations[0].can is None else np.sum([p[3] for p in parts], axis=0),
        )


def _fisher(one: _Linear) -> FloatArray:
    weight = 1 / (one.rate if one.variance is None else one.variance)
    return (one.slope * weight[:, None]).T @ one.slope


def _score_vector(one: _Linear) -> FloatArray:
    weight = 1 / (one.rate if one.variance is None else one.variance)
    return one.slope.T @ ((one.data - one.rate) * weight)
