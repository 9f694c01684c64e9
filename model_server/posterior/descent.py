"""The way down to the minimum of an objective that is dear to evaluate: of walked rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

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
FAR = 30.0  # of minus log posterior: no few steps make up for it


class Walk(Protocol):
    """Tangents at theta (P,) of standard deviations sigma (P,), walked where they must be."""

    def __call__(self, at: FloatArray, wide: FloatArray, share: float) -> list[Tangent]:
        """``share`` of the reach of known tangents counts as near."""
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


def descend(
    theta: FloatArray,
    sigma: FloatArray,
    *,
    walk: Walk,
    value: Value,
    score: Score,
    holds: Holds,
    iterations: int,
    beat: float = np.inf,
) -> Posterior:
    """Linearise, step, mix with the step before, and shorten steps that fail.

    A step that does not pay is tried at the minimum of the parabola through its end. Where that
    does not pay either, though little was promised (``ROUGHEST``), the objective is as rough as the
    rates between the points of their grid, and the place is as good as they can tell.

    Parameters
    ----------
    theta, sigma : (P,) float64
        Where to begin, and how wide the posterior is about.
    walk, value, score, holds
        See their protocols.
    iterations : int
        Most steps by carried rates between two walks.
    beat : float
        Given up, unsettled, where a step promises an objective far above this one.

    Returns
    -------
    Posterior
    """
    tangents = walk(theta, sigma, 1.0)
    here = value(theta, tangents)
    best = score(theta, tangents, iterations)
    before: tuple[FloatArray, FloatArray] | None = None
    for _ in range(WALKS):
        sigma = best.theta_sigma
        settled = here - best.objective < ROUGHNESS or holds(tangents, best.theta, sigma)
        if settled and best.converged:
            return best
        if best.objective > beat + FAR:
            break
        step: FloatArray = best.theta - theta
        promise = here - best.objective
        mixed: FloatArray | None = None
        if before is not None:
            mixed = mixed_step(*before, theta, step, best.precision)
        share = 1.0
        while True:
            trial: FloatArray = theta + (share * step if mixed is None else mixed)
            there = walk(trial, sigma, 0.5)
            reached = value(trial, there)
            if reached < here + ROUGHNESS:
                break
            if mixed is not None:
                mixed = None
                continue
            if share == 1.0:  # where a parabola through this trial has its minimum
                share = max(LEAST_PARABOLA, promise / (reached - here + 2 * promise))
                continue
            rough, share = promise < ROUGHEST, SHORTER * share
            if rough or share < SHORTEST:
                kept = score(theta, tangents, 0)
                return replace(kept, converged=rough and best.converged)
        before = (theta, step)
        theta, tangents, here = trial, there, reached
        best = score(theta, tangents, iterations)
    return replace(score(theta, tangents, 0), converged=False)
