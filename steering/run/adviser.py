"""Advice for a run: what candidate orientations would see, and what that is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model_server.posterior import Posterior, Refinement, residual_sigma
from simulations.arrays import FloatArray
from simulations.fold import CanRate, CellSums, VoxelExposure, can_elsewhere
from simulations.instrument import coarsen, split_name
from steering.advice import (
    Advice,
    Candidate,
    FalsificationPolicy,
    InformationPolicy,
    Setting,
    Situation,
    absolute_targets,
    candidate_angles,
    information_per_minute,
    minutes_to_target,
)
from steering.experiment import Measurement
from steering.run.ledger import ChunkLedger

CANDIDATES = 25
COARSENING = 8  # pixels merged along a tube for the exposure of candidates


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Advised:
    """What is advised at one estimate."""

    advice: tuple[Advice, ...]  # best first
    policy: str
    targets: FloatArray  # (K,) wanted standard deviations, eV/angstrom^2
    forecast_minutes: float | None


class Adviser:
    """Ranks the orientations of one experiment; exposures of candidates are computed once.

    Parameters
    ----------
    measurement : Measurement
    refinement : Refinement
        On merged voxels; its model and cells give the information.
    """

    def __init__(self, measurement: Measurement, refinement: Refinement) -> None:
        self._measurement, self._refinement = measurement, refinement
        self._seen: list[tuple[float, VoxelExposure, tuple[FloatArray, FloatArray]]] = []

    def advise(
        self,
        ledger: ChunkLedger,
        total: CellSums,
        can: CanRate | None,
        posterior: Posterior,
        *,
        trusted: bool,
    ) -> Advised:
        """Rank all candidates at an estimate.

        Parameters
        ----------
        ledger : ChunkLedger
        total, can
            Sums of all chunks as the likelihood takes them, and the rate of their can.
        posterior : Posterior
        trusted : bool
            An estimate that is not trusted is tested, not sharpened.
        """
        experiment = self._measurement.experiment
        candidates = self._candidates(ledger, can, posterior.theta)
        targets = absolute_targets(
            posterior, [experiment.targets.relative(n) for n in posterior.names]
        )
        policy = (
            InformationPolicy()
            if trusted
            else FalsificationPolicy(residual_sigma(total, posterior.expected))
        )
        ei_meV = self._measurement.ei_meV
        situation = Situation(
            mean=posterior.theta,
            precision=posterior.precision,
            draws=np.empty((0, posterior.layout.size)),
            targets=targets,
            candidates=tuple(candidates),
            measured=tuple(Setting(psi_deg=c.psi_deg, ei_meV=ei_meV) for c in ledger.chunks),
            minutes_used=ledger.minutes_used,
            budget_minutes=experiment.motion.budget_minutes,
            motion=experiment.motion,
        )
        return Advised(
            advice=tuple(policy.rank(situation)),
            policy=policy.name,
            targets=targets,
            forecast_minutes=minutes_to_target(situation),
        )

    def _candidates(
        self, ledger: ChunkLedger, can: CanRate | None, theta: FloatArray
    ) -> list[Candidate]:
        total = ledger.sums
        if not self._seen:
            self._look(reduced=total.gaussian)
        if total.gaussian:
            known = total.variance > 0
            per_minute = float(total.signal[known].sum() / total.variance[known].sum())
        else:
            per_minute = sum(c.proton_charge for c in ledger.chunks) / ledger.minutes_used
        refinement = self._refinement
        state = refinement.state_at(theta)
        return [
            information_per_minute(
                psi,
                lambda exposure=exposure: exposure,
                sums,
                refinement=refinement,
                theta=theta,
                ei_meV=self._measurement.ei_meV,
                charge_per_minute=per_minute,
                state=state,
                can=can_elsewhere(can, total.exposure, per_minute * sums[0]),
            )
            for psi, exposure, sums in self._seen
        ]

    def _look(self, *, reduced: bool) -> None:
        """What every candidate would see in one coulomb, on pixels merged along the tubes."""
        measurement = self._measurement
        _, factor = split_name(measurement.instrument.name)
        coarse = measurement.instrument
        if factor < COARSENING and coarse.tube is not None:
            coarse = coarsen(coarse, COARSENING // factor)
        for psi in candidate_angles(measurement.experiment.motion.limits_deg, CANDIDATES):
            full = measurement.geometry.sight(float(psi), coarse).exposure(reduced=reduced)
            self._seen.append(
                (float(psi), full.merged(measurement.merged), measurement.geometry.path_sums(full))
            )
