"""Steps of an iteration that over- or undershoots, mended by the step before."""

from __future__ import annotations

from simulations.arrays import FloatArray

MOST = 2.0  # times the length of the plain step


def mixed_step(
    before: FloatArray,
    step_before: FloatArray,
    theta: FloatArray,
    step: FloatArray,
    metric: FloatArray,
) -> FloatArray:
    """Where to go from theta when the iteration itself says ``step`` (Anderson 1965, one memory).

    Each step leads to the minimum of a linearised model. What two of them say, at two places, tells
    how far the model is bent along the way between them: a series of steps that overshoots by the
    same share each time, or falls short, ends in one.

    Parameters
    ----------
    before, step_before : (P,) float64
        The place before and what the iteration said there, whatever step was taken.
    theta, step : (P,) float64
        This place, and what it says here.
    metric : (P, P) float64
        Precision: what counts as long.

    Returns
    -------
    (P,) float64
        ``step`` itself where the two tell nothing, or something wild.
    """
    change = step - step_before
    size = float(change @ metric @ change)
    plain = float(step @ metric @ step)
    if not size > 0.0:
        return step
    mixed = step - float(change @ metric @ step) / size * (theta - before + change)
    return mixed if float(mixed @ metric @ mixed) <= MOST**2 * plain else step
