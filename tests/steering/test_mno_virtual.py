"""Trust tells phonons from magnetism on one geometry: virtual MnO where the real run was taken."""

import numpy as np
import pytest

from consumers.recorded import read_event_run, recorded_source
from steering.experiment import build_measurement, load_experiment
from steering.run import Run
from steering.study import simulate
from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.shared_data
def test_phonon_only_mno_through_the_recorded_geometry_is_trusted(shared_data, tmp_path, capsys):
    """A stable draw of the prior at the three recorded psi; test_instruments holds the pixels."""
    recorded = sorted((shared_data / "hyspec-mno").glob("*.nxs.h5"))
    experiment = load_experiment(ROOT / "examples" / "mno-hyspec.yaml")
    psis = [read_event_run(path).psi_deg for path in recorded]
    truth = simulate(
        experiment,
        experiment_dir=ROOT / "examples",
        output=tmp_path / "files",
        psi_deg=psis,
        minutes=3.87,
        seed=4,
        formats=("sns",),
        truth="prior",
        settings={"elastic_scale": 0.002},  # else 16 million elastic events
    )
    (tmp_path / "chunks").mkdir()
    run = Run(
        build_measurement(experiment, ROOT / "examples"), run_id="x", folder=tmp_path / "chunks"
    )
    for message in recorded_source(
        sorted((tmp_path / "files").glob("*.nxs.h5")), run="x"
    ).messages():
        run.accept(message)
    result = run.result()
    true = {one["name"]: one["value"] for one in truth["parameters"]}
    pulls = [(p["value"] - true[p["name"]]) / p["sigma"] for p in result["parameters"]]
    with capsys.disabled():
        fit = result["goodness_of_fit"]
        print(  # noqa: T201
            f"\nphonon-only MnO: trusted {result['trusted']}, chi-square per degree of freedom "
            f"{fit['reduced_chi_square']:.2f}, p = {fit['p_value']:.2g}; pulls "
            f"{np.round(pulls, 2).tolist()}"
        )
    assert len(run.chunks) == 3
    assert np.isfinite(run.sums.exposure).all()
    assert result["trusted"], result["reasons"]
    assert np.max(np.abs(pulls)) < 3.5
