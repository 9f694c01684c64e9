"""`fold --plot` and `fold --powder`: pictures and arrays stand where the help says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.image import imread

from steering.cli import run
from steering.experiment import dump_experiment
from tests.steering.virtual_scan import virtual_scan  # noqa: F401


@pytest.fixture(scope="module")
def experiment_file(virtual_scan, tmp_path_factory):  # noqa: F811
    path = tmp_path_factory.mktemp("experiment") / "experiment.yaml"
    dump_experiment(virtual_scan.experiment, path)
    return path


def test_a_fold_is_drawn_with_what_it_reached(
    virtual_scan,  # noqa: F811
    experiment_file,
    tmp_path,
    capsys,
):
    files = [str(f) for f in virtual_scan.events[:2]]
    status = run(["fold", *files, "-e", str(experiment_file), "-o", str(tmp_path), "--plot"])
    assert status == 0, capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "folded-reach.png",
        "folded.npz",
        "folded.png",
    ]
    for name in ("folded.png", "folded-reach.png"):
        picture = imread(tmp_path / name)
        assert picture.shape[0] > 500
        assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 200
    maps = imread(tmp_path / "folded.png")[..., :3]
    grey = np.abs(maps - 0xB4 / 255).max(axis=2) < 2e-3
    assert 0.01 < grey.mean() < 0.9  # cells without exposure, as no data


def test_a_powder_fold_writes_sums_and_a_picture(
    virtual_scan,  # noqa: F811
    experiment_file,
    tmp_path,
    capsys,
):
    files = [str(f) for f in virtual_scan.events]
    command = ["fold", *files, "-e", str(experiment_file), "-o", str(tmp_path)]
    assert run([*command, "--powder", "--q-step", "0.2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    with np.load(tmp_path / "powder.npz") as arrays:
        assert arrays["N"].sum() == told["events"]["folded"] > 0
        assert arrays["D"].shape == (
            len(arrays["momentum_edges_inverse_angstrom"]) - 1,
            len(arrays["energy_edges_meV"]) - 1,
        )
        assert not arrays["S"][arrays["D"] == 0].any()
    assert imread(tmp_path / "powder.png").shape[0] > 500
    assert run([*command, "--powder", "--q-step", "-1"]) == 2
    assert "expected above" in capsys.readouterr().err
