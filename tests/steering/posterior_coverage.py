"""How often posteriors hold the truth, truths drawn from the full prior; resumable.

    python -m tests.steering.posterior_coverage FOLDER --runs 100
    python -m tests.steering.posterior_coverage FOLDER --chunks 1 --minutes 1 30 --model germanium
    python -m tests.steering.posterior_coverage FOLDER --led --runs 300

Every run draws all force constants from the prior, a scale, two backgrounds, the width of the
resolution, how far the set-up is off, and counts of a scan of 1 to 120 minutes (log-uniform, at
most twelve orientations, of all that is looked at in random order) from exact rates at the truth.
It is fitted as a run of the software fits it, and once more with the truth among its starts: an
answer whose objective lies above that one is another mode. With ``--led`` that one alone is looked
at, in a tenth of the time: whether its error bars hold, where a search finds it. FOLDER keeps a
line of JSON for each run; what is there is not computed again. Pixels are merged along the tubes,
two to one; truth and fit share that, the temperature and the form of the resolution. Eight to one
takes less time, but is another problem: pixels of 1.2 degrees come into the path's tubes or leave
them as a tilt changes, so that the likelihood of 4,000 counts, smooth in the tilts for pixels as
they are, gets minima that no instrument has.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2

from model_server.posterior import (
    Observation,
    Posterior,
    Refinement,
    Search,
    Trust,
    assess,
    first_answer,
    usable_cells,
)
from model_server.posterior.observation import pool
from simulations.arrays import FloatArray
from simulations.constants import Z90
from simulations.fold import CellSums
from simulations.instrument import coarsen
from simulations.likelihood import Drift, MissettingSection, Trajectories
from steering.experiment import Measurement, build_measurement, load_experiment
from steering.run.estimator import DRAWS, KICKS, _first_guess_of, whole_guesses
from tests.conftest import ROOT

MERGED = 2  # pixels along a tube
PSI_DEG = np.arange(0.0, 121.0, 5.0)
MOST_CHUNKS = 12
MINUTES = (1.0, 120.0)
COUNTS_PER_MINUTE = 3000.0
BACKGROUND_RATIO = (0.3, 2.0)  # of the phonons' counts, log-uniform, split at random
LOG_WIDTH_SIGMA = 0.05
TARGETED = 8  # force constants of the reference experiment
OTHER_MODE = 2.0  # of minus log posterior


@dataclass(frozen=True)
class Look:
    """What one orientation sees in a coulomb."""

    exposure: Any
    weight: FloatArray
    flat: FloatArray
    trajectories: Trajectories
    drift: Drift


def germanium(free: int, *, set_up_fitted: bool = True, model: str | None = None) -> Measurement:
    """The reference experiment with so many force constants free."""
    experiment = load_experiment(ROOT / "examples" / "ge-arcs.yaml")
    parameters = experiment.parameters.model_copy(update={"free": free})
    missetting = MissettingSection(fitted=set_up_fitted)
    changed = {"model": model, "parameters": parameters, "missetting": missetting}
    return build_measurement(experiment.model_copy(update=changed), ROOT / "examples")


class Study:
    """Looks of every orientation, a forward model for truths, and the fit."""

    def __init__(self, asked: argparse.Namespace, psi_deg: FloatArray = PSI_DEG) -> None:
        self.psi_deg = psi_deg
        self.off_scale: float = asked.off
        self.most_chunks: int = asked.chunks
        self.minutes: tuple[float, float] = asked.minutes
        self.full = germanium(asked.all)
        self.fitted = germanium(asked.free, set_up_fitted=asked.set_up == "fitted")
        self.first_guess = None
        if asked.model is not None:
            self.first_guess = _first_guess_of(germanium(TARGETED, model=asked.model))
        self._instrument = coarsen(self.full.instrument, asked.merged)
        self._looks: dict[int, Look] = {}
        m = self.fitted
        self.refinement = Refinement(
            model=m.coarse_forward,
            prior=m.prior,
            energy_centres_meV=m.energy.centres_meV,
            elastic_cut_meV=m.elastic_cut_meV,
            exact=m.exact,
            rough=m.rough,
        )
        self.doubting = self.refinement.doubting() if asked.set_up == "marginal" else None
        self.led: bool = asked.led

    def look(self, k: int) -> Look:
        """What orientation k sees; made once."""
        if k not in self._looks:
            psi, full = float(self.psi_deg[k]), self.full
            exposure = full.exposure(psi, self._instrument)
            weight, flat = full.geometry.path_sums(exposure)
            along = full.trajectories(psi, self._instrument)
            drift = self.fitted.drift(along, full.exact.missetting)
            self._looks[k] = Look(exposure.merged(full.merged), weight, flat, along, drift)
        return self._looks[k]

    def drawn(
        self, seed: int, orientation: int | None = None
    ) -> tuple[list[Observation], FloatArray, float, np.random.Generator]:
        """Counts of one virtual scan, the theta they were drawn from, and its minutes.

        Of one of the orientations, or of some in random order.
        """
        rng = np.random.default_rng([20270, seed])
        full, fitted = self.full, self.fitted
        truth = full.coarse_forward.draw(full.prior, 1, rng)[0]
        minutes = float(np.exp(rng.uniform(*np.log(self.minutes))))
        chunks = int(min(self.most_chunks, np.ceil(minutes)))
        chosen = rng.permutation(len(self.psi_deg))[:chunks]
        if orientation is not None:
            chunks, chosen = 1, np.array([orientation])
        width = LOG_WIDTH_SIGMA * rng.standard_normal()
        off = self.off_scale * rng.standard_normal(len(full.exact.missetting))
        off = off * full.exact.missetting.sigma
        ratio = np.exp(rng.uniform(*np.log(BACKGROUND_RATIO)))
        share = rng.uniform()
        state = full.exact.prepare(truth)
        looks = [self.look(int(k)) for k in chosen]
        rates = [
            full.exact.rates(look.trajectories, state, log_width=width, off=off, gradient=False)[0]
            for look in looks
        ]
        scale = COUNTS_PER_MINUTE * chunks / sum(float(r.sum()) for r in rates)
        flat = (
            share
            * ratio
            * COUNTS_PER_MINUTE
            * chunks
            / sum(float(look.flat.sum()) for look in looks)
        )
        constant = (
            (1 - share)
            * ratio
            * COUNTS_PER_MINUTE
            * chunks
            / sum(float(look.weight.sum()) for look in looks)
        )
        each = minutes / chunks
        observations = []
        for k, look, rate in zip(chosen, looks, rates, strict=True):
            expected = each * (scale * rate + flat * look.flat + constant * look.weight)
            counts = rng.poisson(expected).astype(float)
            sums = CellSums(
                signal=counts, variance=counts, counts=counts,
                exposure=each * look.weight, flat=each * look.flat,
            )  # fmt: skip
            exposure = look.exposure.scaled(each)
            observations.append(
                Observation(
                    sums=sums,
                    exposure=partial(lambda e: e, exposure),
                    trajectories=partial(look.trajectories.scaled, each),
                    drift=partial(lambda d: d, look.drift) if self.doubting is None else None,
                    key=str(k),
                )
            )
        names = list(full.model.names)
        at = [names.index(name) for name in fitted.model.names]
        true = np.array([*truth[at], *np.log([scale, flat, constant]), width, *off])
        return observations, true, minutes, rng

    def run(self, seed: int) -> dict[str, Any]:
        """One virtual scan and its fit."""
        observations, true, minutes, rng = self.drawn(seed)
        fitted = self.fitted
        truth = true[: len(fitted.model.names)]
        started = time.process_time()
        knowing = self._knowing(observations, true) if self.led else None
        found = self.fit(observations, rng) if knowing is None else knowing
        seconds = time.process_time() - started
        knowing = knowing or self._knowing(observations, true)
        trust = self._judged(observations, found)
        gap = found.values - truth
        row = {
            "seed": seed,
            "minutes": minutes,
            "off": true[len(truth) + 4 :].tolist(),
            "chunks": len(observations),
            "psi_deg": [float(self.psi_deg[int(o.key)]) for o in observations],
            "converged": found.converged,
            "state": trust.state,
            "others": [found.log_odds_of(one) for one in found.others],
            "reduced_chi_square": trust.reduced_chi_square,
            "seconds": seconds,
            "names": list(found.names),
            "gap": gap.tolist(),
            "sigma": found.sigma.tolist(),
            "prior_sigma": fitted.prior.sigma.tolist(),
            "above_truth": found.explained - knowing.explained,
            "joint": float(gap @ np.linalg.solve(found.covariance, gap)),
            "covariance": found.covariance.tolist(),
            "counts": float(sum(o.sums.signal.sum() for o in observations)),
            "nuisances": found.theta[found.layout.nuisances].tolist(),
        }
        if self.doubting is not None:
            return row
        layout = found.layout
        return row | {
            "deviance": 2 * (self._at(observations, true, found) - found.objective),
            "off_found": found.theta[layout.off].tolist(),
            "off_sigma": found.theta_sigma[layout.off].tolist(),
        }

    def fit(self, observations: list[Observation], rng: np.random.Generator) -> Posterior:
        """As a run fits: a set-up that is off by more than can be carried is fitted, too."""
        starts = list(self.fitted.coarse_forward.draw(self.fitted.prior, DRAWS, rng))
        guesses: list[FloatArray] = []
        if self.first_guess is not None:
            guess = self.first_guess.guess(pool(observations).sums)
            guesses = whole_guesses(guess, self.fitted.prior)
        if self.doubting is None:
            self.refinement.recall({})
            return self.refinement.fit(observations, starts=starts, guesses=guesses, kicks=KICKS)
        together = pool(observations)
        drifts = [self.look(int(one.key)).drift for one in observations]
        search = Search(
            pooled=replace(together, drift=lambda: reduce(add, drifts)),
            starts=starts,
            guesses=guesses,
            kicks=KICKS,
        )
        return first_answer(
            self.doubting, self.refinement, observations, pooled=together, search=search
        )

    def _knowing(self, observations: list[Observation], true: FloatArray) -> Posterior:
        """The answer that a fit of the set-up is led to from the truth."""
        fit = self.doubting or self.refinement
        fit.recall({})
        wide = np.diag(np.full(len(true), 1e-4))
        return fit.led_from(observations, true, wide, pooled=pool(observations))

    def _judged(self, observations: list[Observation], found: Posterior) -> Trust:
        m, sums = self.fitted, pool(observations).sums
        return assess(
            sums=sums,
            posterior=found,
            prior=m.prior,
            use=usable_cells(sums, m.energy.centres_meV, m.elastic_cut_meV),
            look=len(observations),
        )

    def _at(self, observations: list[Observation], theta: FloatArray, found: Posterior) -> float:
        """Objective at theta, of rates walked there."""
        fit = self.refinement
        fit.recall({})
        tangents = fit._tangents.walked(observations, theta, found.theta_sigma)
        centre = fit.starts.centre(pool(observations))
        return fit.objective.by_tangents(observations, theta, centre, tangents)


def table(file: Path, targeted: int) -> str:
    """What the runs say, by exposure."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [
        "minutes      runs  converged  right mode  wrong and trusted  inside 90 %  joint 90 %"
        "  median s"
    ]
    for low, high in ((1, 3), (3, 10), (10, 40), (40, 121), (1, 121)):
        some = [row for row in rows if low <= row["minutes"] < high]
        if not some:
            continue
        gap = np.array([row["gap"][:targeted] for row in some])
        sigma = np.array([row["sigma"][:targeted] for row in some])
        bound = chi2.ppf(0.9, len(some[0]["gap"]))
        shares = (
            np.mean([row["converged"] for row in some]),
            np.mean([row["above_truth"] < OTHER_MODE for row in some]),
            np.mean(
                [row["above_truth"] >= OTHER_MODE and row["state"] == "trusted" for row in some]
            ),
            np.mean(np.abs(gap) <= Z90 * sigma),
            np.mean([row["joint"] <= bound for row in some]),
        )
        seconds = np.median([row["seconds"] for row in some])
        told = "".join(f"{share:12.3f}" for share in shares)
        lines.append(f"{low:3d} to {high:3d}  {len(some):6d}{told}{seconds:10.1f}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--free", type=int, default=21)
    parser.add_argument("--all", type=int, default=21)
    parser.add_argument(
        "--off", type=float, default=1.0, help="errors of the set-up, in sigma of what is believed"
    )
    parser.add_argument("--targeted", type=int, default=TARGETED)
    parser.add_argument("--chunks", type=int, default=MOST_CHUNKS, help="at most")
    parser.add_argument("--minutes", type=float, nargs=2, default=MINUTES, help="log-uniform")
    parser.add_argument("--merged", type=int, default=MERGED, help="pixels along a tube as one")
    parser.add_argument("--model", help="network to begin at, by name or folder; default none")
    parser.add_argument(
        "--set-up",
        choices=("fitted", "marginal"),
        default="marginal",
        help="what may be off of it: as a run has it, marginalised till that is too far; or fitted",
    )
    parser.add_argument(
        "--led", action="store_true", help="no search: the answer that is led to from the truth"
    )
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "runs.jsonl"
    done = set()
    if file.exists():
        done = {json.loads(line)["seed"] for line in file.read_text().splitlines()}
    study = Study(arguments)
    for seed in range(1, 1 + arguments.runs):
        if seed not in done:
            with file.open("a") as sink:
                sink.write(json.dumps(study.run(seed)) + "\n")
            print(table(file, arguments.targeted), flush=True)  # noqa: T201
    print(table(file, arguments.targeted))  # noqa: T201


if __name__ == "__main__":
    main()
