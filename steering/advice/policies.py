"""Where to turn next and for how long: policies rank the candidates of a situation.

Ours adds information first, marginalises the nuisances once, and ranks by the expected fall of
``sum_j sigma_j^2 / tau_j^2`` per wall minute, motion included.

Approximations, named in the advice: utilities at the posterior mean, not averaged over its draws;
exposure on pixels merged along the tubes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from simulations.arrays import FloatArray
from steering.advice.situation import Candidate, Situation

DWELLS_MINUTES = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """One place to measure, with what it is worth."""

    psi_deg: float
    ei_meV: float
    minutes: float
    gain_per_minute: float  # fall of sum sigma^2/tau^2 per wall minute, or of misfit re-measured
    policy: str  # "information" or "falsification"
    wanted: str | None = None  # "pinned" or "approved": why it comes first whatever its gain


@runtime_checkable
class Policy(Protocol):
    """Ranks candidates; ours and every baseline look like this."""

    @property
    def name(self) -> str:
        """What advice says it comes from."""
        ...

    def rank(self, situation: Situation) -> list[Advice]:
        """One advice for each candidate of the situation, best first."""
        ...


class InformationPolicy:
    """Expected fall of ``sum sigma^2 / tau^2`` per wall minute over parameters above target.

    Parameters
    ----------
    dwells_minutes : sequence of float
        Dwell times to choose from.
    """

    name = "information"

    def __init__(self, dwells_minutes: Sequence[float] = DWELLS_MINUTES) -> None:
        self._dwells = tuple(dwells_minutes)

    def rank(self, situation: Situation) -> list[Advice]:
        """Best first; the dwell of each setting is the one with the largest gain per minute."""
        k, precision, targets = situation.n_parameters, situation.precision, situation.targets
        before = np.diag(situation.covariance)[:k]
        open_targets = before > targets**2
        weight = np.where(open_targets if open_targets.any() else True, targets**-2.0, 0.0)

        def best_dwell(candidate: Candidate) -> Advice:
            move = situation.move_minutes(candidate)
            best: tuple[float, float] = (-1.0, self._dwells[0])
            for dwell in self._dwells:
                after = np.linalg.inv(precision + dwell * candidate.information)
                gain = float(weight @ (before - np.diag(after)[:k])) / (dwell + move)
                best = max(best, (gain, dwell))
            return _advice(candidate, minutes=best[1], gain=best[0], policy=self.name)

        return _best_first(best_dwell(c) for c in situation.candidates)


class FalsificationPolicy:
    """For estimates that are not trusted: measure again where the data disagree with the model.

    The gain is the number of counts per wall minute that would fall into cells of excess misfit,
    ``sum_cells rate * max(r^2 - 1, 0)`` with r the residual in standard deviations.
    """

    name = "falsification"

    def __init__(self, residual_sigma: FloatArray) -> None:
        self._misfit = np.clip(np.nan_to_num(residual_sigma) ** 2 - 1, 0, 100)

    def rank(self, situation: Situation) -> list[Advice]:
        """Best first, each for the shortest dwell."""
        dwell = DWELLS_MINUTES[0]

        def again(candidate: Candidate) -> Advice:
            misfit = float(np.sum(candidate.rate * self._misfit))
            gain = misfit * dwell / (dwell + situation.move_minutes(candidate))
            return _advice(candidate, minutes=dwell, gain=gain, policy=self.name)

        return _best_first(again(c) for c in situation.candidates)


def _advice(candidate: Candidate, *, minutes: float, gain: float, policy: str) -> Advice:
    return Advice(
        psi_deg=float(candidate.psi_deg),
        ei_meV=candidate.ei_meV,
        minutes=minutes,
        gain_per_minute=gain,
        policy=policy,
    )


def _best_first(advice: Iterable[Advice]) -> list[Advice]:
    return sorted(advice, key=lambda a: (-a.gain_per_minute, a.psi_deg, a.ei_meV))
