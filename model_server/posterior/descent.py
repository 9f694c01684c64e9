"""The way down to the minimum of an objective that is dear to evaluate: of walked rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from model_server.posterior.mixing import mixed_step
from model_server.posterior.posterior import Posterior
from model_server.posterior.tangent import Tangent
from simulations.arrays import FloatArray

WALKS = 12  # most linearisations of exact rates in one fit
SHORTER = 0.4  # share of a step that did not pay which is tried next
LEAST_PARABOLA = 0.1  # of a step; one that ends in nowhere tells nothing of its beginning
SHORTEST = 0.02
ROUGHNESS = 0.05  # of minus log posterior, which exact rates jump by between grid points
ROUGHEST = 3.0  # of minus log posterior: more than the walk's own errors make
UNEVENNESS = 2.0  # times as much, where derivatives of one place are unlike averaged ones
FAR = 30.0  # of minus log posterior: no few steps make up for it


class Walk(Protocol):
    """Tangents at theta (P,) of a covariance (P, P), walked where they must be."""

    def __call__(self, at: FloatArray, wide: FloatArray, share: float) -> list[Tangent]:
        """``share`` of the reach of known tangents counts as near."""
        ...


class Average(Protocol):
    """The same with the derivatives that steps are taken by."""

    def __call__(
        self, tangents: Sequence[Tangent], at: FloatArray, wide: FloatArray
    ) -> list[Tangent] | None:
        """None: there are no walks left for them."""
        ...


class Value(Protocol):
    """Objective at theta."""

    def __call__(self, at: FloatArray, tangents: Sequence[Tangent]) -> float:
        """By rates that tangents carry there."""
        ...


class Score(Protocol):
    """Best theta by carried rates."""

    def __call__(self, at: FloatArray, tangents: Sequence[Tangent], most: int) -> Posterior:
        """Begin at theta; at most so many steps."""
        ...


class Holds(Protocol):
    """Whether all tangents may be carried to theta."""

    def __call__(self, tangents: Sequence[Tangent], at: FloatArray, wide: FloatArray) -> bool:
        """Of standard deviations ``wide``."""
        ...


class Keeping(Protocol):
    """What walks remember, which a trial that failed by chance is not to change."""

    def remembered(self) -> Mapping[str, Any]:
        """All of it."""
        ...

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Keep exactly this."""
        ...


class Known(Protocol):
    """Whether theta is an answer that was found before."""

    def __call__(self, theta: FloatArray) -> bool:
        """By its precision."""
        ...


class Even(Protocol):
    """Whether derivatives of one place are much like those averaged over a covariance (P, P)."""

    def __call__(self, wide: FloatArray) -> bool:
        """About the place that was walked last."""
        ...


class Granted(Protocol):
    """Whether there are walks left for theta (P,) of a covariance (P, P)."""

    def __call__(self, at: FloatArray, wide: FloatArray) -> bool:
        """They are spent then."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """Linearise, step, mix with the step before, and shorten steps that fail.

    A step that does not pay is tried at the minimum of the parabola through its end. Where that
    does not pay either, or is nearer than what counts as settled, though little was promised
    (``ROUGHEST``), the objective is as rough as the rates between the points of their grid, and the
    place is as good as they can tell. Where no walks are left it ends unsettled, and says which
    share of a step it would have tried next.

    ``iterations`` are most steps by carried rates between two walks; the rest: see the protocols.
    """

    walk: Walk
    average: Average
    value: Value
    score: Score
    holds: Holds
    keeping: Keeping
    iterations: int
    even: Even
    known: Known
    granted: Granted

    def step(self, theta: FloatArray, wide: FloatArray) -> tuple[Posterior, bool]:
        """One walk at most and a step by what it finds, and whether it settled there.

        Parameters
        ----------
        theta : (P,) float64
            Where to begin.
        wide : (P, P) float64
            Covariance of the posterior, about.
        """
        tangents = self._begun(theta, wide)
        best = self.score(theta, tangents, self.iterations)
        return best, self._settled(best, self.value(theta, tangents), tangents)

    def descend(
        self, theta: FloatArray, wide: FloatArray, *, beat: float = np.inf, share: float = 1.0
    ) -> Posterior:
        """Step until nothing is left to gain.

        Parameters
        ----------
        theta : (P,) float64
            Where to begin.
        wide : (P, P) float64
            Covariance of the posterior, about.
        beat : float
            Given up, unsettled, where a step promises an objective far above this one, or where it
            leads to an answer that is known and promises none below this one.
        share : float
            Of the first step, where an earlier descent ended for want of walks.

        Returns
        -------
        Posterior
        """
        tangents = self._begun(theta, wide)
        kept = self.keeping.remembered()
        here = self.value(theta, tangents)
        best = self.score(theta, tangents, self.iterations)
        before: tuple[FloatArray, FloatArray] | None = None
        for _ in range(WALKS):
            if self._settled(best, here, tangents):
                return best
            if best.objective > beat + FAR:
                break
            if best.objective > beat - ROUGHNESS and self.known(best.theta):
                return replace(best, converged=False)
            wide = best.theta_covariance
            step: FloatArray = best.theta - theta
            promise = here - best.objective
            mixed: FloatArray | None = None
            if before is not None:
                mixed = mixed_step(before[0], before[1], theta, step, best.precision)
            while True:
                forward: FloatArray = share * step if mixed is None else mixed
                trial: FloatArray = theta + forward
                if not self.granted(trial, wide):
                    self.keeping.recall(kept)
                    here_still = self.score(theta, tangents, 0)
                    return replace(here_still, converged=False, share=share)
                there = self.walk(trial, wide, 0.5)
                reached = self.value(trial, there)
                if reached < here + ROUGHNESS:
                    break
                if mixed is not None:
                    mixed = None
                    continue
                rough = promise < ROUGHEST * (1.0 if self.even(wide) else UNEVENNESS)
                if share == 1.0:  # where a parabola through this trial has its minimum
                    share = max(LEAST_PARABOLA, promise / (reached - here + 2 * promise))
                    if not rough or share**2 * promise >= ROUGHNESS:
                        continue
                share *= SHORTER
                if rough or share < SHORTEST:
                    settled = rough and best.converged
                    if settled:
                        self.keeping.recall(kept)
                    return replace(self.score(theta, tangents, 0), converged=settled)
            before, share = (theta, step), 1.0
            theta, here = trial, reached
            averaged = self.average(there, theta, wide)
            if averaged is None:
                return replace(self.score(theta, there, 0), converged=False)
            tangents, kept = averaged, self.keeping.remembered()
            best = self.score(theta, tangents, self.iterations)
        return replace(self.score(theta, tangents, 0), converged=False)

    def _begun(self, theta: FloatArray, wide: FloatArray) -> list[Tangent]:
        tangents = self.walk(theta, wide, 1.0)
        averaged = self.average(tangents, theta, wide)
        return tangents if averaged is None else averaged

    def _settled(self, best: Posterior, here: float, tangents: Sequence[Tangent]) -> bool:
        little = here - best.objective < ROUGHNESS
        holds = little or self.holds(tangents, best.theta, best.theta_sigma)
        return holds and best.converged
