"""A plan of a scan before any data: which incident energy, which orientations, how many hours.

Candidates, gains and forecasts are those of a running experiment's adviser
(`steering.run.Adviser`, `steering.advice`), at draws of the prior in the place of an estimate:
what is averaged are gains, never parameters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from model_server.posterior import Posterior, Refinement
from simulations.arrays import FloatArray
from simulations.dynamics import energies_of_sets
from simulations.errors import InputError
from simulations.progress import Progress, silent
from steering.advice import (
    LOOKS_BELOW_TARGET,
    Advice,
    Candidate,
    InformationPolicy,
    Setting,
    Situation,
    absolute_targets,
    minutes_to_target,
    stop_advice,
)
from steering.experiment import Experiment, Measurement, build_measurement
from steering.run import Adviser, Standpoint, path_ticks

MOST_HOURS = 14 * 24.0  # that a forecast looks ahead
MOST_STEPS = 120  # of a schedule
MOST_ORIENTATIONS = 720
CHARGE = 1.0  # coulomb a minute; it goes with the flux, which is set by the rate that is assumed
QUANTILES = (16.0, 50.0, 84.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumed:
    """What nobody knows before beam time, and what the hours hang on."""

    counts_per_minute: float = 3000.0  # one-phonon, inside the tubes, at the first Ei
    background_ratio: float = 1.0  # counts of background per one-phonon count there
    flux: Mapping[float, float] = field(default_factory=dict)  # by Ei, relative; 1 if not named


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlannedEnergy:
    """What one incident energy offers; arrays are over the orientations."""

    ei_meV: float
    psi_deg: FloatArray
    gain_per_minute: FloatArray  # fall of sum sigma^2/target^2 a wall minute, mean over draws
    gain_spread: FloatArray  # its standard deviation over draws
    dwell_minutes: FloatArray  # the one that gains most, median over draws
    alone_hours: FloatArray  # to every target at this orientation alone, median; inf: beyond
    coverage: FloatArray  # share of path cells with exposure
    coverage_fraction: float  # of all orientations together
    counts_per_minute: float  # one-phonon, inside the tubes, mean over orientations
    hours: tuple[float | None, ...]  # to every target, at QUANTILES of the draws; None: beyond
    sweep_hours: float | None  # likewise, median, with time spread evenly over all orientations

    @property
    def ranking(self) -> tuple[int, ...]:
        """Orientations, best first."""
        order = sorted(
            range(len(self.psi_deg)), key=lambda k: (-self.gain_per_minute[k], self.psi_deg[k])
        )
        return tuple(order)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One dwell of the schedule."""

    psi_deg: float
    minutes: float
    wall_hours: float  # from the start to its end, moves included
    worst: float  # largest sigma over target then, median over draws
    met: float  # share of the draws with every target met


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedParameter:
    """How well a force constant will be known."""

    name: str
    unit: str
    size: float  # median |value| of the draws
    prior_sigma: float
    planned_sigma: float  # median over draws, after the schedule
    target: float  # median over draws


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScanPlan:
    """The answer of a plan."""

    title: str
    instrument: str
    u: tuple[float, float, float]
    v: tuple[float, float, float]
    temperature_K: float
    energies: tuple[PlannedEnergy, ...]  # best first
    start_worst: float  # largest sigma over target of the prior, median over draws
    steps: tuple[Step, ...]  # at the best incident energy
    stopped: bool  # whether the stop rule of a run would end the schedule
    parameters: tuple[PlannedParameter, ...]
    assumptions: tuple[str, ...]
    approximations: tuple[str, ...]
    draws: int
    path_position: FloatArray  # (path_bins,) 1/angstrom
    tick_positions: tuple[float, ...]
    tick_labels: tuple[str, ...]
    energy_edges_meV: FloatArray
    covered: FloatArray  # (path_bins, energy_bins) share of the planned time that sees a cell
    branches: FloatArray  # (draws, path_bins, modes) meV

    @property
    def best(self) -> PlannedEnergy:
        """The incident energy that the schedule is for."""
        return self.energies[0]

    @property
    def orientations(self) -> tuple[tuple[float, float, int], ...]:
        """psi, minutes together and visits of the schedule, longest first."""
        minutes: dict[float, float] = {}
        for step in self.steps:
            minutes[step.psi_deg] = minutes.get(step.psi_deg, 0.0) + step.minutes
        visits = Counter(step.psi_deg for step in self.steps)
        order = sorted(minutes, key=lambda psi: (-minutes[psi], psi))
        return tuple((psi, minutes[psi], visits[psi]) for psi in order)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Prospect:
    """One incident energy with its candidates at every draw."""

    measurement: Measurement
    refinement: Refinement
    seen: list
    candidates: list[list[Candidate]]  # per draw
    thetas: FloatArray  # (draws, P)
    precision: FloatArray  # (P, P) of the prior
    counts_per_minute: float


def plan_scan(
    experiment: Experiment,
    *,
    folder: Path,
    ei_meV: Sequence[float],
    psi_deg: Sequence[float] | None = None,
    minutes: float | None = None,
    assumed: Assumed | None = None,
    draws: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> ScanPlan:
    """Plan a rotation scan of a crystal that was not measured yet.

    Parameters
    ----------
    experiment : Experiment
        Its ``instrument.ei_meV`` is replaced by each of ``ei_meV``; the energy axis is common.
    folder : Path
        That its relative paths start from.
    ei_meV : sequence of float
        Incident energies to choose from.
    psi_deg : sequence of float, optional
        Orientations to choose from; as many as an adviser takes within ``motion.limits_deg``.
    minutes : float, optional
        Dwell at every orientation; absent: the one that gains most.
    assumed : Assumed, optional
        Rates of counts.
    draws : int
        Of the prior, that gains are averaged over; 0: its mean alone.
    seed : int
    progress : callable, optional
        Called with (message, fraction).

    Raises
    ------
    InputError
        If the experiment cannot be made concrete, or no orientation reaches the path.
    """
    say, assumed = progress or silent, assumed or Assumed()
    energies = tuple(dict.fromkeys(float(ei) for ei in ei_meV))
    if not energies:
        raise InputError("ei_meV is empty; expected at least one incident energy")
    policy = InformationPolicy() if minutes is None else InformationPolicy((minutes,))
    prospects: list[_Prospect] = []
    reference: tuple[float, float] | None = None
    sets: FloatArray | None = None
    for k, ei in enumerate(energies):
        start, share = 0.9 * k / len(energies), 0.9 / len(energies)
        say(f"Ei {ei:g} meV: reading", start)
        measurement = build_measurement(_at(experiment, ei), folder)
        if sets is None:
            sets = _sets(measurement, draws, seed)
        adviser, refinement = _adviser(measurement, psi_deg)

        def seeing(_: str, done: float, at=start, of=share, ei=ei) -> None:
            say(f"Ei {ei:g} meV: orientations", at + 0.7 * of * done)

        seen = adviser.seen(progress=seeing)
        phonon, flat, weight = _strengths(refinement, seen, sets)
        if phonon <= 0:
            raise InputError(
                f"--ei {ei:g} meV and psi {seen[0][0]:g} to {seen[-1][0]:g} degrees reach no tube "
                "of the path; expected some. Change the orientations, Ei, u and v, or the path."
            )
        flux = float(assumed.flux.get(ei, 1.0))
        if reference is None:
            reference = (assumed.counts_per_minute / phonon / flux, assumed.background_ratio)
            background = 0.5 * assumed.counts_per_minute * assumed.background_ratio / flux
            levels = (background / flat, background / weight)
        scale = reference[0] * flux
        nuisances = np.log([scale, max(levels[0] * flux, 1e-12), max(levels[1] * flux, 1e-12)])
        thetas = np.zeros((len(sets), refinement.layout.size))
        thetas[:, refinement.layout.parameters] = sets
        thetas[:, refinement.layout.log_amplitudes] = nuisances
        precision = refinement.objective.prior_precision()
        sigma = np.sqrt(np.diag(np.linalg.inv(precision)))
        found = []
        for j, theta in enumerate(thetas):
            say(
                f"Ei {ei:g} meV: draw {j + 1} of {len(thetas)}",
                start + share * (0.4 + 0.6 * j / len(thetas)),
            )
            standpoint = Standpoint(theta=theta, sigma=sigma, charge_per_minute=CHARGE)
            found.append(adviser.candidates(standpoint))
        prospects.append(
            _Prospect(
                measurement=measurement,
                refinement=refinement,
                seen=seen,
                candidates=found,
                thetas=thetas,
                precision=precision,
                counts_per_minute=scale * phonon,
            )
        )
    say("ranking", 0.92)
    offers = [_offer(prospect, policy) for prospect in prospects]
    order = sorted(range(len(offers)), key=lambda k: _preference(offers[k]))
    best = prospects[order[0]]
    say("schedule", 0.95)
    steps, after, stopped = _schedule(best, policy)
    position, _ = best.measurement.path.position(best.measurement.crystal.conventional_reciprocal)
    ticks, labels, _ = path_ticks(best.measurement)
    assert sets is not None  # noqa: S101 - there is an energy
    q = best.measurement.path.centres_hkl() @ best.measurement.crystal.conventional_reciprocal
    sample = experiment.sample
    say("done", 1.0)
    return ScanPlan(
        title=experiment.title,
        instrument=best.measurement.instrument.name,
        u=sample.u,
        v=sample.v,
        temperature_K=sample.temperature_K,
        energies=tuple(offers[k] for k in order),
        start_worst=float(np.median([_worst(_situation(best, k)) for k in range(len(sets))])),
        steps=steps,
        stopped=stopped,
        parameters=_parameters(best, after),
        assumptions=_assumptions(experiment, assumed, energies, best, policy_minutes=minutes),
        approximations=_approximations(best, draws),
        draws=draws,
        path_position=position,
        tick_positions=ticks,
        tick_labels=labels,
        energy_edges_meV=best.measurement.energy.edges_meV,
        covered=_covered(best, steps),
        branches=energies_of_sets(best.measurement.model, q, sets[:40]),
    )


def _at(experiment: Experiment, ei_meV: float) -> Experiment:
    """The experiment with another incident energy."""
    instrument = experiment.instrument.model_copy(update={"ei_meV": ei_meV})
    return experiment.model_copy(update={"instrument": instrument})


def _sets(measurement: Measurement, draws: int, seed: int) -> FloatArray:
    """Stable sets of force constants of the prior, (draws, K); its mean where none is drawn."""
    if draws == 0:
        return measurement.prior.mean[None]
    rng = np.random.default_rng([seed, 20262])
    return measurement.coarse_forward.draw(measurement.prior, draws, rng)


def _adviser(
    measurement: Measurement, psi_deg: Sequence[float] | None
) -> tuple[Adviser, Refinement]:
    """The adviser of a run of this measurement, and what it ranks by."""
    off = measurement.experiment.missetting
    known = not any(
        (off.psi_offset_deg, off.tilt_deg, off.lattice_percent, off.ei_percent, off.t0_us)
    )
    refinement = Refinement(
        model=measurement.coarse_forward,
        prior=measurement.prior,
        energy_centres_meV=measurement.energy.centres_meV,
        elastic_cut_meV=measurement.elastic_cut_meV,
        exact=None if known else measurement.exact,
    )
    return Adviser(measurement, refinement, psi_deg=psi_deg), refinement


def _strengths(
    refinement: Refinement, seen: Sequence, sets: FloatArray
) -> tuple[float, float, float]:
    """One-phonon rate, flat exposure and exposure inside the tubes, mean over orientations."""
    phonon = []
    for phi in sets[: min(len(sets), 4)]:
        state = refinement.model.prepare(phi)
        rates = (
            refinement.model.rates(exposure, state, log_width=0.0, gradient=False)[0].sum()
            for _, exposure, _ in seen
        )
        phonon.append(sum(float(rate) for rate in rates) / len(seen))
    flat = float(np.mean([sums[1].sum() for _, _, sums in seen]))
    weight = float(np.mean([sums[0].sum() for _, _, sums in seen]))
    return float(np.mean(phonon)), flat, weight


def _targets(prospect: _Prospect, draw: int) -> FloatArray:
    """Wanted standard deviations at a draw, as a run has them that knows its prior alone."""
    measurement = prospect.measurement
    relative = [measurement.experiment.targets.relative(name) for name in measurement.targeted]
    return absolute_targets(at_prior(prospect.refinement, prospect.thetas[draw]), relative)


def at_prior(refinement: Refinement, theta: FloatArray) -> Posterior:
    """What is known before the first chunk, with a draw of the prior in the place of its mean.

    Parameters
    ----------
    refinement : Refinement
    theta : (P,)
    """
    precision = refinement.objective.prior_precision()
    some = refinement.layout.parameters
    nothing = np.zeros((1, 1))
    return Posterior(
        model=refinement.model.name,
        layout=refinement.layout,
        theta=theta,
        precision=precision,
        covariance=np.asarray(np.linalg.inv(precision)[some, some], dtype=np.float64),
        objective=0.0,
        converged=True,
        iterations=0,
        expected=nothing,
        phonon=nothing,
        totals=np.zeros(1),
    )


def _situation(prospect: _Prospect, draw: int, **changes: object) -> Situation:
    """The moment before the first chunk, if a draw of the prior is the truth."""
    motion = prospect.measurement.experiment.motion
    start = Situation(
        mean=prospect.thetas[draw],
        precision=prospect.precision,
        draws=np.empty((0, prospect.thetas.shape[1])),
        targets=_targets(prospect, draw),
        candidates=tuple(prospect.candidates[draw]),
        measured=(),
        minutes_used=0.0,
        budget_minutes=60 * MOST_HOURS,
        motion=motion,
    )
    return replace(start, **changes)  # pyright: ignore[reportArgumentType]


def ranked(prospect: _Prospect, policy: InformationPolicy, draw: int) -> list[Advice]:
    """Orientations at a draw as a run's adviser ranks them, best first."""
    return policy.rank(_situation(prospect, draw))


def _offer(prospect: _Prospect, policy: InformationPolicy) -> PlannedEnergy:
    psi = np.array([psi for psi, _, _ in prospect.seen])
    gains, dwells, hours, sweeps, alone = [], [], [], [], []
    for draw in range(len(prospect.thetas)):
        advice = {a.psi_deg: a for a in ranked(prospect, policy, draw)}
        gains.append([advice[float(p)].gain_per_minute for p in psi])
        dwells.append([advice[float(p)].minutes for p in psi])
        situation = _situation(prospect, draw)
        hours.append(minutes_to_target(situation))
        sweeps.append(minutes_to_target(replace(situation, candidates=_evenly(situation))))
        alone.append(
            [minutes_to_target(replace(situation, candidates=(c,))) for c in situation.candidates]
        )
    covered = np.array([(sums[0] > 0).mean() for _, _, sums in prospect.seen])
    together = np.any([sums[0] > 0 for _, _, sums in prospect.seen], axis=0)
    return PlannedEnergy(
        ei_meV=prospect.measurement.ei_meV,
        psi_deg=psi,
        gain_per_minute=np.mean(gains, axis=0),
        gain_spread=np.std(gains, axis=0),
        dwell_minutes=np.median(dwells, axis=0),
        alone_hours=np.array(
            [_quantile(one, 50.0) or np.inf for one in zip(*alone, strict=True)], dtype=float
        ),
        coverage=covered,
        coverage_fraction=float(together.mean()),
        counts_per_minute=prospect.counts_per_minute,
        hours=tuple(_quantile(hours, q) for q in QUANTILES),
        sweep_hours=_quantile(sweeps, 50.0),
    )


def _evenly(situation: Situation) -> tuple[Candidate, ...]:
    """One candidate that spends its minute evenly over all."""
    some = situation.candidates
    mean = np.mean([c.information for c in some], axis=0)
    return (replace(some[0], information=mean),)


def _quantile(minutes: Sequence[float | None], percent: float) -> float | None:
    """Hours at a quantile of draws, in which None stands for more than is looked ahead."""
    ordered = sorted(np.inf if m is None else m for m in minutes)
    value = ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))]
    return None if not np.isfinite(value) else value / 60


def _preference(offer: PlannedEnergy) -> tuple[float, float]:
    """Fewer hours first; where none gets there, the larger gain."""
    median = offer.hours[QUANTILES.index(50.0)]
    return (np.inf if median is None else median, -float(offer.gain_per_minute.max()))


def _schedule(
    prospect: _Prospect, policy: InformationPolicy
) -> tuple[tuple[Step, ...], list[FloatArray], bool]:
    """Dwells one after another, each where the mean gain is largest, until the stop rule ends them.

    Returns also the precisions after them, per draw, and whether the rule ended them. Where
    nothing but another orientation is missing, it is the next.
    """
    now = [_situation(prospect, draw) for draw in range(len(prospect.thetas))]
    steps: list[Step] = []
    wall, looks, stopped = 0.0, 0, False
    while len(steps) < MOST_STEPS and wall <= 60 * MOST_HOURS and not stopped:
        advice = [{a.psi_deg: a for a in policy.rank(situation)} for situation in now]
        mean = {psi: np.mean([one[psi].gain_per_minute for one in advice]) for psi in advice[0]}
        if looks and now[0].orientations == 1 and len(mean) > 1:
            mean.pop(steps[-1].psi_deg)
        psi = min(mean, key=lambda p: (-mean[p], p))
        dwell = float(np.median([one[psi].minutes for one in advice]))
        chosen = [next(c for c in s.candidates if c.psi_deg == psi) for s in now]
        wall += dwell + now[0].move_minutes(chosen[0])
        setting = Setting(psi_deg=psi, ei_meV=prospect.measurement.ei_meV)
        now = [
            replace(
                situation,
                precision=situation.precision + dwell * candidate.information,
                measured=(*situation.measured, setting),
            )
            for situation, candidate in zip(now, chosen, strict=True)
        ]
        worst = [_worst(situation) for situation in now]
        steps.append(
            Step(
                psi_deg=psi,
                minutes=dwell,
                wall_hours=wall / 60,
                worst=float(np.median(worst)),
                met=float(np.mean(np.array(worst) <= 1.0)),
            )
        )
        looks = looks + 1 if steps[-1].worst <= 1.0 else 0
        stopped = stop_advice(
            looks_below_target=min(looks, LOOKS_BELOW_TARGET),
            chunks=len(steps),
            orientations=now[0].orientations,
            trust="trusted",
            forecast_minutes=None,
        ).stop
    return tuple(steps), [situation.precision for situation in now], stopped


def _worst(situation: Situation) -> float:
    """Largest sigma over target."""
    sigma = np.sqrt(np.diag(situation.covariance)[: situation.n_parameters])
    return float(np.max(sigma / situation.targets))


def _covered(prospect: _Prospect, steps: Sequence[Step]) -> FloatArray:
    minutes: dict[float, float] = {}
    for step in steps:
        minutes[step.psi_deg] = minutes.get(step.psi_deg, 0.0) + step.minutes
    total = sum(minutes.values())
    return np.sum(
        [minutes.get(psi, 0.0) / total * (sums[0] > 0) for psi, _, sums in prospect.seen], axis=0
    )


def _parameters(prospect: _Prospect, after: Sequence[FloatArray]) -> tuple[PlannedParameter, ...]:
    measurement = prospect.measurement
    sigma = np.median([np.sqrt(np.diag(np.linalg.inv(one))) for one in after], axis=0)
    targets = np.median([_targets(prospect, k) for k in range(len(prospect.thetas))], axis=0)
    return tuple(
        PlannedParameter(
            name=name,
            unit=measurement.coarse_forward.parameter_units[k],
            size=float(np.median(np.abs(prospect.thetas[:, k]))),
            prior_sigma=float(measurement.prior.sigma[k]),
            planned_sigma=float(sigma[k]),
            target=float(targets[k]),
        )
        for k, name in enumerate(measurement.targeted)
    )


def _assumptions(
    experiment: Experiment,
    assumed: Assumed,
    energies: Sequence[float],
    best: _Prospect,
    *,
    policy_minutes: float | None,
) -> tuple[str, ...]:
    """What the answer hangs on, in words."""
    sample, motion = experiment.sample, experiment.motion
    others = ", ".join(f"{ei:g} meV {assumed.flux.get(ei, 1.0):g}" for ei in energies)
    u, v = (", ".join(f"{x:g}" for x in one) for one in (sample.u, sample.v))
    prior = experiment.parameters.prior
    return (
        f"{assumed.counts_per_minute:g} one-phonon counts a minute inside the tubes at Ei "
        f"{energies[0]:g} meV (--counts-per-minute): hours go about as its inverse, once counting "
        "rules over moves",
        f"background to one-phonon counts there {assumed.background_ratio:g} : 1, half of it flat "
        "in time of flight (--background)",
        f"neutrons on the sample a minute, relative: {others} (--flux); a real chopper gives each "
        "energy another flux and resolution",
        f"mount u = [{u}], v = [{v}] (--u, --v), {sample.temperature_K:g} K (--temperature)",
        f"moves: {motion.overhead_s:g} s and {motion.speed_deg_per_s:g} degrees/s (--overhead, "
        "--speed)" + ("" if policy_minutes is None else f"; {policy_minutes:g} minutes a dwell"),
        f"prior: {prior or 'half of their size about the force constants given'}; "
        f"{len(best.measurement.model.names)} force constants within "
        f"{experiment.parameters.cutoff_A:g} angstrom are fitted, {len(best.measurement.targeted)} "
        f"targeted at {100 * experiment.targets.relative_sigma:g} % of their size (--target)",
    )


def _approximations(best: _Prospect, draws: int) -> tuple[str, ...]:
    drawn = (
        f"gains are averaged over {draws} stable draws of the prior"
        if draws
        else "gains are those of the prior's mean alone"
    )
    return (
        f"{drawn}; the schedule is that of a run whose estimates stay at the draw",
        "Fisher information of one-phonon counts on the folded model; no can, no multiphonons, no "
        "magnetic scattering, and a set-up that is known: a run marginalises it, and its error "
        "bars of germanium were 1 to 4 times those planned for the same counts",
        "pixels merged along the tubes, voxels merged three by three",
        "targets are those of a run before its first chunk: where the prior is wider than a value, "
        "they are relative to its width, and a run asks for more once it knows the value",
        "hours by the forecast of a run's adviser: the best mix of five orientations, a move every "
        "eight minutes. The schedule goes on until the stop rule ends it: targets met for three "
        "dwells in a row, two orientations",
        *best.measurement.notes,
    )
