"""Answers that exact rates settled at: the best of them, and others that are not ruled out.

Two sets of force constants may predict rates that few counts cannot tell apart, many of their own
sigma from each other. Neither one's Laplace posterior knows of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from model_server.posterior.posterior import SAME, Posterior
from simulations.arrays import FloatArray

MAY_BE = 25.0  # of minus log posterior above the best, before what is marginalised is at its best
MOST = 4  # answers that are kept
TWIN = 25.0  # of chi-square: how far rough rates may settle from an answer and mean the same


class Modes:
    """Answers of one fit, best first, with the exact rates of each."""

    def __init__(self) -> None:
        self._kept: list[tuple[Posterior, Mapping[str, Any]]] = []
        self._twins: list[Posterior] = []
        self._rough_level: float | None = None

    def add(
        self, found: Posterior, rates: Mapping[str, Any], twin: Posterior | None = None
    ) -> None:
        """Keep an answer that is better than the best, or another one that is not much worse.

        Parameters
        ----------
        found : Posterior
        rates : mapping
            As a refinement remembers them.
        twin : Posterior, optional
            Where rough rates settled on the way to it.
        """
        better = found.objective < self.lowest
        if twin is not None:
            self._twins.append(twin)
        both = [*self._kept, (found, rates)]
        both.sort(key=lambda one: one[0].objective)
        best = both[0][0]
        kept = both[:1]
        for one in both[1:]:
            near = one[0].converged and one[0].objective < best.objective + MAY_BE
            if near and len(kept) < MOST and not any(one[0].apart(k[0]) < SAME for k in kept):
                kept.append(one)
        self._kept = kept
        if better:
            near = twin is not None and found.chi_square_of(twin.theta) < TWIN
            self._rough_level = twin.objective if twin is not None and near else None

    @property
    def best(self) -> Posterior:
        """Of the lowest objective."""
        return self._kept[0][0]

    @property
    def lowest(self) -> float:
        """Its objective; infinite before there is any."""
        return self.best.objective if self._kept else np.inf

    @property
    def kept(self) -> list[tuple[Posterior, Mapping[str, Any]]]:
        """All answers and their exact rates, best first."""
        return list(self._kept)

    @property
    def rough_level(self) -> float | None:
        """Objective of rough rates at the best answer or near by; None where that is not known."""
        return self._rough_level

    @rough_level.setter
    def rough_level(self, level: float) -> None:
        self._rough_level = level

    def knows(self, theta: FloatArray) -> bool:
        """Whether theta (P,) is one of the answers, by their precision."""
        return any(one.chi_square_of(theta) < SAME for one, _ in self._kept)

    def knows_roughly(self, theta: FloatArray) -> bool:
        """Whether rough rates led to theta (P,) before."""
        return any(one.chi_square_of(theta) < SAME for one in self._twins)
