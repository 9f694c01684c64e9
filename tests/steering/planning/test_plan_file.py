"""`beamsteer plan` before any file exists: tables, pictures, a page, and clear refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from steering import cli
from steering.experiment import dump_experiment
from tests.steering.report.test_alignment_report import POSCAR
from tests.steering.virtual_scan import EXAMPLES, small_experiment

SMALL = [
    "--instrument", "ARCS/16", "--psi", "0:60:20", "--draws", "2", "--path",
    "X 0,0,1; Gamma 0,0,0; | ; K 0.75,0.75,0; L 0.5,0.5,0.5", "--minutes", "5",
]  # fmt: skip


def test_a_plan_is_a_table_pictures_and_a_page_that_needs_nothing_else(tmp_path, capsys):
    names = [tmp_path / f"plan{ending}" for ending in (".png", ".svg", ".pdf", ".html", ".json")]
    files = [word for name in names for word in ("-o", str(name))]
    command = ["plan", "germanium", "--ei", "30,60", "--target", "0.01", *SMALL, *files]
    assert cli.run(command) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for word in (
        "Incident energies", "Where to begin", "Schedule", "It hangs on", "Approximations",
        "3000 one-phonon counts a minute", "prior: germanium", "Every target after",
    ):  # fmt: skip
        assert word in shown
    starts = (b"\x89PNG", b"<?xml", b"%PDF", b"<!doctype html>", b"{")
    for name, start in zip(names, starts, strict=True):
        assert name.read_bytes().startswith(start), name
    page = names[3].read_text()
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "Approximations" in page
    told = json.loads(names[4].read_text())
    assert {one["ei_meV"] for one in told["energies"]} == {30.0, 60.0}
    assert all(len(one["orientations"]) == 4 for one in told["energies"])
    assert cli.run([*command[: len(command) - len(files)], "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["seconds"] > 0
    for key in ("energies", "schedule", "orientations", "answer"):
        assert again[key] == told[key]


def test_an_experiment_file_says_all_that_no_option_does(tmp_path, capsys):
    dump_experiment(small_experiment(), tmp_path / "e.yaml")
    command = ["plan", "-e", str(tmp_path / "e.yaml"), "--psi", "0:60:30", "--draws", "1", "--json"]
    assert cli.run(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["ei_meV"] for one in told["energies"]] == [40.0]
    assert [one["name"] for one in told["parameters"]] == ["1NN xx", "1NN xy", "2NN xx"]


def test_a_crystal_without_a_prior_says_how_one_is_made(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("POSCAR").write_text(POSCAR)
    command = ["plan", "POSCAR", "--ei", "40", *SMALL]
    assert cli.run(command) == cli.BAD_INPUT
    told = " ".join(capsys.readouterr().err.split())
    assert "beamsteer prior POSCAR -o prior.yaml" in told
    Path("prior.yaml").write_text("not a prior")
    assert cli.run(command) == cli.BAD_INPUT  # it is looked at, as it lies beside the structure
    assert "prior.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "STRUCTURE, --instrument and --ei are expected"),
        (["germanium", "--instrument", "ARCS"], "STRUCTURE, --instrument and --ei are expected"),
        (["germanium", "--instrument", "NOWHERE", "--ei", "40"], "NOWHERE"),
        (["none.cif", "--instrument", "ARCS", "--ei", "40"], "none.cif"),
        (["germanium", "--instrument", "ARCS", "--ei", "40,x"], "--ei is '40,x'; expected 1 to"),
        (["germanium", "--instrument", "ARCS", "--ei", "40,40"], "expected every energy once"),
        (["germanium", "--instrument", "ARCS", "--ei", "-3"], "--ei is '-3'"),
        (["germanium", "--ei", "40", "--psi", "90:-90"], "--psi is '90:-90'; expected lower:upper"),
        (["germanium", "--ei", "40", "--psi", "0:90:0.001"], "--psi is '0:90:0.001'"),
        (["germanium", "--ei", "40", "--psi", "nan:5"], "--psi is 'nan:5'"),
        (["germanium", "--instrument", "ARCS", "--ei", "40", "--u", "1,1"], "--u is '1,1'"),
        (
            ["germanium", "--instrument", "ARCS", "--ei", "40", "--u", "0,0,2"],
            "not parallel to u",
        ),
        (["germanium", "--ei", "40", "--minutes", "nan"], "--minutes is nan"),
        (["germanium", "--ei", "40", "--counts-per-minute", "0"], "--counts-per-minute is 0"),
        (
            ["germanium", "--instrument", "ARCS", "--ei", "30,40", "--flux", "1"],
            "expected one for each of the 2 incident energies",
        ),
        (["germanium", "--ei", "40", "-o", "plan.xls"], "expected a name that ends in one of"),
        (
            ["germanium", "--instrument", "ARCS", "--ei", "40", "--path", "X"],
            "--path has 'X'; expected a label and hkl",
        ),
        (
            ["germanium", "--instrument", "ARCS", "--ei", "40", "--target", "-1"],
            "targets.relative_sigma is -1",
        ),
        (["germanium", "-e", str(EXAMPLES / "ge-arcs.yaml")], "STRUCTURE is given beside"),
        (
            ["germanium", "--instrument", "ARCS", "--ei", "40", "--prior", "none.yaml"],
            "--prior is 'none.yaml'; expected one of",
        ),
    ],
)
def test_bad_input_ends_with_2_and_says_what_to_do(arguments, words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.run(["plan", *arguments]) == cli.BAD_INPUT
    told = capsys.readouterr()
    assert words in " ".join(told.err.split())
    assert "Traceback" not in told.err
