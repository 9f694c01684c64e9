"""Exact rates of orientations, carried by their own derivatives."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model_server.posterior.effort import AVERAGED, EXACT, MODES, ROUGH
from model_server.posterior.observation import Observation
from model_server.posterior.posterior import ThetaLayout
from simulations.arrays import BoolArray, FloatArray, IntArray, SingleArray
from simulations.errors import InputError
from simulations.fold import CellSums
from simulations.likelihood import ExactModel, RoughModel, steepest, times_as_many

REACH_SIGMAS = 1.5  # rates are carried over this many sigma at most
BENT = 0.1  # and where the second order adds no more than this to chi-square
NOTHING = 0.1  # of what it may add: so little allows the whole reach, whatever share is asked for
BENDS_OVER = 10.0  # sigma that rough rates' second differences carry exact ones over at most
BENDS_BY = 25.0  # and of the same chi-square, before they take most of it away
NEARER = 0.3  # of the reach of derivatives, where second differences are better
ALIKE = 0.05  # of the slopes' chi-square that rough ones miss, before they bend no better
UNLIKE = 0.3  # their differences are noise, then
UNEVEN = 0.1  # of the slopes' chi-square that averaged ones differ from those of one place by
LEAST_VARIANCE = 1e-3  # of the largest rate: what cells of small ones weigh by
OVERFLOWS = 1e100
LEAST_RATE = 0.1  # of the exact one: carried rates stay above
OVERHEAD = 0.75  # exact rates take so much of what their steps are more than rough ones'
NARROWED = 0.6  # of the widths that they were drawn by: less, and they are drawn anew


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Averaged:
    """Derivatives of one orientation's rates, averaged over a posterior.

    Rates of few pixels have structure narrower than the posterior. At one place its slopes count as
    information; of the answer's neighbours as a whole they say nothing, and cancel.
    """

    at: FloatArray  # (W,)
    sigma: FloatArray  # (W,)
    slope: SingleArray  # (path_bins, energy_bins, W)
    aside: SingleArray  # (path_bins, energy_bins, H)

    def serves(self, at: FloatArray, sigma: FloatArray) -> bool:
        """Whether a posterior about (W,) of widths (W,) is much the same."""
        moved = float(np.sqrt(np.mean(((at - self.at) / self.sigma) ** 2)))
        width = float(np.exp(np.mean(np.log(sigma / self.sigma))))
        return moved <= 1.0 and NARROWED <= width <= 1 / NARROWED


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
    base: Tangent | None = None  # that was walked, where this one is bent from it
    rough: Tangent | None = None  # of rough rates at the same place, once they were needed
    wider: SingleArray | None = None  # what a typical spread of q would change, once it was needed
    averaged: Averaged | None = None  # derivatives over the posterior, once they were needed
    steep: IntArray | None = None  # trajectories that rough rates need, where they were walked
    alike: bool = True  # whether rough rates bend it better than its derivatives, in their reach
    steady: bool = False  # whether its derivatives are averaged ones, that serve their whole reach
    dear: float = EXACT  # what it took, as an ``Effort`` counts
    unlike: int = 0  # orientations when rough rates were found too unlike it to bend it; 0: not

    def doubting(self, free: BoolArray) -> Tangent:
        """The same with the free ones (H,) of the ways aside among what rates depend on."""
        none = np.zeros(int(free.sum()))
        return Tangent(
            at=np.concatenate([self.at, none]),
            exact=self.exact,
            slope=np.concatenate([self.slope, self.aside[..., free].astype(float)], axis=-1),
            aside=self.aside[..., ~free],
            base=None if self.base is None else self.base.doubting(free),
            rough=None if self.rough is None else self.rough.doubting(free),
            wider=self.wider,
            steep=self.steep,
            alike=self.alike,
            dear=self.dear,
            unlike=self.unlike,
        )

    def unlikeness(self, rough: Tangent, sigma: FloatArray) -> float:
        """Share of its slopes' chi-square that those of rough rates at the same place miss.

        Where each constant is off by its sigma (W,): of germanium on ARCS 1 %, of AgP2 3 %, RuS2
        and magnesium oxide 9 %, of RuP2 1 to 20 %. Above 5 % a step of a sigma is no better bent
        than carried to first order; one of 2 to 5 is, by far, still at 25 %. Of one trajectory in
        several without the steep ones they missed 33 to 105 %, and rates that they bent were worse
        than those to first order.
        """
        variance = np.maximum(self.exact, LEAST_VARIANCE * np.max(self.exact))[..., None]
        whole = np.sum((self.slope * sigma) ** 2 / variance)
        missed = np.sum(((self.slope - rough.slope) * sigma) ** 2 / variance)
        return float(missed / whole) if whole > 0 else 0.0

    def bent(self, here: Tangent, there: Tangent) -> Tangent:
        """The same at another place, by the second difference of rough rates.

        Parameters
        ----------
        here, there : Tangent
            Of rough rates where this one is, and at the other place.

        Notes
        -----
        Exact rates of germanium on ARCS are missed by a chi-square of 0.2 to 1.3 in 7,800 cells
        where all constants are off by twice their sigma (by 2 to 7 to first order), and the
        constants that fit best by a chi-square of 0.01 to 0.1 (0.4 to 4.4).
        """
        step = there.at - self.at
        first = (self.slope - here.slope) @ step
        least = np.where(there.exact > 0, np.minimum(self.exact, there.exact), self.exact)
        return Tangent(
            at=there.at,
            exact=np.maximum(self.exact + first + there.exact - here.exact, LEAST_RATE * least),
            slope=self.slope + there.slope - here.slope,
            aside=self.aside + there.aside - here.aside,
            base=replace(self, rough=here),
        )

    def carried(self, walked: FloatArray) -> FloatArray:
        """Rates at other values (W,)."""
        return np.maximum(self.exact + self.slope @ (walked - self.at), LEAST_RATE * self.exact)

    def steadied(self, theta: FloatArray, sigma: FloatArray, layout: ThetaLayout) -> Tangent | None:
        """The same with averaged derivatives, where there are some of a posterior as this one."""
        mean, walked = self.averaged, layout.walked
        if mean is None or self.unlike or not mean.serves(theta[walked], sigma[walked]):
            return None
        return self.with_mean(mean)

    def with_mean(self, mean: Averaged) -> Tangent:
        """The same with averaged derivatives."""
        return replace(
            self,
            slope=mean.slope.astype(float),
            aside=mean.aside,
            base=self.base or self,
            averaged=mean,
            steady=True,
        )

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
        far = float(np.max(np.abs(moved)))
        if far > REACH_SIGMAS:
            return False
        most, missed = share * BENT, self.missed(theta, layout, sums) * observations
        return missed <= most and (far <= share * REACH_SIGMAS or missed <= NOTHING * most)

    def bends(
        self,
        theta: FloatArray,
        sigma: FloatArray,
        layout: ThetaLayout,
        sums: CellSums,
        observations: int,
    ) -> bool:
        """Whether second differences of rough rates carry the walked ones to theta."""
        base = self.base or self
        moved = (theta[layout.walked] - base.at) / sigma[layout.walked]
        near = np.max(np.abs(moved)) <= BENDS_OVER
        return bool(near and base.missed(theta, layout, sums) * observations <= BENDS_BY)

    def missed(self, theta: FloatArray, layout: ThetaLayout, sums: CellSums) -> float:
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
    rough : RoughModel, optional
        Its second differences carry exact rates farther than their own derivatives do.
    price : float
        Of one walk, as an ``Effort`` counts.
    """

    def __init__(
        self,
        exact: ExactModel | None,
        layout: ThetaLayout,
        rough: RoughModel | None = None,
        price: float = EXACT,
    ) -> None:
        self._exact, self._rough, self._layout, self._price = exact, rough, layout, price
        self._kept: dict[str, Tangent] = {}
        self._steep: dict[str, IntArray] = {}

    def walked(
        self,
        observations: Sequence[Observation],
        theta: FloatArray,
        sigma: FloatArray,
        share: float = 0.5,
        *,
        steady: bool = True,
    ) -> list[Tangent]:
        """Tangents of every orientation, taken anew where theta has moved away from theirs.

        ``share`` of the reach is what counts as away: 1 where theta was found by these tangents.
        Where averaged derivatives carry rates to theta, they do, if ``steady``.
        """
        if self._exact is None:
            raise InputError("the refinement has no exact model; expected one for trajectories")
        exact, layout, number = _At(self._exact, self._layout), self._layout, len(observations)
        rough = None if self._rough is None else _At(self._rough, layout)
        tangents: list[Tangent] = []
        for one in observations:
            tangent = self._kept.get(one.key)
            mean = (
                tangent.steadied(theta, sigma, layout) if tangent is not None and steady else None
            )
            if mean is not None and mean.holds(theta, sigma, layout, one.sums, number, share):
                tangents.append(mean)
                continue
            if (
                rough is not None
                and tangent is not None
                and self._bends(tangent, one, theta, sigma, number)
                and not tangent.holds(
                    theta, sigma, layout, one.sums, number, share * _nearer(tangent)
                )
            ):
                bent = self._bent(tangent, one, theta, sigma, rough, number)
                tangent = self._kept[one.key] = bent
            if tangent is None or not tangent.holds(theta, sigma, layout, one.sums, number, share):
                unlike = 0 if tangent is None else tangent.unlike
                wider = None if tangent is None else tangent.wider
                averaged = None if tangent is None else tangent.averaged
                walked = exact.tangent(
                    one, theta, self._steep.get(one.key), marked=rough is not None
                )
                if tangent is None and rough is not None:  # it will be wanted; modes are at hand
                    roughly = rough.tangent(one, theta, walked.steep)
                    alike = walked.unlikeness(roughly, sigma[layout.walked]) <= ALIKE
                    walked = replace(walked, rough=roughly, alike=alike)
                tangent = replace(walked, unlike=unlike, wider=wider, averaged=averaged)
                if one.key:
                    self._kept[one.key] = tangent
            tangents.append(tangent)
        return tangents

    def begin(self, exact: Tangents) -> None:
        """Forget all rough rates; from here on they walk as they are what exact ones found steep.

        The same of an orientation until the next beginning, so that objectives are comparable.
        """
        bases = {key: one.base or one for key, one in exact._kept.items()}
        self._steep = {key: one.steep for key, one in bases.items() if one.steep is not None}
        self._kept = {}

    def levels(self, observations: Sequence[Observation], theta: FloatArray) -> list[Tangent]:
        """Rates at theta (P,) with no derivatives by what they depend on: to compare places by."""
        if self._exact is None:
            raise InputError("the refinement has no exact model; expected one for trajectories")
        at, exact = theta[self._layout.walked], _At(self._exact, self._layout)
        found: list[Tangent] = []
        for one in observations:
            rate = exact.rate(one, theta, self._steep.get(one.key))
            none = np.zeros((*rate.shape, len(at)))
            aside = np.zeros((*rate.shape, 0), dtype=np.float32)
            found.append(Tangent(at=at, exact=rate, slope=none, aside=aside))
        return found

    def _bent(
        self,
        tangent: Tangent,
        one: Observation,
        theta: FloatArray,
        sigma: FloatArray,
        rough: _At,
        number: int,
    ) -> Tangent:
        """What was walked, bent to theta; or as it is, where rough rates are too unlike it."""
        base = tangent.base or tangent
        here = self._roughly(base, one, theta, rough)
        missed = base.unlikeness(here, sigma[self._layout.walked])
        unlike = missed > UNLIKE
        found = base if unlike else base.bent(here, rough.tangent(one, theta, base.steep))
        return replace(
            found,
            alike=missed <= ALIKE,
            unlike=number if unlike else 0,
            wider=tangent.wider,
            averaged=tangent.averaged,
        )

    def _roughly(self, base: Tangent, one: Observation, theta: FloatArray, rough: _At) -> Tangent:
        """Rough rates where a tangent was walked."""
        return base.rough or rough.tangent(one, self._theta_at(base, theta), base.steep)

    @property
    def unlike(self) -> bool:
        """Whether rough rates were found to be no help: of more than half of the orientations."""
        return 2 * sum(one.unlike > 0 for one in self._kept.values()) > len(self._kept)

    @property
    def bending(self) -> bool:
        """Whether there are rough rates that are of help."""
        return self._rough is not None and not self.unlike

    def uneven(self, observations: Sequence[Observation], sigma: FloatArray) -> bool:
        """Whether derivatives of one place are too unlike averaged ones to tell where to go.

        Where each constant is off by its sigma (P,); by what is kept, wherever that was walked.
        """
        kept = [self._kept.get(one.key) for one in observations]
        known = [(one, one.averaged) for one in kept if one is not None]
        whole = missed = 0.0
        for one, mean in known:
            if mean is not None:
                variance = np.maximum(one.exact, LEAST_VARIANCE * np.max(one.exact))[..., None]
                by_sigma = one.slope * sigma[self._layout.walked]
                whole += float(np.sum(by_sigma**2 / variance))
                by_sigma -= mean.slope * sigma[self._layout.walked]
                missed += float(np.sum(by_sigma**2 / variance))
        return missed > UNEVEN * whole

    def _bends(
        self,
        tangent: Tangent,
        one: Observation,
        theta: FloatArray,
        sigma: FloatArray,
        number: int,
    ) -> bool:
        """Whether rough rates may bend it: where they did not, they are asked at the next chunk."""
        asked = self._rough is not None and number > tangent.unlike
        return asked and tangent.bends(theta, sigma, self._layout, one.sums, number)

    def _theta_at(self, base: Tangent, theta: FloatArray) -> FloatArray:
        """Theta (P,) with what rates depend on as it was there."""
        out = theta.copy()
        out[self._layout.walked] = base.at
        return out

    def unknown(
        self, observations: Sequence[Observation], theta: FloatArray, sigma: FloatArray
    ) -> int:
        """How many exact rates must be walked of at theta (P,) of deviations sigma (P,)."""
        number, known, layout = len(observations), self._kept, self._layout
        return sum(
            one.key not in known
            or not (
                known[one.key].holds(theta, sigma, layout, one.sums, number)
                or self._bends(known[one.key], one, theta, sigma, number)
            )
            for one in observations
        )

    def price(
        self,
        observations: Sequence[Observation],
        theta: FloatArray,
        wide: FloatArray,
        share: float = 0.5,
        *,
        steady: bool = True,
    ) -> float:
        """What ``walked`` will take, as an ``Effort`` counts; see there.

        The first exact walk of an orientation is not counted: there is no answer without it.
        """
        number, layout, sigma = len(observations), self._layout, np.sqrt(np.diag(wide))
        total = 0.0
        for one in observations:
            known = self._kept.get(one.key)
            if known is None:
                total += self._price if self._rough is None else 0.0
                continue
            mean = known.steadied(theta, sigma, layout) if steady else None
            if mean is not None and mean.holds(theta, sigma, layout, one.sums, number, share):
                continue
            bends = self._bends(known, one, theta, sigma, number)
            reach = share * _nearer(known) if bends else share
            if not known.holds(theta, sigma, layout, one.sums, number, reach):
                dear = self._price if self._rough is None else (known.base or known).dear
                total += ROUGH if bends else dear
        return total + (MODES if total else 0.0)

    def averages(
        self, tangents: Sequence[Tangent], theta: FloatArray, covariance: FloatArray
    ) -> float:
        """What ``averaged`` will take."""
        return AVERAGED * sum(one is None for one in self._means(tangents, theta, covariance))

    def _means(
        self, tangents: Sequence[Tangent], theta: FloatArray, covariance: FloatArray
    ) -> list[Averaged | None]:
        """Averages that are known, and none where they must be made anew."""
        at = theta[self._layout.walked]
        sigma = np.sqrt(np.diag(covariance))[self._layout.walked]
        return [
            None if one.averaged is None or not one.averaged.serves(at, sigma) else one.averaged
            for one in tangents
        ]

    def carry(
        self,
        tangents: Sequence[Tangent],
        observations: Sequence[Observation],
        theta: FloatArray,
        sigma: FloatArray,
    ) -> bool:
        """Whether all tangents hold at theta."""
        number = len(observations)
        return all(
            t.holds(
                theta,
                sigma,
                self._layout,
                o.sums,
                number,
                _nearer(t) if not t.steady and self._bends(t, o, theta, sigma, number) else 1.0,
            )
            for t, o in zip(tangents, observations, strict=True)
        )

    def wider(self, observations: Sequence[Observation], theta: FloatArray) -> list[SingleArray]:
        """What a typical spread of q would change in each orientation's rates; none: no entries.

        Walked once where exact rates were, near theta; by rough ones where there are some.
        """
        model = self._rough or self._exact
        typical = None if model is None else model.typical()
        if model is None or typical is None:
            return []
        points, blurred = _At(model, self._layout), _At(typical, self._layout)
        found: list[SingleArray] = []
        for one in observations:
            tangent = self._kept.get(one.key)
            wider = None if tangent is None else tangent.wider
            if wider is None:
                base = None if tangent is None else tangent.base or tangent
                at = theta if base is None else self._theta_at(base, theta)
                steep = None if base is None or self._rough is None else base.steep
                if base is None:
                    here = points.rate(one, at)
                elif self._rough is None:
                    here = base.exact
                else:
                    here = self._roughly(base, one, theta, points).exact
                wider = (blurred.rate(one, at, steep) - here).astype(np.float32)
                if tangent is not None:
                    self._kept[one.key] = replace(tangent, wider=wider)
            found.append(wider)
        return found

    def averaged(
        self,
        observations: Sequence[Observation],
        tangents: Sequence[Tangent],
        theta: FloatArray,
        covariance: FloatArray,
    ) -> list[Tangent]:
        """Rates as carried to theta, with derivatives averaged over a posterior about it.

        Parameters
        ----------
        observations : sequence of Observation
        tangents : sequence of Tangent
            Of each, walked or bent near theta.
        theta : (P,) float64
        covariance : (P, P) float64

        Notes
        -----
        Averages are those that rough rates make of one walk, of lines as uncertain as their
        energies are, with what exact ones differ by where they were walked: nearer than those of
        four draws about theta to those of 32 (of germanium with its set-up, after 1,000 counts,
        they miss 0.4 % of the slopes' chi-square, four draws 1 to 3 %), and of no scatter that
        would count as information. They are kept until the posterior is another. Where rough
        rates are too unlike exact ones, derivatives stay those of one place.
        """
        if not self.bending:
            return list(tangents)
        at = theta[self._layout.walked]
        sigma = np.sqrt(np.diag(covariance))[self._layout.walked]
        means = self._means(tangents, theta, covariance)
        anew = [k for k, mean in enumerate(means) if mean is None and not tangents[k].unlike]
        some = [observations[k] for k in anew], [tangents[k] for k in anew]
        for k, slopes in zip(anew, self._mean_slopes(*some, theta, covariance), strict=True):
            mean = means[k] = Averaged(
                at=at, sigma=sigma, slope=slopes[..., : len(at)], aside=slopes[..., len(at) :]
            )
            known = self._kept.get(observations[k].key)
            if known is not None:
                self._kept[observations[k].key] = replace(known, averaged=mean)
        return [
            one if mean is None else one.with_mean(mean)
            for one, mean in zip(tangents, means, strict=True)
        ]

    def _mean_slopes(
        self,
        observations: Sequence[Observation],
        tangents: Sequence[Tangent],
        theta: FloatArray,
        covariance: FloatArray,
    ) -> list[SingleArray]:
        """Averages of all derivatives, (path_bins, energy_bins, W + H) of each."""
        if not observations:
            return []
        if self._rough is None:
            raise InputError("the refinement has no rough model; expected one to average over")
        points, layout = _At(self._rough, self._layout), self._layout
        what = [one for one in layout.walked if one != layout.log_width]
        over = covariance[np.ix_(what, what)]
        means: list[SingleArray] = []
        for one, tangent in zip(observations, tangents, strict=True):
            base = tangent.base or tangent
            rough = self._roughly(base, one, theta, points)
            differ = [base.slope - rough.slope, base.aside - rough.aside]
            mean = np.concatenate(differ, axis=-1)
            mean += points.slopes(one, theta, base.steep, over=over)
            means.append(mean.astype(np.float32))
        return means

    @contextmanager
    def unbent(self) -> Generator[None]:
        """Meanwhile every orientation is walked anew wherever its derivatives do not reach."""
        rough, self._rough, self._kept = self._rough, None, {}
        try:
            yield
        finally:
            self._rough = rough

    def forget(self, key: str) -> None:
        """Drop what is kept of an orientation."""
        self._kept.pop(key, None)

    def remembered(self) -> dict[str, Any]:
        """All that is kept, by orientation."""
        return dict(self._kept)

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Keep exactly this."""
        self._kept = dict(remembered)


def _nearer(tangent: Tangent) -> float:
    """Share of the reach of its derivatives up to which they are better than to be bent."""
    return NEARER if tangent.alike else 1.0


class _At:
    """Walks of one model at values of theta."""

    def __init__(self, model: ExactModel, layout: ThetaLayout) -> None:
        self._model, self._layout = model, layout

    def rate(
        self, one: Observation, theta: FloatArray, steep: IntArray | None = None
    ) -> FloatArray:
        """Rates at theta (P,); ``steep``: see ``tangent``."""
        return self._rates(one, theta, gradient=False, steep=steep)[0]

    def slopes(
        self,
        one: Observation,
        theta: FloatArray,
        steep: IntArray | None = None,
        *,
        over: FloatArray | None = None,
    ) -> FloatArray:
        """All derivatives at theta (P,), those by ways aside last; ``steep``: see ``tangent``.

        Averaged over a covariance of parameters and set-up, where there is one.
        """
        return self._rates(one, theta, gradient=True, steep=steep, over=over)[1]

    def tangent(
        self,
        one: Observation,
        theta: FloatArray,
        steep: IntArray | None = None,
        *,
        marked: bool = False,
    ) -> Tangent:
        """Rates at theta (P,) and all derivatives.

        ``steep`` are trajectories that a rough model is to walk as they are; ``marked``: an exact
        one tells which these are.
        """
        at = theta[self._layout.walked]
        rate, slope, steepness = self._rates(one, theta, gradient=True, steep=steep, marked=marked)
        n = len(at)
        return Tangent(
            at=at,
            exact=rate,
            slope=np.ascontiguousarray(slope[..., :n]),
            aside=slope[..., n:].astype(np.float32),
            steep=None if steepness is None else steepest(steepness),
            dear=EXACT if steepness is None else OVERHEAD * self._times_as_many(one, rate.size),
        )

    def _times_as_many(self, one: Observation, n_cells: int) -> float:
        return 1.0 if one.trajectories is None else times_as_many(one.trajectories(), n_cells)

    def _rates(
        self,
        one: Observation,
        theta: FloatArray,
        *,
        gradient: bool,
        steep: IntArray | None = None,
        over: FloatArray | None = None,
        marked: bool = False,
    ) -> tuple[FloatArray, FloatArray, SingleArray | None]:
        if one.trajectories is None:
            raise InputError("observation has no trajectories; the exact rate needs them")
        layout, trajectories = self._layout, one.trajectories()
        state = self._model.prepare(theta[layout.parameters])
        more: dict[str, Any] = {}
        if marked:
            more["steepness"] = np.zeros(len(trajectories.pixel), dtype=np.float32)
        if steep is not None:
            more["steep"] = steep
        if over is not None:
            more["over"] = over
        rate, slope = self._model.rates(
            trajectories,
            state,
            log_width=float(theta[layout.log_width]),
            off=theta[layout.off],
            gradient=gradient,
            **more,
        )
        return rate, slope, more.get("steepness")
