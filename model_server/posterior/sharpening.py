"""Draws of the posterior from where a network says that it is.

A network's own draws are too wide for weights to make a posterior of them. But they say where it
is: from there the refinement's folded search leads to the best theta, and a normal distribution
about it, of everything that is uncertain (parameters, scale, backgrounds, width, set-up), is a
proposal that weights can mend. The parameters are turned into normal numbers, uniform in the box,
so that the walls of the box are far away.

The search steps by derivatives that are approximate along the set-up, and ends above the minimum:
3 to 140 of minus log posterior for 60,000 to a million counts of germanium. So minimum and
curvature here are of differences. Approximate: rates are the folded ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model_server.posterior._scipy import normal_quantile, normal_share, solve_positive
from model_server.posterior.importance import Weighed
from model_server.posterior.observation import Observation, usable_cells
from model_server.posterior.refinement import Refinement
from simulations.arrays import BoolArray, FloatArray
from simulations.errors import InputError
from simulations.likelihood import FoldedPhonons

KICKS = 8  # of the folded search, in vain, before it ends
POLISHES = 8  # most steps by differences
POLISHED = 0.02  # of minus log posterior, what a step no longer gains
STEP_SIGMAS = 0.3  # of a coordinate, to either side of a difference
LEAST_STEP = 0.05  # of one that does not pay
WIDTHS, SHARES = (1.05, 1.25), (0.7, 0.3)  # of the normal distributions, over the posterior's own
NEAREST_WALL = 1e-6  # of the box
LEAST_EXPECTED = 1e-12  # counts of a cell


class Sharpened:
    """The posterior of one pooled observation about the best theta that guesses lead to.

    Coordinates x (P,) are theta with the parameters as normal numbers.

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
        box = refinement.prior
        self._lower, self._reach = box.lower, box.upper - box.lower
        sums = observation.sums
        self._use: BoolArray = usable_cells(
            sums, refinement.objective.energy, refinement.objective.elastic_cut
        )
        self._data = sums.signal[self._use]
        self._variance = sums.variance[self._use] if sums.gaussian else None
        self._deepest = model.deepest_meV
        inside = [np.clip(guess, box.lower, box.upper) for guess in guesses]
        found = refinement.fit([observation], guesses=inside, kicks=kicks)
        self._n = len(box.lower)
        centre = refinement.starts.centre(observation)
        self._centre = np.concatenate([np.zeros(self._n), centre[self._n :]])
        precision = np.diag(refinement.objective.prior_precision()).copy()
        precision[: self._n] = 1.0
        self._precision = precision
        self.x, self.covariance, self.gained = self._polished(found.theta, found.theta_sigma)

    def values(self, x: FloatArray) -> FloatArray:
        """Parameters (..., K) of coordinates (..., P)."""
        return self._lower + self._reach * normal_share(x[..., : self._n])

    def draws(self, n: int, *, seed: int = 0) -> Weighed:
        """Draws of the parameters with weights that make them the posterior's."""
        rng = np.random.default_rng([seed, 20271])
        size = len(self.x)
        width = rng.choice(WIDTHS, size=n, p=SHARES)[:, None]
        away = width * rng.standard_normal((n, size))
        root = np.asarray(np.linalg.cholesky(self.covariance), dtype=np.float64)
        drawn = self.x + away @ root.T
        square = np.sum(away**2, axis=1)
        of_widths = [
            np.log(share) - 0.5 * square / wide**2 - size * np.log(wide)
            for wide, share in zip(WIDTHS, SHARES, strict=True)
        ]
        level = np.array([-self.minus_log(one) for one in drawn])
        return Weighed(
            draws=self.values(drawn), log_weight=level - np.logaddexp.reduce(of_widths, axis=0)
        )

    def minus_log(self, x: FloatArray) -> float:
        """Minus log posterior at coordinates (P,), up to a constant; infinite where unstable."""
        return self._value(x, self._expected(x))

    def _value(self, x: FloatArray, expected: FloatArray | None) -> float:
        if expected is None:
            return np.inf
        if self._variance is None:
            value = float(np.sum(expected - self._data * np.log(expected)))
        else:
            value = 0.5 * float(np.sum((self._data - expected) ** 2 / self._variance))
        return value + 0.5 * float(self._precision @ (x - self._centre) ** 2)

    def _expected(self, x: FloatArray) -> FloatArray | None:
        """Counts of all usable cells; None where modes are imaginary."""
        theta = np.concatenate([self.values(x), x[self._n :]])
        state = self._objective.state_at(theta)
        if float(state.energy.min()) < -self._deepest:
            return None
        _, total, _, _ = self._objective.linearise(theta, state, self._observation)
        return np.maximum(total[self._use], LEAST_EXPECTED)

    def _slopes(self, x: FloatArray, expected: FloatArray, sigma: FloatArray) -> FloatArray:
        """Derivatives (cells, P) by differences, of one side where the other is unstable."""
        columns = np.zeros((len(expected), len(x)))
        for k, step in enumerate(STEP_SIGMAS * sigma):
            moved = step * np.eye(len(x))[k]
            up, down = self._expected(x + moved), self._expected(x - moved)
            sides = (up is not None) + (down is not None)
            if sides:
                high = expected if up is None else up
                low = expected if down is None else down
                columns[:, k] = (high - low) / (sides * step)
        return columns

    def _curvature(self, expected: FloatArray, slopes: FloatArray) -> FloatArray:
        variance = expected if self._variance is None else self._variance
        return slopes.T @ (slopes / variance[:, None]) + np.diag(self._precision)

    def _polished(
        self, theta: FloatArray, sigma: FloatArray
    ) -> tuple[FloatArray, FloatArray, float]:
        """Minimum, covariance there, and what it is below where it began."""
        share = np.clip((theta[: self._n] - self._lower) / self._reach, NEAREST_WALL, 1.0)
        z = normal_quantile(np.minimum(share, 1 - NEAREST_WALL))
        x = np.concatenate([z, theta[self._n :]])
        by_z = self._reach * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        sigma = np.concatenate([np.minimum(sigma[: self._n] / by_z, 1.0), sigma[self._n :]])
        expected = self._expected(x)
        if expected is None:
            raise InputError("the search ended at imaginary modes; expected a stable lattice.")
        value = begun = self._value(x, expected)
        for _ in range(POLISHES):
            slopes = self._slopes(x, expected, sigma)
            curvature = self._curvature(expected, slopes)
            variance = expected if self._variance is None else self._variance
            gradient = slopes.T @ ((self._data - expected) / variance)
            step = solve_positive(curvature, gradient - self._precision * (x - self._centre))
            sigma = np.sqrt(np.diag(np.linalg.inv(curvature)))
            before = value
            while True:
                trial = x + step
                there = self._expected(trial)
                value_there = self._value(trial, there)
                if there is not None and value_there < value:
                    x, expected, value = trial, there, value_there
                    break
                step *= 0.4
                if float(np.abs(step / sigma).max()) < LEAST_STEP:
                    break
            if before - value < POLISHED:
                break
        curvature = self._curvature(expected, self._slopes(x, expected, sigma))
        return x, np.asarray(np.linalg.inv(curvature), dtype=np.float64), begun - value
