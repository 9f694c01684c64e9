"""Exact rates of orientations, carried by their own derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model_server.posterior.observation import Observation
from model_server.posterior.posterior import ThetaLayout
from simulations.arrays import BoolArray, FloatArray, SingleArray
from simulations.errors import InputError
from simulations.fold import CellSums
from simulations.likelihood import ExactModel

SLOPE_SIGMAS = 1.0  # derivatives are taken anew when theta has moved farther
REACH_SIGMAS = 1.5  # rates are carried over this many sigma at most
BENT = 0.1  # and where the second order adds no more than this to chi-square
OVERFLOWS = 1e100
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
    aside: SingleArray  # (path_bins, energy_bins, H) by ways that are not fitted
    slope_at: FloatArray  # (W,) where the derivatives were taken

    def doubting(self, free: BoolArray) -> Tangent:
        """The same with the free ones (H,) of the ways aside among what rates depend on."""
        none = np.zeros(int(free.sum()))
        return Tangent(
            at=np.concatenate([self.at, none]),
            exact=self.exact,
            slope=np.concatenate([self.slope, self.aside[..., free].astype(float)], axis=-1),
            aside=self.aside[..., ~free],
            slope_at=np.concatenate([self.slope_at, none]),
        )

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
        return float(np.sum(np.minimum(second, OVERFLOWS) ** 2 / variance))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Anchor:
    """What exact rates of all orientations add to folded ones at one theta, and its change.

    Good enough to look for other minima about that theta, which exact rates then judge.
    """

    off: FloatArray  # (G,)
    exact: FloatArray  # (path_bins, energy_bins), scale 1
    more: FloatArray  # exact minus folded
    by_off: FloatArray  # (path_bins, energy_bins, G) what the exact slopes add likewise

    def corrected(self, rate: FloatArray, off: FloatArray) -> FloatArray:
        """Folded rates with the correction, for a set-up that is off by (G,)."""
        least = 0.1 * np.minimum(self.exact, rate)
        return np.maximum(rate + self.more + self.by_off @ (off - self.off), least)


class Tangents:
    """Walks orientations where it must, and keeps what it found between fits.

    Parameters
    ----------
    exact : ExactModel or None
        None: nothing can be walked.
    layout : ThetaLayout
    """

    def __init__(self, exact: ExactModel | None, layout: ThetaLayout) -> None:
        self._exact, self._layout = exact, layout
        self._kept: dict[str, Tangent] = {}

    def walked(
        self,
        observations: Sequence[Observation],
        theta: FloatArray,
        sigma: FloatArray,
        share: float = 0.5,
    ) -> list[Tangent]:
        """Tangents of every orientation, walked anew where theta has moved away from theirs.

        ``share`` of the reach is what counts as away: 1 where theta was found by these tangents.
        """
        exact, layout, state = self._model(), self._layout, None
        at = theta[layout.walked]
        tangents: list[Tangent] = []
        for one in observations:
            tangent = self._kept.get(one.key)
            near = tangent is not None and tangent.holds(
                theta, sigma, layout, one.sums, len(observations), share=share
            )
            if tangent is None or not near:
                if one.trajectories is None:
                    raise InputError("observation has no trajectories; the exact rate needs them")
                if state is None:
                    state = exact.prepare(theta[layout.parameters])
                known = tangent is not None and tangent.slope_holds(theta, sigma, layout)
                rate, slope = exact.rates(
                    one.trajectories(),
                    state,
                    log_width=float(theta[layout.log_width]),
                    off=theta[layout.off],
                    gradient=not known,
                )
                if known and tangent is not None:
                    tangent = replace(tangent, at=at, exact=rate)
                else:
                    n = len(at)
                    tangent = Tangent(
                        at=at,
                        exact=rate,
                        slope=np.ascontiguousarray(slope[..., :n]),
                        aside=slope[..., n:].astype(np.float32),
                        slope_at=at,
                    )
                if one.key:
                    self._kept[one.key] = tangent
            tangents.append(tangent)
        return tangents

    def unknown(
        self, observations: Sequence[Observation], theta: FloatArray, sigma: FloatArray
    ) -> int:
        """Orientations that would have to be walked at theta (P,) of deviations sigma (P,)."""
        number, known = len(observations), self._kept
        return sum(
            one.key not in known
            or not known[one.key].holds(theta, sigma, self._layout, one.sums, number)
            for one in observations
        )

    def carry(
        self,
        tangents: Sequence[Tangent],
        observations: Sequence[Observation],
        theta: FloatArray,
        sigma: FloatArray,
    ) -> bool:
        """Whether all tangents hold at theta."""
        return all(
            t.holds(theta, sigma, self._layout, o.sums, len(observations))
            for t, o in zip(tangents, observations, strict=True)
        )

    def forget(self, key: str) -> None:
        """Drop what is kept of an orientation."""
        self._kept.pop(key, None)

    def remembered(self) -> dict[str, Any]:
        """All that is kept, by orientation."""
        return dict(self._kept)

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Keep exactly this."""
        self._kept = dict(remembered)

    def _model(self) -> ExactModel:
        if self._exact is None:
            raise InputError("the refinement has no exact model; expected one for trajectories")
        return self._exact
