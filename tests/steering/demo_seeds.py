"""Whether the demonstration's answers scatter about the truth as they say; resumable.

    python -m tests.steering.demo_seeds FOLDER --seeds 40

Every seed is a scan of the demonstration at event level, all pixels, all constants of the cutoff
fitted: simulated, replayed by a run, and compared with the truth. FOLDER keeps a line of JSON for
each; what is there is not computed again. Where errors are right, the joint chi-square of the
targeted constants is uniform in p.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2, kstest

from consumers.recorded import recorded_source
from simulations.constants import Z90
from steering.cli.demo import MINUTES, ORIENTATIONS_DEG
from steering.experiment import Measurement, build_measurement
from steering.experiment.experiment_file import parse_experiment
from steering.run import Run
from steering.study import simulate


def demonstration() -> Measurement:
    """The experiment of `beamsteer demo`."""
    text = resources.files("steering").joinpath("cli", "demo.yaml").read_text(encoding="utf-8")
    return build_measurement(parse_experiment(text, name="demo.yaml"), Path())


def one_seed(measurement: Measurement, seed: int) -> dict[str, Any]:
    """Simulate and replay a scan; what was found."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = simulate(
            measurement.experiment, experiment_dir=folder, output=folder / "scan",
            psi_deg=list(ORIENTATIONS_DEG), minutes=MINUTES, seed=seed, formats=("sns",),
            processes=1,
        )  # fmt: skip
        true = {one["name"]: one["value"] for one in truth["parameters"]}
        (folder / "run").mkdir()
        run = Run(measurement, run_id=str(seed), folder=folder / "run")
        seconds: list[float] = []
        states: list[str] = []
        started = time.process_time()
        files = sorted((folder / "scan").glob("*.nxs.h5"))
        for message in recorded_source(files, run=str(seed)).messages():
            if run.accept(message):
                seconds.append(time.process_time() - started)
                assert run.estimate is not None
                states.append(run.estimate.trust.state)
                started = time.process_time()
        estimate = run.estimate
        assert estimate is not None
    found, targeted = estimate.posterior, len(measurement.targeted)
    gap = found.values - np.array([true[name] for name in found.names])
    return {
        "seed": seed,
        "gap": gap.tolist(),
        "sigma": found.sigma.tolist(),
        "joint": _joint(gap[:targeted], found.covariance[:targeted, :targeted]),
        "joint_of_all": _joint(gap, found.covariance),
        "targeted": targeted,
        "covariance": found.covariance.tolist(),
        "states": states,
        "others": [found.log_odds_of(one) for one in found.others],
        "reasons": list(estimate.trust.reasons),
        "seconds": seconds,
    }


def _joint(gap: np.ndarray, covariance: np.ndarray) -> float:
    return float(gap @ np.linalg.solve(covariance, gap))


def table(file: Path) -> str:
    """What the seeds say."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    told = [f"{len(rows)} seeds"]
    for label, key, width in (
        ("targeted", "joint", rows[0]["targeted"]),
        ("all", "joint_of_all", len(rows[0]["gap"])),
    ):
        joint = np.array([row[key] for row in rows])
        error = np.sqrt(2 * width / len(rows))
        p = kstest(chi2.sf(joint, width), "uniform").pvalue
        told.append(
            f"joint chi-square of the {width} {label}: mean {joint.mean():.2f} "
            f"({(joint.mean() - width) / error:+.1f} standard errors), largest {joint.max():.1f}, "
            f"Kolmogorov-Smirnov p {p:.3f}"
        )
    gap = np.array([row["gap"][: row["targeted"]] for row in rows])
    sigma = np.array([row["sigma"][: row["targeted"]] for row in rows])
    pulls = gap / sigma
    told.append(f"90 % intervals that hold the truth: {np.mean(np.abs(pulls) <= Z90):.3f}")
    bias = np.round(pulls.mean(axis=0), 2).tolist()
    told.append(f"mean pull of each: {bias} (standard error {1 / np.sqrt(len(rows)):.2f})")
    last = [row["states"][-1] for row in rows]
    told += [f"{state} at the end: {last.count(state)}" for state in sorted(set(last))]
    seconds = np.array([row["seconds"] for row in rows])
    median = np.round(np.median(seconds, axis=0), 1).tolist()
    told.append(f"processor seconds of each chunk, median: {median}")
    return "\n".join(told) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first", type=int, default=1)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "seeds.jsonl"
    done = set()
    if file.exists():
        done = {json.loads(line)["seed"] for line in file.read_text().splitlines()}
    measurement = demonstration()
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        if seed not in done:
            with file.open("a") as sink:
                sink.write(json.dumps(one_seed(measurement, seed)) + "\n")
            print(table(file), flush=True)  # noqa: T201
    print(table(file))  # noqa: T201


if __name__ == "__main__":
    main()
