"""Importance weights: draws of a network, held against the likelihood that the refinement uses.

A network's density q over parameters is only as good as its training. With the likelihood L of the
counts at every draw, weights ``p(phi) L(phi) / q(phi)`` make of them the posterior itself, if any
of the draws are where it is: the effective sample size says how many are. L is the objective of the
refinement's folded rates, ``lambda = A I + b1 F + b2 D``, with scale, backgrounds, resolution width
and set-up marginalised: most probable values at every draw by scoring, their volume by Laplace.
Approximate: rates are carried along width and set-up to first order from the believed ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model_server.posterior._scipy import non_negative_least_squares, solve_positive
from model_server.posterior.observation import Observation, usable_cells
from model_server.posterior.refinement import NUISANCE_SIGMA
from simulations.arrays import BoolArray, FloatArray
from simulations.errors import InputError
from simulations.likelihood import FoldedPhonons, ModeState

STEPS = 30  # most scoring steps of the nuisances
SETTLED = 1e-3  # of minus log posterior
ENOUGH = 0.05  # share of effective draws from which weights are believed
FARTHEST_LOG_STEP = 2.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Weighed:
    """Draws with their importance weights."""

    draws: FloatArray  # (n, K)
    log_weight: FloatArray  # (n,) up to a constant; minus infinity where a draw cannot be

    @property
    def weight(self) -> FloatArray:
        """Weights that sum to one, (n,); all zero where no draw can be."""
        top = float(self.log_weight.max())
        if not np.isfinite(top):
            return np.zeros(len(self.log_weight))
        found = np.exp(self.log_weight - top)
        return found / found.sum()

    @property
    def effective(self) -> float:
        """Kish's effective sample size, 0 to n."""
        square = float((self.weight**2).sum())
        return 1 / square if square > 0 else 0.0

    @property
    def share(self) -> float:
        """Effective draws of all."""
        return self.effective / len(self.draws)

    @property
    def exact(self) -> bool:
        """Whether weights turn the draws into the posterior."""
        return self.share > ENOUGH

    def mean(self) -> FloatArray:
        """Weighed mean of the draws, (K,)."""
        return self.weight @ self.draws

    def sigma(self) -> FloatArray:
        """Weighed standard deviation of the draws, (K,)."""
        return np.sqrt(self.weight @ (self.draws - self.mean()) ** 2)

    def words(self) -> str:
        """What became of the weights."""
        told = f"{self.effective:.1f} of {len(self.draws)} draws count ({self.share:.1%})"
        if self.exact:
            return f"{told}: with their weights they are draws of the posterior"
        return (
            f"{told}; expected more than {ENOUGH:.0%}: weights cannot turn these draws into the "
            "posterior. Take the refinement's."
        )


class CountsLikelihood:
    """Likelihood of pooled counts for any parameters, nuisances and set-up marginalised.

    Parameters
    ----------
    model : FoldedPhonons
    observation : Observation
        Pooled; with a ``drift`` where the set-up may be off. Cans and parts are not known here.
    off_sigma : (G,) float64
        Standard deviations of the ways of the drift.
    middle : (K,) float64
        Parameters that the priors of scale and backgrounds are centred by.
    energy_centres_meV : (energy_bins,) float64
    elastic_cut_meV : float
    join : callable, optional
        Sums (..., path_bins, energy_bins) over larger cells: the likelihood of what a network
        sees. None: cells as they are folded, as the refinement takes them.
    """

    def __init__(
        self,
        *,
        model: FoldedPhonons,
        observation: Observation,
        off_sigma: FloatArray,
        middle: FloatArray,
        energy_centres_meV: FloatArray,
        elastic_cut_meV: float,
        join: Callable[[FloatArray], FloatArray] | None = None,
    ) -> None:
        if observation.can is not None or observation.parts:
            raise InputError(
                "observation has a can or expected parts; importance weights know of neither. "
                "Refine instead."
            )
        if observation.sums.gaussian:
            raise InputError(
                "observation is of reduced data; importance weights need counts. Refine instead."
            )
        self._model, self._observation = model, observation
        self._join = join
        sums = observation.sums
        use = usable_cells(sums, energy_centres_meV, elastic_cut_meV)
        self._use: BoolArray = use
        self._kept = np.ones(int(use.sum()), dtype=bool)
        flat, exposure = self._cells(sums.flat), self._cells(sums.exposure)
        self._kept = exposure > 0
        self._data = self._cells(sums.signal)[self._kept]
        self._flat, self._exposure = flat[self._kept], exposure[self._kept]
        self._sigma = np.array([*NUISANCE_SIGMA, *off_sigma], dtype=float)
        rate, _ = self._rates_of(model.prepare(middle))  # stable or not: it only sets amplitudes
        columns = np.stack([self._cells(rate)[self._kept], self._flat, self._exposure], axis=1)
        total = max(float(self._data.sum()), 1.0)
        shares = total * np.array([0.8, 0.1, 0.1])
        self._centre = np.log(shares / np.maximum(columns.sum(axis=0), 1e-300))

    def rates(self, values: FloatArray) -> tuple[FloatArray, FloatArray] | None:
        """Rates (path_bins, energy_bins) at scale 1 and their slopes (..., 1 + G) by the moves.

        None where modes are imaginary.
        """
        state = self._model.prepare(values)
        if float(state.energy.min()) < -self._model.deepest_meV:
            return None
        return self._rates_of(state)

    def _rates_of(self, state: ModeState) -> tuple[FloatArray, FloatArray]:
        observation = self._observation
        drift = None if observation.drift is None else observation.drift()
        n = state.energy.shape[1]
        # Parameters stand still: derivatives by them would take most of the time.
        still = ModeState(
            values=state.values[:0],
            energy=state.energy,
            vectors=state.vectors,
            velocity=state.velocity,
            basis_rows=np.zeros((len(state.energy), 0, n)),
        )
        return self._model.rates(
            observation.exposure(), still, log_width=0.0, gradient=True, drift=drift,
            off=None if drift is None else np.zeros(len(self._sigma) - len(NUISANCE_SIGMA)),
        )  # fmt: skip

    def __call__(self, values: FloatArray) -> float:
        """Logarithm of the marginal likelihood of parameters (K,), up to a constant."""
        return self.of_rates(self.rates(values))

    def of_rates(self, found: tuple[FloatArray, FloatArray] | None) -> float:
        """The same of ``rates``."""
        if found is None:
            return -np.inf
        rate, slope = found
        moves = [self._cells(slope[..., k])[self._kept] for k in range(slope.shape[-1])]
        return marginal_log_likelihood(
            self._data,
            self._cells(rate)[self._kept],
            np.stack(moves, axis=1),
            self._flat,
            self._exposure,
            self._centre,
            self._sigma,
        )

    def weigh(self, draws: FloatArray, log_ratio: FloatArray) -> Weighed:
        """Weights of draws (n, K) whose log density over that of the prior is known, (n,)."""
        log_likelihood = np.array([self(one) for one in draws])
        return Weighed(draws=draws, log_weight=log_likelihood - log_ratio)

    def _cells(self, values: FloatArray) -> FloatArray:
        """Usable cells of an array (path_bins, energy_bins), joined where asked, flattened."""
        if self._join is None:
            return values[self._use]
        joined = self._join(np.where(self._use, values, 0.0)).ravel()
        if len(self._kept) != len(joined):
            self._kept = np.ones(len(joined), dtype=bool)
        return joined


def marginal_log_likelihood(
    data: FloatArray,
    rate: FloatArray,
    slope: FloatArray,
    flat: FloatArray,
    exposure: FloatArray,
    centre: FloatArray,
    sigma: FloatArray,
) -> float:
    """Logarithm of a Poisson likelihood with scale, backgrounds and small moves marginalised.

    Parameters
    ----------
    data, rate, flat, exposure : (cells,) float64
        Counts, the model's rate at scale 1, and the shapes of two backgrounds.
    slope : (cells, M) float64
        Of the rate by M moves whose prior is centred at zero.
    centre : (3,) float64
        Of the priors of ln scale, ln flat and ln exposure background.
    sigma : (3 + M,) float64
        Prior standard deviations.

    Returns
    -------
    float
        Of the most probable nuisances, and their volume by Laplace; up to a constant.
    """
    moves = slope.shape[1]
    prior = np.diag(sigma**-2.0)
    middle = np.concatenate([centre, np.zeros(moves)])
    theta = middle.copy()
    # Begin at non-negative least squares, each cell weighed by its count.
    root = np.sqrt(np.maximum(data, 1.0))
    columns = np.stack([rate, flat, exposure], axis=1)
    amounts, _ = non_negative_least_squares(columns / root[:, None], data / root)
    floor = 1e-3 * max(float(data.sum()), 1.0) / np.maximum(columns.sum(axis=0), 1e-300)
    theta[:3] = np.log(np.maximum(amounts, floor))

    def at(theta: FloatArray) -> tuple[FloatArray, float, FloatArray]:
        scale, b_flat, b_exposure = np.exp(theta[:3])
        phonon = scale * (rate + slope @ theta[3:])
        total = np.maximum(phonon + b_flat * flat + b_exposure * exposure, 1e-12)
        offset = theta - middle
        value = float((total - data * np.log(total)).sum()) + 0.5 * float(offset @ prior @ offset)
        return total, value, phonon

    total, value, phonon = at(theta)
    damping = 0.0
    for _ in range(STEPS):
        scale, b_flat, b_exposure = np.exp(theta[:3])
        columns = np.concatenate(
            [
                np.stack([phonon, b_flat * flat, b_exposure * exposure], axis=1),
                scale * slope,
            ],
            axis=1,
        )
        weighed = columns / total[:, None]
        fisher = weighed.T @ columns + prior
        gradient = weighed.T @ (data - total) - prior @ (theta - middle)
        try:
            step = solve_positive(fisher + damping * np.diag(np.diag(fisher)), gradient)
        except np.linalg.LinAlgError:  # some rate is next to nothing: rounding rules
            damping = max(10 * damping, 1e-2)
            continue
        step = step * min(1.0, FARTHEST_LOG_STEP / max(float(np.abs(step[:3]).max()), 1e-12))
        if float(gradient @ step) < SETTLED:
            break
        trial = at(theta + step)
        if trial[1] < value:
            theta = theta + step
            total, value, phonon = trial
            damping = damping / 10 if damping > 1e-4 else 0.0
        else:
            damping = max(10 * damping, 1e-2)
    scale, b_flat, b_exposure = np.exp(theta[:3])
    columns = np.concatenate(
        [np.stack([phonon, b_flat * flat, b_exposure * exposure], axis=1), scale * slope], axis=1
    )
    fisher = (columns / total[:, None]).T @ columns + prior
    return -value - 0.5 * float(np.linalg.slogdet(fisher)[1])
