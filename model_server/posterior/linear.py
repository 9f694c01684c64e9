"""Expected counts of one orientation about one theta, and what its counts say of a step."""

from __future__ import annotations

from dataclasses import dataclass

from simulations.arrays import FloatArray


@dataclass(slots=True)
class Linear:
    """One orientation at the current theta, cells flattened to those that count."""

    data: FloatArray
    rate: FloatArray
    slope: FloatArray  # (cells, P)
    variance: FloatArray | None  # reduced input

    def fisher(self) -> FloatArray:
        """Fisher information of theta, (P, P)."""
        return (self.slope * self._weight()[:, None]).T @ self.slope

    def score(self) -> FloatArray:
        """Derivative of the log likelihood by theta, (P,)."""
        return self.slope.T @ ((self.data - self.rate) * self._weight())

    def _weight(self) -> FloatArray:
        return 1 / (self.rate if self.variance is None else self.variance)
