"""The bar of the demonstration scan: five seeds, eight parameters, and the truth they must hold."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from model_server.posterior import Observation, Refinement
from model_server.posterior.refinement import NUISANCE_SIGMA
from steering.cli.demo import MINUTES, ORIENTATIONS_DEG
from steering.experiment import build_measurement
from steering.experiment.experiment_file import parse_experiment
from steering.run import Run
from steering.study import simulate


@pytest.mark.slow
def test_33_of_40_intervals_hold_the_truth_within_1_5_times_the_fisher_bound(tmp_path, capsys):
    from consumers.recorded import recorded_source

    text = resources.files("steering").joinpath("cli", "demo.yaml").read_text(encoding="utf-8")
    experiment = parse_experiment(text, name="demo.yaml")
    measurement = build_measurement(experiment, Path())
    fisher = Refinement(
        model=measurement.quick_forward,
        prior=measurement.prior,
        energy_centres_meV=measurement.energy.centres_meV,
        elastic_cut_meV=measurement.elastic_cut_meV,
        exact=measurement.exact,
    )
    held, ratios, lines = [], [], []
    for seed in range(1, 6):
        folder = tmp_path / str(seed)
        chunks = tmp_path / f"{seed}-chunks"
        chunks.mkdir()
        truth = simulate(
            experiment,
            experiment_dir=tmp_path,
            output=folder,
            psi_deg=list(ORIENTATIONS_DEG),
            minutes=MINUTES,
            seed=seed,
            formats=("sns",),
        )
        true = {one["name"]: one["value"] for one in truth["parameters"]}
        run = Run(measurement, run_id=str(seed), folder=chunks)
        for message in recorded_source(sorted(folder.glob("*.nxs.h5")), run=str(seed)).messages():
            run.accept(message)
        result, posterior = run.result(), run.posterior
        assert posterior is not None
        assert result["trusted"], result["reasons"]
        values = np.array([true[name] for name in posterior.names])
        theta = posterior.theta.copy()
        theta[: len(values)] = values
        information = np.diag(np.concatenate([measurement.prior.sigma, NUISANCE_SIGMA]) ** -2.0)
        for chunk in run.chunks:
            observation = Observation(sums=chunk.sums, exposure=chunk.exposure)
            information += fisher.objective.information_of(theta, observation)[1]
        bound = np.sqrt(np.diag(np.linalg.inv(information)))[: len(values)]
        pulls = (posterior.values - values) / posterior.sigma
        held.append(np.abs(pulls) <= 1.6449)
        ratios.append(posterior.sigma / bound)
        lines.append(
            f"seed {seed}: pulls {np.round(pulls, 2).tolist()}, sigma / Fisher bound "
            f"{np.round(ratios[-1], 2).tolist()}"
        )
    with capsys.disabled():
        print()  # noqa: T201
        for line in lines:
            print(line)  # noqa: T201
        print(  # noqa: T201
            f"{int(np.sum(held))} of {np.size(held)} intervals hold the truth (bar: 33 of 40); "
            f"largest sigma / Fisher bound {np.max(ratios):.2f} (bar: 1.5)"
        )
    assert np.sum(held) >= 33
    assert np.max(ratios) <= 1.5
