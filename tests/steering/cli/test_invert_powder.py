"""The verb `invert-powder`: JSON by temperature, a picture, and what it refuses."""

from __future__ import annotations

import json

import pytest

from steering import cli
from steering.run import ParameterResult


def test_the_shipped_spectrum_is_told_drawn_and_written(tmp_path, capsys):
    picture, written = tmp_path / "al.png", tmp_path / "al.json"
    arguments = ["invert-powder", "aluminium", "--temperature", "50", "--json"]
    assert cli.run([*arguments, "--plot", str(picture), "-o", str(written)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(written.read_text())
    assert picture.read_bytes().startswith(b"\x89PNG")
    (one,) = told["spectra"]
    assert one["temperature_K"] == 50.0
    for parameter in one["parameters"]:  # the shape of result.json, and nothing else
        assert ParameterResult.model_validate(parameter, strict=False).document()
    assert {"chi_square", "nmse_paper", "nmse_free", "trusted", "reasons"} <= set(one)
    assert 0 < one["nmse_free"] <= one["nmse_paper"] < 0.2


def test_a_plot_that_is_no_png_and_another_temperature_are_refused(tmp_path, capsys):
    assert cli.run(["invert-powder", "aluminium", "--plot", str(tmp_path / "al.pdf")]) == 2
    assert "expected a name that ends in .png" in capsys.readouterr().err
    assert cli.run(["invert-powder", "aluminium", "--temperature", "51.5"]) == 2
    assert "has 50, 280, 450, 640 K" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing.npz", "missing.nxspe"])
def test_a_missing_spectrum_is_told(name, capsys):
    assert cli.run(["invert-powder", name]) == 2
    assert "is not a file" in capsys.readouterr().err
