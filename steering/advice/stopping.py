"""When to stop: what is wanted, how long until it is reached, and the one rule that says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile

import numpy as np

from model_server.posterior import Posterior, TrustState
from simulations.arrays import FloatArray
from steering.advice.situation import Situation

SMALLEST_CHUNKS = 3
SMALLEST_ORIENTATIONS = 2
LOOKS_BELOW_TARGET = 3
MINUTES_PER_MOVE = 8.0  # a forecast counts one move per so many minutes


@dataclass(frozen=True, kw_only=True, slots=True)
class StopAdvice:
    """Whether to stop, why, and how long until every target is met."""

    stop: bool
    reason: str
    minutes_to_target: float | None  # None: out of reach within the planned scan


def absolute_targets(posterior: Posterior, relative: Sequence[float]) -> FloatArray:
    """Wanted standard deviations of the first parameters, in their units, from relative ones.

    They are relative to the present values. A value within its own error of zero has no relative
    error: its sigma stands in for its size.
    """
    some = slice(0, len(relative))
    size = np.maximum(np.abs(posterior.values[some]), posterior.sigma[some])
    return np.maximum(size * np.asarray(relative), 1e-12)


def targets_met(sigma: FloatArray, targets: FloatArray, *, trusted: bool) -> bool:
    """Whether an estimate counts as a look below target: every sigma meets its, and trust holds.

    ``targets`` are those of the first parameters.
    """
    return bool(trusted and np.all(sigma[: len(targets)] <= targets))


def looks_in_a_row(met: Iterable[bool]) -> int:
    """How many of the last looks counted, newest first, at most as many as the rule asks for.

    Parameters
    ----------
    met : iterable of bool
        ``targets_met`` of the newest look, of the one before, and so on; one for each chunk. No
        more are asked for than needed, so that each may be computed when it is.
    """
    return sum(takewhile(bool, islice(met, LOOKS_BELOW_TARGET)))


def minutes_to_target(situation: Situation) -> float | None:
    """Wall minutes until every sigma meets its target under the best single mix; None: not reached.

    The mix spreads time evenly over the five candidates that alone bring the largest fall; moves
    are counted once per ``MINUTES_PER_MOVE``. A forecast at the present estimate.
    """
    k, precision, targets = situation.n_parameters, situation.precision, situation.targets
    candidates = situation.candidates

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
    best = [candidates[int(i)].information for i in np.argsort(single)[:5]]
    mix = np.mean(best, axis=0)
    low, high = 0.0, situation.budget_minutes
    if largest(precision + high * mix) > 1.0:
        return None
    while high - low > 0.05:
        middle = 0.5 * (low + high)
        if largest(precision + middle * mix) > 1.0:
            low = middle
        else:
            high = middle
    return high + situation.motion.overhead_s / 60 * np.ceil(high / MINUTES_PER_MOVE)


def stop_advice(
    *,
    looks_below_target: int,
    chunks: int,
    orientations: int,
    trust: TrustState,
    forecast_minutes: float | None,
) -> StopAdvice:
    """Stop when every sigma met its target for three chunks and the estimate is trusted.

    Parameters
    ----------
    looks_below_target : int
        Of ``looks_in_a_row``.
    chunks, orientations : int
        Measured so far.
    trust : str
        State of the newest estimate; counts that cannot tell yet stop nothing, and forecast.
    forecast_minutes : float or None
        Of ``minutes_to_target``; nothing is left to forecast once a look is below target.
    """
    if chunks == 0:
        return StopAdvice(stop=False, reason="nothing measured yet", minutes_to_target=None)
    if trust == "not explained":
        return StopAdvice(
            stop=False,
            reason="the estimate is not trusted: see the reasons before measuring on or stopping",
            minutes_to_target=None,
        )
    if trust == "cannot tell yet":
        return StopAdvice(
            stop=False,
            reason="these counts cannot tell yet whether the answer is right",
            minutes_to_target=forecast_minutes,
        )
    forecast = 0.0 if looks_below_target else forecast_minutes
    if looks_below_target < LOOKS_BELOW_TARGET:
        reason = (
            "targets not met yet"
            if looks_below_target == 0
            else f"targets met for {looks_below_target} of {LOOKS_BELOW_TARGET} chunks in a row"
        )
        return StopAdvice(stop=False, reason=reason, minutes_to_target=forecast)
    if chunks < SMALLEST_CHUNKS or orientations < SMALLEST_ORIENTATIONS:
        return StopAdvice(
            stop=False,
            reason=f"targets met, but fewer than {SMALLEST_CHUNKS} chunks or "
            f"{SMALLEST_ORIENTATIONS} orientations",
            minutes_to_target=forecast,
        )
    return StopAdvice(
        stop=True,
        reason=f"every target met for {LOOKS_BELOW_TARGET} chunks in a row",
        minutes_to_target=0.0,
    )
