"""Refinement: force constants from counts, with honest nuisances and prior.

Folded rates find the way; exact ones are followed to the minimum of the ``Objective``, from more
than one place where folded ones could be mistaken, and what else settled there is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model_server.posterior.aside import Piece
from model_server.posterior.descent import FAR, ROUGHNESS, Descent
from model_server.posterior.marginal import marginal_of, piece_of
from model_server.posterior.modes import Modes
from model_server.posterior.mounts import mounts
from model_server.posterior.objective import Objective
from model_server.posterior.observation import Observation, pool, usable_cells
from model_server.posterior.posterior import Posterior, ThetaLayout
from model_server.posterior.search import searches
from model_server.posterior.starts import Starts
from model_server.posterior.tangent import Anchor, Tangent, Tangents
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.likelihood import NONE_OFF, ExactModel, ForwardModel, RoughModel
from simulations.prior import BoxPrior

NUISANCE_SIGMA = (5.0, 3.0, 3.0, 0.05)  # prior widths of ``NUISANCES``; the resolution: 5 %
ITERATIONS = 15  # most scoring steps
BETTER_THAN_BEFORE = 1.0  # of minus log posterior: less does not drop tangents that still hold
FINALISTS = 4  # answers to blurred counts that are followed to sharp ones
KICK_SIGMAS = (2.0, 4.0, 8.0)  # how far, in turn
KICK_PAYS = 0.5  # of minus log posterior
MOST_KICKS = 40
ROUNDS = 4  # most corrections of folded rates
NEAR = 25.0  # of chi-square: steps that exact rates can be carried by
MOUNTS_FOLLOWED = 3  # by steps, of those that are looked at
MOUNTS_TRIED_UNTIL = 3  # orientations, where there is an answer before
FEW_ANEW = 0.34  # of the orientations, to be walked again rather than to ask rough rates the way
FAR_FROM_BELIEVED = 2.0  # standard deviations of chi-square that are more than chance
UNPROMISED_UNTIL = 3  # orientations: folded rates are followed even where they see no gain
LEAPS = 4  # most ways out of shallow minima of the exact rates
ANCHORED_WITHIN = 2.0  # of minus log posterior: what corrected folded rates may be wrong by
LEAP_PAYS = 1.0  # of minus log posterior, as the corrected folded rates see it
BLURS_MEV = (6.0, 3.0, 1.5, 0.75, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Task:
    """What a fit is of, and the answers it has found so far."""

    observations: Sequence[Observation]
    pooled: Observation
    centre: FloatArray  # of the prior of theta
    kicks: int
    iterations: int
    modes: Modes


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
    rough : RoughModel, optional
        The same approximately at a lower price: exact rates are followed from where it leads, as
        long as its derivatives are like theirs.
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
        rough: RoughModel | None = None,
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
        self.exact, self.rough = exact, rough
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
        self.objective = Objective(
            model=model,
            prior=prior,
            layout=self.layout,
            nuisance_sigma=(*NUISANCE_SIGMA, *can, *parts, *missetting.sigma.tolist()),
            energy_centres_meV=self.energy,
            elastic_cut_meV=elastic_cut_meV,
        )
        self._tangents = Tangents(exact, self.layout, rough)
        self._rough_tangents = self._tangents if rough is None else Tangents(rough, self.layout)
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
        iterations: int = ITERATIONS,
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
        task = self._task(observations, pooled, kicks, iterations)
        others = () if warm is None else warm.others
        if warm is not None and warm.believing is not None:
            warm = warm.believing
        if self.exact is None or any(o.trajectories is None for o in observations):
            return self._by_folded_rates(task, starts, guesses, warm)
        searching = warm is None or searches(warm, len(observations))
        if warm is not None and not searching:
            self._follow(task, warm.theta, warm.theta_covariance)
        else:
            self._search(task, starts, guesses, warm)
        for other in others:
            theta = self._theta_of(other)
            if not task.modes.knows(theta):
                self._follow(task, theta, task.modes.best.theta_covariance)
        if searching:
            self._try_as_believed(task)
        if searching and kicks and (warm is None or len(observations) <= MOUNTS_TRIED_UNTIL):
            self._try_mounts(task)
        if searching or kicks:
            self._leave_shallow(task, searching)
        return self._answer(task)

    def _task(
        self,
        observations: Sequence[Observation],
        pooled: Observation,
        kicks: int = 0,
        iterations: int = ITERATIONS,
    ) -> _Task:
        if self.rough is not None:
            self._rough_tangents.begin(self._tangents)
        return _Task(
            observations=observations,
            pooled=pooled,
            centre=self.starts.centre(pooled),
            kicks=kicks,
            iterations=iterations,
            modes=Modes(),
        )

    def _by_folded_rates(
        self,
        task: _Task,
        starts: Sequence[FloatArray],
        guesses: Sequence[FloatArray],
        warm: Posterior | None,
    ) -> Posterior:
        """Fit where the folded model stands alone."""
        best = self._best_folded(task, self._blurred(task, starts, guesses))
        theta, observations = best.theta, task.observations
        if warm is not None:
            before = self.objective.score([task.pooled], warm.theta, task.centre, 8)
            if before.objective - best.objective <= BETTER_THAN_BEFORE:
                theta = before.theta
        return self.objective.score(observations, theta, task.centre, task.iterations)

    def _blurred(
        self, task: _Task, starts: Sequence[FloatArray], guesses: Sequence[FloatArray]
    ) -> list[Posterior]:
        """Answers to blurred counts."""
        first, blur = self.starts.first(task.pooled, [self.prior.mean, *starts])
        blurred = self._anneal_ever_fewer(task, first, blur)
        for theta in self.starts.as_they_are(task.pooled, guesses):
            blurred.append(self._anneal(task, theta, BLURS_MEV[:3], 12))
        return blurred

    def _best_folded(self, task: _Task, blurred: Sequence[Posterior]) -> Posterior:
        """The best answer to sharp counts that blurred ones lead to."""
        distinct: list[Posterior] = []
        for candidate in sorted(blurred, key=lambda p: p.objective):
            gaps = [np.abs((candidate.values - d.values) / d.sigma).max() for d in distinct]
            if len(distinct) < FINALISTS and min(gaps, default=np.inf) > 1.0:
                distinct.append(candidate)
        finals = [self._anneal(task, p.theta, BLURS_MEV[3:], 8) for p in distinct]
        best = min(finals, key=lambda p: p.objective)
        return self._kicked(task, best)

    def _search(
        self,
        task: _Task,
        starts: Sequence[FloatArray],
        guesses: Sequence[FloatArray],
        warm: Posterior | None,
    ) -> None:
        """Follow exact rates from where folded ones are best, and from the answer before."""
        blurred = self._blurred(task, starts, guesses)
        if warm is not None and not task.kicks and self._is_of_before(task, blurred, warm):
            self._follow(task, warm.theta, warm.theta_covariance)
            return
        best = self._best_folded(task, blurred)
        if warm is None:
            self._follow(task, best.theta, best.theta_covariance)
            if task.kicks:
                self._follow_corrected(task, best)
            return
        before = self.objective.score([task.pooled], warm.theta, task.centre, 8)
        gain = before.objective - best.objective
        if gain <= BETTER_THAN_BEFORE:
            self._follow(task, warm.theta, best.theta_covariance)
            return
        # The folded model may prefer another answer than the rates that it stands for. The one that
        # it prefers by far is followed first, so that the other can be given up early.
        first, other = (best, warm) if gain > FAR else (warm, best)
        self._follow(task, first.theta, first.theta_covariance)
        if other is warm or self._may_be_better(task, best):
            self._follow(task, other.theta, other.theta_covariance)

    def _is_of_before(self, task: _Task, blurred: Sequence[Posterior], warm: Posterior) -> bool:
        """Whether the best of blurred counts is the answer before, or explains them no better."""
        best = min(blurred, key=lambda p: p.objective)
        before = self.objective.score([task.pooled], warm.theta, task.centre, 0, blur=BLURS_MEV[2])
        gap = np.abs((best.values - warm.values) / best.sigma).max()
        return bool(gap < 1.0 or before.objective < best.objective)

    def _may_be_better(self, task: _Task, candidate: Posterior) -> bool:
        """Whether folded rates, corrected at the best answer, leave the candidate a chance."""
        anchor = self._anchored(task, task.modes.best, self._tangents)
        here, there = (
            self.objective.score([task.pooled], one.theta, task.centre, 10, anchor=anchor)
            for one in (task.modes.best, candidate)
        )
        return there.objective < here.objective + ANCHORED_WITHIN

    def _follow(self, task: _Task, theta: FloatArray, wide: FloatArray) -> None:
        """Minimise the objective of exact rates, once rough ones have found no way to go on.

        It is given up, unsettled, where a step promises an objective far above the best known, or
        leads to an answer that is known.
        """
        modes, exact = task.modes, self._descent(task, self._tangents)
        twin: Posterior | None = None
        if self.rough is not None:
            few = max(1.0, FEW_ANEW * len(task.observations)) if len(task.observations) > 1 else 0
            sigma = np.sqrt(np.diag(wide))
            if self._tangents.unknown(task.observations, theta, sigma) <= few:
                found, settled = exact.step(theta, wide)
                at, sigma = found.theta, found.theta_sigma
                if not settled and self._tangents.unknown(task.observations, at, sigma) <= few:
                    found = exact.descend(theta, wide, beat=modes.lowest)
                    settled = found.converged
                    if not settled and modes.kept:  # of another answer that is all that is asked
                        self._tangents.recall(modes.kept[0][1])
                        return
                if settled:
                    self._settle(task, found)
                    return
        if self._tangents.bending:
            roughly, level = self._descent(task, self._rough_tangents), self._rough_level(task)
            twin = roughly.descend(theta, wide, beat=level)
            if modes.knows_roughly(twin.theta) or twin.objective > level + FAR:
                return
            theta, wide = twin.theta, twin.theta_covariance
        found = exact.descend(theta, wide, beat=modes.lowest)
        again = modes.knows(found.theta) and found.objective > modes.lowest - ROUGHNESS
        if again and not found.converged:
            self._tangents.recall(modes.kept[0][1])
            return
        lost = not found.converged and found.objective < modes.lowest + FAR
        if lost and self._tangents.bending:
            with self._tangents.unbent():  # bent rates of very many counts may lead nowhere
                found = exact.descend(found.theta, found.theta_covariance, beat=modes.lowest)
        self._settle(task, found, twin)

    def _rough_level(self, task: _Task) -> float:
        """Objective of rough rates at the best answer; infinite where there is none."""
        modes, rough = task.modes, self._rough_tangents
        if not modes.kept:
            return np.inf
        if modes.rough_level is None:
            at, seen = modes.best.theta, task.observations
            levels = rough.levels(seen, at)
            modes.rough_level = self.objective.by_tangents(seen, at, task.centre, levels)
        return modes.rough_level

    def _settle(self, task: _Task, found: Posterior, twin: Posterior | None = None) -> None:
        """Keep an answer, and go on from the best one."""
        found = self._ended(task, found)
        task.modes.add(found, self._tangents.remembered(), twin)
        self._tangents.recall(task.modes.kept[0][1])

    def _ended(self, task: _Task, found: Posterior) -> Posterior:
        """The same answer by derivatives of its place, where they are as even as averaged ones."""
        tangents = self._tangents
        if not tangents.bending or tangents.uneven(task.observations, found.theta_sigma):
            return found
        plain = self._descent(task, tangents, steady=False)
        ended = plain.descend(found.theta, found.theta_covariance, beat=task.modes.lowest)
        return ended if ended.converged or not found.converged else found

    def _descent(self, task: _Task, carried: Tangents, *, steady: bool = True) -> Descent:
        """Ways down by the rates that ``carried`` keeps.

        Steps are by derivatives averaged over the posterior, where there are some and if
        ``steady``: those of one place change within it, and lead astray in short steps.
        """
        observations = task.observations

        def walk(at: FloatArray, wide: FloatArray, share: float) -> list[Tangent]:
            sigma = np.sqrt(np.diag(wide))
            tangents = carried.walked(observations, at, sigma, share, steady=steady)
            return carried.averaged(observations, tangents, at, wide) if steady else tangents

        return Descent(
            walk=walk,
            value=lambda at, tangents: self.objective.by_tangents(
                observations, at, task.centre, tangents
            ),
            score=lambda at, tangents, most: self.objective.score(
                observations, at, task.centre, most, tangents=tangents
            ),
            holds=lambda tangents, at, wide: carried.carry(tangents, observations, at, wide),
            keeping=carried,
            iterations=task.iterations,
            even=lambda wide: not carried.uneven(observations, np.sqrt(np.diag(wide))),
            known=task.modes.knows if carried is self._tangents else task.modes.knows_roughly,
        )

    def _follow_corrected(self, task: _Task, best: Posterior) -> None:
        """Follow the best of folded rates once they are corrected and searched again."""
        for _ in range(ROUNDS):
            anchor = self._anchored(task, best, self._rough_tangents)
            before = best
            best = self._anneal(task, best.theta, BLURS_MEV[2:], 12, anchor)
            if best.chi_square_of(before.theta) < NEAR:
                break
        if best.chi_square_of(task.modes.best.theta) > NEAR:
            self._follow(task, best.theta, best.theta_covariance)
        else:
            self._tangents.recall(task.modes.kept[0][1])

    def _try_as_believed(self, task: _Task) -> None:
        """Follow exact rates from the set-up as it is believed, with the constants as found.

        Where the best is far from it. Of few counts there are other set-ups that explain them;
        later ones do not lead out of there by themselves.
        """
        best, off = task.modes.best, self.layout.off
        number = len(self.layout.off_names)
        if not number:
            return
        theta, wide = best.theta.copy(), best.theta_covariance
        distance = float(theta[off] @ np.linalg.solve(wide[off, off], theta[off]))
        if distance > number + FAR_FROM_BELIEVED * np.sqrt(2 * number):
            theta[off] = 0.0
            self._follow(task, theta, wide)

    def _try_mounts(self, task: _Task) -> None:
        """Follow exact rates from the mounts that explain most with the constants as found."""
        tilts, places = mounts(self.missetting)
        if len(places) < 2:
            return
        best, observations = task.modes.best, task.observations
        at = np.arange(self.layout.size)[self.layout.off][tilts]
        levels: list[tuple[float, FloatArray]] = []
        for place in places:
            theta = best.theta.copy()
            theta[at] = place
            tangents = self._rough_tangents.levels(observations, theta)
            level = self.objective.by_tangents(observations, theta, task.centre, tangents)
            levels.append((level, theta))
        levels.sort(key=lambda one: one[0])
        for _, theta in levels[:MOUNTS_FOLLOWED]:
            self._follow(task, theta, best.theta_covariance)

    def _leave_shallow(self, task: _Task, searching: bool) -> None:
        """Leave the best answer for where folded rates, corrected there, lead; while that pays.

        A search of few orientations follows them once without a promise.

        They may lead away by themselves, or after a kick. Of few counts the exact rates have minima
        beside each other that the folded ones, which are smoother, have not.
        """
        unpromised = searching and len(task.observations) <= UNPROMISED_UNTIL
        for _ in range(LEAPS):
            found = task.modes.best
            anchor = self._anchored(task, found, self._tangents)
            here = self.objective.score([task.pooled], found.theta, task.centre, 10, anchor=anchor)
            there = self._kicked(task, here, anchor)
            paid = there.objective < here.objective - LEAP_PAYS
            if not paid and (not unpromised or task.modes.knows(there.theta)):
                break
            self._follow(task, there.theta, found.theta_covariance)
            if task.modes.lowest > found.objective - KICK_PAYS:
                break

    def _theta_of(self, other: Posterior) -> FloatArray:
        """Theta of an answer in this layout, whatever of the set-up was fitted with it."""
        theta = (other.believing or other).theta[: self.layout.size]
        return np.concatenate([theta, np.zeros(self.layout.size - len(theta))])

    def _answer(self, task: _Task) -> Posterior:
        """The best of the answers, and the others that are not ruled out."""
        told: list[tuple[Posterior, Mapping[str, Any]]] = []
        for found, rates in task.modes.kept:
            self._tangents.recall(rates)
            told.append((self._with_aside(task.observations, found), self._tangents.remembered()))
        if not any(one.aside is not None and one.aside.far for one, _ in told):
            told.sort(key=lambda one: one[0].explained)
        best, rates = told[0]
        self._tangents.recall(rates)
        return self._widened(task, best.beside([one for one, _ in told[1:]]))

    def _widened(self, task: _Task, best: Posterior) -> Posterior:
        """The same answer with errors by derivatives that are averaged over them.

        It stays where it is: to be moved by averages over the whole of its own errors it would have
        to be followed again. One that believes a set-up which is far off is only led from.
        """
        if best.believing is None or not self._tangents.bending:
            return best
        if self.may_doubt and best.aside is not None and best.aside.far:
            return best
        mean = self._with_aside(task.observations, best.believing, best.theta_covariance)
        return replace(
            best,
            precision=mean.precision,
            covariance=mean.covariance,
            one_place=best.covariance,
        )

    def _anchored(self, task: _Task, found: Posterior, tangents: Tangents) -> Anchor:
        """What exact rates, or rough ones, add to folded ones where ``found`` is."""
        layout, theta = self.layout, found.theta
        walked = tangents.walked(task.observations, theta, found.theta_sigma, share=1.0)
        exact = np.sum([t.carried(theta[layout.walked]) for t in walked], axis=0)
        slope = np.sum([t.slope for t in walked], axis=0)
        folded, along = self.objective.folded(theta, self.objective.state_at(theta), task.pooled)
        return Anchor(
            off=theta[layout.off],
            exact=exact,
            more=exact - folded,
            by_off=(slope - along)[..., layout.n_parameters + 1 :],
        )

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
            rough=None if self.rough is None else self.rough.doubting(),
            can_sigma=self._can_sigma,
            part_sigma=self._part_sigma,
        )

    def doubt(
        self,
        observations: Sequence[Observation],
        believing: Refinement,
        found: Posterior,
        pooled: Observation,
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
        theta = np.concatenate([found.believing.theta, np.zeros(len(off))])
        wide = np.diag(np.concatenate([found.theta_sigma, off]) ** 2)
        size = len(found.theta)
        wide[:size, :size] = found.believing.theta_covariance
        return self.led_from(observations, theta, wide, pooled=pooled)

    def led_from(
        self,
        observations: Sequence[Observation],
        theta: FloatArray,
        wide: FloatArray,
        *,
        pooled: Observation,
    ) -> Posterior:
        """Answer that exact rates lead to from a theta (P,), with no search.

        Parameters
        ----------
        observations : sequence of Observation
        theta : (P,) float64
            Where to begin.
        wide : (P, P) float64
            Covariance of the posterior, about.
        pooled : Observation
            The same orientations as one.
        """
        task = self._task(observations, pooled)
        self._follow(task, theta, wide)
        return self._answer(task)

    def _with_aside(
        self,
        observations: Sequence[Observation],
        found: Posterior,
        over: FloatArray | None = None,
    ) -> Posterior:
        """Marginalise what is not fitted, and test what is taken to be right.

        With a covariance (P, P) derivatives are averaged over it.
        """
        if self.exact is None:
            return found
        tangents = self._tangents.walked(observations, found.theta, found.theta_sigma, share=1.0)
        wider = self._tangents.wider(observations, found.theta) or [None] * len(tangents)
        if over is not None:
            tangents = self._tangents.averaged(observations, tangents, found.theta, over)
        pieces: list[Piece] = []
        for one, tangent, more in zip(observations, tangents, wider, strict=True):
            linear, _, phonon, _ = self.objective.linearise(found.theta, None, one, tangent=tangent)
            use = usable_cells(one.sums, self.energy, self.elastic_cut)
            pieces.append(
                piece_of(
                    found, one, tangent, linear, phonon, use, self.energy, self.exact.aside, more
                )
            )
        return marginal_of(found, pieces, self.exact.aside, self.objective.prior_precision())

    def forget(self, key: str) -> None:
        """Drop the exact rates kept of an orientation that left the run."""
        self._tangents.forget(key)

    def remembered(self) -> dict[str, Any]:
        """Exact rates kept between fits, by orientation; a later ``recall`` goes back to them."""
        return self._tangents.remembered()

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Keep exactly these rates: the next fit does not depend on fits since then."""
        self._tangents.recall(remembered)

    def _anneal(
        self,
        task: _Task,
        theta: FloatArray,
        blurs: Sequence[float],
        iterations: int,
        anchor: Anchor | None = None,
    ) -> Posterior:
        """Fit folded rates to ever sharper counts."""
        pooled, centre = [task.pooled], task.centre
        more: dict[str, Any] = {"anchor": anchor}
        found = self.objective.score(pooled, theta, centre, iterations, blur=blurs[0], **more)
        for blur in blurs[1:]:
            theta = found.theta
            found = self.objective.score(pooled, theta, centre, iterations, blur=blur, **more)
        return found

    def _anneal_ever_fewer(
        self, task: _Task, starts: Sequence[FloatArray], widest: float
    ) -> list[Posterior]:
        """Anneal every start on blurred counts; the worse half is left behind at every blur."""
        found: list[Posterior] = []
        thetas = list(starts)
        for blur in (blur for blur in BLURS_MEV[:3] if blur <= widest):
            found = [self._anneal(task, theta, [blur], 6) for theta in thetas]
            found.sort(key=lambda p: p.objective)
            thetas = [p.theta for p in found[: max(2, (len(found) + 1) // 2)]]
        return found

    def _kicked(self, task: _Task, best: Posterior, anchor: Anchor | None = None) -> Posterior:
        """Leave shallow minima beside the deepest: of many close constants there are several."""
        rng = np.random.default_rng([self.layout.size, 20262])
        layout, low, high = self.layout, self.prior.lower, self.prior.upper
        in_vain = 0
        for k in range(MOST_KICKS):
            if in_vain >= task.kicks:
                break
            away = np.asarray(np.linalg.cholesky(best.theta_covariance), dtype=np.float64)
            away = away @ rng.standard_normal(layout.size)
            theta = best.theta.copy()
            for part in (layout.parameters, layout.off):
                theta[part] += KICK_SIGMAS[k % len(KICK_SIGMAS)] * away[part]
            theta[layout.parameters] = np.clip(theta[layout.parameters], low, high)
            found = self._anneal(task, theta, BLURS_MEV[3:], 10, anchor)
            better = found.objective < best.objective - KICK_PAYS
            best, in_vain = (found, 0) if better else (best, in_vain + 1)
        return best
