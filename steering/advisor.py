"""Advice: where to turn the crystal next, for how long, and when to stop.

Per minute at psi a cell counts ``Poisson(lambda)`` and carries the information
``F_psi = sum_cells u u^T / lambda`` about all of theta (``u`` the gradient of lambda).
Information is added first, the nuisances are marginalised once, and orientations are ranked by the
expected fall of ``sum_j sigma_j^2 / tau_j^2`` per wall minute, motion included.

Approximations, named in the advice: utilities at the posterior mean, not averaged over its draws;
exposure on pixels merged along the tubes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_server.refinement import Observation, Posterior, Refinement, usable_cells
from simulations.background import CanRate
from simulations.cell_sums import CellSums
from simulations.exposure import VoxelExposure
from simulations.folded_model import ModeState
from steering.motion import MotionSection

FloatArray = NDArray[np.float64]

DWELLS_MINUTES = (1.0, 2.0, 4.0, 8.0)
SMALLEST_CHUNKS = 3
SMALLEST_ORIENTATIONS = 2
LOOKS_BELOW_TARGET = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """One place to measure, with what it is worth."""

    psi_deg: float
    ei_meV: float
    minutes: float
    gain_per_minute: float  # fall of sum sigma^2/tau^2 per wall minute, or of misfit re-measured
    policy: str  # "information" or "falsification"


@dataclass(frozen=True, kw_only=True, slots=True)
class StopAdvice:
    """Whether to stop, why, and how long until every target is met."""

    stop: bool
    reason: str
    minutes_to_target: float | None  # None: out of reach within the planned scan


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidate:
    """An allowed orientation and what a minute there would bring."""

    psi_deg: float
    information: FloatArray  # (P, P) Fisher information of theta per minute
    rate: FloatArray  # (path_bins, energy_bins) expected counts per minute


class Policy(Protocol):
    """Ranks candidates; ours and every baseline look like this."""

    name: str

    def rank(
        self,
        candidates: Sequence[Candidate],
        *,
        precision: FloatArray,
        targets: FloatArray,
        current_psi_deg: float | None,
        motion: MotionSection,
        ei_meV: float,
    ) -> list[Advice]:
        """Best first."""
        ...


def candidate_angles(limits_deg: tuple[float, float], how_many: int) -> FloatArray:
    """Evenly spaced orientations within the limits."""
    return np.linspace(limits_deg[0], limits_deg[1], how_many)


def information_per_minute(
    psi_deg: float,
    exposure: Callable[[], VoxelExposure],
    sums_of_exposure: tuple[FloatArray, FloatArray],
    *,
    refinement: Refinement,
    theta: FloatArray,
    charge_per_minute: float,
    state: ModeState | None = None,
    can: CanRate | None = None,
) -> Candidate:
    """Fisher information that one minute at psi would add at theta.

    Parameters
    ----------
    psi_deg : float
    exposure : callable
        Exposure for one coulomb.
    sums_of_exposure : two (path_bins, energy_bins)
        D and flat exposure of the same.
    refinement : Refinement
        Holds the forward model and the cells that count.
    theta : (P,)
        Parameters and nuisances.
    charge_per_minute : float
        Coulomb.
    state : ModeState, optional
        The model's modes at theta, where the caller has them.
    can : CanRate, optional
        What the empty can adds in that minute.
    """
    weight, flat = (s * charge_per_minute for s in sums_of_exposure)
    zero = np.zeros_like(weight)
    sums = CellSums(signal=zero, variance=zero, counts=zero, exposure=weight, flat=flat)
    observation = Observation(
        sums=sums, exposure=lambda: exposure().scaled(charge_per_minute), can=can
    )
    rate, information = refinement.information_of(theta, observation, state)
    use = usable_cells(sums, refinement.energy, refinement.elastic_cut)
    return Candidate(psi_deg=psi_deg, information=information, rate=np.where(use, rate, 0.0))


class InformationPolicy:
    """Expected fall of ``sum sigma^2 / tau^2`` per wall minute over parameters above target."""

    name = "information"

    def rank(
        self,
        candidates: Sequence[Candidate],
        *,
        precision: FloatArray,
        targets: FloatArray,
        current_psi_deg: float | None,
        motion: MotionSection,
        ei_meV: float,
    ) -> list[Advice]:
        """Best first; the dwell of each orientation is the one with the largest gain per minute."""
        k = len(targets)
        before = np.diag(np.linalg.inv(precision))[:k]
        open_targets = before > targets**2
        weight = np.where(open_targets if open_targets.any() else True, targets**-2.0, 0.0)
        advice = []
        for candidate in candidates:
            move = motion.move_minutes(current_psi_deg, candidate.psi_deg)
            best: tuple[float, float] = (-1.0, DWELLS_MINUTES[0])
            for dwell in DWELLS_MINUTES:
                after = np.linalg.inv(precision + dwell * candidate.information)
                gain = float(weight @ (before - np.diag(after)[:k])) / (dwell + move)
                best = max(best, (gain, dwell))
            advice.append(
                Advice(
                    psi_deg=float(candidate.psi_deg),
                    ei_meV=ei_meV,
                    minutes=best[1],
                    gain_per_minute=best[0],
                    policy=self.name,
                )
            )
        return sorted(advice, key=lambda a: (-a.gain_per_minute, a.psi_deg))


class FalsificationPolicy:
    """For estimates that are not trusted: measure again where the data disagree with the model.

    The gain is the number of counts per wall minute that would fall into cells of excess misfit,
    ``sum_cells rate * max(r^2 - 1, 0)`` with r the residual in standard deviations.
    """

    name = "falsification"

    def __init__(self, residual_sigma: FloatArray) -> None:
        self._misfit = np.clip(np.nan_to_num(residual_sigma) ** 2 - 1, 0, 100)

    def rank(
        self,
        candidates: Sequence[Candidate],
        *,
        precision: FloatArray,
        targets: FloatArray,
        current_psi_deg: float | None,
        motion: MotionSection,
        ei_meV: float,
    ) -> list[Advice]:
        """Best first, each for the shortest dwell."""
        dwell = DWELLS_MINUTES[0]
        advice = [
            Advice(
                psi_deg=float(c.psi_deg),
                ei_meV=ei_meV,
                minutes=dwell,
                gain_per_minute=float(np.sum(c.rate * self._misfit))
                * dwell
                / (dwell + motion.move_minutes(current_psi_deg, c.psi_deg)),
                policy=self.name,
            )
            for c in candidates
        ]
        return sorted(advice, key=lambda a: (-a.gain_per_minute, a.psi_deg))


def absolute_targets(posterior: Posterior, relative: Sequence[float]) -> FloatArray:
    """Wanted standard deviations (K,), eV/angstrom^2, from relative ones at the present values.

    A value within its own error of zero has no relative error: its sigma stands in for its size.
    """
    size = np.maximum(np.abs(posterior.values), posterior.sigma)
    return np.maximum(size * np.asarray(relative), 1e-12)


def minutes_to_target(
    candidates: Sequence[Candidate],
    *,
    precision: FloatArray,
    targets: FloatArray,
    budget_minutes: float,
    motion: MotionSection,
    per_move_minutes: float = 8.0,
) -> float | None:
    """Wall minutes until every sigma meets its target under the best single mix; None: not reached.

    The mix spreads time evenly over the five candidates that alone bring the largest fall; moves
    are counted once per ``per_move_minutes``. A forecast at the present estimate.
    """
    k = len(targets)

    def largest(matrix: FloatArray) -> float:
        return float(np.max(np.sqrt(np.diag(np.linalg.inv(matrix))[:k]) / targets))

    if largest(precision) <= 1.0:
        return 0.0
    if not candidates:
        return None
    single = [
        float(np.sum(np.diag(np.linalg.inv(precision + 10 * c.information))[:k] / targets**2))
        for c in candidates
    ]
    mix = np.mean([candidates[i].information for i in np.argsort(single)[:5]], axis=0)
    low, high = 0.0, budget_minutes
    if largest(precision + high * mix) > 1.0:
        return None
    while high - low > 0.05:
        middle = 0.5 * (low + high)
        if largest(precision + middle * mix) > 1.0:
            low = middle
        else:
            high = middle
    return high + motion.overhead_s / 60 * np.ceil(high / per_move_minutes)


def stop_advice(
    *,
    looks_below_target: int,
    chunks: int,
    orientations: int,
    trusted: bool,
    forecast_minutes: float | None,
) -> StopAdvice:
    """Stop when every sigma met its target for three chunks and the estimate is trusted."""
    if chunks == 0:
        return StopAdvice(stop=False, reason="nothing measured yet", minutes_to_target=None)
    if not trusted:
        return StopAdvice(
            stop=False,
            reason="the estimate is not trusted: see the reasons before measuring on or stopping",
            minutes_to_target=None,
        )
    if looks_below_target < LOOKS_BELOW_TARGET:
        reason = (
            "targets not met yet"
            if looks_below_target == 0
            else f"targets met for {looks_below_target} of {LOOKS_BELOW_TARGET} chunks in a row"
        )
        return StopAdvice(stop=False, reason=reason, minutes_to_target=forecast_minutes)
    if chunks < SMALLEST_CHUNKS or orientations < SMALLEST_ORIENTATIONS:
        return StopAdvice(
            stop=False,
            reason=f"targets met, but fewer than {SMALLEST_CHUNKS} chunks or "
            f"{SMALLEST_ORIENTATIONS} orientations",
            minutes_to_target=forecast_minutes,
        )
    return StopAdvice(
        stop=True,
        reason=f"every target met for {LOOKS_BELOW_TARGET} chunks in a row",
        minutes_to_target=0.0,
    )
