"""Folding onto |Q|: neutrons of one chunk become counts per (|Q|, E) cell. Only adds to sums.

Events and histogram bins are looked up in the map that makes the exposure
(``simulations.fold.powder_exposure``), by the energy sub-step they fall into.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from consumers.fold.folding import EventAccount
from simulations.arrays import FloatArray, IntArray
from simulations.fold import PowderView, momentum_bin
from simulations.kernels import njit


@njit(cache=True)
def _count(
    pixel, energy, step_edges, cosine, masked, ki, kf, bin_of_step, per_bin, counts, account,
):  # fmt: skip
    """Add events to ``counts``; account: folded, |Q|, energy, masked."""
    low = step_edges[0]
    per_step = len(kf) / (step_edges[-1] - low)
    for i in range(len(pixel)):
        p = pixel[i]
        if p < 0 or p >= len(masked) or masked[p]:
            account[3] += 1
            continue
        x = (energy[i] - low) * per_step
        if not (x >= 0.0 and x < len(kf)):
            account[2] += 1
            continue
        step = int(x)
        q = momentum_bin(cosine[p], ki, kf[step], per_bin)
        if q >= counts.shape[0]:
            account[1] += 1
            continue
        counts[q, bin_of_step[step]] += 1
        account[0] += 1


def fold_powder_events(
    pixel: NDArray[np.int32],
    energy_transfer_meV: FloatArray,
    *,
    view: PowderView,
    counts: IntArray,
) -> EventAccount:
    """Add the events of one block to ``counts`` in place.

    Parameters
    ----------
    pixel : (events,)
        Index into the pixels of ``view``; anything outside counts as masked.
    energy_transfer_meV : (events,)
        NaN counts as outside the energy range.
    view : PowderView
        The map that the exposure was made with.
    counts : (momentum bins, energy bins) int64
        Grows by one per folded event.

    Returns
    -------
    EventAccount
        ``outside_path`` are those beyond the |Q| axis.
    """
    account = np.zeros(4, dtype=np.int64)
    _count(
        np.ascontiguousarray(pixel),
        np.ascontiguousarray(energy_transfer_meV, dtype=np.float64),
        view.step_edges_meV,
        view.cosine,
        view.masked,
        view.ki,
        view.kf,
        view.bin_of_step,
        _per_bin(view),
        counts,
        account,
    )
    return _told(account, len(pixel))


@njit(cache=True)
def _sum_histogram(
    intensity, error, weight, skip, cosine, masked, ki, kf, bin_of_step, per_bin,
    signal, variance, account,
):  # fmt: skip
    """Add (pixels, steps) histograms to S and V; account: folded, |Q|, energy, masked."""
    for p in range(len(masked)):
        for step in range(len(kf)):
            if masked[p] or skip[p, step]:
                account[3] += 1
                continue
            q = momentum_bin(cosine[p], ki, kf[step], per_bin)
            if q >= signal.shape[0]:
                account[1] += 1
                continue
            w = weight[p, step]
            signal[q, bin_of_step[step]] += w * intensity[p, step]
            variance[q, bin_of_step[step]] += (w * error[p, step]) ** 2
            account[0] += 1


def fold_powder_histogram(
    intensity: FloatArray,
    error: FloatArray,
    *,
    weight: FloatArray,
    skip: NDArray[np.bool_],
    view: PowderView,
    signal: FloatArray,
    variance: FloatArray,
) -> EventAccount:
    """Add a histogram to S and V in place: ``S += w I``, ``V += (w err)^2``.

    Parameters
    ----------
    intensity, error, weight : (pixels, steps)
        On the steps of ``view``; the weights are those that make D.
    skip : (pixels, steps) bool
        Bins that count nowhere; the exposure must skip the same.
    view : PowderView
    signal, variance : (momentum bins, energy bins)
        Grow in place.

    Returns
    -------
    EventAccount
        Of (pixel, bin) pairs.
    """
    account = np.zeros(4, dtype=np.int64)
    _sum_histogram(
        np.ascontiguousarray(np.where(skip, 0.0, intensity)),
        np.ascontiguousarray(np.where(skip, 0.0, error)),
        np.ascontiguousarray(weight),
        np.ascontiguousarray(skip),
        view.cosine,
        view.masked,
        view.ki,
        view.kf,
        view.bin_of_step,
        _per_bin(view),
        signal,
        variance,
        account,
    )
    return _told(account, intensity.size)


def _per_bin(view: PowderView) -> float:
    return 1.0 / (view.momentum_edges[1] - view.momentum_edges[0])


def _told(account: IntArray, read: int) -> EventAccount:
    folded, outside, outside_energy, masked = (int(n) for n in account)
    return EventAccount(
        read=read,
        folded=folded,
        outside_path=outside,
        outside_energy=outside_energy,
        masked=masked,
    )
