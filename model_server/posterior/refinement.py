"""Refinement: force constants from counts by Poisson scoring, with honest nuisances and prior.

``lambda = A I(cell; phi, width, off) + b1 F + b2 D`` for every (cell, orientation): scale A, a
background flat in time of flight (F) and one proportional to exposure (D), the resolution width,
and how far the set-up is off. All of theta is fitted together; the Laplace covariance of the
parameters is marginal over the nuisances. Where the experiment names an empty can, its expected
rate is added, and theta gets one more nuisance, the can's strength; so it does for every part
that is predicted from the crystal, such as its incoherent and multiphonon scattering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from model_server.posterior._scipy import solve_positive
from model_server.posterior.aside import Piece
from model_server.posterior.blurring import Blurring
from model_server.posterior.descent import FAR, descend
from model_server.posterior.linear import Linear
from model_server.posterior.marginal import marginal_of, piece_of
from model_server.posterior.observation import Observation, pool, usable_cells
from model_server.posterior.posterior import Posterior, ThetaLayout
from model_server.posterior.search import searches
from model_server.posterior.starts import Starts
from model_server.posterior.tangent import Anchor, Tangent, Tangents
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.likelihood import NONE_OFF, ExactModel, ForwardModel, State
from simulations.prior import BoxPrior

NUISANCE_SIGMA = (5.0, 3.0, 3.0, 0.05)  # prior widths of ``NUISANCES``; the resolution: 5 %
BETTER_THAN_BEFORE = 1.0  # of minus log posterior: less does not drop tangents that still hold
NEGLIGIBLE_DECREASE = 0.01  # of minus log posterior: a tenth of a sigma
FINALISTS = 4  # answers to blurred counts that are followed to sharp ones
KICK_SIGMAS = (2.0, 4.0, 8.0)  # how far, in turn
KICK_PAYS = 0.5  # of minus log posterior
MOST_KICKS = 40
ROUNDS = 4  # most corrections of folded rates
NEAR = 25.0  # of chi-square: steps that exact rates can be carried by
LEAPS = 4  # most ways out of shallow minima of the exact rates
ANCHORED_WITHIN = 2.0  # of minus log posterior: what corrected folded rates may be wrong by
LEAP_PAYS = 1.0  # of minus log posterior, as the corrected folded rates see it
BLURS_MEV = (6.0, 3.0, 1.5, 0.75, 0.0)


_Parts: TypeAlias = "tuple[Linear, FloatArray, FloatArray, FloatArray]"
"""Usable cells of one orientation; and lambda, its model's and its can's part in all cells."""


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
        Rates along trajectories with all their derivatives. The folded model, which may then be a
        rough one, only finds the way to them; without it the folded model stands alone.
    can_sigma : float, optional
        Relative standard deviation of the can's strength. Theta has its logarithm then.
    part_sigma : mapping, optional
        Of expected parts by name, likewise; every observation has their rates in this order.
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
        part_sigma: Mapping[str, float] | None = None,
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
        self.missetting = missetting = NONE_OFF if exact is None else exact.missetting
        self.layout = ThetaLayout(
            parameter_names=tuple(names),
            parameter_units=tuple(model.parameter_units),
            has_can=can_sigma is not None,
            part_names=tuple(part_sigma or {}),
            off_names=missetting.names,
            off_units=missetting.units,
        )
        can = () if can_sigma is None else (can_sigma,)
        self._can_sigma, self._part_sigma = can_sigma, dict(part_sigma or {})
        parts = self._part_sigma.values()
        self.nuisance_sigma = (*NUISANCE_SIGMA, *can, *parts, *missetting.sigma.tolist())
        self._tangents = Tangents(exact, self.layout)
        self._blurring = Blurring(self.energy)
        self.starts = Starts(
            model=model,
            prior=prior,
            layout=self.layout,
            off_sigma=missetting.sigma,
            energy_centres_meV=self.energy,
            elastic_cut_meV=elastic_cut_meV,
        )

    def fit(
        self,
        observations: Sequence[Observation],
        *,
        starts: Sequence[FloatArray] = (),
        guesses: Sequence[FloatArray] = (),
        warm: Posterior | None = None,
        pooled: Observation | None = None,
        kicks: int = 0,
        iterations: int = 15,
    ) -> Posterior:
        """Fit all orientations, one Poisson term per (cell, orientation).

        Parameters
        ----------
        observations : sequence of Observation
        starts : sequence of (K,)
            Places to begin at beside the prior mean, draws of the prior, see ``Starts``.
        guesses : sequence of (K,)
            Others that are thought to be near, a network's; no crowd moves them.
        warm : Posterior, optional
            The answer before the newest chunk. With exact rates it is followed alone at most
            numbers of orientations, see ``searches``; else it competes with the annealed ones.
        pooled : Observation, optional
            The same orientations as one, where the caller has them.
        kicks : int
            The answer is left by some sigma, and annealed again, until so many kicks in a row led
            to nothing better.
        iterations : int
            Most scoring steps.

        Returns
        -------
        Posterior
        """
        if not observations:
            raise InputError("observations is empty; expected at least one folded orientation")
        pooled = pool(observations) if pooled is None else pooled
        if warm is not None and warm.believing is not None:
            warm = warm.believing
        exactly = self.exact is not None and all(o.trajectories is not None for o in observations)
        found = self._fit(observations, pooled, starts, guesses, warm, exactly, kicks, iterations)
        return self._with_aside(observations, found) if exactly else found

    def _fit(
        self,
        observations: Sequence[Observation],
        pooled: Observation,
        starts: Sequence[FloatArray],
        guesses: Sequence[FloatArray],
        warm: Posterior | None,
        exactly: bool,
        kicks: int,
        iterations: int,
    ) -> Posterior:
        """Fit with the set-up that is believed, but for what of it is fitted."""
        centre = self.starts.centre(pooled)
        if warm is not None and exactly and not searches(warm, len(observations)):
            found = self._descend(observations, warm.theta, warm.theta_sigma, centre, iterations)
            return self._leave_shallow(observations, pooled, found, centre, kicks, iterations)
        first, blur = self.starts.first(pooled, [self.prior.mean, *starts])
        blurred = self._anneal_ever_fewer(pooled, first, centre, blur)
        for theta in self.starts.as_they_are(pooled, guesses):
            blurred.append(self._anneal(pooled, theta, centre, BLURS_MEV[:3], 12))
        quickly = warm is not None and exactly and not kicks
        if warm is not None and quickly and self._is_of_before(pooled, blurred, warm, centre):
            return self._descend(observations, warm.theta, warm.theta_sigma, centre, iterations)
        distinct: list[Posterior] = []
        for candidate in sorted(blurred, key=lambda p: p.objective):
            gaps = [np.abs((candidate.values - d.values) / d.sigma).max() for d in distinct]
            if len(distinct) < FINALISTS and min(gaps, default=np.inf) > 1.0:
                distinct.append(candidate)
        candidates = [self._anneal(pooled, p.theta, centre, BLURS_MEV[3:], 8) for p in distinct]
        best = min(candidates, key=lambda p: p.objective)
        best = self._kicked(pooled, best, centre, kicks)
        before = None if warm is None else self._score([pooled], warm.theta, centre, 8)
        gain = np.inf if before is None else before.objective - best.objective
        if not exactly:
            stays = None if gain > BETTER_THAN_BEFORE else before
            theta = (stays or best).theta
            return self._score(observations, theta, centre, iterations)
        if warm is None or gain <= BETTER_THAN_BEFORE:
            at = best.theta if warm is None else warm.theta
            found = self._descend(observations, at, best.theta_sigma, centre, iterations)
            if warm is None and kicks:
                found = self._or_nearer(observations, pooled, best, found, centre, iterations)
            return self._leave_shallow(observations, pooled, found, centre, kicks, iterations)
        # The folded model may prefer another answer than the rates that it stands for. The one that
        # it prefers by far is followed first, so that the other can be given up early.
        first, other = (best, warm) if gain > FAR else (warm, best)
        found = self._descend(observations, first.theta, first.theta_sigma, centre, iterations)
        if other is warm or self._may_be_better(observations, pooled, best, found, centre):
            kept = self._tangents.remembered()
            else_found = self._descend(
                observations, other.theta, other.theta_sigma, centre, iterations, found.objective
            )
            if else_found.objective < found.objective:
                found = else_found
            else:
                self._tangents.recall(kept)
        return self._leave_shallow(observations, pooled, found, centre, kicks, iterations)

    def _is_of_before(
        self, pooled: Observation, blurred: Sequence[Posterior], warm: Posterior, centre: FloatArray
    ) -> bool:
        """Whether the best of blurred counts is the answer before, or explains them no better."""
        best = min(blurred, key=lambda p: p.objective)
        before = self._score([pooled], warm.theta, centre, 0, blur=BLURS_MEV[2])
        gap = np.abs((best.values - warm.values) / best.sigma).max()
        return bool(gap < 1.0 or before.objective < best.objective)

    def _may_be_better(
        self,
        observations: Sequence[Observation],
        pooled: Observation,
        candidate: Posterior,
        found: Posterior,
        centre: FloatArray,
    ) -> bool:
        """Whether folded rates, corrected where ``found`` is, leave the candidate a chance."""
        anchor = self._anchored(observations, pooled, found)
        here = self._score([pooled], found.theta, centre, 10, anchor=anchor)
        there = self._score([pooled], candidate.theta, centre, 10, anchor=anchor)
        return there.objective < here.objective + ANCHORED_WITHIN

    def _descend(
        self,
        observations: Sequence[Observation],
        theta: FloatArray,
        sigma: FloatArray,
        centre: FloatArray,
        iterations: int,
        beat: float = np.inf,
    ) -> Posterior:
        """Minimise the objective of exact rates: linearise, step, and shorten steps that fail.

        It is given up, unsettled, where a step promises an objective far above the one to ``beat``.
        """
        return descend(
            theta,
            sigma,
            walk=lambda at, wide, share: self._tangents.walked(observations, at, wide, share),
            value=lambda at, tangents: self._value(observations, at, centre, tangents),
            score=lambda at, tangents, most: self._score(
                observations, at, centre, most, tangents=tangents
            ),
            holds=lambda tangents, at, wide: self._tangents.carry(tangents, observations, at, wide),
            iterations=iterations,
            beat=beat,
        )

    def _or_nearer(
        self,
        observations: Sequence[Observation],
        pooled: Observation,
        best: Posterior,
        found: Posterior,
        centre: FloatArray,
        iterations: int,
    ) -> Posterior:
        """The better of an answer and one by folded rates, corrected and searched again."""
        kept = self._tangents.remembered()
        for _ in range(ROUNDS):
            anchor = self._anchored(observations, pooled, best)
            before, best = best, self._anneal(pooled, best.theta, centre, BLURS_MEV[2:], 12, anchor)
            if best.chi_square_of(before.theta) < NEAR:
                break
        if best.chi_square_of(found.theta) > NEAR:
            other = self._descend(
                observations, best.theta, best.theta_sigma, centre, iterations, found.objective
            )
            if other.objective < found.objective:
                return other
        self._tangents.recall(kept)
        return found

    def _leave_shallow(
        self,
        observations: Sequence[Observation],
        pooled: Observation,
        found: Posterior,
        centre: FloatArray,
        kicks: int,
        iterations: int,
    ) -> Posterior:
        """Leave shallow minima of the exact rates beside the deepest, while that pays."""
        for _ in range(LEAPS if kicks else 0):
            anchor = self._anchored(observations, pooled, found)
            here = self._score([pooled], found.theta, centre, 10, anchor=anchor)
            there = self._kicked(pooled, here, centre, kicks, anchor)
            if there.objective > here.objective - LEAP_PAYS:
                break
            kept = self._tangents.remembered()
            leapt = self._descend(observations, there.theta, found.theta_sigma, centre, iterations)
            if leapt.objective > found.objective - KICK_PAYS:
                self._tangents.recall(kept)
                break
            found = leapt
        return found

    def _anchored(
        self, observations: Sequence[Observation], pooled: Observation, found: Posterior
    ) -> Anchor:
        """What exact rates add to folded ones where ``found`` is."""
        layout, theta = self.layout, found.theta
        tangents = self._tangents.walked(observations, theta, found.theta_sigma, share=1.0)
        exact = np.sum([t.carried(theta[layout.walked]) for t in tangents], axis=0)
        slope = np.sum([t.slope for t in tangents], axis=0)
        folded, along = self._folded(theta, self.state_at(theta), pooled)
        return Anchor(
            off=theta[layout.off],
            exact=exact,
            more=exact - folded,
            by_off=(slope - along)[..., layout.n_parameters + 1 :],
        )

    def _value(
        self,
        observations: Sequence[Observation],
        theta: FloatArray,
        centre: FloatArray,
        tangents: Sequence[Tangent],
    ) -> float:
        linears = [
            self._linearise(theta, None, o, tangent=t)[0]
            for o, t in zip(observations, tangents, strict=True)
        ]
        return self._objective(theta, linears, centre, self.prior_precision())

    @property
    def may_doubt(self) -> bool:
        """Whether something of the set-up is taken to be right that may be off."""
        return self.exact is not None and bool((self.exact.aside.sigma > 0).any())

    def doubting(self) -> Refinement:
        """The same with the set-up fitted, where it may be off by more than can be carried."""
        if self.exact is None:
            raise InputError("the refinement has no exact model; expected one that knows of it")
        return Refinement(
            model=self.model,
            prior=self.prior,
            energy_centres_meV=self.energy,
            elastic_cut_meV=self.elastic_cut,
            exact=self.exact.doubting(),
            can_sigma=self._can_sigma,
            part_sigma=self._part_sigma,
        )

    def doubt(
        self,
        observations: Sequence[Observation],
        believing: Refinement,
        found: Posterior,
        pooled: Observation,
        iterations: int = 15,
    ) -> Posterior:
        """Follow an answer that believed the set-up to where it is fitted.

        Parameters
        ----------
        observations : sequence of Observation
        believing : Refinement
            What found the answer, of which this is ``doubting``.
        found : Posterior
            With what was marginalised beside it.
        pooled : Observation
            The same orientations as one.
        """
        if found.aside is None or found.believing is None or believing.exact is None:
            return found
        before, free = believing.exact.aside.sigma > 0, slice(0, len(believing.exact.aside))
        off = found.aside.sigma[free][before]
        self.recall({k: t.doubting(before) for k, t in believing.remembered().items()})
        followed = self._descend(
            observations,
            np.concatenate([found.believing.theta, np.zeros(len(off))]),
            np.concatenate([found.theta_sigma, off]),
            self.starts.centre(pooled),
            iterations,
        )
        return self._with_aside(observations, followed)

    def _with_aside(self, observations: Sequence[Observation], found: Posterior) -> Posterior:
        """Marginalise what is not fitted, and test what is taken to be right."""
        if self.exact is None:
            return found
        tangents = self._tangents.walked(observations, found.theta, found.theta_sigma, share=1.0)
        pieces: list[Piece] = []
        for one, tangent in zip(observations, tangents, strict=True):
            linear, _, phonon, _ = self._linearise(found.theta, None, one, tangent=tangent)
            use = usable_cells(one.sums, self.energy, self.elastic_cut)
            pieces.append(
                piece_of(found, one, tangent, linear, phonon, use, self.energy, self.exact.aside)
            )
        return marginal_of(found, pieces, self.exact.aside, self.prior_precision())

    def forget(self, key: str) -> None:
        """Drop the exact rates kept of an orientation that left the run."""
        self._tangents.forget(key)

    def remembered(self) -> dict[str, Any]:
        """Exact rates kept between fits, by orientation; a later ``recall`` goes back to them."""
        return self._tangents.remembered()

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Keep exactly these rates: the next fit does not depend on fits since then."""
        self._tangents.recall(remembered)

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
        return total, linear.fisher()

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

    def _prior_beside(self, blur: float) -> FloatArray:
        """Precision of the prior beside counts of such a blur: of a set-up, more; see there."""
        prior = self.prior_precision()
        if blur > 0:
            prior[self.layout.off, self.layout.off] *= self._blurring.together(blur)
        return prior

    def _linearise(
        self,
        theta: FloatArray,
        state: State,
        observation: Observation,
        blur: float = 0.0,
        tangent: Tangent | None = None,
        anchor: Anchor | None = None,
    ) -> _Parts:
        layout = self.layout
        scale, flat, constant = np.exp(theta[layout.log_amplitudes])
        sums = observation.sums
        walked = layout.walked
        if tangent is not None:
            rate, slope = tangent.carried(theta[walked]), tangent.slope
        else:
            rate, slope = self._folded(theta, state, observation)
            if anchor is not None:
                rate = anchor.corrected(rate, theta[layout.off])
                slope = slope.copy()
                slope[..., layout.n_parameters + 1 :] += anchor.by_off
        phonon = scale * rate
        total = phonon + flat * sums.flat + constant * sums.exposure
        by_scale, can, by_strength = self._can(theta, observation, phonon)
        if observation.can is not None:
            total = total + can
        parts = self._parts(theta, observation)
        for part in parts:
            total, by_scale = total + part, by_scale + part
        size = layout.size
        use = usable_cells(sums, self.energy, self.elastic_cut)
        columns = np.zeros((int(use.sum()), layout.size))
        columns[:, walked] = scale * slope[use]
        columns[:, layout.log_scale] = by_scale[use]
        columns[:, layout.log_flat_background] = flat * sums.flat[use]
        columns[:, layout.log_exposure_background] = constant * sums.exposure[use]
        if layout.log_can is not None:
            columns[:, layout.log_can] = by_strength[use]
        for at, part in zip(range(size)[layout.log_parts], parts, strict=True):
            columns[:, at] = part[use]
        data, rates = sums.signal[use], total[use]
        variance = sums.variance[use] if sums.gaussian else None
        if blur > 0:
            spread = self._blurring.spread(use, blur)
            data, rates, columns = spread @ data, spread @ rates, spread @ columns
            variance = None if variance is None else spread @ variance
        linear = Linear(data=data, rate=np.maximum(rates, 1e-12), slope=columns, variance=variance)
        return linear, total, phonon, can

    def _folded(
        self, theta: FloatArray, state: State, observation: Observation
    ) -> tuple[FloatArray, FloatArray]:
        """Rates of the forward model and their derivatives by all that exact ones depend on."""
        layout, exposure = self.layout, observation.exposure()
        width = float(theta[layout.log_width])
        if observation.drift is None:  # the model does not know what is mis-set
            rate, slope = self.model.rates(exposure, state, log_width=width, gradient=True)
            still = np.zeros((*slope.shape[:-1], layout.size - layout.off.start))
            return rate, np.concatenate([slope, still], axis=-1)
        drift, off = observation.drift(), theta[layout.off]
        return self.model.rates(
            exposure, state, log_width=width, gradient=True, drift=drift, off=off
        )

    def _can(
        self, theta: FloatArray, observation: Observation, phonon: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Derivative of lambda by ln scale, the can's rate, and its derivative by ln strength."""
        layout, can = self.layout, observation.can
        if can is None:
            return phonon, np.zeros_like(phonon), np.zeros_like(phonon)
        if layout.log_can is None:
            raise InputError(
                "observation has a can; expected a refinement with can_sigma. Give it one."
            )
        strength = float(np.exp(theta[layout.log_can]))
        if can.fixed is None:
            rate = np.exp(theta[layout.log_scale]) * strength * can.shape
            return phonon + rate, rate, rate
        rate = can.fixed + (strength - 1) * can.shape
        return phonon, rate, strength * can.shape

    def _parts(self, theta: FloatArray, observation: Observation) -> list[FloatArray]:
        """Rates of the expected parts, each also its derivative by ln scale and by ln strength."""
        layout = self.layout
        if len(observation.parts) != len(layout.part_names):
            raise InputError(
                f"observation has {len(observation.parts)} expected parts; expected "
                f"{len(layout.part_names)} ({', '.join(layout.part_names) or 'none'}), those of "
                "the refinement. Give their rates."
            )
        scale = theta[layout.log_scale]
        strengths = np.exp(scale + theta[layout.log_parts])
        return [s * part for s, part in zip(strengths, observation.parts, strict=True)]

    def _objective(
        self,
        theta: FloatArray,
        linears: Sequence[Linear],
        centre: FloatArray,
        prior: FloatArray,
    ) -> float:
        value = 0.0
        for one in linears:
            if one.variance is None:
                value += float(np.sum(one.rate - one.data * np.log(one.rate)))
            else:
                value += 0.5 * float(np.sum((one.data - one.rate) ** 2 / one.variance))
        offset = theta - centre
        return value + 0.5 * float(offset @ (np.diag(prior) * offset))

    def _anneal(
        self,
        pooled: Observation,
        theta: FloatArray,
        centre: FloatArray,
        blurs: Sequence[float],
        iterations: int,
        anchor: Anchor | None = None,
    ) -> Posterior:
        more: dict[str, Any] = {"anchor": anchor}
        found = self._score([pooled], theta, centre, iterations, blur=blurs[0], **more)
        for blur in blurs[1:]:
            found = self._score([pooled], found.theta, centre, iterations, blur=blur, **more)
        return found

    def _anneal_ever_fewer(
        self, pooled: Observation, starts: Sequence[FloatArray], centre: FloatArray, widest: float
    ) -> list[Posterior]:
        """Anneal every start on blurred counts; the worse half is left behind at every blur."""
        found: list[Posterior] = []
        thetas = list(starts)
        for blur in (blur for blur in BLURS_MEV[:3] if blur <= widest):
            found = [self._score([pooled], t, centre, 6, blur=blur) for t in thetas]
            found.sort(key=lambda p: p.objective)
            thetas = [p.theta for p in found[: max(2, (len(found) + 1) // 2)]]
        return found

    def _kicked(
        self,
        pooled: Observation,
        best: Posterior,
        centre: FloatArray,
        kicks: int,
        anchor: Anchor | None = None,
    ) -> Posterior:
        """Leave shallow minima beside the deepest: of many close constants there are several."""
        rng = np.random.default_rng([self.layout.size, 20262])
        layout, low, high = self.layout, self.prior.lower, self.prior.upper
        blurs = BLURS_MEV[3:]
        in_vain = 0
        for k in range(MOST_KICKS):
            if in_vain >= kicks:
                break
            covariance = np.asarray(np.linalg.inv(best.precision), dtype=np.float64)
            away = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
            away = away @ rng.standard_normal(layout.size)
            theta = best.theta.copy()
            for part in (layout.parameters, layout.off):
                theta[part] += KICK_SIGMAS[k % len(KICK_SIGMAS)] * away[part]
            theta[layout.parameters] = np.clip(theta[layout.parameters], low, high)
            found = self._anneal(pooled, theta, centre, blurs, 10, anchor)
            better = found.objective < best.objective - KICK_PAYS
            best, in_vain = (found, 0) if better else (best, in_vain + 1)
        return best

    def _score(
        self,
        observations: Sequence[Observation],
        theta: FloatArray,
        centre: FloatArray,
        iterations: int,
        blur: float = 0.0,
        tangents: Sequence[Tangent] | None = None,
        anchor: Anchor | None = None,
    ) -> Posterior:
        layout = self.layout
        of = tangents if tangents is not None else [None] * len(observations)
        prior = self._prior_beside(blur)

        def at(
            candidate: FloatArray,
        ) -> tuple[list[Linear], list[_Parts], float]:
            state = None if tangents is not None else self.state_at(candidate)
            parts = [
                self._linearise(candidate, state, o, blur, t, anchor)
                for o, t in zip(observations, of, strict=True)
            ]
            linears = [p[0] for p in parts]
            return linears, parts, self._objective(candidate, linears, centre, prior)

        linears, parts, value = at(theta)
        converged = False
        damping = 1e-3 if blur else 0.0
        step_count = 0
        while step_count < iterations and not converged:
            fisher = sum((one.fisher() for one in linears), np.zeros_like(prior))
            gradient = sum((one.score() for one in linears), np.zeros(len(theta)))
            gradient = gradient - prior @ (theta - centre)
            while step_count < iterations:
                step_count += 1
                damped = prior + fisher + damping * np.diag(np.diag(fisher) + np.diag(prior))
                step = solve_positive(damped, gradient)
                logarithms = step[layout.n_parameters : layout.off.start]
                step *= min(1.0, 2.0 / max(np.max(np.abs(logarithms)), 1e-12))
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
        precision = prior + sum((one.fisher() for one in linears), np.zeros_like(prior))
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
