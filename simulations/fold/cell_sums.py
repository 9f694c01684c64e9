"""What the fold hands to the estimate: sums per path cell, and when two sums may be combined."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.arrays import FloatArray
from simulations.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CellSums:
    """Sums over events and exposure; every array is (path_bins, energy_bins).

    Only sums are combined: averages of ratios are biased. Where ``exposure`` is 0 nothing is
    known; where it is positive and ``counts`` is 0, that is information.
    """

    signal: FloatArray  # S, sum of weights; equals counts for event data
    variance: FloatArray  # V, sum of squared weights (times squared errors for reduced data)
    counts: FloatArray  # N, raw events; effective counts S^2/V for reduced data
    exposure: FloatArray  # D, coulomb sr meV; 0 means unknown, not empty
    flat: FloatArray  # exposure of a background flat in time of flight, coulomb sr ms
    gaussian: bool = False  # True: reduced input, Gaussian likelihood with variance V

    def __add__(self, other: CellSums) -> CellSums:
        """Both together.

        Raises
        ------
        ValueError
            If one side is raw counts and the other reduced intensity.
        """
        if self.gaussian != other.gaussian:
            raise InputError(
                "cannot add raw counts to reduced intensity: their weights differ. Fold event "
                "files and reduced files in separate runs."
            )
        return CellSums(
            signal=self.signal + other.signal,
            variance=self.variance + other.variance,
            counts=self.counts + other.counts,
            exposure=self.exposure + other.exposure,
            flat=self.flat + other.flat,
            gaussian=self.gaussian,
        )

    @property
    def intensity(self) -> FloatArray:
        """``I = S / D``; NaN where D = 0."""
        return _ratio(self.signal, self.exposure)

    @property
    def sigma(self) -> FloatArray:
        """``sqrt(V) / D``; NaN where D = 0."""
        return _ratio(np.sqrt(self.variance), self.exposure)

    @property
    def coverage_fraction(self) -> float:
        """Share of path cells with D > 0."""
        return float(np.mean(self.exposure > 0))


def empty_sums(shape: tuple[int, int], *, gaussian: bool = False) -> CellSums:
    """Sums of nothing."""
    zero = np.zeros(shape)
    return CellSums(
        signal=zero, variance=zero, counts=zero, exposure=zero, flat=zero, gaussian=gaussian
    )


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    known = bottom > 0
    return np.where(known, top / np.where(known, bottom, 1.0), np.nan)
