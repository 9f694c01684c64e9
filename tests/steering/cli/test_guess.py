from __future__ import annotations

import json

import numpy as np
import pytest

import beamsteer
from steering import cli
from tests.steering.germanium_bundle import bundle, write_fold


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("guess")
    bundle().save(found / "small")
    write_fold(found / "folded.npz")
    return found


def test_a_fold_is_read_and_told_with_what_backs_it(folder, capsys):
    fold, output = str(folder / "folded.npz"), folder / "out.json"
    asked = ["guess", fold, "-m", "small", "--models", str(folder)]
    assert cli.run([*asked, "-o", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "1NN xx" in shown
    assert "typical error" in shown
    assert "latent distance" in shown
    assert cli.run([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(output.read_text())
    assert told == beamsteer.guess(fold, model="small", models=[folder])


def test_several_folds_are_read_at_once(folder, capsys):
    fold = str(folder / "folded.npz")
    assert cli.run(["guess", fold, fold, "-m", "small", "--models", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["estimates"]
    assert len(told) == 2
    first, second = ([row["value"] for row in one["parameters"]] for one in told)
    np.testing.assert_allclose(first, second, rtol=1e-6)  # of float32, in another order


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"S": np.full((18, 52), np.nan)}, "values that are not finite"),
        ({"isotopes": np.array(["70Ge"])}, "isotopes differ"),
        ({"S": np.zeros((18, 52))}, "nothing was counted"),
    ],
)
def test_a_bad_fold_is_bad_input(folder, tmp_path, capsys, more, says):
    fold = str(write_fold(tmp_path / "folded.npz", **more))
    assert cli.run(["guess", fold, "-m", "small", "--models", str(folder)]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_an_unknown_model_is_bad_input_and_the_known_ones_are_named(folder, capsys):
    assert cli.run(["guess", str(folder / "folded.npz"), "-m", "../small"]) == 2
    assert "expected one of: germanium" in capsys.readouterr().err
    assert cli.run(["guess", str(folder / "none.npz")]) == 2
    assert "none.npz" in capsys.readouterr().err
