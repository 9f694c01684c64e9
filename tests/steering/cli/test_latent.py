from __future__ import annotations

import json

import pytest

from steering import cli
from tests.steering.germanium_bundle import SMALL, bundle, write_fold


@pytest.fixture
def folder(tmp_path):
    bundle().save(tmp_path / "small")
    write_fold(tmp_path / "folded.npz")
    return tmp_path


def test_a_bundle_is_analysed_into_figures_and_pictures(folder, capsys):
    asked = ["latent", str(folder / "small"), "-e", str(SMALL), "-o", str(folder / "out")]
    more = ["--run", str(folder), "--sets", "12", "--orientations", "2", "--calibrate"]
    assert cli.run([*asked, *more]) == 0
    shown = capsys.readouterr().out
    assert "dimensions are active" in shown
    assert "farther than" in shown
    names = {one.name for one in (folder / "out").iterdir()}
    pictures = {"dimensions.png", "map.png", "interpolation.png", "psi.png", "distance.png"}
    assert names == pictures | {"latent.json"}
    told = json.loads((folder / "out" / "latent.json").read_text())
    assert told["sets"] == 12
    assert told["runs"][0]["latent_share"] is not None
    card = json.loads((folder / "small" / "card.json").read_text())
    assert card["latent distance"]["levels"][0]["spectra"] == told["spectra"]


def test_a_shipped_bundle_is_not_written_into(folder, capsys):
    asked = ["latent", "germanium", "-e", str(SMALL), "-o", str(folder / "out"), "--calibrate"]
    assert cli.run(asked) == 2
    assert "BUNDLE is 'germanium', which is no folder" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_bundle_of_another_experiment_is_bad_input(folder, capsys):
    assert cli.run(["latent", "germanium", "-e", str(SMALL), "-o", str(folder / "out")]) == 2
    assert "was trained for another experiment" in capsys.readouterr().err
