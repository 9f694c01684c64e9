"""What a fit is of, and what it has found and left so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model_server.posterior.annealing import Annealing
from model_server.posterior.effort import MODES, ROUGH, Effort, Ways
from model_server.posterior.modes import Modes
from model_server.posterior.observation import Observation
from simulations.arrays import FloatArray

FEW_ANEW = 0.34  # of the orientations, to be walked again rather than to ask rough rates the way


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Task:
    """One fit of a ``Refinement``."""

    observations: Sequence[Observation]
    pooled: Observation
    centre: FloatArray  # of the prior of theta
    kicks: int
    iterations: int
    modes: Modes
    annealing: Annealing
    effort: Effort
    ways: Ways
    share: float  # of the first step

    @property
    def few(self) -> float:
        """Orientations that may be walked anew rather than to ask rough rates the way."""
        number = len(self.observations)
        return max(1.0, FEW_ANEW * number) if number > 1 else 0.0

    def leave(self, theta: FloatArray, wide: FloatArray) -> None:
        """Leave a way to the next fit, unless a step of so many orientations is beyond any."""
        if 2 * (len(self.observations) * ROUGH + MODES) <= self.effort.most:
            self.ways.leave(theta, wide)
