"""Refinement: force constants from counts by Poisson scoring, with honest nuisances and prior.

``lambda = A I(cell; phi, width) + b1 F + b2 D`` for every (cell, orientation): scale A, a
background flat in time of flight (F) and one proportional to exposure (D), and the resolution
width. All of theta is fitted together; the Laplace covariance of the parameters is marginal over
the nuisances. Where the experiment names an empty can, its expected rate is added, and theta gets
one more nuisance, the can's strength.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from model_server.posterior._scipy import (
    SparseMatrix,
    block_diagonal,
    non_negative_least_squares,
    solve_positive,
)
from model_server.posterior.posterior import Posterior, ThetaLayout
from simulations.arrays import BoolArray, FloatArray
from simulations.errors import InputError
from simulations.fold import CanRate, CellSums, MergedVoxels, VoxelExposure
from simulations.likelihood import ExactModel, ForwardModel, State, Trajectories
from simulations.prior import BoxPrior

NUISANCE_SIGMA = (5.0, 3.0, 3.0, 0.05)  # prior widths of ``NUISANCES``; the resolution: 5 %
ANCHOR_SIGMAS = 1.0  # exact rates are carried over this many sigma
BETTER_THAN_BEFORE = 1.0  # of minus log posterior: less does not drop tangents that still hold
ANCHOR_LOG_WIDTH = 0.03
SLOPE_SIGMAS = 1.0  # slopes of tangents are taken anew when theta has moved farther
SAME_SIGMAS = 2.0  # what annealing finds closer to the answer before is that answer
TANGENT_SIGMAS = 1.5  # tangents carry exact rates over this many sigma at most
BENT = (
    0.1  # and where the second order, judged from the first, adds no more than this to chi-square
)
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Tangent:
    """Exact rates of one orientation at one theta, carried by their own derivatives alone.

    Iterations between two walks cost no forward model. What the second order would add is judged
    from the first (a line that moves by a share of its width), and a new walk follows before it
    matters.
    """

    values: FloatArray  # (K,)
    log_width: float
    exact: FloatArray  # (path_bins, energy_bins), scale 1
    slope: FloatArray  # (path_bins, energy_bins, K + 1), the last by the logarithm of the width
    slope_values: FloatArray  # (K,) where the slope was taken

    def at(self, values: FloatArray, log_width: float) -> tuple[FloatArray, FloatArray]:
        """Rate and its derivatives, scale 1."""
        return np.maximum(self.exact + self._change(values, log_width), 0.1 * self.exact), (
            self.slope
        )

    def bent(self, theta: FloatArray, layout: ThetaLayout, sums: CellSums) -> float:
        """Chi-square that the second order might make at theta in the counts of ``sums``."""
        scale, flat, constant = np.exp(theta[layout.log_amplitudes])
        change = np.abs(self._change(theta[layout.parameters], float(theta[layout.log_width])))
        second = 0.5 * scale * change**2 / np.maximum(self.exact + change, 1e-300)
        if sums.gaussian:
            variance = np.where(sums.variance > 0, sums.variance, np.inf)
        else:
            variance = scale * self.exact + flat * sums.flat + constant * sums.exposure
            variance = np.where(variance > 0, variance, np.inf)
        return float(np.sum(second**2 / variance))

    def _change(self, values: FloatArray, log_width: float) -> FloatArray:
        return self.slope @ np.append(values - self.values, log_width - self.log_width)


_Parts: TypeAlias = "tuple[_Linear, FloatArray, FloatArray, FloatArray]"
"""Usable cells of one orientation; and lambda, its model's and its can's part in all cells."""


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


def anneals(before: int, now: int) -> bool:
    """Whether a fit by tangents looks for another answer than that of ``before`` orientations.

    At 1, 2, 3, 4, 6, 9, 13... orientations, half as many again each time, or when those are passed:
    a wrong answer is left after a third of a run at most, and the search costs little beside all
    that is walked. And where orientations were withdrawn.
    """
    at = 1
    while at <= before:
        at = max(at + 1, at * 3 // 2)
    return now <= before or at <= now


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
    prior : BoxPrior
        Over ``model.parameter_names``. It acts as a Gaussian with the mean and the standard
        deviation of the box.
    energy_centres_meV : (energy_bins,)
    elastic_cut_meV : float
        Cells nearer to zero energy transfer are left out.
    exact : ExactModel, optional
        Rates along trajectories. The folded model then only carries them from one answer to
        the next and gives the derivatives; without it the folded model stands alone.
    can_sigma : float, optional
        Relative standard deviation of the can's strength. Theta ends with its logarithm then.
    tangents : bool
        Exact rates are carried by their own derivatives; the forward model, which may then be a
        rougher one, finds the way to them and gives the derivative by the width.
    """

    def __init__(
        self,
        *,
        model: ForwardModel,
        prior: BoxPrior,
        energy_centres_meV: FloatArray,
        elastic_cut_meV: float,
        exact: ExactModel | None = None,
        can_sigma: float | None = None,
        tangents: bool = False,
    ) -> None:
        names = model.parameter_names
        if tuple(prior.names) != tuple(names):
            raise InputError(
                f"prior is over {prior.names}; expected the model's parameters {names}"
            )
        if exact is not None and tuple(exact.parameter_names) != tuple(names):
            raise InputError(
                f"the exact model is over {exact.parameter_names}; expected those of the forward "
                f"model, {names}"
            )
        self.model = model
        self.prior = prior
        self.energy = np.asarray(energy_centres_meV)
        self.elastic_cut = elastic_cut_meV
        self.exact = exact
        self.tangents = tangents
        self._anchors: dict[str, _Anchor | _Tangent] = {}
        self.layout = ThetaLayout(
            parameter_names=tuple(names),
            parameter_units=tuple(model.parameter_units),
            has_can=can_sigma is not None,
        )
        self.nuisance_sigma = NUISANCE_SIGMA if can_sigma is None else (*NUISANCE_SIGMA, can_sigma)
        step = float(self.energy[1] - self.energy[0])
        gap = np.abs(self.energy[:, None] - self.energy[None, :])
        self._spread_of: tuple[tuple[float, bytes], SparseMatrix] | None = None
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
            The answer before the newest chunk; competes with the annealed ones. With ``tangents``
            it is followed alone at most numbers of orientations, see ``anneals``.
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
            raise InputError("observations is empty; expected at least one folded orientation")
        exactly = self.tangents and all(o.trajectories is not None for o in observations)
        if warm is not None and exactly and self.exact is not None:
            if not anneals(len(warm.totals), len(observations)):
                theta = warm.theta.copy()
                return self._score_exactly(self.exact, observations, theta, warm.sigma, iterations)
        pooled = pool(observations) if pooled is None else pooled
        coarse_model = self if coarse is None else coarse.refinement
        coarse_pooled = pooled if coarse is None else coarse.of(pooled)
        first = [coarse_model._first_theta(coarse_pooled, s) for s in (self.prior.mean, *starts)]
        if self.tangents:
            blurred = coarse_model._anneal_ever_fewer(coarse_pooled, first, BLURS_MEV[:3], 6)
        else:
            blurred = [coarse_model._anneal(coarse_pooled, t, BLURS_MEV[:3], 6) for t in first]
        distinct: list[Posterior] = []
        for candidate in sorted(blurred, key=lambda p: p.objective):
            gaps = [np.abs((candidate.values - d.values) / d.sigma).max() for d in distinct]
            if len(distinct) < 2 and min(gaps, default=np.inf) > 1.0:
                distinct.append(candidate)
        if warm is not None and exactly and self.exact is not None:
            moved = [np.abs((d.values - warm.values) / d.sigma).max() for d in distinct]
            if max(moved) < SAME_SIGMAS:
                theta = warm.theta.copy()
                return self._score_exactly(self.exact, observations, theta, warm.sigma, iterations)
        candidates = [self._anneal(pooled, p.theta.copy(), BLURS_MEV[3:], 8) for p in distinct]
        if warm is not None:
            candidates.append(self._score([pooled], warm.theta.copy(), 8))
        best = min(candidates, key=lambda p: p.objective)
        if warm is not None and self.tangents:
            before = candidates[-1]
            best = before if before.objective < best.objective + BETTER_THAN_BEFORE else best
        if self.exact is None or any(o.trajectories is None for o in observations):
            return self._score(observations, best.theta.copy(), iterations)
        # Where the answer before still holds, the rates anchored there do too.
        theta = warm.theta if warm is not None and best is candidates[-1] else best.theta
        return self._score_exactly(self.exact, observations, theta, best.sigma, iterations)

    def _score_exactly(
        self,
        exact: ExactModel,
        observations: Sequence[Observation],
        theta: FloatArray,
        sigma: FloatArray,
        iterations: int,
    ) -> Posterior:
        """Score with the folded rates corrected to the exact ones, until the answer stays."""
        rounds = 0
        while True:
            anchors = self._anchored(exact, observations, theta, sigma)
            posterior = self._score(observations, theta.copy(), iterations, anchors=anchors)
            sigma = posterior.sigma
            carried = zip(anchors, observations, strict=True)
            if all(
                self._carries(a, o, posterior.theta, sigma, 1.0, len(observations))
                for a, o in carried
            ):
                return posterior
            rounds += 1
            if rounds == ANCHOR_ROUNDS:
                return replace(posterior, converged=False)
            theta = posterior.theta

    def _anchored(
        self,
        exact: ExactModel,
        observations: Sequence[Observation],
        theta: FloatArray,
        sigma: FloatArray,
    ) -> list[_Anchor | _Tangent]:
        """Exact rates of every orientation, computed anew where theta has moved away."""
        values, width = theta[self.layout.parameters], float(theta[self.layout.log_width])
        states: list[tuple[State, State]] = []
        anchors: list[_Anchor | _Tangent] = []
        for observation in observations:
            anchor = self._anchors.get(observation.key)
            if anchor is None or not self._carries(
                anchor, observation, theta, sigma, 0.5, len(observations)
            ):
                if not states:
                    states.append((self.model.prepare(values), exact.prepare(values)))
                if observation.trajectories is None:
                    raise InputError("observation has no trajectories; the exact rate needs them")
                folded, along_pixels = states[0]
                if isinstance(anchor, _Tangent) and (
                    np.max(np.abs(values - anchor.slope_values) / sigma) < SLOPE_SIGMAS
                    and abs(width - anchor.log_width) < ANCHOR_LOG_WIDTH
                ):
                    rate, _ = exact.rates(
                        observation.trajectories(), along_pixels, log_width=width, gradient=False
                    )
                    anchor = replace(anchor, values=values.copy(), log_width=width, exact=rate)
                    if observation.key:
                        self._anchors[observation.key] = anchor
                    anchors.append(anchor)
                    continue
                rate, slope = self.model.rates(
                    observation.exposure(), folded, log_width=width, gradient=True
                )
                exactly, along = exact.rates(
                    observation.trajectories(), along_pixels, log_width=width, gradient=True
                )
                if self.tangents:
                    by_width = slope[..., len(values) :]
                    anchor = _Tangent(
                        values=values.copy(),
                        log_width=width,
                        exact=exactly,
                        slope=np.concatenate([along, by_width], axis=-1),
                        slope_values=values.copy(),
                    )
                else:
                    anchor = _Anchor(
                        values=values.copy(),
                        log_width=width,
                        exact=exactly,
                        rate=exactly - rate,
                        slope=along - slope[..., : len(values)],
                    )
                if observation.key:
                    self._anchors[observation.key] = anchor
            anchors.append(anchor)
        return anchors

    def _carries(
        self,
        anchor: _Anchor | _Tangent,
        observation: Observation,
        theta: FloatArray,
        sigma: FloatArray,
        share: float,
        observations: int,
    ) -> bool:
        """Whether exact rates can be had from an anchor at theta; a share of its whole reach."""
        tangent = isinstance(anchor, _Tangent)
        gap = np.max(np.abs(theta[self.layout.parameters] - anchor.values) / sigma)
        width = abs(theta[self.layout.log_width] - anchor.log_width)
        if gap > share * (TANGENT_SIGMAS if tangent else ANCHOR_SIGMAS):
            return False
        if width > share * ANCHOR_LOG_WIDTH:
            return False
        if not tangent:
            return True
        return anchor.bent(theta, self.layout, observation.sums) * observations <= share * BENT

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
        self, theta: FloatArray, observation: Observation, state: State | None = None
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
            state = self.state_at(theta)
        linear, total, _, _ = self._linearise(theta, state, observation)
        return total, _fisher(linear)

    @property
    def n_parameters(self) -> int:
        """Parameters of the model, the first entries of theta."""
        return self.layout.n_parameters

    def state_at(self, theta: FloatArray) -> State:
        """The forward model prepared at the parameters of theta."""
        return self.model.prepare(theta[self.layout.parameters])

    def prior_precision(self) -> FloatArray:
        """Precision of the prior over theta, (P, P)."""
        nuisances = np.asarray(self.nuisance_sigma) ** -2.0
        return np.diag(np.concatenate([self.prior.sigma**-2.0, nuisances]))

    # -- one step -------------------------------------------------------------------------------

    def _linearise(
        self,
        theta: FloatArray,
        state: State,
        observation: Observation,
        blur: float = 0.0,
        anchor: _Anchor | _Tangent | None = None,
    ) -> _Parts:
        layout = self.layout
        k = layout.n_parameters
        scale, flat, constant = np.exp(theta[layout.log_amplitudes])
        sums = observation.sums
        width = float(theta[layout.log_width])
        if isinstance(anchor, _Tangent):
            rate, slope = anchor.at(theta[layout.parameters], width)
        else:
            rate, slope = self.model.rates(
                observation.exposure(), state, log_width=width, gradient=True
            )
            if anchor is not None:
                rate, slope = anchor.carry(theta[layout.parameters], rate, slope)
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
                by_strength[use][:, : int(layout.has_can)],
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
        layout, can = self.layout, observation.can
        if can is None:
            return phonon, np.zeros_like(phonon), np.zeros((*phonon.shape, 1))
        if layout.log_can is None:
            raise InputError(
                "observation has a can; expected a refinement with can_sigma. Give it one."
            )
        strength = float(np.exp(theta[layout.log_can]))
        if can.fixed is None:
            rate = np.exp(theta[layout.log_scale]) * strength * can.shape
            return phonon + rate, rate, rate[..., None]
        rate = can.fixed + (strength - 1) * can.shape
        return phonon, rate, (strength * can.shape)[..., None]

    def _spread(self, use: BoolArray, blur: float) -> SparseMatrix:
        """Gaussian blur in energy, within each path bin, over the usable cells."""
        key = (blur, use.tobytes())
        if self._spread_of is None or self._spread_of[0] != key:
            kernel = self._blur[blur]
            blocks: list[FloatArray] = []
            for row in use:
                at = np.flatnonzero(row)
                blocks.append(kernel[np.ix_(at, at)])
            self._spread_of = (key, block_diagonal(blocks))
        return self._spread_of[1]

    def _objective(
        self, theta: FloatArray, linears: Sequence[_Linear], centre: FloatArray
    ) -> float:
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

    def _anneal_ever_fewer(
        self,
        pooled: Observation,
        starts: Sequence[FloatArray],
        blurs: Sequence[float],
        iterations: int,
    ) -> list[Posterior]:
        """As ``_anneal`` of every start, but the worse half is left behind at every blur."""
        found: list[Posterior] = []
        thetas = list(starts)
        for blur in blurs:
            found = [self._score([pooled], t.copy(), iterations, blur=blur) for t in thetas]
            found.sort(key=lambda p: p.objective)
            thetas = [p.theta for p in found[: max(2, (len(found) + 1) // 2)]]
        return found

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
        solution = (
            non_negative_least_squares(columns * weight[:, None] / size, data * weight) / size
        )
        # A part that got nothing starts at a thousandth of the data, of their error where they are
        # zero or negative, or of one count: its logarithm must stay finite.
        error = float(np.sqrt((sums.variance * use).sum()))
        amount = max(float(data.sum()), error, 0.0 if sums.gaussian else 1.0)
        reach = columns.sum(0)
        floor = np.where(reach > 0, 1e-3 * amount / np.where(reach > 0, reach, 1.0), 1.0)
        floor = np.where(floor > 0, floor, 1.0)
        theta = np.zeros(self.layout.size)
        theta[self.layout.parameters] = values
        theta[self.layout.log_amplitudes] = np.log(np.maximum(solution, floor))
        return theta

    def _score(
        self,
        observations: Sequence[Observation],
        theta: FloatArray,
        iterations: int,
        blur: float = 0.0,
        anchors: Sequence[_Anchor | _Tangent] | None = None,
    ) -> Posterior:
        layout = self.layout
        of = anchors if anchors is not None else [None] * len(observations)
        centre = theta.copy()
        centre[layout.parameters] = self.prior.mean
        centre[layout.centred_at_zero] = 0.0
        prior = self.prior_precision()

        def at(
            candidate: FloatArray,
        ) -> tuple[list[_Linear], list[_Parts], float]:
            by_tangents = of and all(isinstance(one, _Tangent) for one in of)
            state = None if by_tangents else self.state_at(candidate)
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
            gradient = gradient - prior @ (theta - centre)
            while step_count < iterations:
                step_count += 1
                damped = prior + fisher + damping * np.diag(np.diag(fisher) + np.diag(prior))
                step = solve_positive(damped, gradient)
                step *= min(1.0, 2.0 / max(np.max(np.abs(step[layout.nuisances])), 1e-12))
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
            model=self.model.name,
            layout=layout,
            covariance=covariance[layout.parameters, layout.parameters],
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
