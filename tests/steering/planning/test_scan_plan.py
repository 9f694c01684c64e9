"""A plan ranks as a running experiment's adviser does, and its hours go as counts do."""

from __future__ import annotations

import numpy as np
import pytest

from model_server.posterior import Refinement
from simulations.fold import CellSums
from steering.advice import Situation, absolute_targets, minutes_to_target
from steering.planning import Assumed, plan_scan
from steering.planning.scan_plan import CHARGE, QUANTILES, ScanPlan, at_prior
from steering.run import Adviser
from steering.run.ledger import ChunkLedger
from tests.steering.virtual_scan import EXAMPLES, small_experiment, small_measurement

COUNTS, BACKGROUND = 500.0, 0.4


def planned(**changes) -> ScanPlan:
    arguments = {
        "folder": EXAMPLES,
        "ei_meV": [40.0],
        "assumed": Assumed(counts_per_minute=COUNTS, background_ratio=BACKGROUND),
        "draws": 0,
    }
    return plan_scan(small_experiment(), **(arguments | changes))


def test_psi_are_ranked_exactly_as_the_adviser_of_a_run_does_at_the_prior():
    """Germanium; the theta of the prior is made here, the ranking by `Adviser.advise`."""
    measurement = small_measurement()
    refinement = Refinement(
        model=measurement.coarse_forward,
        prior=measurement.prior,
        energy_centres_meV=measurement.energy.centres_meV,
        elastic_cut_meV=measurement.elastic_cut_meV,
    )
    adviser = Adviser(measurement, refinement)
    state = refinement.model.prepare(measurement.prior.mean)
    phonon, D, flat = np.mean(
        [
            (
                refinement.model.rates(exposure, state, log_width=0.0, gradient=False)[0].sum(),
                *(part.sum() for part in sums),
            )
            for _, exposure, sums in adviser.seen()
        ],
        axis=0,
    )
    half = 0.5 * COUNTS * BACKGROUND
    theta = np.r_[measurement.prior.mean, np.log([COUNTS / phonon, half / flat, half / D]), 0.0]
    zero = np.zeros(measurement.geometry.shape)
    posterior = at_prior(refinement, theta)
    ledger = ChunkLedger(
        run_id="none", shape=zero.shape, n_voxels=measurement.voxels.n_voxels,
        form=measurement.form, n_atoms=measurement.crystal.n_atoms, has_can=False,
    )  # fmt: skip
    advised = adviser.advise(
        ledger,
        CellSums(signal=zero, variance=zero, counts=zero, exposure=zero, flat=zero),
        None,
        posterior,
        explained=True,
        charge_per_minute=CHARGE,
    )
    assert advised.policy == "information"
    plan = planned()
    best = plan.best
    assert [best.psi_deg[k] for k in best.ranking] == [a.psi_deg for a in advised.advice]
    np.testing.assert_allclose(
        [best.gain_per_minute[k] for k in best.ranking],
        [a.gain_per_minute for a in advised.advice],
        rtol=1e-9,
    )
    assert plan.steps[0].psi_deg == advised.advice[0].psi_deg
    # and the hours are those of the forecast, by the same information
    experiment = measurement.experiment
    targets = absolute_targets(
        posterior, [experiment.targets.relative(name) for name in measurement.targeted]
    )
    forecast = minutes_to_target(
        Situation(
            mean=theta, precision=posterior.precision, draws=np.empty((0, len(theta))),
            targets=targets, candidates=tuple(adviser.candidates(advised.looked_from)),
            measured=(), minutes_used=0.0, budget_minutes=20_160.0, motion=experiment.motion,
        )
    )  # fmt: skip
    assert forecast is not None
    assert best.hours[QUANTILES.index(50.0)] == pytest.approx(forecast / 60, abs=0.05 / 60)


def test_energies_are_ranked_by_hours_of_the_same_information_and_flux_moves_them():
    psi = [5.0, 40.0, 75.0]
    few = Assumed(counts_per_minute=5.0, background_ratio=1.0)
    plan = planned(ei_meV=[30.0, 60.0], psi_deg=psi, assumed=few)
    assert {one.ei_meV for one in plan.energies} == {30.0, 60.0}
    hours = [one.hours[1] or np.inf for one in plan.energies]
    assert hours == sorted(hours)
    (thirty,) = (one for one in plan.energies if one.ei_meV == 30.0)
    (sixty,) = (one for one in plan.energies if one.ei_meV == 60.0)
    assert thirty.counts_per_minute == pytest.approx(5.0)
    weak = Assumed(counts_per_minute=5.0, background_ratio=1.0, flux={30.0: 1.0, 60.0: 1e-3})
    dimmed = planned(ei_meV=[30.0, 60.0], psi_deg=psi, assumed=weak)
    assert dimmed.best.ei_meV == 30.0
    (dim,) = (one for one in dimmed.energies if one.ei_meV == 60.0)
    assert dim.counts_per_minute == pytest.approx(1e-3 * sixty.counts_per_minute)
    alone = planned(ei_meV=[30.0], psi_deg=psi, assumed=few)
    np.testing.assert_allclose(alone.best.gain_per_minute, thirty.gain_per_minute, rtol=1e-9)


def test_gains_are_averaged_over_draws_and_not_those_of_a_mean():
    psi = [5.0, 40.0, 75.0]
    several, again = (planned(psi_deg=psi, draws=4, seed=3) for _ in range(2))
    mean = planned(psi_deg=psi)
    assert (several.best.gain_spread > 0).all()
    assert (mean.best.gain_spread == 0).all()
    assert np.abs(several.best.gain_per_minute / mean.best.gain_per_minute - 1).max() > 0.01
    np.testing.assert_array_equal(several.best.gain_per_minute, again.best.gain_per_minute)
    assert len(several.branches) == 4
    low, median, high = several.best.hours
    assert low <= median <= high


def test_more_counts_take_less_time_and_the_schedule_ends_by_the_stop_rule():
    def few(rate: float) -> ScanPlan:
        assumed = Assumed(counts_per_minute=rate)
        return planned(psi_deg=[5.0, 40.0, 75.0], minutes=6.0, assumed=assumed)

    slow, fast = few(3.0), few(30.0)
    assert fast.best.hours[1] < slow.best.hours[1]
    for plan in (slow, fast):
        assert {step.minutes for step in plan.steps} == {6.0}
        assert plan.stopped
        assert [step.worst <= 1 for step in plan.steps[-3:]] == [True] * 3
        assert len({step.psi_deg for step in plan.steps}) >= 2
        worst = [plan.start_worst, *(step.worst for step in plan.steps)]
        assert worst == sorted(worst, reverse=True)
        assert sum(minutes for _, minutes, _ in plan.orientations) == 6.0 * len(plan.steps)
