"""Where a search begins: draws of the prior, moved towards the counts as an ensemble.

A likelihood of many lines has one minimum within a line's width of the truth and very many farther
away, so that descents from single draws seldom arrive. An ensemble sees its large form: over its
members, rates on blurred counts regress the parameters on the counts. Iterated ensemble Kalman
inversion as in data assimilation (Emerick and Reynolds, Computers & Geosciences 55, 3 (2013)): the
counts are used in several parts, ever less blurred, each with its noise inflated accordingly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model_server.posterior._scipy import non_negative_least_squares, solve_positive
from model_server.posterior.blurring import Blurring, energy_step
from model_server.posterior.observation import Observation, usable_cells
from model_server.posterior.posterior import ThetaLayout
from simulations.arrays import FloatArray
from simulations.likelihood import ForwardModel
from simulations.prior import BoxPrior

BACKGROUND_SHARE = 0.1  # of the counts: where the prior of either background is centred
SCREENING_BLUR_MEV = 6.0
SCREENED = 6  # first places of a search
FEWEST_MEMBERS = 40  # of an ensemble
BLURS_MEV = (12.0, 6.0, 3.0, 3.0)  # one part of the counts each
MODEL_ERROR = 0.1  # of the rates of blurred cells: folded ones and few members do not know better
FLOOR = 0.01  # of the mean square of all cells, where there is almost nothing


class Starts:
    """First theta of a search for one forward model.

    Parameters
    ----------
    model : ForwardModel
    prior : BoxPrior
    layout : ThetaLayout
    off_sigma : (G,) float64
        Standard deviations of what may be mis-set, before any data.
    energy_centres_meV : (energy_bins,)
    elastic_cut_meV : float
        Cells nearer to zero energy transfer are left out.
    """

    def __init__(
        self,
        *,
        model: ForwardModel,
        prior: BoxPrior,
        layout: ThetaLayout,
        off_sigma: FloatArray,
        energy_centres_meV: FloatArray,
        elastic_cut_meV: float,
    ) -> None:
        self._model, self._prior, self._layout = model, prior, layout
        self._off_sigma = off_sigma
        self._energy, self._elastic_cut = energy_centres_meV, elastic_cut_meV
        self._blurring = Blurring(energy_centres_meV)

    def first(
        self, pooled: Observation, starts: Sequence[FloatArray]
    ) -> tuple[list[FloatArray], float]:
        """First theta from values (K,) to begin at, and the blur that they were found with, meV.

        Many values are inverted as an ensemble. Few are screened: those that explain blurred counts
        best are kept, best first.
        """
        if not usable_cells(pooled.sums, self._energy, self._elastic_cut).any():
            starts = starts[:1]  # nothing tells them apart
        if len(starts) >= FEWEST_MEMBERS:
            return self._inverted(pooled, starts), BLURS_MEV[-1]
        none = np.zeros(len(self._off_sigma))
        firsts = [self.theta_of(pooled, values, none)[:2] for values in starts]
        firsts.sort(key=lambda first: first[1])
        return [theta for theta, _ in firsts[:SCREENED]], SCREENING_BLUR_MEV

    def as_they_are(self, pooled: Observation, guesses: Sequence[FloatArray]) -> list[FloatArray]:
        """Theta of values (K,) that nothing moves, with a set-up as it is believed."""
        if not usable_cells(pooled.sums, self._energy, self._elastic_cut).any():
            return []  # nothing tells them from the prior
        none = np.zeros(len(self._off_sigma))
        return [self.theta_of(pooled, values, none)[0] for values in guesses]

    def centre(self, pooled: Observation) -> FloatArray:
        """Centre of the prior of theta: of the box, of amplitudes that share the counts, zeros.

        Of all counts a share of ``BACKGROUND_SHARE`` is either background and the rest scattered by
        the middle of the box; the same for whatever start, and within a wide prior.
        """
        layout, prior, sums = self._layout, self._prior, pooled.sums
        use = usable_cells(sums, self._energy, self._elastic_cut)
        rate, _ = self._model.rates(
            pooled.exposure(), self._model.prepare(prior.mean), log_width=0.0, gradient=False
        )
        error = float(np.sqrt(sums.variance[use].sum()))
        counts = max(float(sums.signal[use].sum()), error, 0.0 if sums.gaussian else 1.0)
        centre = np.zeros(layout.size)
        centre[layout.parameters] = prior.mean
        shares = (1 - 2 * BACKGROUND_SHARE, BACKGROUND_SHARE, BACKGROUND_SHARE)
        for at, share, part in zip(
            range(layout.log_amplitudes.start, layout.log_amplitudes.stop),
            shares,
            (rate, sums.flat, sums.exposure),
            strict=True,
        ):
            reach = float(part[use].sum())
            amount = share * counts / reach if reach > 0 else 1.0
            centre[at] = np.log(amount) if amount > 0 else 0.0
        return centre

    def _inverted(self, pooled: Observation, starts: Sequence[FloatArray]) -> list[FloatArray]:
        """The middle of the inverted ensemble, and of its members those that did best."""
        rng = np.random.default_rng([len(starts), 20263])
        known = pooled.drift is not None
        off = self._off_sigma * rng.standard_normal((len(starts), len(self._off_sigma)))
        members = np.concatenate([np.array(starts), off if known else 0 * off], axis=1)
        count, misfit = self._layout.n_parameters, np.zeros(len(members))
        for blur in BLURS_MEV:
            data, variance, independent = self._data(pooled, blur)
            rates: list[FloatArray] = []
            for place, member in enumerate(members):
                _, misfit[place], rate = self.theta_of(pooled, member[:count], member[count:], blur)
                rates.append(rate[:, :: self._stride(blur)].ravel())
            sigma = np.sqrt(
                variance + (MODEL_ERROR * data) ** 2 + (FLOOR**2) * np.mean(data**2) + 1e-300
            )
            inflation = len(BLURS_MEV) * max(1.0, len(data) / independent)
            members = kalman_step(members, np.array(rates), data, sigma, inflation, rng)
            members[:, :count] = np.clip(members[:, :count], self._prior.lower, self._prior.upper)
        best = np.argsort(misfit, kind="stable")[: SCREENED - 1]
        chosen = [members.mean(axis=0), *members[best]]
        return [self.theta_of(pooled, one[:count], one[count:])[0] for one in chosen]

    def _stride(self, blur: float) -> int:
        """Energy bins of which one is looked at: half a blur is one step."""
        return max(1, int(0.5 * blur / energy_step(self._energy)))

    def _data(self, pooled: Observation, blur: float) -> tuple[FloatArray, FloatArray, float]:
        """Blurred counts, their variance, and how many of them would be as good if independent."""
        sums, kernel, stride = pooled.sums, self._blurring.kernel(blur), self._stride(blur)
        use = usable_cells(sums, self._energy, self._elastic_cut)
        variance = (np.where(use, sums.variance, 0.0) @ kernel**2)[:, ::stride].ravel()
        data = (self._counts(pooled) @ kernel)[:, ::stride].ravel()
        return data, variance, float(use.sum()) / self._blurring.together(blur)

    def _counts(self, pooled: Observation) -> FloatArray:
        can, signal = pooled.can, pooled.sums.signal
        if can is not None and can.fixed is not None:
            signal = signal - can.fixed
        return np.where(usable_cells(pooled.sums, self._energy, self._elastic_cut), signal, 0.0)

    def theta_of(
        self,
        observation: Observation,
        values: FloatArray,
        off: FloatArray,
        blur: float = SCREENING_BLUR_MEV,
    ) -> tuple[FloatArray, float, FloatArray]:
        """Scale and backgrounds by non-negative least squares on blurred counts.

        Returns
        -------
        theta : (P,) float64
        misfit : float
        expected : (path_bins, energy_bins) float64
            Blurred counts.
        """
        sums, layout = observation.sums, self._layout
        exposure, state = observation.exposure(), self._model.prepare(values)
        if observation.drift is None:
            rate, _ = self._model.rates(exposure, state, log_width=0.0, gradient=False)
        else:
            drift = observation.drift()
            rate, _ = self._model.rates(
                exposure, state, log_width=0.0, gradient=False, drift=drift, off=off
            )
        if observation.can is not None and observation.can.fixed is None:
            rate = rate + observation.can.shape
        for part in observation.parts:
            rate = rate + part
        use = usable_cells(sums, self._energy, self._elastic_cut).astype(float)
        kernel = self._blurring.kernel(blur)
        columns = np.stack(
            [((a * use) @ kernel).ravel() for a in (rate, sums.flat, sums.exposure)], axis=1
        )
        data = (self._counts(observation) @ kernel).ravel()
        weight = 1 / np.sqrt(np.abs(data) + max(float(np.abs(data).mean()), 1e-12))
        size = np.maximum(np.linalg.norm(columns * weight[:, None], axis=0), 1e-300)
        solution, misfit = non_negative_least_squares(
            columns * weight[:, None] / size, data * weight
        )
        solution = solution / size
        # A part that got nothing starts at a thousandth of the data, of their error where they are
        # zero or negative, or of one count: its logarithm must stay finite.
        error = float(np.sqrt((sums.variance * use).sum()))
        amount = max(float(data.sum()), error, 0.0 if sums.gaussian else 1.0)
        reach = columns.sum(0)
        floor = np.where(reach > 0, 1e-3 * amount / np.where(reach > 0, reach, 1.0), 1.0)
        floor = np.where(floor > 0, floor, 1.0)
        theta = np.zeros(layout.size)
        theta[layout.parameters] = values
        theta[layout.off] = off
        theta[layout.log_amplitudes] = np.log(np.maximum(solution, floor))
        return theta, misfit, (columns @ solution).reshape(sums.signal.shape)


def kalman_step(
    members: FloatArray,
    predicted: FloatArray,
    data: FloatArray,
    sigma: FloatArray,
    inflation: float,
    rng: np.random.Generator,
) -> FloatArray:
    """Members of an ensemble moved towards data by what they predict of them.

    Parameters
    ----------
    members : (J, P) float64
    predicted : (J, n) float64
        Data that each of them expects.
    data, sigma : (n,) float64
        And their standard deviations.
    inflation : float
        Of the variance: the data are used in so many parts.
    rng : numpy.random.Generator
        Of the noise that every member's data get, so that the spread stays right.

    Returns
    -------
    members : (J, P) float64
    """
    whitened = predicted / sigma
    noise = np.sqrt(inflation) * rng.standard_normal(whitened.shape)
    innovation = data / sigma + noise - whitened
    about = whitened - whitened.mean(axis=0)
    gram = about @ about.T + inflation * (len(members) - 1) * np.eye(len(members))
    weights = solve_positive(gram, about @ innovation.T)
    return members + weights.T @ (members - members.mean(axis=0))
