"""What advice is made from: what is known, what may be measured next, and what it would cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.arrays import FloatArray
from steering.experiment import MotionSection


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """An orientation and an incident energy that data were or may be taken at."""

    psi_deg: float
    ei_meV: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidate:
    """An allowed setting and what a minute there would bring."""

    psi_deg: float
    ei_meV: float
    information: FloatArray  # (P, P) Fisher information of theta per minute
    rate: FloatArray  # (path_bins, energy_bins) expected counts per minute


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Situation:
    """One moment of a run as a policy sees it; the same situation gives the same advice."""

    mean: FloatArray  # (P,) theta: K parameters, then nuisances
    precision: FloatArray  # (P, P) of theta, prior included
    draws: FloatArray  # (draws, P) of the posterior of theta; there may be none
    targets: FloatArray  # (K,) wanted standard deviations of the parameters
    candidates: tuple[Candidate, ...]
    measured: tuple[Setting, ...]  # of every chunk, in their order
    minutes_used: float  # beam minutes of the chunks
    budget_minutes: float  # wall minutes that a forecast may look ahead
    motion: MotionSection

    def __post_init__(self) -> None:
        size = len(self.mean)
        if self.precision.shape != (size, size) or self.draws.shape[1:] != (size,):
            raise ValueError(
                f"precision has shape {self.precision.shape} and draws {self.draws.shape}; "
                f"expected ({size}, {size}) and (draws, {size}), as theta has"
            )

    @property
    def n_parameters(self) -> int:
        """K."""
        return len(self.targets)

    @property
    def covariance(self) -> FloatArray:
        """Covariance of theta, (P, P); its first K rows and columns are the parameters'."""
        return np.asarray(np.linalg.inv(self.precision), dtype=np.float64)

    @property
    def current(self) -> Setting | None:
        """Setting of the newest chunk; None before the first."""
        return self.measured[-1] if self.measured else None

    @property
    def orientations(self) -> int:
        """Different orientations measured so far."""
        return len({round(setting.psi_deg, 3) for setting in self.measured})

    def move_minutes(self, candidate: Candidate) -> float:
        """Wall minutes from where the crystal is to a candidate."""
        here = None if self.current is None else self.current.psi_deg
        return self.motion.move_minutes(here, candidate.psi_deg)
