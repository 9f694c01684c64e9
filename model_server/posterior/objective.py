"""Minus log posterior of theta, its slope, and its minimum by Poisson scoring.

``lambda = A I(cell; phi, width, off) + b1 F + b2 D`` for every (cell, orientation): scale A, a
background flat in time of flight (F) and one proportional to exposure (D), the resolution width,
and how far the set-up is off. All of theta is fitted together; the Laplace covariance of the
parameters is marginal over the nuisances. Where the experiment names an empty can, its expected
rate is added, and theta gets one more nuisance, the can's strength; so it does for every part
that is predicted from the crystal, such as its incoherent and multiphonon scattering.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from model_server.posterior._scipy import solve_positive
from model_server.posterior.blurring import Blurring
from model_server.posterior.linear import Linear
from model_server.posterior.observation import Observation, usable_cells
from model_server.posterior.posterior import Posterior, ThetaLayout
from model_server.posterior.tangent import Anchor, Tangent
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.likelihood import ForwardModel, State
from simulations.prior import BoxPrior

NEGLIGIBLE_DECREASE = 0.01  # of minus log posterior: a tenth of a sigma

_Parts: TypeAlias = "tuple[Linear, FloatArray, FloatArray, FloatArray]"


class Objective:
    """Of one forward model under a prior; its rates, or those that tangents carry.

    Parameters
    ----------
    model : ForwardModel
    prior : BoxPrior
        Over the parameters. It acts as a Gaussian with the mean and the standard deviation of the
        box.
    layout : ThetaLayout
    nuisance_sigma : sequence of float
        Prior widths of all of theta but the parameters.
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
        nuisance_sigma: Sequence[float],
        energy_centres_meV: FloatArray,
        elastic_cut_meV: float,
    ) -> None:
        self.model, self.prior, self.layout = model, prior, layout
        self.nuisance_sigma = tuple(nuisance_sigma)
        self.energy, self.elastic_cut = energy_centres_meV, elastic_cut_meV
        self._blurring = Blurring(energy_centres_meV)

    def state_at(self, theta: FloatArray) -> State:
        """The forward model prepared at the parameters of theta."""
        return self.model.prepare(theta[self.layout.parameters])

    def prior_precision(self) -> FloatArray:
        """Precision of the prior over theta, (P, P)."""
        nuisances = np.asarray(self.nuisance_sigma) ** -2.0
        return np.diag(np.concatenate([self.prior.sigma**-2.0, nuisances]))

    def information_of(
        self, theta: FloatArray, observation: Observation, state: State | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """What an exposure brings at theta, whatever it counts; the prior is not included.

        Returns
        -------
        rate : (path_bins, energy_bins) float64
            Expected counts.
        information : (P, P) float64
            Fisher information.
        """
        if state is None:
            state = self.state_at(theta)
        linear, total, _, _ = self.linearise(theta, state, observation)
        return total, linear.fisher()

    def score(
        self,
        observations: Sequence[Observation],
        theta: FloatArray,
        centre: FloatArray,
        iterations: int,
        blur: float = 0.0,
        tangents: Sequence[Tangent] | None = None,
        anchor: Anchor | None = None,
    ) -> Posterior:
        """Step to the minimum from theta (P,), at most so many times.

        Parameters
        ----------
        observations : sequence of Observation
        theta, centre : (P,) float64
            Where to begin, and the centre of the prior.
        iterations : int
        blur : float
            Of the counts in energy, meV.
        tangents : sequence of Tangent, optional
            Of every observation: exact rates, carried. Without them the model's folded ones.
        anchor : Anchor, optional
            What corrects folded ones.
        """
        layout = self.layout
        of = tangents if tangents is not None else [None] * len(observations)
        prior = self._prior_beside(blur)

        def at(
            candidate: FloatArray,
        ) -> tuple[list[Linear], list[_Parts], float]:
            state = None if tangents is not None else self.state_at(candidate)
            parts = [
                self.linearise(candidate, state, o, blur, t, anchor)
                for o, t in zip(observations, of, strict=True)
            ]
            linears = [p[0] for p in parts]
            return linears, parts, self.value_of(candidate, linears, centre, prior)

        linears, parts, value = at(theta)
        converged = False
        damping = 1e-3 if blur else 0.0
        step_count = 0
        while step_count < iterations and not converged:
            fisher = sum((one.fisher() for one in linears), np.zeros_like(prior))
            gradient = sum((one.score() for one in linears), np.zeros(len(theta)))
            gradient = gradient - prior @ (theta - centre)
            while step_count < iterations:
                step_count += 1
                damped = prior + fisher + damping * np.diag(np.diag(fisher) + np.diag(prior))
                try:
                    step = solve_positive(damped, gradient)
                except np.linalg.LinAlgError:  # amplitudes beyond all reason: shorter steps
                    damping = max(10 * damping, 1e-2)
                    continue
                logarithms = step[layout.n_parameters : layout.off.start]
                step *= min(1.0, 2.0 / max(np.max(np.abs(logarithms)), 1e-12))
                if gradient @ step < NEGLIGIBLE_DECREASE:
                    converged = True
                    break
                trial = at(theta + step)
                if trial[2] < value:
                    theta = theta + step
                    linears, parts, value = trial
                    damping = damping / 10 if damping > 1e-4 else 0.0
                    break
                damping = max(10 * damping, 1e-2)
        precision = prior + sum((one.fisher() for one in linears), np.zeros_like(prior))
        covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
        return Posterior(
            model=self.model.name,
            layout=layout,
            covariance=covariance[layout.parameters, layout.parameters],
            theta=theta,
            precision=precision,
            objective=value,
            converged=converged,
            iterations=step_count,
            expected=np.sum([p[1] for p in parts], axis=0),
            phonon=np.sum([p[2] for p in parts], axis=0),
            totals=np.array([float(one.rate.sum()) for one in linears]),
            can=None if observations[0].can is None else np.sum([p[3] for p in parts], axis=0),
        )

    def by_tangents(
        self,
        observations: Sequence[Observation],
        theta: FloatArray,
        centre: FloatArray,
        tangents: Sequence[Tangent],
    ) -> float:
        """Its value at theta (P,) by rates that tangents carry there."""
        linears = [
            self.linearise(theta, None, o, tangent=t)[0]
            for o, t in zip(observations, tangents, strict=True)
        ]
        return self.value_of(theta, linears, centre, self.prior_precision())

    def value_of(
        self,
        theta: FloatArray,
        linears: Sequence[Linear],
        centre: FloatArray,
        prior: FloatArray,
    ) -> float:
        """Its value at theta (P,) of linearised observations, under a precision (P, P)."""
        value = 0.0
        for one in linears:
            if one.variance is None:
                value += float(np.sum(one.rate - one.data * np.log(one.rate)))
            else:
                value += 0.5 * float(np.sum((one.data - one.rate) ** 2 / one.variance))
        offset = theta - centre
        return value + 0.5 * float(offset @ (np.diag(prior) * offset))

    def linearise(
        self,
        theta: FloatArray,
        state: State | None,
        observation: Observation,
        blur: float = 0.0,
        tangent: Tangent | None = None,
        anchor: Anchor | None = None,
    ) -> _Parts:
        """One observation at theta (P,), and lambda in all cells with its model's and can's part.

        ``state`` is the forward model there, or None beside a tangent.
        """
        layout = self.layout
        scale, flat, constant = np.exp(theta[layout.log_amplitudes])
        sums = observation.sums
        walked = layout.walked
        if tangent is not None:
            rate, slope = tangent.carried(theta[walked]), tangent.slope
        else:
            rate, slope = self.folded(theta, state, observation)
            if anchor is not None:
                rate = anchor.corrected(rate, theta[layout.off])
                slope = slope.copy()
                slope[..., layout.n_parameters + 1 :] += anchor.by_off
        phonon = scale * rate
        total = phonon + flat * sums.flat + constant * sums.exposure
        by_scale, can, by_strength = self._can(theta, observation, phonon)
        if observation.can is not None:
            total = total + can
        parts = self._parts(theta, observation)
        for part in parts:
            total, by_scale = total + part, by_scale + part
        size = layout.size
        use = usable_cells(sums, self.energy, self.elastic_cut)
        columns = np.zeros((int(use.sum()), layout.size))
        columns[:, walked] = scale * slope[use]
        columns[:, layout.log_scale] = by_scale[use]
        columns[:, layout.log_flat_background] = flat * sums.flat[use]
        columns[:, layout.log_exposure_background] = constant * sums.exposure[use]
        if layout.log_can is not None:
            columns[:, layout.log_can] = by_strength[use]
        for at, part in zip(range(size)[layout.log_parts], parts, strict=True):
            columns[:, at] = part[use]
        data, rates = sums.signal[use], total[use]
        variance = sums.variance[use] if sums.gaussian else None
        if blur > 0:
            spread = self._blurring.spread(use, blur)
            data, rates, columns = spread @ data, spread @ rates, spread @ columns
            variance = None if variance is None else spread @ variance
        linear = Linear(data=data, rate=np.maximum(rates, 1e-12), slope=columns, variance=variance)
        return linear, total, phonon, can

    def folded(
        self, theta: FloatArray, state: State, observation: Observation
    ) -> tuple[FloatArray, FloatArray]:
        """Rates of the forward model, and their derivatives by all that exact ones depend on."""
        layout, exposure = self.layout, observation.exposure()
        width = float(theta[layout.log_width])
        if observation.drift is None:  # the model does not know what is mis-set
            rate, slope = self.model.rates(exposure, state, log_width=width, gradient=True)
            still = np.zeros((*slope.shape[:-1], layout.size - layout.off.start))
            return rate, np.concatenate([slope, still], axis=-1)
        drift, off = observation.drift(), theta[layout.off]
        return self.model.rates(
            exposure, state, log_width=width, gradient=True, drift=drift, off=off
        )

    def _can(
        self, theta: FloatArray, observation: Observation, phonon: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Derivative of lambda by ln scale, the can's rate, and its derivative by ln strength."""
        layout, can = self.layout, observation.can
        if can is None:
            return phonon, np.zeros_like(phonon), np.zeros_like(phonon)
        if layout.log_can is None:
            raise InputError(
                "observation has a can; expected a refinement with can_sigma. Give it one."
            )
        strength = float(np.exp(theta[layout.log_can]))
        if can.fixed is None:
            rate = np.exp(theta[layout.log_scale]) * strength * can.shape
            return phonon + rate, rate, rate
        rate = can.fixed + (strength - 1) * can.shape
        return phonon, rate, strength * can.shape

    def _parts(self, theta: FloatArray, observation: Observation) -> list[FloatArray]:
        """Rates of the expected parts, each also its derivative by ln scale and by ln strength."""
        layout = self.layout
        if len(observation.parts) != len(layout.part_names):
            raise InputError(
                f"observation has {len(observation.parts)} expected parts; expected "
                f"{len(layout.part_names)} ({', '.join(layout.part_names) or 'none'}), those of "
                "the refinement. Give their rates."
            )
        scale = theta[layout.log_scale]
        strengths = np.exp(scale + theta[layout.log_parts])
        return [s * part for s, part in zip(strengths, observation.parts, strict=True)]

    def _prior_beside(self, blur: float) -> FloatArray:
        """Precision of the prior beside counts of such a blur: of a set-up, more; see there."""
        prior = self.prior_precision()
        if blur > 0:
            prior[self.layout.off, self.layout.off] *= self._blurring.together(blur)
        return prior
