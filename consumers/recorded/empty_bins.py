"""Bins of a reduced histogram without a count: genuine zeros, told from bins nobody recorded.

Reduction gives a bin of no counts intensity 0 and error 0, or what a subtracted background left.
To leave such bins out would fold a sparse histogram too high, and an error of zero would weigh
infinitely. Arrays only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter, uniform_filter

from simulations.arrays import BoolArray, FloatArray

_WINDOW = (9, 5)  # detectors and energy bins that expected counts are averaged over
_NO_COUNT = 0.25  # of one count's error; rebinning seldom leaves a smaller share of a count
_MOST_EXPECTED = 3.0  # counts; where none was seen, more has a chance of 5 %
_COUNTING = 0.5  # spread of log(error^2 / intensity) up to which errors are those of counts
_DEAD = 10.0  # bins with counts due in a detector that has none at all
_NEVER = 20.0  # counts expected along a stretch of zeros that no chance explains


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EmptyBins:
    """What became of bins with intensity 0 and error 0."""

    intensity: FloatArray  # (pixels, bins); NaN also where zeros cannot be told to be measured
    error: FloatArray  # (pixels, bins); of empties, that of the counts expected there
    empty: BoolArray  # (pixels, bins) zeros that are kept
    problems: tuple[str, ...]  # what was done, in words


def settle_empty_bins(intensity: FloatArray, error: FloatArray) -> EmptyBins:
    """Tell bins without a count from bins without data, and give them an error.

    Where errors are those of counts, ``error^2 / intensity`` is the intensity ``c`` of one count,
    whatever the efficiency, k_i/k_f and the share of a bin; it is taken as a factor of the energy
    bin times one of the detector. A bin without a count gets ``sigma = c sqrt(m)`` with ``m`` the
    mean counts per bin of its neighbourhood (9 detectors, 5 energy bins, one count added): the
    standard deviation of the counts expected there. Bins that hold but the error of a subtracted
    background (below a quarter of ``c``) are as empty, and get it too. The variance of a sum is
    then too large by at most the share of bins without a count.

    Zeros stay unknown (NaN) in detectors that hold nothing else where 10 bins with counts were due,
    in energy bins at either end that
    are zero in every detector, along stretches where 20 counts or more were expected, and in files
    whose errors are not those of counts.

    Parameters
    ----------
    intensity, error : (pixels, bins) float64
        NaN where masked.

    Returns
    -------
    EmptyBins
        The arrays themselves where nothing has zero intensity and zero error.
    """
    known = np.isfinite(intensity) & np.isfinite(error)
    zero = known & (intensity == 0) & (error == 0)
    if not zero.any():
        return EmptyBins(intensity=intensity, error=error, empty=zero, problems=())
    problems: list[str] = []
    dead = zero.any(axis=1) & (zero | ~known).all(axis=1)
    live = known & ~dead[:, None]
    count = _one_count(intensity, error, live)
    if count is not None:
        # Where few counts are due, a detector may have none by chance.
        alive = live & (error >= _NO_COUNT * count)
        due = (alive.sum(axis=0) / np.maximum(live.sum(axis=0), 1)).sum()
        dead &= due > _DEAD
        live = known & ~dead[:, None]
    kept = zero & live
    if not kept.any():
        pass
    elif count is None:
        problems.append(
            f"{int(kept.sum())} bins have intensity 0 and error 0, and other errors are not those "
            "of counts; left out, as nobody can tell whether they were measured"
        )
        kept[:] = False
    else:
        none = live & (error < _NO_COUNT * count)
        seen = np.where(live & ~none, (error / count) ** 2, 0.0)
        lost = kept & (_outside(kept | ~live) | _beyond_chance(kept, none, live, seen))
        if lost.any():
            problems.append(
                f"{int(lost.sum())} bins of zeros lie where counts were due or nothing was "
                "recorded; left out"
            )
            kept &= ~lost
        none &= ~lost
        sigma = count * np.sqrt(_expected(seen, live & ~lost))
        error = np.where(none, np.sqrt(error**2 + sigma**2), error)
        if kept.any():
            problems.append(_told(kept, none, error, count))
    unknown = zero & ~kept
    return EmptyBins(
        intensity=np.where(unknown, np.nan, intensity),
        error=np.where(unknown, np.nan, error),
        empty=kept,
        problems=tuple(problems),
    )


def _told(kept: BoolArray, none: BoolArray, error: FloatArray, count: FloatArray) -> str:
    low, high = np.quantile(error[kept], [0.05, 0.95])
    more = int(none.sum() - kept.sum())
    also = (
        f"; {more:,} bins with the error of a subtracted background alone get it too"
        if more
        else ""
    )
    return (
        f"{int(kept.sum()):,} bins without a count are kept as zeros, with a sigma of {low:.3g} to "
        f"{high:.3g}: that of the counts expected there, one count being "
        f"{np.median(count[kept]):.3g}{also}"
    )


def _one_count(intensity: FloatArray, error: FloatArray, live: BoolArray) -> FloatArray | None:
    """Intensity of one count, (pixels, bins); None where errors are not those of counts."""
    counted = live & (intensity > 0) & (error > 0)
    ratio = np.full(intensity.shape, np.nan)
    np.divide(error**2, intensity, out=ratio, where=counted)
    columns = np.flatnonzero(counted.any(axis=0))
    if counted.sum() < 5:
        return None
    # A subtracted background makes the ratio too large where counts are few: below the median.
    of_energy = np.nanquantile(ratio[:, columns], 0.25, axis=0)
    of_energy = median_filter(of_energy, size=5, mode="nearest")
    scale = np.interp(np.arange(intensity.shape[1]), columns, of_energy)
    of_detector = np.ones(len(intensity))
    for p in np.flatnonzero(counted.sum(axis=1) >= 5):
        of_detector[p] = np.median(ratio[p, counted[p]] / scale[counted[p]])
    count = of_detector[:, None] * scale[None, :]
    spread = np.abs(np.log(ratio[counted] / count[counted]))
    return count if float(np.median(spread)) < _COUNTING else None


def _outside(nothing: BoolArray) -> BoolArray:
    """Energy bins at either end of the axis that hold nothing in any detector, (1, bins)."""
    column = np.logical_and.reduce(nothing, axis=0)
    before = np.logical_and.accumulate(column)
    after = np.logical_and.accumulate(column[::-1])[::-1]
    return (before | after)[None, :]


def _beyond_chance(
    zero: BoolArray, none: BoolArray, live: BoolArray, seen: FloatArray
) -> BoolArray:
    """Zeros of stretches where a detector that counts as it does would have seen ``_NEVER``.

    What is due in an energy bin follows from the share of detectors without a count there, so that
    reflections do not raise it; a weak detector has its share of that, as it counts elsewhere.
    """
    known = live.sum(axis=0)
    share = np.clip(none.sum(axis=0) / np.maximum(known, 1), 0.5 / np.maximum(known, 1), 1.0)
    usual = np.where(known > 0, -np.log(share), 0.0)
    mean = seen.sum(axis=0) / np.maximum(known, 1)
    out = np.zeros_like(zero)
    for p in np.flatnonzero(zero.any(axis=1)):
        own, others = seen[p].sum(), np.where(live[p], mean, 0.0)
        step = np.diff(np.concatenate([[0], zero[p].astype(np.int8), [0]]))
        for low, high in zip(np.flatnonzero(step == 1), np.flatnonzero(step == -1), strict=True):
            elsewhere = others.sum() - others[low:high].sum()
            strength = min(1.0, own / max(elsewhere, 1e-300))
            out[p, low:high] = strength * usual[low:high].sum() > _NEVER
    return out


def _expected(seen: FloatArray, live: BoolArray) -> FloatArray:
    """Mean counts per bin of the neighbourhood, (pixels, bins), one count added."""
    size = float(np.prod(_WINDOW))
    total = size * _mean(np.where(live, seen, 0.0))
    bins = size * _mean(live.astype(float))
    mean = (np.maximum(total, 0.0) + 1) / np.maximum(bins, 1.0)
    return np.minimum(mean, _MOST_EXPECTED)


def _mean(values: FloatArray) -> FloatArray:
    """Mean over the neighbourhood, what lies beyond the edges counting as 0."""
    return np.asarray(uniform_filter(values, _WINDOW, mode="constant"))  # pyright: ignore[reportArgumentType]
