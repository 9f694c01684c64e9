from __future__ import annotations

import json

import numpy as np
import pytest

from steering import cli

AXES = ["--energy-meV", "1:40:3", "--ei-meV", "50"]


@pytest.mark.parametrize(
    ("kind", "structure", "arguments", "shape"),
    [
        ("powder", "germanium", ["--q-inverse-A", "2:4:0.5", *AXES], (4, 13)),
        ("path", "niobium", ["--points", "Gamma H", *AXES], (401, 13)),
        ("line", "MnO", ["--from", "2,2,-1", "--to", "2,2,1", *AXES], (150, 13)),
        (
            "plane",
            "aluminium",
            ["--u", "1,0,0", "--v", "0,1,0", "--band-meV", "9:11", "--u-inverse-A",
             "0:3:1", "--v-inverse-A=-1:1:1", "--ei-meV", "50"],
            (3, 2),
        ),
    ],
)  # fmt: skip
def test_the_verb_computes_each_kind_of_map_of_each_builtin_crystal(
    kind, structure, arguments, shape, tmp_path, capsys
):
    name = tmp_path / "map"
    assert cli.run(["spectrum", kind, structure, *arguments, "-o", str(name), "--json"]) == cli.OK
    told = json.loads(capsys.readouterr().out)
    assert np.array(told["intensity"], dtype=float).shape == shape
    assert told["ei_meV"] == 50
    assert told["temperature_K"] == 300
    assert all((tmp_path / f"map.{end}").stat().st_size > 500 for end in ("png", "npz", "csv"))


def test_the_verb_reads_a_phonopy_file_for_a_vibrational_spectrum(shared_data, tmp_path, capsys):
    file = shared_data / "phonopy-test" / "NaCl" / "phonopy_disp.yaml"
    picture = tmp_path / "nacl.png"
    code = cli.run(["spectrum", "vision", str(file), "--instrument", "TOSCA", "-o", str(picture)])
    assert code == cli.OK
    told = capsys.readouterr().out
    assert "NaCl; TOSCA, 10 K" in told
    assert "backward" in told
    assert picture.exists()


@pytest.mark.parametrize(
    ("kind", "arguments", "says"),
    [
        ("sideways", [], "No such command 'sideways'"),
        ("powder", ["--ei-meV", "30", "--energy-meV", "0:40:1"], "cannot lose that much"),
        ("powder", ["--from", "1,0,0"], "No such option"),
        ("vision", ["--ei", "30"], "No such option"),
        ("line", [], "Missing option '--from'"),
        ("line", ["--from", "1,0", "--to", "1,1,1"], "--from is '1,0'; expected three numbers"),
        ("line", ["--from", "1,0,nan", "--to", "1,1,1"], "--from is '1,0,nan'; expected three"),
        ("line", ["--from", "1,0,0", "--to", "1,0,0"], "the start of the line too"),
        ("powder", ["--energy-meV", "4:1:1"], "min:max:step with min < max"),
        ("powder", ["--energy-meV", "0:inf:1"], "min:max:step with min < max"),
        ("plane", ["--u", "1,0,0", "--v", "0,1,0", "--band-meV", "4"], "--band-meV is '4'"),
        ("plane", ["--u", "1,0,0", "--v", "2,0,0", "--band-meV", "4:5"], "expected"),
        ("powder", ["--temperature-K=-1"], "--temperature-K is -1"),
        ("powder", ["--temperature-K", "nan"], "--temperature-K is nan"),
        ("powder", ["--q-fwhm-inverse-A", "nan"], "--q-fwhm-inverse-A is nan; expected 0 to 10"),
        ("powder", ["--ei", "nan"], "ei_meV is nan; expected a positive energy"),
        ("powder", ["--ei", "1e-300"], "expected"),
        ("powder", ["--fwhm-meV", "0"], "fwhm_meV is 0.0; expected a positive width"),
        ("powder", ["--q-inverse-A", "1e5:2e5:1e5"], "q_inverse_A is 100000 to 200000; expected"),
        ("powder", ["--q-inverse-A=-2:2:1"], "q_inverse_A is -2 to 2; expected"),
        ("powder", ["--chopper", "FC1"], "frequency like FC2:300"),
        ("powder", ["--chopper", "FC9:300", "--ei", "50"], "expected"),
        ("powder", ["--chopper", "FC2:nan", "--ei", "50"], "expected"),
        ("powder", ["--instrument", "NOWHERE"], "expected"),
        ("powder", ["--route", "mace:/nowhere"], "route"),
        ("powder", ["--supercell", "0,1,1"], "--supercell is '0,1,1'"),
        ("powder", ["-o", "x.pdf"], "expected a name that ends in"),
        ("path", ["--points", "Gamma Nowhere"], "expected"),
        ("path", ["--zone", "0.5,0,0"], "expected a reciprocal-lattice vector"),
        ("vision", ["--instrument", "ARCS"], "expected one of TOSCA, VISION"),
        ("vision", ["--fwhm-meV", "nan"], "fwhm_meV is nan; expected a positive width"),
    ],
)
def test_bad_input_of_the_verb_is_told_in_one_line(kind, arguments, says, capsys):
    assert cli.run(["spectrum", kind, "germanium", *arguments]) == cli.BAD_INPUT
    told = capsys.readouterr()
    assert told.out == ""
    assert says in " ".join(told.err.replace("\u2502", " ").split())
    assert "Traceback" not in told.err


@pytest.mark.parametrize("kind", ["powder", "path", "line", "plane", "vision"])
def test_every_kind_has_help_with_an_example_and_its_own_options_only(kind, capsys):
    assert cli.run(["spectrum", kind, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Example: beamsteer spectrum {kind}" in shown
    assert "--json" in shown
    own = {
        "powder": "--q-inverse-A", "path": "--points", "line": "--from", "plane": "--band-meV"
    }  # fmt: skip
    for other, option in own.items():
        assert (f" {option} " in shown) == (other == kind)
    assert ("--ei-meV" in shown) == (kind != "vision")
