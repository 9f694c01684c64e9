"""Folded counts of virtual scans against the exact rate at their known truth."""

from pathlib import Path

import numpy as np
import pytest

from consumers.recorded import recorded_source
from model_server.refinement import usable_cells
from simulations.path_choice import EnergyAxis
from steering.experiment_file import Experiment, load_experiment
from steering.measurement import build_measurement
from steering.runs import Run
from steering.simulate import simulate
from tests.conftest import ROOT

LEAST_COUNTS = 10.0


def experiment_of(crystal: str, shared: Path) -> Experiment:
    """The reference run with another crystal on its standard path."""
    experiment = load_experiment(ROOT / "examples" / "ge-arcs.yaml")
    experiment = experiment.model_copy(update={"model": None})
    if crystal == "germanium":
        return experiment
    structure, ei, temperature = {
        "niobium": ("niobium", 50.0, 300.0),
        "MgB2": (str(shared / "phonopy-test" / "MgB2" / "phonopy_disp.yaml"), 120.0, 5.0),
        "ZnO": (str(shared / "phonopy-test" / "ZnO" / "phonopy_disp.yaml"), 80.0, 5.0),
    }[crystal]
    path = experiment.path.model_copy(
        update={
            "points": "seekpath",
            "bins": None,
            "step_rlu": 0.05,
            "energy": EnergyAxis(min_meV=0, max_meV=0.98 * ei, bins=98, substeps=4),
        }
    )
    if crystal == "ZnO":  # the slowest to simulate: wide tubes let fewer neutrons do
        path = path.model_copy(update={"half_width_rlu": 0.1, "voxel_rlu": 0.035})
    return experiment.model_copy(
        update={
            "sample": experiment.sample.model_copy(
                update={
                    "structure": structure,
                    "temperature_K": temperature,
                    "u": (1.0, 0.0, 0.0),
                    "v": (0.0, 0.0, 1.0),
                }
            ),
            "instrument": experiment.instrument.model_copy(update={"ei_meV": ei}),
            "path": path,
            "parameters": experiment.parameters.model_copy(
                update={"cutoff_A": 3.4, "free": 4, "prior": None}
            ),
        }
    )


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("crystal", ["germanium", "niobium", "MgB2", "ZnO"])
def test_counts_scatter_about_the_exact_rate_as_poisson_says(
    crystal, shared_data, tmp_path, capsys
):
    experiment = experiment_of(crystal, shared_data)
    truth = simulate(
        experiment,
        experiment_dir=ROOT / "examples",
        output=tmp_path / "files",
        psi_deg=[7.0, 41.0, 83.0],
        minutes=3.0 if crystal == "ZnO" else 8.0,
        seed=3,
        formats=("sns",),
    )
    (tmp_path / "chunks").mkdir()
    measurement = build_measurement(experiment, ROOT / "examples")
    run = Run(measurement, run_id="x", folder=tmp_path / "chunks", estimate=False)
    for message in recorded_source(
        sorted((tmp_path / "files").glob("*.nxs.h5")), run="x"
    ).messages():
        run.accept(message)
    exact, sums = measurement.exact, run.sums
    state = exact.prepare(measurement.model.values)
    folded_state = measurement.forward.prepare(measurement.model.values)
    scale = truth["flux"]["scale_per_coulomb"]
    background = truth["background"]["per_coulomb_sr_ms"] * sums.flat
    rates = {"exact": background.copy(), "folded": background.copy()}
    for chunk in run.chunks:
        rates["exact"] += scale * exact.rates(chunk.trajectories(), state, gradient=False)[0]
        rates["folded"] += (
            scale * measurement.forward.rates(chunk.exposure(), folded_state, gradient=False)[0]
        )
    use = usable_cells(sums, measurement.energy.centres_meV, measurement.elastic_cut_meV)
    told = {}
    for name, rate in rates.items():
        seen = use & (rate >= LEAST_COUNTS)
        pulls = (sums.counts[seen] - rate[seen]) / np.sqrt(rate[seen])
        told[name] = (float(np.mean(pulls**2)), float(np.abs(pulls).max()), int(seen.sum()))
    with capsys.disabled():
        for name, (chi, worst, cells) in told.items():
            print(  # noqa: T201
                f"\n{crystal}, {name} rate: chi-square per cell {chi:.3f} over {cells} cells, "
                f"largest pull {worst:.1f}",
                end="",
            )
    assert not np.any(sums.counts[sums.exposure == 0])  # support of S inside that of D
    assert 0.9 <= told["exact"][0] <= 1.1
