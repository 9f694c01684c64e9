"""A fit of exact rates against scipy's least squares of the same ones with finite differences.

Both begin at the same place, a sigma or so of every error bar from the minimum, and minimise the
same objective: Poisson's, which scipy has as squared deviance residuals, and the prior. All 21
force constants of germanium, scale, two backgrounds, the width of the resolution and the set-up
are free. Counts of one orientation on ARCS, pixels merged eight to one. Ours is what a run does
where it follows its answer: it marginalises and tests beside it, too.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
from scipy.optimize import least_squares
from scipy.special import xlogy

from model_server.posterior import Observation, Refinement
from model_server.posterior.observation import usable_cells
from simulations.fold import CellSums
from simulations.instrument import coarsen
from tests.steering.posterior_coverage import germanium

PSI_DEG, COUNTS, BACKGROUND_RATIO, ALL_FREE = 35.0, 200_000.0, 0.3, 21
MERGED = 8  # pixels along a tube as one


def test_posterior(against):
    measurement = germanium(ALL_FREE)
    instrument = coarsen(measurement.instrument, MERGED)
    along = measurement.trajectories(PSI_DEG, instrument)
    exposure = measurement.exposure(PSI_DEG, instrument)
    weight, flat = measurement.geometry.path_sums(exposure)
    merged = exposure.merged(measurement.merged)
    exact, prior = measurement.exact, measurement.prior
    rng = np.random.default_rng(1)
    truth = measurement.coarse_forward.draw(prior, 1, rng)[0]
    rate, _ = exact.rates(along, exact.prepare(truth), gradient=False)
    expected = COUNTS * (rate / rate.sum() + BACKGROUND_RATIO * flat / flat.sum())
    counts = rng.poisson(expected).astype(float)
    sums = CellSums(signal=counts, variance=counts, counts=counts, exposure=weight, flat=flat)
    observation = Observation(
        sums=sums, exposure=lambda: merged, trajectories=lambda: along, key="one"
    )
    fit = Refinement(
        model=measurement.coarse_forward,
        prior=prior,
        energy_centres_meV=measurement.energy.centres_meV,
        elastic_cut_meV=measurement.elastic_cut_meV,
        exact=exact,
    )
    fitted = fit.fit([observation], starts=[truth])
    minimum = fitted.believing or fitted  # before anything is marginalised beside it
    away = (
        rng.standard_normal(len(minimum.theta))
        @ np.linalg.cholesky(np.linalg.inv(minimum.precision)).T
    )
    start = replace(minimum, theta=minimum.theta + away, believing=None)
    layout, centre = fit.layout, fit.starts.centre(observation)
    use = usable_cells(sums, fit.energy, fit.elastic_cut)
    wanted = np.sqrt(np.diag(fit.objective.prior_precision()))
    found = {}
    evaluations = 0

    def ours():
        fit.recall({})
        fitted = fit.fit([observation], warm=start)
        found["ours"] = fitted.believing or fitted

    def residuals(theta):
        nonlocal evaluations
        evaluations += 1
        scale, level, constant = np.exp(theta[layout.log_amplitudes])
        phonon, _ = exact.rates(
            along,
            exact.prepare(theta[layout.parameters]),
            log_width=theta[layout.log_width],
            off=theta[layout.off],
            gradient=False,
        )
        rates = np.maximum((scale * phonon + level * flat + constant * weight)[use], 1e-12)
        n = counts[use]
        deviance = np.maximum(2 * (rates - n + xlogy(n, n / rates)), 0.0)
        return np.concatenate([np.sign(rates - n) * np.sqrt(deviance), wanted * (theta - centre)])

    def scipys():
        nonlocal evaluations
        evaluations = 0
        sigma = np.sqrt(np.diag(np.linalg.inv(start.precision)))
        found["scipy"] = least_squares(residuals, start.theta, x_scale=sigma, ftol=1e-5)

    against("posterior", "scipy", ours, scipys, repeats=1)
    sigma = np.sqrt(np.diag(np.linalg.inv(minimum.precision)))
    gap = np.abs(found["ours"].theta - found["scipy"].x) / sigma
    objectives = [
        np.sum(residuals(theta) ** 2) for theta in (found["ours"].theta, found["scipy"].x)
    ]
    sys.stdout.write(
        f"\nposterior: {len(sigma)} unknowns; scipy needed {evaluations} walks; minima within "
        f"{gap.max():.2f} sigma, minus twice log posterior of ours less scipy's "
        f"{objectives[0] - objectives[1]:.3f}\n"
    )
    assert objectives[0] - objectives[1] < 0.2  # twice what the objective may lie above a minimum
