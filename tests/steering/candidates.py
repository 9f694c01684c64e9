"""Candidates of a small germanium measurement and made-up ones, for the tests of advice."""

from __future__ import annotations

from functools import cache

import numpy as np

from model_server.posterior import Refinement
from simulations.fold import VoxelExposure
from steering.advice import Candidate, Setting, Situation, information_per_minute
from steering.experiment import MotionSection
from tests.steering.virtual_scan import small_measurement

MOTION = MotionSection()
EI = 40.0
K = 3
P = K + 4


@cache
def refinement() -> Refinement:
    measurement = small_measurement()
    return Refinement(
        model=measurement.forward,
        prior=measurement.prior,
        energy_centres_meV=measurement.energy.centres_meV,
        elastic_cut_meV=measurement.elastic_cut_meV,
    )


@cache
def exposure(psi_deg: float) -> VoxelExposure:
    return small_measurement().exposure(psi_deg)


def theta() -> np.ndarray:
    """Reference parameters with about a thousand phonons per minute and as many others."""
    measurement = small_measurement()
    rate, _ = measurement.forward.rates(
        exposure(20.0), measurement.forward.prepare(measurement.model.values), gradient=False
    )
    weight, flat = measurement.geometry.path_sums(exposure(20.0))
    logs = np.log([1000 / rate.sum(), 500 / flat.sum(), 500 / weight.sum()])
    return np.concatenate([measurement.model.values, logs, [0.0]])


@cache
def candidate(psi_deg: float, minutes: float = 1.0) -> Candidate:
    one = exposure(psi_deg)
    return information_per_minute(
        psi_deg,
        lambda: one,
        small_measurement().geometry.path_sums(one),
        ei_meV=EI,
        refinement=refinement(),
        theta=theta(),
        charge_per_minute=minutes,
    )


def made_up(psi_deg: float, strength: float = 100.0, ei_meV: float = EI) -> Candidate:
    """Equal information about everything."""
    return Candidate(
        psi_deg=psi_deg,
        ei_meV=ei_meV,
        information=strength * np.eye(P),
        rate=np.full((2, 3), strength),
    )


def situation(candidates=(), *, current_psi_deg: float | None = None, **changes) -> Situation:
    """Nothing but the prior is known, and two per cent are wanted."""
    here = () if current_psi_deg is None else (Setting(psi_deg=current_psi_deg, ei_meV=EI),)
    fields = {
        "mean": np.zeros(P),
        "draws": np.empty((0, P)),
        "candidates": tuple(candidates),
        "measured": here,
        "minutes_used": 0.0,
        "budget_minutes": 120.0,
        "motion": MOTION,
    }
    if "precision" not in changes:
        fields["precision"] = refinement().objective.prior_precision()
    if "targets" not in changes:
        fields["targets"] = 0.02 * np.abs(theta()[:K])
    return Situation(**(fields | changes))
