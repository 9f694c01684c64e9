"""Estimates: posterior, trust and advice from the chunks that a run holds.

``Estimator.estimate`` is a function of the chunks and of the estimate that it begins at; what it
keeps between calls (exposures, compiled states) changes how long it takes, never what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from consumers.state import ClosedChunk
from model_server.posterior import (
    Effort,
    FirstGuess,
    Observation,
    Posterior,
    Refinement,
    Search,
    Trust,
    assess,
    first_answer,
    least_effort,
    residual_sigma,
    usable_cells,
)
from simulations.arrays import BoolArray, FloatArray
from simulations.crystal import species_words
from simulations.errors import InputError
from simulations.fold import (
    CanRate,
    CellSums,
    ExpectedPart,
    Exposure,
    ImageExposure,
    VoxelExposure,
    sum_voxels,
    tensor_reals,
)
from simulations.likelihood import (
    Drift,
    Missetting,
    Trajectories,
    every_that_serves,
    thinned,
)
from simulations.prior import BoxPrior
from steering.advice import Advice, absolute_targets, targets_met
from steering.experiment import Measurement
from steering.run.actions import NO_WISHES, Wishes
from steering.run.adviser import Adviser, Standpoint
from steering.run.branch_bands import BranchBands, branch_bands
from steering.run.can_terms import CanTerms
from steering.run.expected_parts import expected_parts
from steering.run.ledger import ChunkLedger
from steering.run.reach import Reach, reach_of

DRAWS = 100  # of the prior, to begin at
DRAWS_LATER = 40  # after an estimate that explains the data
KICKS = 6  # after such an estimate a third of them
WALKS_IF_COSTLY = 18.0  # of a fit, see ``Effort``: other answers are looked for over some chunks
DRAWS_IF_COSTLY = 3  # after such an estimate none, and no kicks
KEPT_TENSOR_BYTES = 4e8  # pooled images that are merged become tensors where these are no larger
KEPT_MERGED_BYTES = 2e8  # exposures of single chunks on merged voxels; the others are read again


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Estimate:
    """What a number of chunks say."""

    keys: tuple[str, ...]  # of the chunks, in canonical order
    newest: str  # name of the last of them
    minutes_used: float
    orientations: int  # different psi
    posterior: Posterior
    trust: Trust
    residual_sigma: FloatArray  # (path_bins, energy_bins) as cells are judged
    targets: FloatArray  # wanted standard deviations of the first parameters, eV/angstrom^2
    advice: tuple[Advice, ...]  # best first
    policy: str
    forecast_minutes: float | None  # wall minutes to every target; None: out of reach
    rates: Mapping[str, Any]  # exact ones by chunk, as a refinement remembers them
    looked_from: Standpoint  # what candidates of the advice were looked at from
    bands: BranchBands  # of the phonon energies along the path

    @property
    def met(self) -> bool:
        """Whether every target is met by an estimate that is trusted."""
        return targets_met(self.posterior.sigma, self.targets, trusted=self.trust.trusted)

    def without(self, key: str) -> Estimate:
        """The same to begin the next estimate at, with nothing remembered of a chunk."""
        return replace(self, rates={k: rate for k, rate in self.rates.items() if k != key})

    def told(self) -> dict[str, Any]:
        """Its line in a run's history."""
        posterior = self.posterior
        return {
            "chunk": self.newest,
            "minutes_used": self.minutes_used,
            "parameters": [
                {"name": n, "value": float(v), "sigma": float(s)}
                for n, v, s in zip(posterior.names, posterior.values, posterior.sigma, strict=True)
            ],
            "trusted": self.trust.trusted,
        }


class Estimator:
    """Makes estimates for one experiment.

    Parameters
    ----------
    measurement : Measurement
    can : CanTerms
    """

    def __init__(self, measurement: Measurement, can: CanTerms) -> None:
        self._measurement, self._can = measurement, can
        self._parts = expected_parts(measurement)
        self._refinement = Refinement(
            model=measurement.coarse_forward,
            prior=measurement.prior,
            energy_centres_meV=measurement.energy.centres_meV,
            elastic_cut_meV=measurement.elastic_cut_meV,
            exact=measurement.exact,
            rough=measurement.rough,
            can_sigma=measurement.experiment.background.can_sigma,
            part_sigma={part.name: part.relative_sigma for part in self._parts},
        )
        self._doubting: Refinement | None = None
        ways = measurement.exact.missetting.and_then(measurement.exact.aside)
        self._known = dict(zip(ways.names, ways.sigma.tolist(), strict=True))
        self._adviser = Adviser(measurement, self._refinement, parts=self._parts)
        self._first_guess = _first_guess_of(measurement)
        self._seen = _Exposures(measurement)

    def prepare(self) -> None:
        """Compute what candidates of the advice would see: no chunk changes it.

        As runs of events see it; of reduced files it is computed anew.
        """
        self._adviser.seen()

    def estimate(
        self, ledger: ChunkLedger, base: Estimate | None = None, wishes: Wishes = NO_WISHES
    ) -> Estimate:
        """Fit, judge and advise.

        Parameters
        ----------
        ledger : ChunkLedger
            With at least one chunk.
        base : Estimate, optional
            To begin at, of earlier chunks; without it, from the prior alone.
        wishes : Wishes
            Of people, for targets and advice; the fit does not hang on them.
        """
        chunks = ledger.chunks
        with_can = self._can.of_chunks(chunks)
        observations = [
            Observation(
                sums=sums,
                exposure=partial(self._seen.of, c),
                trajectories=partial(self._walked, c, sums),
                key=c.key,
                can=can,
            )
            for c, (sums, can) in zip(chunks, with_can, strict=True)
        ]
        total, total_can = _together(with_can)
        pooled = self._seen.pooled(ledger)
        together = Observation(sums=total, exposure=lambda: pooled, can=total_can)
        parts = self._parts if base is None else self._parts_at(base.posterior)
        posterior, rates = self._fit(
            ledger, base, *self._with(parts, chunks, observations, together)
        )
        if base is None and parts:  # those of the prior: once more with those of the fit
            parts = self._parts_at(posterior)
            expecting = self._with(parts, chunks, observations, together)
            posterior, rates = self._fit(ledger, base, *expecting, before=(posterior, rates))
        judged = self._judged(ledger, posterior)
        trust = self._judge(ledger, *judged)
        advised = self._adviser.advise(
            ledger,
            total,
            total_can,
            posterior.in_layout(self._refinement.layout),
            explained=trust.explained,
            elsewhere=self._alone(ledger) and trust.explained,
            before=None if base is None else base.looked_from,
            wishes=wishes,
        )
        return Estimate(
            keys=tuple(c.key for c in chunks),
            newest=chunks[-1].chunk,
            minutes_used=ledger.minutes_used,
            orientations=ledger.orientations,
            posterior=posterior,
            trust=trust,
            residual_sigma=residual_sigma(judged[1], judged[2].expected),
            targets=advised.targets,
            advice=advised.advice,
            policy=advised.policy,
            forecast_minutes=advised.forecast_minutes,
            rates=rates,
            looked_from=advised.looked_from,
            bands=self._bands(posterior),
        )

    def _walked(self, chunk: ClosedChunk, sums: CellSums) -> Trajectories:
        """Trajectories that its counts need; neighbours are alike where something blurs q.

        By the least spread that may be: two of the standard deviations that it is known to below.
        """
        everything = chunk.trajectories()
        cells = sums.signal.size
        counts = float(np.sum(sums.signal))
        if sums.gaussian:
            known = sums.variance > 0
            counts = float(np.sum(sums.signal[known] ** 2 / sums.variance[known]))
        known = self._measurement.experiment.q_spread.known_percent / 100
        blur = self._measurement.exact.q_blur.widened(max(0.0, 1 - 2 * known))
        return thinned(everything, cells, every_that_serves(everything, cells, blur, counts))

    def _parts_at(self, posterior: Posterior) -> tuple[ExpectedPart, ...]:
        """Expected parts as an estimate predicts them; as the prior does where it is unstable."""
        if not self._parts:
            return ()
        try:
            return expected_parts(self._measurement, posterior.values)
        except InputError:
            return self._parts

    def _with(
        self,
        parts: tuple[ExpectedPart, ...],
        chunks: Sequence[ClosedChunk],
        observations: list[Observation],
        together: Observation,
    ) -> tuple[list[Observation], Observation]:
        """Observations, and all of them as one, with the rates of expected parts."""
        if not parts:
            return observations, together
        merged = self._measurement.merged
        each = [tuple(p.rate(self._seen.of(c), merged) for p in parts) for c in chunks]
        total = tuple(np.sum(rates, axis=0) for rates in zip(*each, strict=True))
        expecting = [replace(o, parts=r) for o, r in zip(observations, each, strict=True)]
        return expecting, replace(together, parts=total)

    def advise_again(
        self, ledger: ChunkLedger, estimate: Estimate, base: Estimate | None, wishes: Wishes
    ) -> Estimate:
        """The same fit with the advice that other wishes lead to.

        Parameters
        ----------
        ledger : ChunkLedger
            With the chunks of the estimate.
        estimate : Estimate
        base : Estimate, optional
            That it began at.
        wishes : Wishes
        """
        total, total_can = _together(self._can.of_chunks(ledger.chunks))
        advised = self._adviser.advise(
            ledger,
            total,
            total_can,
            estimate.posterior.in_layout(self._refinement.layout),
            explained=estimate.trust.explained,
            elsewhere=self._alone(ledger) and estimate.trust.explained,
            before=None if base is None else base.looked_from,
            wishes=wishes,
        )
        return replace(
            estimate,
            targets=advised.targets,
            advice=advised.advice,
            policy=advised.policy,
            forecast_minutes=advised.forecast_minutes,
            looked_from=advised.looked_from,
        )

    def met(self, posterior: Posterior, *, trusted: bool, wishes: Wishes) -> bool:
        """Whether an estimate meets every target that is wanted."""
        seen = posterior.in_layout(self._refinement.layout)
        targets = absolute_targets(seen, self._adviser.relative_targets(wishes))
        return targets_met(posterior.sigma, targets, trusted=trusted)

    def reach(self, ledger: ChunkLedger, estimate: Estimate | None) -> Reach:
        """What done and advised orientations see of the path."""
        advice = () if estimate is None else estimate.advice
        return reach_of(self._measurement, ledger, advice, self._adviser.exposure_at)

    def _fit(
        self,
        ledger: ChunkLedger,
        base: Estimate | None,
        observations: list[Observation],
        together: Observation,
        before: tuple[Posterior, Mapping[str, Any]] | None = None,
    ) -> tuple[Posterior, Mapping[str, Any]]:
        """Fit, and the exact rates that are to be kept.

        ``before`` is the same of what it goes on from, that of ``base`` if nothing else is said.

        The first search looks for the set-up, too. It is believed, and what may be off of it
        marginalised, where that explains as much, until it is more than can be carried to first
        order; from then on it is fitted.
        """
        believing, costly = self._refinement, self._measurement.costly
        if before is None and base is not None:
            before = base.posterior, base.rates
        starts, guesses = self._draws(ledger, base), self._guesses(ledger, base)
        kicks = 0 if costly else KICKS if _anew(base) else KICKS // 3
        if before is None and not costly and believing.may_doubt:
            doubting = self._doubts()
            search = Search(
                pooled=replace(together, drift=self._drift(ledger, doubting)),
                starts=starts,
                guesses=guesses,
                kicks=kicks,
            )
            answer = first_answer(doubting, believing, observations, pooled=together, search=search)
            believed = answer.layout.size == believing.layout.size
            return answer, (believing if believed else doubting).remembered()
        most = max(WALKS_IF_COSTLY, least_effort(len(observations)))
        effort = Effort(most) if costly else Effort()
        doubts = before is not None and before[0].layout.size > believing.layout.size
        refinement = self._doubts() if doubts else believing
        refinement.recall({} if before is None else before[1])
        posterior = refinement.fit(
            observations,
            starts=starts,
            guesses=guesses,
            warm=None if before is None else before[0],
            pooled=replace(together, drift=self._drift(ledger, refinement)),
            kicks=kicks,
            effort=effort,
        )
        if doubts or posterior.aside is None or not posterior.aside.far:
            return posterior, refinement.remembered()
        doubting = self._doubts()
        answer = doubting.doubt(observations, believing, posterior, together, effort)
        believing.recall({})
        return answer, doubting.remembered()

    def _bands(self, posterior: Posterior) -> BranchBands:
        path = self._measurement.path
        return branch_bands(
            self._measurement.quick_forward.model,
            path.centres_hkl(),
            path.first_bin,
            posterior.values,
            posterior.covariance,
        )

    def _doubts(self) -> Refinement:
        """The refinement that fits the set-up."""
        if self._doubting is None:
            self._doubting = self._refinement.doubting()
        return self._doubting

    def _drift(self, ledger: ChunkLedger, refinement: Refinement) -> Callable[[], Drift] | None:
        ways = refinement.missetting
        return partial(self._seen.drift, ledger, ways) if ways.names else None

    def _guesses(self, ledger: ChunkLedger, base: Estimate | None) -> list[FloatArray]:
        """Where the network would begin, the constants that it does not read at their middle."""
        if self._first_guess is None:
            return []
        scale = None if base is None else base.posterior.can_scale
        guesses = self._first_guess.guess(self._can.net(ledger.chunks, ledger.sums, scale))
        return whole_guesses(guesses, self._measurement.prior)

    def _draws(self, ledger: ChunkLedger, base: Estimate | None) -> list[FloatArray]:
        """Draws of the prior to begin at."""
        measurement = self._measurement
        draws = DRAWS if _anew(base) else DRAWS_LATER
        if measurement.costly:
            draws = DRAWS_IF_COSTLY if _anew(base) else 0
        if not draws:
            return []
        rng = np.random.default_rng([len(ledger.chunks), 20261])
        return list(measurement.coarse_forward.draw(measurement.prior, draws, rng))

    def _judged(
        self, ledger: ChunkLedger, posterior: Posterior
    ) -> tuple[list[CellSums], CellSums, Posterior]:
        """Sums of every chunk and of all, and what is expected of them, to judge cells by."""
        fitted = self._can.of_chunks(ledger.chunks)
        judged = self._can.of_chunks(ledger.chunks, cell_by_cell=True)
        each = [sums for sums, _ in judged]
        total, _ = _together(judged)
        if not self._can.measured or total.gaussian:
            return each, total, posterior
        moved, totals = np.zeros_like(posterior.expected), posterior.totals.copy()
        for k, ((sums, before), (_, after)) in enumerate(zip(fitted, judged, strict=True)):
            if before is None or after is None or before.fixed is None or after.fixed is None:
                continue
            step = after.fixed - before.fixed
            moved += step
            totals[k] += step[self._usable(sums)].sum()
        return each, total, replace(posterior, expected=posterior.expected + moved, totals=totals)

    def _judge(
        self, ledger: ChunkLedger, each: list[CellSums], total: CellSums, posterior: Posterior
    ) -> Trust:
        q_squared = np.zeros(total.exposure.shape)
        exposure = self._seen.pooled(ledger)
        q_squared[:, : exposure.q_squared.shape[1]] = sum_voxels(
            exposure.q_squared, self._measurement.merged
        )
        q_squared /= np.where(total.exposure > 0, total.exposure, 1.0)
        ratios: list[tuple[str, float, float]] = []
        if not total.gaussian:
            # Each chunk against its own expectation: orientations see a cell in other zones and
            # polarisations, so a share of the total by exposure would be wrong by a quarter.
            for chunk, sums, expected in zip(ledger.chunks, each, posterior.totals, strict=True):
                observed = float(sums.signal[self._usable(sums)].sum())
                ratios.append((chunk.chunk, observed, float(expected)))
        return assess(
            sums=total,
            posterior=posterior,
            prior=self._measurement.prior,
            use=self._usable(total),
            look=len(ledger.chunks),
            chunk_ratios=ratios if len(ratios) > 1 else (),
            q_squared=q_squared,
            set_up_sigma=np.array([self._known[n] for n in posterior.layout.off_names]),
            alone=self._alone(ledger),
        )

    def _alone(self, ledger: ChunkLedger) -> bool:
        """Whether one orientation stands alone, with a set-up that may be off."""
        return ledger.alone and any(sigma > 0 for sigma in self._known.values())

    def _usable(self, sums: CellSums) -> BoolArray:
        measurement = self._measurement
        return usable_cells(sums, measurement.energy.centres_meV, measurement.elastic_cut_meV)


def _anew(base: Estimate | None) -> bool:
    """Whether a search takes all effort: nothing known yet explains the data."""
    return base is None or not base.trust.explained


class _Exposures:
    """Exposures on merged voxels and drifts, kept here as far as memory allows."""

    def __init__(self, measurement: Measurement) -> None:
        self._measurement = measurement
        self._merged: dict[str, VoxelExposure] = {}
        self._pooled: tuple[tuple[str, ...], VoxelExposure] | None = None
        self._drift: tuple[tuple[str, ...], Drift] | None = None

    def of(self, chunk: ClosedChunk) -> VoxelExposure:
        """Exposure of one chunk."""
        if chunk.key in self._merged:
            return self._merged[chunk.key]
        merged = chunk.exposure().merged(self._measurement.merged)
        if sum(e.nbytes for e in self._merged.values()) + merged.nbytes < KEPT_MERGED_BYTES:
            self._merged[chunk.key] = merged
        return merged

    def pooled(self, ledger: ChunkLedger) -> VoxelExposure:
        """Exposure of all chunks of a ledger, summed in their order."""
        keys = tuple(chunk.key for chunk in ledger.chunks)
        self._merged = {k: e for k, e in self._merged.items() if k in keys}
        self._pooled = _continued(self._pooled, keys, ledger.chunks, self._joined)
        return self._pooled[1]

    def drift(self, ledger: ChunkLedger, ways: Missetting) -> Drift:
        """How the neutrons of all chunks move where the set-up is off in these ways."""
        keys = tuple(chunk.key for chunk in ledger.chunks)
        drift = self._measurement.drift

        def together(total: Drift | None, chunk: ClosedChunk) -> Drift:
            one = drift(chunk.trajectories(), ways)
            return one if total is None else total + one

        self._drift = _continued(self._drift, keys, ledger.chunks, together)
        return self._drift[1]

    def _joined(self, total: VoxelExposure | None, chunk: ClosedChunk) -> VoxelExposure:
        """Exposure of a chunk and of those before it."""
        one = self.of(chunk)
        crystal = self._measurement.crystal
        size = 8 * tensor_reals(crystal.n_atoms) * one.weight.size
        if not isinstance(one, ImageExposure) or size >= KEPT_TENSOR_BYTES:
            return one if total is None else total + one
        whole = one.with_tensor(crystal)
        if not isinstance(total, Exposure):
            return whole if total is None else total + whole
        # Tensors are large: there are two of them at a time, not three.
        tensor = np.add(total.tensor, whole.tensor, out=whole.tensor)
        none = tensor[..., :0]
        return replace(replace(total, tensor=none) + replace(whole, tensor=none), tensor=tensor)


_Summed = TypeVar("_Summed", VoxelExposure, Drift)


def _continued(
    known: tuple[tuple[str, ...], _Summed] | None,
    keys: tuple[str, ...],
    chunks: Sequence[ClosedChunk],
    together: Callable[[_Summed | None, ClosedChunk], _Summed],
) -> tuple[tuple[str, ...], _Summed]:
    """Sum over chunks in their order, from the sum over the first of them where that is known."""
    total = None
    if known is not None and known[0] == keys[: len(known[0])]:
        total, chunks = known[1], chunks[len(known[0]) :]
    for chunk in chunks:
        total = together(total, chunk)
    if total is None:
        raise InputError("no chunk is folded yet")
    return keys, total


def _together(parts: list[tuple[CellSums, CanRate | None]]) -> tuple[CellSums, CanRate | None]:
    total, can = parts[0]
    for sums, each in parts[1:]:
        total = total + sums
        can = None if can is None or each is None else can + each
    return total, can


def whole_guesses(guesses: FloatArray, prior: BoxPrior) -> list[FloatArray]:
    """Guesses (n, k) of the first constants with the others of a prior, inside of its box."""
    whole = np.tile(prior.mean, (len(guesses), 1))
    whole[:, : guesses.shape[1]] = guesses
    return list(np.clip(whole, prior.lower, prior.upper))


def _first_guess_of(measurement: Measurement) -> FirstGuess | None:
    name = measurement.experiment.model
    if name is None:
        return None
    from model_server.networks import Bundle, Domain

    bundle = Bundle.load(name)
    bundle.check(
        Domain(
            parameter_names=measurement.targeted,
            path_hkl=measurement.path.centres_hkl(),
            energy_edges_meV=measurement.energy.edges_meV,
            isotopes=species_words(measurement.crystal),
        )
    )
    if bundle.parameter_names != measurement.model.names[: len(bundle.parameter_names)]:
        raise InputError(
            f"model is {name!r}, which reads {', '.join(bundle.parameter_names)}; expected the "
            f"first of what is fitted, {', '.join(measurement.model.names)}. Train it again with "
            "`beamsteer train`, or set `model: null`."
        )
    return bundle
