"""Advice for a run: what candidate orientations would see, and what that is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from model_server.posterior import Posterior, Refinement, residual_sigma
from simulations.arrays import FloatArray
from simulations.fold import CanRate, CellSums, ExpectedPart, VoxelExposure, can_elsewhere
from simulations.instrument import coarsen, split_name
from simulations.progress import Progress, silent
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
from steering.run.actions import NO_WISHES, SAME_DEG, Wishes
from steering.run.ledger import ONE_ORIENTATION_DEG, ChunkLedger

CANDIDATES = 25
CANDIDATES_IF_COSTLY = 13
COARSENING = 8  # pixels merged along a tube for the exposure of candidates
MOVED_SIGMAS = 1.0  # of costly crystals candidates are kept until theta has moved farther


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Advised:
    """What is advised at one estimate."""

    advice: tuple[Advice, ...]  # best first
    policy: str
    targets: FloatArray  # wanted standard deviations of the first parameters, eV/angstrom^2
    forecast_minutes: float | None
    looked_from: Standpoint


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Standpoint:
    """Theta that candidates were looked at from, and what the look was for."""

    theta: FloatArray  # (P,)
    sigma: FloatArray  # (P,) then
    charge_per_minute: float

    def serves(self, theta: FloatArray) -> bool:
        """Whether candidates seen from here tell what they would bring at theta."""
        return bool(np.max(np.abs(theta - self.theta) / self.sigma) <= MOVED_SIGMAS)


Look = tuple[float, VoxelExposure, tuple[FloatArray, FloatArray]]  # psi, exposure, its sums


class Adviser:
    """Ranks the orientations of one experiment; exposures of candidates are computed once.

    Parameters
    ----------
    measurement : Measurement
    refinement : Refinement
        On merged voxels; its model and cells give the information.
    psi_deg : sequence of float, optional
        Orientations to choose from; evenly spaced within the limits by default.
    parts : sequence of ExpectedPart
        Those of the refinement.
    """

    def __init__(
        self,
        measurement: Measurement,
        refinement: Refinement,
        *,
        psi_deg: Sequence[float] | None = None,
        parts: Sequence[ExpectedPart] = (),
    ) -> None:
        self._measurement, self._refinement = measurement, refinement
        self._parts = tuple(parts)
        self._psi_deg = psi_deg
        self._seen: list[Look] = []
        self._seen_reduced = False
        self._known: tuple[bytes, list[Candidate]] | None = None  # and where they were seen from
        self._also: dict[float, Look] = {}  # at psi that somebody wants, in degrees

    def advise(
        self,
        ledger: ChunkLedger,
        total: CellSums,
        can: CanRate | None,
        posterior: Posterior,
        *,
        explained: bool,
        elsewhere: bool = False,
        before: Standpoint | None = None,
        wishes: Wishes = NO_WISHES,
        charge_per_minute: float | None = None,
    ) -> Advised:
        """Rank all candidates at an estimate.

        Parameters
        ----------
        ledger : ChunkLedger
        total, can
            Sums of all chunks as the likelihood takes them, and the rate of their can.
        posterior : Posterior
        explained : bool
            An estimate that does not explain its data is tested, not sharpened.
        elsewhere : bool
            Only another orientation can tell whether the answer is right: those come first.
        before : Standpoint, optional
            Where candidates were last looked at from. Of costly crystals that look is kept while
            it serves.
        wishes : Wishes
            Of people; what they veto is neither advised nor counted on.
        charge_per_minute : float, optional
            Coulomb; as the chunks had it. Before the first chunk there is nothing else to tell it.
        """
        experiment = self._measurement.experiment
        keeps = self._measurement.costly and can is None
        if keeps and before is not None and before.serves(posterior.theta):
            standpoint = before
        else:
            standpoint = Standpoint(
                theta=posterior.theta,
                sigma=posterior.theta_sigma,
                charge_per_minute=self._charge_per_minute(ledger)
                if charge_per_minute is None
                else charge_per_minute,
            )
        folded = ledger.sums if ledger.chunks else total
        reduced, sample = folded.gaussian, folded.exposure
        candidates = self.candidates(standpoint, reduced=reduced, can=can, sample=sample)
        candidates = [one for one in candidates if wishes.allows(one.psi_deg)]
        missing = self._wanted(wishes, candidates, reduced=reduced)
        also = self._informed(standpoint, missing, can, sample)
        targets = absolute_targets(posterior, self.relative_targets(wishes))
        policy = (
            InformationPolicy()
            if explained
            else FalsificationPolicy(residual_sigma(total, posterior.expected))
        )
        ei_meV = self._measurement.ei_meV
        situation = Situation(
            mean=posterior.theta,
            precision=posterior.precision,
            draws=np.empty((0, posterior.layout.size)),
            targets=targets,
            candidates=(*candidates, *also),
            measured=tuple(Setting(psi_deg=c.psi_deg, ei_meV=ei_meV) for c in ledger.chunks),
            minutes_used=ledger.minutes_used,
            budget_minutes=wishes.budget_minutes or experiment.motion.budget_minutes,
            motion=experiment.motion,
        )
        ranked = list(policy.rank(situation))
        if elsewhere:
            ranked.sort(key=lambda one: ledger.turn_deg(one.psi_deg) < ONE_ORIENTATION_DEG)
        return Advised(
            advice=_arranged(ranked, wishes),
            policy=policy.name,
            targets=targets,
            forecast_minutes=minutes_to_target(situation),
            looked_from=standpoint,
        )

    def relative_targets(self, wishes: Wishes) -> list[float]:
        """Wanted sigma over size of every targeted parameter."""
        wanted = self._measurement.experiment.targets
        return [wishes.relative(n, wanted.relative(n)) for n in self._measurement.targeted]

    @staticmethod
    def _charge_per_minute(ledger: ChunkLedger) -> float:
        total = ledger.sums
        if total.gaussian:
            known = total.variance > 0
            return float(total.signal[known].sum() / total.variance[known].sum())
        return sum(c.proton_charge for c in ledger.chunks) / ledger.minutes_used

    def candidates(
        self,
        standpoint: Standpoint,
        *,
        reduced: bool = False,
        can: CanRate | None = None,
        sample: FloatArray | None = None,
    ) -> list[Candidate]:
        """What a minute at every orientation would bring, seen from a standpoint.

        Parameters
        ----------
        standpoint : Standpoint
        reduced : bool
            Of a run of reduced files.
        can, sample
            Rate of the can in all chunks, and their exposure D.
        """
        key = standpoint.theta.tobytes() + np.float64(standpoint.charge_per_minute).tobytes()
        if can is None and self._known is not None and self._known[0] == key:
            return self._known[1]
        found = self._informed(standpoint, self.seen(reduced=reduced), can, sample)
        self._known = (key, found)
        return found

    def _wanted(self, wishes: Wishes, there: Sequence[Candidate], *, reduced: bool) -> list[Look]:
        """At orientations that somebody wants and that are not there."""
        known = [one.psi_deg for one in there]
        missing = [
            one.psi_deg
            for one in wishes.first
            if not any(abs(one.psi_deg - psi) <= SAME_DEG for psi in known)
        ]
        for psi in missing:
            if psi not in self._also:
                self._also[psi] = self._look(psi, reduced=reduced)
        return [self._also[psi] for psi in missing]

    def _informed(
        self,
        standpoint: Standpoint,
        looks: Sequence[Look],
        can: CanRate | None,
        sample: FloatArray | None,
    ) -> list[Candidate]:
        if not looks:
            return []
        refinement, per_minute = self._refinement, standpoint.charge_per_minute
        state = refinement.objective.state_at(standpoint.theta)
        stride, merged = self._stride, self._measurement.merged
        return [
            information_per_minute(
                psi,
                lambda exposure=exposure: exposure,
                sums,
                refinement=refinement,
                theta=standpoint.theta,
                ei_meV=self._measurement.ei_meV,
                charge_per_minute=per_minute,
                state=state,
                can=None if sample is None else can_elsewhere(can, sample, per_minute * sums[0]),
                parts=tuple(part.rate(exposure, merged) for part in self._parts),
                stride=stride,
            )
            for psi, exposure, sums in looks
        ]

    @property
    def _stride(self) -> int:
        """Energy bins of which one is looked at; of costly crystals as many as a line is wide."""
        measurement = self._measurement
        if not measurement.costly:
            return 1
        narrowest = float(measurement.coarse_forward.sigma_meV.min())
        return max(1, int(narrowest / measurement.energy.step_meV))

    def seen(self, *, reduced: bool = False, progress: Progress | None = None) -> list[Look]:
        """What every candidate would see in one coulomb, on pixels merged along the tubes.

        Returns
        -------
        list of (float, VoxelExposure, (D, flat exposure))
            psi in degrees, exposure on merged voxels, sums over path cells; computed once.
        """
        if self._seen and reduced == self._seen_reduced:
            return self._seen
        self._seen, self._seen_reduced = [], reduced
        angles, say = self._psi_deg, progress or silent
        if angles is None:
            count = CANDIDATES_IF_COSTLY if self._measurement.costly else CANDIDATES
            angles = candidate_angles(self._measurement.experiment.motion.limits_deg, count)
        for psi in np.asarray(angles, dtype=float).tolist():
            say(f"psi {psi:g} deg", len(self._seen) / len(angles))
            self._seen.append(self._look(psi, reduced=reduced))
        return self._seen

    def exposure_at(self, psi_deg: float) -> FloatArray | None:
        """D of path cells (bins, energies) at an orientation that was looked at; None: it was not.

        On pixels merged along the tubes, for one coulomb.
        """
        looks = (*self._seen, *self._also.values())
        return next((d for psi, _, (d, _) in looks if abs(psi - psi_deg) <= SAME_DEG), None)

    def _look(self, psi_deg: float, *, reduced: bool) -> Look:
        """What an orientation would see in one coulomb, on pixels merged along the tubes."""
        measurement = self._measurement
        _, factor = split_name(measurement.instrument.name)
        coarse = measurement.instrument
        if factor < COARSENING and coarse.tube is not None:
            coarse = coarsen(coarse, COARSENING // factor)
        full = measurement.geometry.sight(psi_deg, coarse).exposure(reduced=reduced)
        return psi_deg, full.merged(measurement.merged), measurement.geometry.path_sums(full)


def _arranged(ranked: Iterable[Advice], wishes: Wishes) -> tuple[Advice, ...]:
    """Best first, but what people want before all."""
    rest = list(ranked)
    first: list[Advice] = []
    for wish in wishes.first:
        for one in rest:
            if abs(one.psi_deg - wish.psi_deg) <= SAME_DEG:
                first.append(replace(one, wanted=wish.why))
                rest.remove(one)
                break
    return (*first, *rest)
