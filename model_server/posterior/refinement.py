"""Refinement: force constants from counts, with honest nuisances and prior.

Folded rates find the way; exact ones are followed to the minimum of the ``Objective``, from more
than one place where folded ones could be mistaken, and what else settled there is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from model_server.posterior.annealing import BLURS_MEV, KICK_PAYS, ROUGHLY, Annealing
from model_server.posterior.aside import Piece
from model_server.posterior.descent import FAR, ROUGHNESS, SHORTER, SHORTEST, Descent
from model_server.posterior.effort import EXACT, ROUGH, Effort, Ways
from model_server.posterior.marginal import marginal_of, piece_of
from model_server.posterior.modes import Modes
from model_server.posterior.mounts import mounts
from model_server.posterior.objective import Objective
from model_server.posterior.observation import Observation, pool, usable_cells
from model_server.posterior.posterior import Posterior, ThetaLayout
from model_server.posterior.search import searches
from model_server.posterior.starts import Starts
from model_server.posterior.tangent import Anchor, Tangent, Tangents
from model_server.posterior.task import Task
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.likelihood import NONE_OFF, ExactModel, ForwardModel, RoughModel
from simulations.prior import BoxPrior

NUISANCE_SIGMA = (5.0, 3.0, 3.0, 0.05)  # prior widths of ``NUISANCES``; the resolution: 5 %
ITERATIONS = 15  # most scoring steps
BETTER_THAN_BEFORE = 1.0  # of minus log posterior: less does not drop tangents that still hold
ROUNDS = 4  # most corrections of folded rates
NEAR = 25.0  # of chi-square: steps that exact rates can be carried by
MOUNTS_FOLLOWED = 3  # by steps, of those that are looked at
MOUNTS_TRIED_UNTIL = 3  # orientations, where there is an answer before
FAR_FROM_BELIEVED = 2.0  # standard deviations of chi-square that are more than chance
UNPROMISED_UNTIL = 3  # orientations: folded rates are followed even where they see no gain
LITTLE = 3.0  # walks
LEAPS = 4  # most ways out of shallow minima of the exact rates
ANCHORED_WITHIN = 2.0  # of minus log posterior: what corrected folded rates may be wrong by
LEAP_PAYS = 1.0  # of minus log posterior, as the corrected folded rates see it


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
        self._rough_tangents = self._tangents
        if rough is not None:
            self._rough_tangents = Tangents(rough, self.layout, price=ROUGH)
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
        effort: Effort | None = None,
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
        effort : Effort, optional
            What it may walk. Ways that there is none left for are told, and followed by the fit
            that is warm by this answer. Without it, all that it takes.

        Returns
        -------
        Posterior
        """
        if not observations:
            raise InputError("observations is empty; expected at least one folded orientation")
        pooled = pool(observations) if pooled is None else pooled
        share, halted = (1.0, False) if warm is None else (warm.share, warm.halted)
        task = self._task(observations, pooled, kicks, iterations, effort, share)
        due = warm is None or searches(warm, len(observations))
        searching = due and not halted  # what is on its way is to get on first
        others = (
            () if warm is None else (*((o.believing or o).theta for o in warm.others), *warm.ways)
        )
        if warm is not None and warm.believing is not None:
            warm = warm.believing
        if self.exact is None or any(o.trajectories is None for o in observations):
            return self._by_folded_rates(task, starts, guesses, warm)
        if warm is not None and not searching:
            self._follow(task, warm.theta, warm.theta_covariance)
        else:
            self._search(task, starts, guesses, warm)
        halted = task.effort.refused > 0 and not task.modes.best.converged
        for theta in map(self._sized, others):
            if not task.modes.knows(theta):
                self._follow(task, theta, task.modes.best.theta_covariance)
        if halted and not task.modes.best.converged:
            return replace(self._answer(task), halted=True, owed=due)
        if searching:
            self._try_as_believed(task)
        if searching and kicks and (warm is None or len(observations) <= MOUNTS_TRIED_UNTIL):
            self._try_mounts(task)
        unpromised = searching and len(observations) <= UNPROMISED_UNTIL
        if kicks or unpromised:
            self._leave_shallow(task, unpromised)
        return replace(self._answer(task), owed=due and not searching)

    def _task(
        self,
        observations: Sequence[Observation],
        pooled: Observation,
        kicks: int = 0,
        iterations: int = ITERATIONS,
        effort: Effort | None = None,
        share: float = 1.0,
    ) -> Task:
        if self.rough is not None:
            self._rough_tangents.begin(self._tangents)
        centre = self.starts.centre(pooled)
        effort = effort or Effort()
        return Task(
            observations=observations,
            pooled=pooled,
            centre=centre,
            kicks=kicks,
            iterations=iterations,
            modes=Modes(),
            annealing=Annealing(
                objective=self.objective,
                starts=self.starts,
                prior=self.prior,
                pooled=pooled,
                centre=centre,
                kicks=kicks,
                effort=effort,
            ),
            effort=effort,
            ways=Ways(),
            share=share,
        )

    def _by_folded_rates(
        self,
        task: Task,
        starts: Sequence[FloatArray],
        guesses: Sequence[FloatArray],
        warm: Posterior | None,
    ) -> Posterior:
        """Fit where the folded model stands alone."""
        best = task.annealing.best(task.annealing.blurred(starts, guesses))
        theta, observations = best.theta, task.observations
        if warm is not None:
            before = self.objective.score([task.pooled], warm.theta, task.centre, 8)
            if before.objective - best.objective <= BETTER_THAN_BEFORE:
                theta = before.theta
        return self.objective.score(observations, theta, task.centre, task.iterations)

    def _search(
        self,
        task: Task,
        starts: Sequence[FloatArray],
        guesses: Sequence[FloatArray],
        warm: Posterior | None,
    ) -> None:
        """Follow exact rates from where folded ones are best, and from the answer before."""
        blurred = task.annealing.blurred(starts, guesses)
        if warm is not None and not task.kicks and task.annealing.leads_to(warm, blurred):
            self._follow(task, warm.theta, warm.theta_covariance)
            return
        best = task.annealing.best(blurred)
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
        bold = gain > FAR and not task.effort.bounded
        first, other = (best, warm) if bold else (warm, best)
        self._follow(task, first.theta, first.theta_covariance)
        if other is warm or self._may_be_better(task, best):
            self._follow(task, other.theta, other.theta_covariance)

    def _may_be_better(self, task: Task, candidate: Posterior) -> bool:
        """Whether folded rates, corrected at the best answer, leave the candidate a chance."""
        anchor = self._anchored(task, task.modes.best, self._tangents)
        here, there = (
            self.objective.score([task.pooled], one.theta, task.centre, 10, anchor=anchor)
            for one in (task.modes.best, candidate)
        )
        return there.objective < here.objective + ANCHORED_WITHIN

    def _follow(self, task: Task, theta: FloatArray, wide: FloatArray) -> None:
        """Minimise the objective of exact rates, once rough ones have found no way to go on.

        It is given up, unsettled, where a step promises an objective far above the best known, or
        leads to an answer that is known; and left, where there is no effort for it. The first of a
        fit has what it takes to begin.
        """
        modes, exact, effort = task.modes, self._descent(task, self._tangents), task.effort
        anew = self._tangents.unknown(task.observations, theta, _sigma(wide))
        near = self.rough is not None and anew <= task.few
        carried = self._tangents if near else self._rough_tangents
        if not self._begins(task, carried, theta, wide):
            return
        if near and self._follow_near(task, exact, theta, wide):
            return
        refused, twin = effort.refused, None
        if self._tangents.bending:
            roughly, level = self._descent(task, self._rough_tangents), self._rough_level(task)
            twin = roughly.descend(theta, wide, beat=level)
            if modes.knows_roughly(twin.theta) or twin.objective > level + FAR:
                return
            if not self._begins(task, self._tangents, twin.theta, twin.theta_covariance):
                return
            theta, wide = twin.theta, twin.theta_covariance
        found = exact.descend(theta, wide, beat=modes.lowest)
        again = modes.knows(found.theta) and found.objective > modes.lowest - ROUGHNESS
        left = effort.refused > refused
        if modes.kept and (again or left) and not found.converged:
            if left:
                task.leave(found.theta, wide)
            self._tangents.recall(modes.kept[0][1])
            return
        lost = not (found.converged or left) and found.objective < modes.lowest + FAR
        lost = lost and self._tangents.bending
        if lost and (not modes.kept or effort.grant(EXACT * len(task.observations))):
            with self._tangents.unbent():  # bent rates of very many counts may lead nowhere
                found = exact.descend(found.theta, found.theta_covariance, beat=modes.lowest)
        self._settle(task, found, twin)

    def _follow_near(self, task: Task, exact: Descent, theta: FloatArray, wide: FloatArray) -> bool:
        """Follow exact rates where few must be walked anew, and whether that is all to be done."""
        modes, effort = task.modes, task.effort
        refused = effort.refused
        found, settled = exact.step(theta, wide)
        anew = self._tangents.unknown(task.observations, found.theta, found.theta_sigma)
        if not settled and (anew <= task.few or (effort.bounded and not modes.kept)):
            share = 1.0 if modes.kept else self._affordable(task, theta, found)
            found = exact.descend(theta, wide, beat=modes.lowest, share=share)
            settled = found.converged or (effort.refused > refused and not modes.kept)
            if not settled and modes.kept:  # of another answer that is all that is asked
                if effort.refused > refused:
                    task.leave(found.theta, wide)
                self._tangents.recall(modes.kept[0][1])
                return True
        if settled:
            self._settle(task, found)
        return settled

    def _affordable(self, task: Task, theta: FloatArray, found: Posterior) -> float:
        """Share of a step from theta that a fit can afford."""
        share, wide = task.share, found.theta_covariance
        while share > SHORTEST:
            trial = theta + share * (found.theta - theta)
            if self._tangents.price(task.observations, trial, wide) <= task.effort.most:
                break
            share *= SHORTER
        return share

    def _begins(self, task: Task, carried: Tangents, theta: FloatArray, wide: FloatArray) -> bool:
        """Whether there is effort to walk at theta; else it is left, as one more way.

        For the first answer of a fit there is.
        """
        begins = task.effort.grant(carried.price(task.observations, theta, wide, 1.0))
        if task.modes.kept and not begins:
            task.leave(theta, wide)
        return begins or not task.modes.kept

    def _rough_level(self, task: Task) -> float:
        """Objective of rough rates at the best answer; infinite where there is none."""
        modes, rough = task.modes, self._rough_tangents
        if not modes.kept:
            return np.inf
        if modes.rough_level is None:
            at, seen = modes.best.theta, task.observations
            levels = rough.levels(seen, at)
            modes.rough_level = self.objective.by_tangents(seen, at, task.centre, levels)
        return modes.rough_level

    def _settle(self, task: Task, found: Posterior, twin: Posterior | None = None) -> None:
        """Keep an answer, and go on from the best one."""
        found = self._ended(task, found)
        task.modes.add(found, self._tangents.remembered(), twin)
        self._tangents.recall(task.modes.kept[0][1])

    def _ended(self, task: Task, found: Posterior) -> Posterior:
        """The same answer by derivatives of its place, where they are as even as averaged ones."""
        tangents = self._tangents
        if not tangents.bending or tangents.uneven(task.observations, found.theta_sigma):
            return found
        at, wide, kept = found.theta, found.theta_covariance, tangents.remembered()
        if not task.effort.grant(tangents.price(task.observations, at, wide, 1.0, steady=False)):
            return found
        plain = self._descent(task, tangents, steady=False)
        ended = plain.descend(at, wide, beat=task.modes.lowest)
        if ended.converged or not found.converged:
            return ended
        tangents.recall(kept)
        return found

    def _descent(self, task: Task, carried: Tangents, *, steady: bool = True) -> Descent:
        """Ways down by the rates that ``carried`` keeps.

        Steps are by derivatives averaged over the posterior, where there are some and if
        ``steady``: those of one place change within it, and lead astray in short steps.
        """
        observations = task.observations

        def walk(at: FloatArray, wide: FloatArray, share: float) -> list[Tangent]:
            return carried.walked(observations, at, _sigma(wide), share, steady=steady)

        def average(
            tangents: Sequence[Tangent], at: FloatArray, wide: FloatArray
        ) -> list[Tangent] | None:
            if not (steady and carried.bending):
                return list(tangents)
            if not task.effort.grant(carried.averages(tangents, at, wide)):
                return None
            return carried.averaged(observations, tangents, at, wide)

        return Descent(
            walk=walk,
            average=average,
            value=lambda at, tangents: self.objective.by_tangents(
                observations, at, task.centre, tangents
            ),
            score=lambda at, tangents, most: self.objective.score(
                observations, at, task.centre, most, tangents=tangents
            ),
            holds=lambda tangents, at, wide: carried.carry(tangents, observations, at, wide),
            keeping=carried,
            iterations=task.iterations,
            even=lambda wide: not carried.uneven(observations, _sigma(wide)),
            known=task.modes.knows if carried is self._tangents else task.modes.knows_roughly,
            granted=lambda at, wide: task.effort.grant(
                carried.price(observations, at, wide, steady=steady)
            ),
        )

    def _follow_corrected(self, task: Task, best: Posterior) -> None:
        """Follow the best of folded rates once they are corrected and searched again."""
        for _ in range(ROUNDS):
            anchor = self._anchored(task, best, self._rough_tangents)
            before = best
            best = task.annealing.anneal(best.theta, BLURS_MEV[ROUGHLY - 1 :], 12, anchor)
            if best.chi_square_of(before.theta) < NEAR:
                break
        if best.chi_square_of(task.modes.best.theta) > NEAR:
            self._follow(task, best.theta, best.theta_covariance)
        else:
            self._tangents.recall(task.modes.kept[0][1])

    def _try_as_believed(self, task: Task) -> None:
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

    def _try_mounts(self, task: Task) -> None:
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

    def _leave_shallow(self, task: Task, unpromised: bool) -> None:
        """Leave the best answer for where folded rates, corrected there, lead; while that pays.

        Once also without a promise, if ``unpromised``, as a search of few orientations does.

        They may lead away by themselves, or after a kick. Of few counts the exact rates have minima
        beside each other that the folded ones, which are smoother, have not.
        """
        for _ in range(LEAPS):
            found = task.modes.best
            anchor = self._anchored(task, found, self._tangents)
            here = self.objective.score([task.pooled], found.theta, task.centre, 10, anchor=anchor)
            there = task.annealing.kicked(here, anchor)
            paid = there.objective < here.objective - LEAP_PAYS
            if not paid and (not unpromised or task.modes.knows(there.theta)):
                break
            self._follow(task, there.theta, found.theta_covariance)
            if task.modes.lowest > found.objective - KICK_PAYS:
                break

    def _sized(self, theta: FloatArray) -> FloatArray:
        """Theta of another layout in this one: nothing of what that did not fit is off."""
        theta = theta[: self.layout.size]
        return np.concatenate([theta, np.zeros(self.layout.size - len(theta))])

    def _answer(self, task: Task) -> Posterior:
        """The best of the answers, and the others that are not ruled out."""
        told: list[tuple[Posterior, Mapping[str, Any]]] = []
        for found, rates in task.modes.kept:
            self._tangents.recall(rates)
            told.append((self._with_aside(task.observations, found), self._tangents.remembered()))
        if not any(one.aside is not None and one.aside.far for one, _ in told):
            told.sort(key=lambda one: one[0].explained)
        best, rates = told[0]
        self._tangents.recall(rates)
        best = replace(best, ways=task.ways.left).beside([one for one, _ in told[1:]])
        return self._widened(task, best)

    def _widened(self, task: Task, best: Posterior) -> Posterior:
        """The same answer with errors by derivatives that are averaged over them.

        It stays where it is: to be moved by averages over the whole of its own errors it would have
        to be followed again. One that believes a set-up which is far off is only led from.
        """
        if best.believing is None or not (self._tangents.bending and best.converged):
            return best
        if self.may_doubt and best.aside is not None and best.aside.far:
            return best
        if not self._affords_means(task, best.believing, best.theta_covariance):
            return replace(best, converged=False, halted=True)
        mean = self._with_aside(task.observations, best.believing, best.theta_covariance)
        return replace(
            best,
            precision=mean.precision,
            covariance=mean.covariance,
            one_place=best.covariance,
        )

    def _affords_means(self, task: Task, found: Posterior, over: FloatArray) -> bool:
        """Whether there is effort for averages over errors: always where little else was done."""
        known = self._tangents.walked(task.observations, found.theta, found.theta_sigma, share=1.0)
        price = self._tangents.averages(known, found.theta, over)
        return task.effort.spent < LITTLE or task.effort.grant(price)

    def _anchored(self, task: Task, found: Posterior, tangents: Tangents) -> Anchor:
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
        effort: Effort | None = None,
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
        effort : Effort, optional
            As of ``fit``.
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
        answer = self.led_from(observations, theta, wide, pooled=pooled, effort=effort)
        return replace(answer, owed=found.owed, ways=(*answer.ways, *found.ways))

    def led_from(
        self,
        observations: Sequence[Observation],
        theta: FloatArray,
        wide: FloatArray,
        *,
        pooled: Observation,
        effort: Effort | None = None,
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
        effort : Effort, optional
            As of ``fit``.
        """
        task = self._task(observations, pooled, effort=effort)
        refused = task.effort.refused
        self._follow(task, theta, wide)
        answer = self._answer(task)
        left = task.effort.refused > refused and not answer.converged
        return replace(answer, halted=answer.halted or left)

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


def _sigma(wide: FloatArray) -> FloatArray:
    return np.sqrt(np.diag(wide))
