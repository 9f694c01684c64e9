"""Exact rates of one orientation, carried by their own derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model_server.posterior.posterior import ThetaLayout
from simulations.arrays import FloatArray
from simulations.fold import CellSums

SLOPE_SIGMAS = 1.0  # derivatives are taken anew when theta has moved farther
REACH_SIGMAS = 1.5  # rates are carried over this many sigma at most
BENT = 0.1  # and where the second order adds no more than this to chi-square
LEAST_RATE = 0.1  # of the exact one: carried rates stay above


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tangent:
    """Rates walked at one theta and their derivatives: iterations between two walks are free.

    What the second order would add is judged from the first (a line that moves by a share of its
    width), and a new walk follows before it matters. ``W`` is what exact rates depend on, as
    ``ThetaLayout.walked`` lists it.
    """

    at: FloatArray  # (W,)
    exact: FloatArray  # (path_bins, energy_bins), scale 1
    slope: FloatArray  # (path_bins, energy_bins, W)
    slope_at: FloatArray  # (W,) where the derivatives were taken

    def carried(self, walked: FloatArray) -> FloatArray:
        """Rates at other values (W,)."""
        return np.maximum(self.exact + self.slope @ (walked - self.at), LEAST_RATE * self.exact)

    def slope_holds(self, theta: FloatArray, sigma: FloatArray, layout: ThetaLayout) -> bool:
        """Whether the derivatives may be kept at theta (P,) of standard deviations sigma (P,)."""
        moved = (theta[layout.walked] - self.slope_at) / sigma[layout.walked]
        return bool(np.max(np.abs(moved)) < SLOPE_SIGMAS)

    def holds(
        self,
        theta: FloatArray,
        sigma: FloatArray,
        layout: ThetaLayout,
        sums: CellSums,
        observations: int,
        share: float = 1.0,
    ) -> bool:
        """Whether rates can be carried to theta; ``share`` of the whole reach."""
        moved = (theta[layout.walked] - self.at) / sigma[layout.walked]
        if np.max(np.abs(moved)) > share * REACH_SIGMAS:
            return False
        return self.bent(theta, layout, sums) * observations <= share * BENT

    def bent(self, theta: FloatArray, layout: ThetaLayout, sums: CellSums) -> float:
        """Chi-square that the second order might make at theta in the counts of ``sums``."""
        scale, flat, constant = np.exp(theta[layout.log_amplitudes])
        change = np.abs(self.slope @ (theta[layout.walked] - self.at))
        second = 0.5 * scale * change**2 / np.maximum(self.exact + change, 1e-300)
        if sums.gaussian:
            variance = np.where(sums.variance > 0, sums.variance, np.inf)
        else:
            variance = scale * self.exact + flat * sums.flat + constant * sums.exposure
            variance = np.where(variance > 0, variance, np.inf)
        return float(np.sum(second**2 / variance))
