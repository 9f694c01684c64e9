"""Folded rates fitted to ever sharper counts: the way to where exact ones are followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_server.posterior.effort import FOLDED, Effort
from model_server.posterior.objective import Objective
from model_server.posterior.observation import Observation
from model_server.posterior.posterior import Posterior
from model_server.posterior.starts import Starts
from model_server.posterior.tangent import Anchor
from simulations.arrays import FloatArray
from simulations.prior import BoxPrior

BLURS_MEV = (6.0, 3.0, 1.5, 0.75, 0.0)
STEPS, FEWER_STEPS = 6, 4  # at most, of every start at every blur; fewer where they are dear
ROUGHLY = 3  # of the blurs come before sharp counts are looked at
FINALISTS = 4  # answers to blurred counts that are followed to sharp ones
KICK_SIGMAS = (2.0, 4.0, 8.0)  # how far, in turn
KICK_PAYS = 0.5  # of minus log posterior
MOST_KICKS = 40


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Annealing:
    """Of all orientations as one.

    ``centre`` is that of the prior of theta; an answer is kicked until ``kicks`` in a row led to
    nothing better.
    """

    objective: Objective
    starts: Starts
    prior: BoxPrior
    pooled: Observation
    centre: FloatArray
    kicks: int
    effort: Effort

    def blurred(
        self, starts: Sequence[FloatArray], guesses: Sequence[FloatArray]
    ) -> list[Posterior]:
        """Answers to blurred counts."""
        first, blur = self.starts.first(self.pooled, [self.prior.mean, *starts])
        blurred = self._anneal_ever_fewer(first, blur)
        for theta in self.starts.as_they_are(self.pooled, guesses):
            blurred.append(self.anneal(theta, BLURS_MEV[:ROUGHLY], 12))
        return blurred

    def leads_to(self, before: Posterior, blurred: Sequence[Posterior]) -> bool:
        """Whether the best of blurred counts is the answer before, or explains them no better."""
        best, blur = min(blurred, key=lambda p: p.objective), BLURS_MEV[ROUGHLY - 1]
        level = self.objective.score([self.pooled], before.theta, self.centre, 0, blur=blur)
        gap = np.abs((best.values - before.values) / best.sigma).max()
        return bool(gap < 1.0 or level.objective < best.objective)

    def best(self, blurred: Sequence[Posterior]) -> Posterior:
        """The best answer to sharp counts that blurred ones lead to."""
        distinct: list[Posterior] = []
        for candidate in sorted(blurred, key=lambda p: p.objective):
            gaps = [np.abs((candidate.values - d.values) / d.sigma).max() for d in distinct]
            if len(distinct) < FINALISTS and min(gaps, default=np.inf) > 1.0:
                distinct.append(candidate)
        steps = FEWER_STEPS if self.effort.bounded else 8
        finals = [self.anneal(p.theta, BLURS_MEV[ROUGHLY:], steps) for p in distinct]
        best = min(finals, key=lambda p: p.objective)
        return self.kicked(best)

    def anneal(
        self,
        theta: FloatArray,
        blurs: Sequence[float],
        iterations: int,
        anchor: Anchor | None = None,
    ) -> Posterior:
        """Fit folded rates to ever sharper counts."""
        pooled, centre = [self.pooled], self.centre
        more: dict[str, Any] = {"anchor": anchor}
        found = self.objective.score(pooled, theta, centre, iterations, blur=blurs[0], **more)
        steps = 1 + found.iterations
        for blur in blurs[1:]:
            theta = found.theta
            found = self.objective.score(pooled, theta, centre, iterations, blur=blur, **more)
            steps += 1 + found.iterations
        self.effort.spend(FOLDED * steps)
        return found

    def _anneal_ever_fewer(self, starts: Sequence[FloatArray], widest: float) -> list[Posterior]:
        """Anneal every start on blurred counts; the worse half is left behind at every blur."""
        found: list[Posterior] = []
        thetas, steps = list(starts), FEWER_STEPS if self.effort.bounded else STEPS
        for blur in (blur for blur in BLURS_MEV[:ROUGHLY] if blur <= widest):
            found = [self.anneal(theta, [blur], steps) for theta in thetas]
            found.sort(key=lambda p: p.objective)
            thetas = [p.theta for p in found[: max(2, (len(found) + 1) // 2)]]
        return found

    def kicked(self, best: Posterior, anchor: Anchor | None = None) -> Posterior:
        """Leave shallow minima beside the deepest: of many close constants there are several."""
        rng = np.random.default_rng([self.objective.layout.size, 20262])
        layout, low, high = self.objective.layout, self.prior.lower, self.prior.upper
        in_vain = 0
        for k in range(MOST_KICKS):
            if in_vain >= self.kicks:
                break
            away = np.asarray(np.linalg.cholesky(best.theta_covariance), dtype=np.float64)
            away = away @ rng.standard_normal(layout.size)
            theta = best.theta.copy()
            for part in (layout.parameters, layout.off):
                theta[part] += KICK_SIGMAS[k % len(KICK_SIGMAS)] * away[part]
            theta[layout.parameters] = np.clip(theta[layout.parameters], low, high)
            found = self.anneal(theta, BLURS_MEV[ROUGHLY:], 10, anchor)
            better = found.objective < best.objective - KICK_PAYS
            best, in_vain = (found, 0) if better else (best, in_vain + 1)
        return best
