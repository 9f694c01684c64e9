"""How much a fit may walk, and what it leaves to the next one.

Of compounds a search may take minutes of processor, and a run waits for its answer. What a fit may
walk is counted and not timed: an answer hangs on its chunks alone, whatever the machine has to do.
"""

from __future__ import annotations

import numpy as np

from model_server.posterior.posterior import SAME
from simulations.arrays import FloatArray

ROUGH = 1.0  # rough rates of one orientation with derivatives, what all else is counted in
AVERAGED = 1.4  # derivatives averaged over a posterior
EXACT = 8.0  # exact rates, where nothing else is known of them: 3 of RuP2, 9 of RuS2
FOLDED = 0.1  # folded rates of all of them
MODES = 1.0  # of all of the zone, at one set of force constants


def least_effort(orientations: int) -> float:
    """Walks that take a fit of so many on by a step, and a few more."""
    return (2 + orientations) * ROUGH + MODES + AVERAGED


class Effort:
    """Walks that are left.

    Parameters
    ----------
    most : float
        Of all that are asked for.
    """

    def __init__(self, most: float = np.inf) -> None:
        self.most, self.spent, self._refused = most, 0.0, 0

    @property
    def bounded(self) -> bool:
        """Whether there is an end to them."""
        return bool(np.isfinite(self.most))

    @property
    def refused(self) -> int:
        """How often there were not enough."""
        return self._refused

    def spend(self, walks: float) -> None:
        """Count what is done in any case."""
        self.spent += walks

    def grant(self, walks: float) -> bool:
        """Whether so many are left; they are spent then."""
        if walks == 0 or self.spent + walks <= self.most:
            self.spent += walks
            return True
        self._refused += 1
        return False


class Ways:
    """Theta (P,) that there was no effort left to follow, every one once."""

    def __init__(self) -> None:
        self.left: tuple[FloatArray, ...] = ()

    def leave(self, theta: FloatArray, wide: FloatArray) -> None:
        """Leave one more, if it is none of these by a covariance (P, P)."""
        steps = [theta - other for other in self.left]
        if not any(float(step @ np.linalg.solve(wide, step)) < SAME for step in steps):
            self.left = (*self.left, theta)
