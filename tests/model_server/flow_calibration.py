"""Is a flow's posterior one? Calibration on unseen runs, and weights with the exact likelihood.

    python -m tests.model_server.flow_calibration build/ge-flow
    python -m tests.model_server.flow_calibration build/ge-flow --runs 10 --fine 200

Simulates runs at orientations between those of the training, with set-ups, widths, counts and
backgrounds of their own, and prints: how often 90 % intervals hold the truth per bin of minutes,
whether ranks of the truth are uniform, the time of an estimate, and the effective sample size of
importance weights: of the flow's own draws, on the cells that it sees and on all, and of draws
sharpened from them. Writes BUNDLE/calibration.json, and what it simulates to BUNDLE-calibration.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from model_server.networks import Bundle, ConditionalDensity, counted_input
from model_server.posterior import NUISANCE_SIGMA, Observation, Refinement
from model_server.posterior.importance import ENOUGH, CountsLikelihood, Weighed
from model_server.posterior.sharpening import Sharpened
from model_server.training import FlowRecipe
from model_server.training.density_training import calibration_table, coverage_words
from model_server.training.off_set_up import scaled_drift
from simulations.fold import CellSums
from steering.experiment import load_experiment
from steering.study.flow_spectra import SetUps, flow_spectra
from steering.study.model_training import flow_measurement

MINUTES = (3.0, 120.0)  # of runs whose draws are weighed, log-uniform
DRAWS = 200
FOLLOWED = 4  # draws that a search begins at, beside their mean
UNSEEN_SEED = 77


class Run:
    """One simulated run: a truth of its own, a set-up that is off, counts of it."""

    def __init__(self, set_ups: SetUps, recipe: FlowRecipe, seed: int) -> None:
        rng = np.random.default_rng([UNSEEN_SEED, seed])
        m = set_ups.measurement
        forward = m.coarse_forward
        self.truth = forward.draw(m.prior, 1, rng)[0]
        self.minutes = float(np.exp(rng.uniform(*np.log(MINUTES))))
        n = len(set_ups.exposures)
        size = min(n, max(1, int(np.rint(n ** rng.uniform()))))
        chosen = rng.choice(n, size=size, replace=False)
        dwell = rng.uniform(0.3, 1.7, size)
        self.exposure = set_ups.exposures[chosen[0]].scaled(float(dwell[0]))
        self.drift = scaled_drift(set_ups.drifts[chosen[0]], float(dwell[0]))
        for which, time_ in zip(chosen[1:], dwell[1:], strict=True):
            self.exposure = self.exposure + set_ups.exposures[which].scaled(float(time_))
            self.drift = self.drift + scaled_drift(set_ups.drifts[which], float(time_))
        D, F = np.zeros((2, m.path.n_bins, m.energy.n_bins))
        for padded, sums in zip((D, F), self.exposure.path_sums(m.merged), strict=True):
            padded[:, : sums.shape[1]] = sums
        F = np.where(D > 0, F, 0.0)
        rate, _ = forward.rates(
            self.exposure,
            forward.prepare(self.truth),
            log_width=float(NUISANCE_SIGMA[-1] * rng.standard_normal()),
            gradient=False,
            drift=self.drift,
            off=set_ups.ways.sigma * rng.standard_normal(len(set_ups.ways)),
        )
        self.grid_counts = self.minutes * recipe.counts_per_minute
        seen = slice(set_ups.first, set_ups.last)
        ratio = rng.uniform(*recipe.background)
        flat = float(np.clip(rng.uniform(-0.5, 1.5), 0.0, 1.0))
        expected = rate / rate[:, seen].sum()
        expected = expected + ratio * flat * F / F[:, seen].sum()
        expected = expected + ratio * (1 - flat) * D / D[:, seen].sum()
        N = rng.poisson(self.grid_counts * expected).astype(float)
        self.sums = CellSums(signal=N, variance=N, counts=N, exposure=D, flat=F)

    @property
    def observation(self) -> Observation:
        return Observation(sums=self.sums, exposure=lambda: self.exposure, drift=lambda: self.drift)


def weigh(bundle: Bundle, set_ups: SetUps, recipe: FlowRecipe, seed: int) -> dict:
    """Effective draws of one run, on cells that the flow sees and on all cells."""
    m, grid = set_ups.measurement, bundle.grid
    network = bundle.network
    assert isinstance(network, ConditionalDensity)
    run = Run(set_ups, recipe, seed)
    fine = grid.path_group * grid.energy_group
    inputs = counted_input(
        grid.sums(run.sums.signal),
        grid.sums(run.sums.exposure),
        grid.sums(run.sums.exposure > 0) / fine,
    )
    values, log_ratio = network.weighed_draws(inputs, DRAWS, seed=seed)
    draws = m.box.mean + m.box.sigma * values
    found = {"seed": seed, "minutes": run.minutes}
    rates = None
    for label, join in (("seen", grid.sums), ("all", None)):
        likelihood = CountsLikelihood(
            model=m.coarse_forward,
            observation=run.observation,
            off_sigma=set_ups.ways.sigma,
            middle=m.box.mean,
            energy_centres_meV=m.energy.centres_meV,
            elastic_cut_meV=m.elastic_cut_meV,
            join=join,
        )
        if rates is None:
            rates = [likelihood.rates(one) for one in draws]
        log_likelihood = np.array([likelihood.of_rates(one) for one in rates])
        weighed = Weighed(draws=draws, log_weight=log_likelihood - log_ratio)
        finite = np.isfinite(weighed.log_weight)
        found |= {
            f"{label}: effective": weighed.effective,
            f"{label}: spread of log weights": float(weighed.log_weight[finite].std()),
            f"{label}: truth over best draw": likelihood(run.truth)
            - float(np.max(weighed.log_weight + log_ratio)),
            "stable": float(finite.mean()),
        }
    return found | sharpen(set_ups, run, draws, seed)


def sharpen(set_ups: SetUps, run: Run, draws: np.ndarray, seed: int) -> dict:
    """The same of draws that a search from the flow's leads to, and where the truth lies."""
    m = set_ups.measurement
    refinement = Refinement(
        model=m.coarse_forward,
        prior=m.box,
        energy_centres_meV=m.energy.centres_meV,
        elastic_cut_meV=m.elastic_cut_meV,
        exact=m.exact.doubting(),  # for its ways: nothing is walked
    )
    assert refinement.missetting.names == set_ups.ways.names
    begun = time.process_time()
    posterior = Sharpened(refinement, run.observation, [draws.mean(axis=0), *draws[:FOLLOWED]])
    sharp = posterior.draws(DRAWS, seed=seed)
    return {
        "sharpened: effective": sharp.effective,
        "sharpened: seconds": time.process_time() - begun,
        "sharpened: gained": posterior.gained,
        "sharpened: ranks of the truth": (sharp.weight @ (sharp.draws < run.truth)).tolist(),
    }


def milliseconds(network: ConditionalDensity, inputs: np.ndarray, n: int) -> float:
    """Median time of draws of one spectrum, one thread."""
    network.draws(inputs, n)
    taken = []
    for k in range(20):
        begun = time.perf_counter()
        network.draws(inputs, n, seed=k)
        taken.append(time.perf_counter() - begun)
    return 1e3 * float(np.median(taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--experiment", type=Path, default=Path("examples/ge-arcs.yaml"))
    parser.add_argument("--spectra", type=int, default=500, help="unseen runs of a bin")
    parser.add_argument("--runs", type=int, default=50, help="runs whose draws are weighed")
    parser.add_argument("--fine", type=int, default=0, help="unseen runs on the fold's voxels")
    arguments = parser.parse_args()
    folder = arguments.bundle.with_name(arguments.bundle.name + "-calibration")
    bundle = Bundle.load(str(arguments.bundle))
    network = bundle.network
    assert isinstance(network, ConditionalDensity)
    experiment = load_experiment(arguments.experiment)
    m, grid = flow_measurement(experiment, arguments.experiment.parent)
    recipe = FlowRecipe(counts_per_minute=experiment.virtual.counts_per_minute)

    def say(label: str, share: float) -> None:
        print(f"\r{label} {share:.0%}   ", end="", flush=True)  # noqa: T201

    def write(more: dict) -> None:
        path = arguments.bundle / "calibration.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**known, **more}, indent=1))

    spectra = flow_spectra(
        m, grid, spectra=arguments.spectra, seed=UNSEEN_SEED, work=folder, shifted=True,
        progress=say,
    )  # fmt: skip
    table = calibration_table(network, spectra, m.box, recipe.bins_of_counts, recipe=recipe)
    print()  # noqa: T201
    for line in coverage_words(table):
        print(line)  # noqa: T201
    for row in table["bins"]:
        print(  # noqa: T201
            f"{row['bin']}: {np.mean(np.array(row['rank_p']) > 0.01):.0%} of ranks uniform (p > "
            f"0.01); posterior/prior width {np.round(row['width'], 2).tolist()}"
        )
    some = counted_input(spectra.rate[0] * 1e4 / spectra.rate[0].sum(), spectra.exposure[0],
                         spectra.coverage[0])  # fmt: skip
    taken = {str(n): milliseconds(network, some, n) for n in (256, 1000)}
    print(f"estimate: {taken['256']:.1f} ms for 256 draws, {taken['1000']:.1f} ms for 1,000")  # noqa: T201
    if arguments.fine:
        finer = flow_spectra(
            m, grid, spectra=arguments.fine, seed=UNSEEN_SEED, work=folder / "fine", shifted=True,
            fine=True, progress=say,
        )  # fmt: skip
        fine_table = calibration_table(network, finer, m.box, recipe.bins_of_counts, recipe=recipe)
        print("\nrates on the voxels of the fold, finer than in the training:")  # noqa: T201
        for line in coverage_words(fine_table):
            print(line)  # noqa: T201
        write({"fine table": fine_table})
    write({"table": table, "milliseconds by draws": taken})
    if arguments.runs == 0:
        return
    set_ups = SetUps(m, shifted=True).computed(say)
    weights: list[dict] = []
    begun = time.perf_counter()
    for seed in range(arguments.runs):
        weights.append(weigh(bundle, set_ups, recipe, seed))
        say(f"weights ({(time.perf_counter() - begun) / (seed + 1):.1f} s a run)",
            (seed + 1) / arguments.runs)  # fmt: skip
        write({"weights": weights})
    print()  # noqa: T201
    for label in ("seen", "all", "sharpened"):
        share = np.array([w[f"{label}: effective"] for w in weights]) / DRAWS
        minutes = np.array([w["minutes"] for w in weights])
        print(  # noqa: T201
            f"{label}: above {ENOUGH:.0%} in {np.mean(share > ENOUGH):.0%} of {len(share)} "
            f"runs; median {np.median(share):.2%}; "
            + ", ".join(
                f"{low:g} to {high:g} min {np.median(share[here]):.2%} ({here.sum()})"
                for low, high in ((3, 10), (10, 40), (40, 120))
                if (here := (minutes >= low) & (minutes < high)).any()
            )
        )
    rank = np.array([w["sharpened: ranks of the truth"] for w in weights])
    inside = (rank > 0.05) & (rank < 0.95)
    print(  # noqa: T201
        f"sharpened: 90 % intervals hold the truth in {inside.mean():.1%} "
        f"(single constants {inside.mean(axis=0).min():.0%} to {inside.mean(axis=0).max():.0%}); "
        f"{np.median([w['sharpened: seconds'] for w in weights]):.0f} s a run"
    )


if __name__ == "__main__":
    main()
