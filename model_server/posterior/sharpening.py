"""Draws of the posterior from where a network says that it is.

A network's own draws are too wide for weights to make a posterior of them. But they say where it
is: from there the refinement's folded search leads to the best theta. A normal distribution about
it, of everything that is uncertain (parameters, scale, backgrounds, width, set-up), to either side
of its axes as wide as the objective says, is a proposal that weights can mend. The prior of the
parameters is uniform in the box, as in the network's training. The refinement's is normal: under it
posteriors of few counts are narrower, too narrow for a proposal, so it only helps the search, and a
looser one keeps the proposal finite. Other answers beside that one are not seen.

The search steps by derivatives that are approximate along the set-up, and ends above the minimum:
by 8 of minus log posterior in the median of 70 runs of germanium (20,000 to a million counts), by
194 at most. So minimum and curvature here are of differences. Approximate: rates are the folded
ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model_server.posterior._scipy import solve_positive
from model_server.posterior.importance import Weighed
from model_server.posterior.observation import Observation, usable_cells
from model_server.posterior.posterior import Posterior
from model_server.posterior.refinement import Refinement
from simulations.arrays import BoolArray, FloatArray
from simulations.errors import InputError
from simulations.likelihood import FoldedPhonons

KICKS = 16  # of the folded search, in vain, before it ends
POLISHES = 8  # most steps by differences
POLISHED = 0.02  # of minus log posterior, what a step no longer gains
STEP_SIGMAS = 0.3  # of theta, to either side of a difference
SHORTER, LEAST_STEP = 0.4, 0.05  # of a step that does not pay, and sigmas of the last that is tried
WIDTHS, SHARES = (1.0, 1.15, 1.3), (0.4, 0.35, 0.25)  # of normal ones
LOOSER = 3.0  # the normal prior that minimum and curvature are under, over that of the refinement
ASIDE = 1.5  # sigma, where the width of either side is told by
NARROWEST, WIDEST = 0.5, 2.0  # of that width
TRIES = 1000  # for a draw inside of the box
LEAST_EXPECTED = 1e-12  # counts of a cell


class Sharpened:
    """The posterior of one pooled observation about the best theta that guesses lead to.

    Parameters
    ----------
    refinement : Refinement
        Its folded model, prior and nuisances.
    observation : Observation
        Pooled; with a ``drift`` where the set-up may be off. Counts or reduced data.
    guesses : sequence of (K,)
        Where a network says that the parameters are; at least one.
    kicks : int
        See ``Refinement.fit``.

    Attributes
    ----------
    theta : (P,) float64
        Where the data and a loose normal prior leave it.
    covariance : (P, P) float64
    gained : float
        Minus log posterior that the search had left.
    """

    def __init__(
        self,
        refinement: Refinement,
        observation: Observation,
        guesses: Sequence[FloatArray],
        *,
        kicks: int = KICKS,
    ) -> None:
        if not guesses:
            raise InputError("guesses is empty; expected where a network says that parameters are")
        model = refinement.model
        if not isinstance(model, FoldedPhonons):
            raise InputError(f"the model is {model.name}; expected folded phonons")
        self._objective, self._observation = refinement.objective, observation
        self._box, self._deepest = refinement.prior, model.deepest_meV
        sums = observation.sums
        self._use: BoolArray = usable_cells(
            sums, refinement.objective.energy, refinement.objective.elastic_cut
        )
        self._data = sums.signal[self._use]
        self._variance = sums.variance[self._use] if sums.gaussian else None
        inside = [np.clip(guess, self._box.lower, self._box.upper) for guess in guesses]
        found = refinement.fit([observation], guesses=inside, kicks=kicks)
        self._parameters = refinement.layout.parameters
        self._centre = refinement.starts.centre(observation)
        self._precision = np.diag(refinement.objective.prior_precision()).copy()
        self._precision[self._parameters] /= LOOSER**2
        self.theta, self.covariance, self.gained = self._polished(found)

    def draws(self, n: int, *, seed: int = 0) -> Weighed:
        """Draws (n, K) of the parameters with weights that make them the posterior's."""
        rng = np.random.default_rng([seed, 20271])
        axes, widths = self._axes()
        kept: list[FloatArray] = []
        square: list[float] = []
        wider: list[float] = []
        for _ in range(TRIES):
            width = rng.choice(WIDTHS, size=n, p=SHARES)[:, None]
            away = width * rng.standard_normal((n, len(axes)))
            side = np.asarray(np.where(away > 0, widths[1], widths[0]), dtype=np.float64)
            drawn = self.theta + (side * away) @ axes.T
            inside = self._inside(drawn)
            kept += list(drawn[inside])
            wider += np.sum(np.log(side[inside]), axis=1).tolist()
            square += np.sum(away[inside] ** 2, axis=1).tolist()
            if len(kept) >= n:
                break
        if len(kept) < n:  # the posterior is not in the box
            values = np.tile(self.theta[self._parameters], (n, 1))
            return Weighed(draws=values, log_weight=np.full(n, -np.inf))
        thetas, squares = np.stack(kept[:n]), np.array(square[:n])
        of_widths = [
            np.log(share) - 0.5 * squares / wide**2 - len(axes) * np.log(wide)
            for wide, share in zip(WIDTHS, SHARES, strict=True)
        ]
        level = np.array([-self.minus_log(one) for one in thetas])
        return Weighed(
            draws=thetas[:, self._parameters],
            log_weight=level + np.array(wider[:n]) - np.logaddexp.reduce(of_widths, axis=0),
        )

    def _axes(self) -> tuple[FloatArray, FloatArray]:
        """Axes (P, P) of the covariance in columns, and how much wider than these either side is.

        Widths (2, P), below and above, of the objective's growth along each axis.
        """
        sigma = np.sqrt(np.diag(self.covariance))
        value, vectors = np.linalg.eigh(self.covariance / np.outer(sigma, sigma))
        axes = sigma[:, None] * vectors * np.sqrt(np.maximum(value, 0.0))
        here = self._value(self.theta, self._expected(self.theta), self._precision)
        widths = np.ones((2, len(sigma)))
        for k, axis in enumerate(axes.T):
            for side, sign in enumerate((-1, 1)):
                there = self.theta + sign * ASIDE * axis
                grown = self._value(there, self._expected(there), self._precision) - here
                width = ASIDE / np.sqrt(2 * max(grown, 1e-9)) if np.isfinite(grown) else 0.0
                widths[side, k] = np.clip(width, NARROWEST, WIDEST)
        return axes, widths

    def minus_log(self, theta: FloatArray) -> float:
        """Minus log posterior at theta (P,), up to a constant; infinite where it cannot be.

        That is outside of the box, and where modes are imaginary.
        """
        expected = self._expected(theta)
        if expected is None or not self._inside(theta[None])[0]:
            return np.inf
        uniform = self._precision.copy()
        uniform[self._parameters] = 0.0
        return self._value(theta, expected, uniform)

    def _inside(self, thetas: FloatArray) -> BoolArray:
        values = thetas[:, self._parameters]
        return np.all((values >= self._box.lower) & (values <= self._box.upper), axis=1)

    def _value(self, theta: FloatArray, expected: FloatArray | None, prior: FloatArray) -> float:
        if expected is None:
            return np.inf
        if self._variance is None:
            value = float(np.sum(expected - self._data * np.log(expected)))
        else:
            value = 0.5 * float(np.sum((self._data - expected) ** 2 / self._variance))
        return value + 0.5 * float(prior @ (theta - self._centre) ** 2)

    def _expected(self, theta: FloatArray) -> FloatArray | None:
        """Counts of all usable cells; None where modes are imaginary."""
        state = self._objective.state_at(theta)
        if float(state.energy.min()) < -self._deepest:
            return None
        _, total, _, _ = self._objective.linearise(theta, state, self._observation)
        return np.maximum(total[self._use], LEAST_EXPECTED)

    def _slopes(self, theta: FloatArray, expected: FloatArray, sigma: FloatArray) -> FloatArray:
        """Derivatives (cells, P) by differences, of one side where the other is unstable."""
        columns = np.zeros((len(expected), len(theta)))
        for k, step in enumerate(STEP_SIGMAS * sigma):
            moved = step * np.eye(len(theta))[k]
            up, down = self._expected(theta + moved), self._expected(theta - moved)
            sides = (up is not None) + (down is not None)
            if sides:
                high = expected if up is None else up
                low = expected if down is None else down
                columns[:, k] = (high - low) / (sides * step)
        return columns

    def _linearised(
        self, theta: FloatArray, expected: FloatArray, sigma: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Slope (P,) of the log posterior, and its curvature (P, P) as scoring has it."""
        variance = expected if self._variance is None else self._variance
        slopes = self._slopes(theta, expected, sigma)
        uphill = slopes.T @ ((self._data - expected) / variance)
        curvature = slopes.T @ (slopes / variance[:, None]) + np.diag(self._precision)
        return uphill - self._precision * (theta - self._centre), curvature

    def _polished(self, found: Posterior) -> tuple[FloatArray, FloatArray, float]:
        """Minimum, covariance there, and what it is below where it began."""
        theta, sigma, prior = found.theta, found.theta_sigma, self._precision
        expected = self._expected(theta)
        if expected is None:
            return theta, found.theta_covariance, 0.0
        value = begun = self._value(theta, expected, prior)
        for _ in range(POLISHES):
            slope, curvature = self._linearised(theta, expected, sigma)
            step = solve_positive(curvature, slope)
            sigma = np.sqrt(np.diag(np.linalg.inv(curvature)))
            before = value
            while float(np.abs(step / sigma).max()) > LEAST_STEP:
                there = self._expected(theta + step)
                value_there = self._value(theta + step, there, prior)
                if there is not None and value_there < value:
                    theta, expected, value = theta + step, there, value_there
                    break
                step = SHORTER * step
            if before - value < POLISHED:
                break
        _, curvature = self._linearised(theta, expected, sigma)
        return theta, np.asarray(np.linalg.inv(curvature), dtype=np.float64), begun - value
