"""Where a fit may begin: the seam for networks and whatever else guesses quickly.

It is here and not with the networks, so that a run without one need not load what they need.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from simulations.arrays import FloatArray
from simulations.fold import CellSums


@runtime_checkable
class FirstGuess(Protocol):
    """Reads parameters from folded sums, for fits to begin at; its answers are no estimates."""

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the K parameters, in the order of its guesses."""
        ...

    def guess(self, sums: CellSums) -> FloatArray:
        """Places to begin at, (guesses, K) with at least one, finite, in the parameters' units.

        The same sums give the same guesses. They may lie outside the prior's box.

        Raises
        ------
        ValueError
            If the sums are of another shape than it knows, or hold nothing that it sees.
        """
        ...
