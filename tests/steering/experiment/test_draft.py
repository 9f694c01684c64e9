"""A drafted experiment folds the file it was drafted from, whatever instrument wrote that."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from consumers.recorded.incident_energies import energies_of_chopper
from consumers.recorded.isis_event_layout import Chopper
from consumers.recorded.nxspe_file import read_nxspe
from consumers.recorded.spe_file import write_detectors, write_spe
from steering import cli
from steering.experiment import build_measurement, dump_experiment, load_experiment
from tests.consumers.hostile_files import good_nxspe, toy_instrument
from tests.consumers.isis_files import two_energies, write_isis
from tests.steering.report.test_alignment_report import POSCAR
from tests.steering.virtual_scan import VirtualScan, virtual_scan

__all__ = ["virtual_scan"]

OPEN = ("motion", "instrument.resolution")
"""What a file does not say and a fold does not need."""
# What stands for the instrument in every file, and whether its psi is NaN.
NXSPE = {
    "CNCS_7860_coarse": ("CNCS", False),
    "bi2fe4o9_Ei62_5K": ("MERLIN", True),
    "er2ir2o7_Ei30_5K": ("MARI", True),
    "fm_simple_cubic_a": ("unknown", False),
    "fm_simple_cubic_b": ("unknown", False),
    "gen_sqw_96dets": ("Horace", False),
    "inst_let_ei3p7_240_120": ("LET", True),
    "nxspe_version1_0": ("MAPS", False),
}


def drafted(file: Path, folder: Path, capsys: Any, *options: str) -> tuple[Path, dict[str, str]]:
    """Experiment file written by ``init``, and what it says it does not know."""
    path = folder / "drafted.yaml"
    arguments = ["init", str(file), "-s", "niobium", "-o", str(path), "--force", "--json"]
    arguments += ["--psi-offset", "0", "--temperature", "300"]
    if file.suffix != ".sqw":
        arguments += ["--u", "1,1,0", "--v", "0,0,1"]
    assert cli.run([*arguments, *options]) == 0, capsys.readouterr().err
    return path, json.loads(capsys.readouterr().out)["unknown"]


def folded(file: Path, experiment: Path, capsys: Any, *options: str) -> dict[str, Any]:
    """Summary of ``fold``; every cell with signal has exposure."""
    output = experiment.with_suffix(".npz")
    command = ["fold", str(file), "-e", str(experiment), "-o", str(output), "--json", *options]
    assert cli.run(command) == 0, capsys.readouterr().err
    told = json.loads(capsys.readouterr().out)
    with np.load(output) as arrays:
        assert arrays["D"].any()
        assert not arrays["S"][arrays["D"] == 0].any()
    events = told["events"]
    assert events.pop("read") == sum(events.values()) > events["folded"] - 1 >= 0
    assert [chunk["status"] for chunk in told["chunks"]] == ["folded"]
    return told


def refused(arguments: list[str], capsys: Any) -> str:
    """What a command says that ends with 2."""
    assert cli.run(arguments) == cli.BAD_INPUT
    return capsys.readouterr().err


@pytest.mark.shared_data
@pytest.mark.parametrize("name", NXSPE)
def test_every_nxspe_folds_from_its_own_draft(name, shared_data, tmp_path, capsys):
    file = shared_data / "nxspe" / f"{name}.nxspe"
    instrument, no_psi = NXSPE[name]
    experiment, unknown = drafted(file, tmp_path, capsys)
    assert load_experiment(experiment, spared=OPEN).instrument.name == instrument
    foreign = instrument != "CNCS"
    assert ("instrument.name" in unknown) == ("instrument.resolution" in unknown) == foreign
    if no_psi:
        told = refused(["fold", str(file), "-e", str(experiment), "-o", str(tmp_path)], capsys)
        assert "psi is NaN; expected degrees. Give --psi" in told
        assert told.count(str(file)) == 1
    told = folded(file, experiment, capsys, *(["--psi", "10"] if no_psi else []))
    assert told["events"]["folded"] > 0
    assert sum("is unknown: a typical one" in note for note in told["notes"]) == foreign


@pytest.mark.shared_data
def test_files_of_another_instrument_are_refused_by_both_folds(shared_data, tmp_path, capsys):
    mari = shared_data / "nxspe" / "er2ir2o7_Ei30_5K.nxspe"
    path, _ = drafted(mari, tmp_path, capsys)
    fold = ["fold", str(mari), "-e", str(path), "-o", str(tmp_path / "o"), "--psi", "0"]
    text = path.read_text()
    for name, words in (
        ("ARCS", "instrument is 'MARI'; expected 'ARCS'"),
        ("LET", "instrument.name is 'LET', which no file here brings pixels for"),
    ):
        path.write_text(text.replace("name: MARI", f"name: {name}"))
        for options in ([], ["--powder"]):
            told = refused([*fold, *options], capsys)
            assert words in told
            assert "instrument is 'MARI'" in told
    path.write_text(re.sub(r"ei_meV: [0-9.]+", "ei_meV: 25", text, count=1))
    told = refused(fold, capsys)
    assert "brings pixels" not in told
    assert "no file is of this experiment" in told
    assert "Ei is 29.9" in told
    path.write_text(text)
    assert cli.run([*fold, "--powder"]) == 0


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "same"),
    [("fm_simple_cubic_a", "fm_simple_cubic_a"), ("spe_with_NANs", "nxspe_version1_0")],
)
def test_an_spe_folds_from_its_own_draft(name, same, shared_data, tmp_path, capsys):
    reduced = read_nxspe(shared_data / "nxspe" / f"{same}.nxspe")
    file = tmp_path / f"{name}.spe"
    shutil.copyfile(shared_data / "spe-par" / f"{name}.spe", file)
    init = ["init", str(file), "-o", str(tmp_path / "e.yaml")]
    assert "no incident energy; expected Ei above 0. Give --ei" in refused(init, capsys)
    write_detectors(tmp_path / f"{name}.par", reduced.instrument)
    ei = ["--ei", f"{reduced.ei_meV:g}"]
    experiment, unknown = drafted(file, tmp_path, capsys, *ei)
    assert load_experiment(experiment, spared=OPEN).instrument.name == "unknown"
    assert {"psi", "instrument.name", "instrument.resolution"} <= set(unknown)
    fold = ["fold", str(file), "-e", str(experiment), "-o", str(tmp_path)]
    assert "psi is not in an SPE file; expected degrees. Give --psi" in refused(fold, capsys)
    assert "psi is nan; expected degrees" in refused([*fold, "--psi", "nan"], capsys)
    told = folded(file, experiment, capsys, "--psi", f"{reduced.psi_deg:g}")
    assert told["events"]["folded"] > 0
    par = tmp_path / f"{name}.par"
    told = refused(["fold", str(par), "-e", str(experiment), "-o", str(tmp_path)], capsys)
    assert "only tells where the detectors of an SPE file are" in told


def test_pixels_of_a_file_serve_as_those_of_its_instrument(
    virtual_scan: VirtualScan, tmp_path, capsys
):
    file = tmp_path / "a.nxspe"
    shutil.copyfile(virtual_scan.histograms[0], file)
    arrays, notes = {}, {}
    for name in ("ARCS", "NOWHERE", "unnamed", "without resolution"):
        with h5py.File(file, "r+") as changed:
            (entry,) = changed.values()
            del entry["instrument/name"]
            entry["instrument/name"] = np.array([b"" if name == "unnamed" else name.encode()])
            if name == "without resolution":
                del entry["beamsteer/resolution"]
        experiment = virtual_scan.experiment
        section = experiment.instrument.model_copy(update={"name": name})
        path = tmp_path / "e.yaml"
        dump_experiment(experiment.model_copy(update={"instrument": section}), path)
        told = folded(file, path, capsys)["notes"]
        notes[name] = [note for note in told if "energy resolution" in note]
        with np.load(tmp_path / "e.npz") as found:
            arrays[name] = {key: found[key] for key in ("S", "N", "D", "flat_exposure")}
    for name, found in arrays.items():
        for key, values in found.items():
            assert np.array_equal(values, arrays["ARCS"][key]), (name, key)
    told = {name: set(words) - set(notes["ARCS"]) for name, words in notes.items()}
    assert [len(words) for words in told.values()] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("only words\n", "starts with 'only words'; expected two whole numbers"),
        ("   2   3\n### Phi Grid\n 0.1 0.2\n", "line 3 is the last"),
    ],
)
def test_a_broken_spe_gives_no_draft_but_the_cause(text, words, tmp_path, capsys):
    file = tmp_path / "x.spe"
    file.write_text(text)
    told = refused(["init", str(file), "-o", str(tmp_path / "e.yaml"), "--ei", "30"], capsys)
    assert words in told
    assert not (tmp_path / "e.yaml").exists()


def test_an_spe_without_detectors_says_so_in_its_draft(tmp_path, capsys):
    good_nxspe(tmp_path / "a.nxspe")
    run = read_nxspe(tmp_path / "a.nxspe")
    file = tmp_path / "b.spe"
    write_spe(file, energy_edges_meV=run.energy_edges_meV, intensity=run.intensity, error=run.error)
    _, unknown = drafted(file, tmp_path, capsys, "--ei", "25")
    assert any("expected one PAR or PHX file" in words for words in unknown.values())


@pytest.mark.parametrize("structure", ["aluminium", "MnO"])
def test_a_crystal_without_force_constants_folds_with_its_stored_prior(structure, tmp_path, capsys):
    file = tmp_path / "counts.nxspe"
    good_nxspe(file)
    path, unknown = drafted(file, tmp_path, capsys, "-s", structure)
    described = load_experiment(path, spared=OPEN)
    assert described.parameters.prior == structure
    assert "parameters.prior" not in unknown
    assert build_measurement(described, tmp_path).model.values.any()


@pytest.mark.shared_data
@pytest.mark.parametrize("verb", ["fold", pytest.param("replay", marks=pytest.mark.slow)])
def test_a_real_sqw_file_drafts_its_mount_and_folds_run_by_run(verb, shared_data, tmp_path, capsys):
    """Every pixel of its 24 runs is accounted for."""
    file = shared_data / "sqw" / "rbmnf3_maps_ei35.sqw"
    options = ("--speed", "2", "--overhead", "30")
    path, unknown = drafted(file, tmp_path, capsys, *options)
    assert not {"sample.u", "sample.v", "psi", "motion.limits_deg"} & set(unknown)
    path.write_text(path.read_text().replace("resolution: TODO", "resolution: null"))
    experiment = load_experiment(path)
    assert (experiment.sample.u, experiment.sample.v) == ((1, 1, 0), (0, 0, 1))
    assert experiment.instrument.ei_meV == pytest.approx(34.96)
    energy = experiment.path.energy.model_copy(update={"min_meV": -0.5, "max_meV": 1.0, "bins": 6})
    wide = experiment.path.model_copy(update={"energy": energy})
    dump_experiment(experiment.model_copy(update={"path": wide}), path)
    output = tmp_path / verb
    ended = cli.run([verb, str(file), "-e", str(path), "-o", str(output), "--json"])
    assert ended == 0
    told = json.loads(capsys.readouterr().out)
    if verb == "replay":  # all of it is elastic
        assert told["trust"] == "cannot tell yet"
        assert told["reasons"][0].startswith("no cell of the path was measured outside")
    events = told["events"]
    assert events["read"] == sum(n for name, n in events.items() if name != "read") == 24_689
    assert [chunk["status"] for chunk in told["chunks"]] == ["folded"] * 24


def test_an_isis_file_of_two_energies_drafts_and_folds_the_one_that_is_chosen(tmp_path, capsys):
    """The drafted axis ends where the other energy begins; a wider one is set aside."""
    chopper = Chopper(frequency_Hz=150.0, distance_m=toy_instrument().source_to_sample_m - 2.0)
    low = dict(energies_of_chopper(chopper, 80.0, 50.0))[1]
    pixel, tof, which = two_energies(80.0, low)
    file = tmp_path / "a.nxs"
    write_isis(file, pixel, tof, chopper_Hz=150.0)
    arguments = ["init", str(file), "-o", str(tmp_path / "none.yaml")]
    assert "expected one to be chosen" in refused(arguments, capsys)
    path, unknown = drafted(file, tmp_path, capsys, "--ei", "80")
    assert any("other incident energies too" in told for told in unknown.values())
    both = folded(file, path, capsys)["events"]
    write_isis(file, pixel[which == 0], tof[which == 0], ei_log=80.0)
    alone = folded(file, path, capsys)["events"]
    assert both["folded"] == alone["folded"]
    assert sum(both.values()) - sum(alone.values()) == (which == 1).sum()  # outside, or no pixel
    write_isis(file, pixel, tof, chopper_Hz=150.0)
    experiment = load_experiment(path, spared=OPEN)
    energy = experiment.path.energy.model_copy(update={"max_meV": 79.9})
    wide = experiment.path.model_copy(update={"energy": energy})
    dump_experiment(experiment.model_copy(update={"path": wide}), path)
    said = refused(["fold", str(file), "-e", str(path), "-o", str(tmp_path / "b.npz")], capsys)
    assert "neutrons of other incident energies of the pulse mix in outside" in said


def written(folder: Path, files: list[Path], capsys: Any, *options: str) -> tuple[str, dict]:
    """Text of a draft, and what ``init`` tells of it."""
    path = folder / "sub" / "e.yaml"
    command = ["init", *map(str, files), "-o", str(path), "--force", "--json", *options]
    assert cli.run(command) == 0, capsys.readouterr().err
    return path.read_text(), json.loads(capsys.readouterr().out)


def test_nothing_is_guessed_and_every_open_value_has_its_line(
    virtual_scan: VirtualScan, tmp_path, capsys
):
    text, told = written(tmp_path, [virtual_scan.histograms[0]], capsys)
    lines = text.splitlines()
    for todo in told["todo"]:
        field = todo["field"].rpartition(".")[2]
        assert lines[todo["line"] - 1].strip().startswith(f"{field}: TODO"), todo
    assert {todo["field"] for todo in told["todo"]} == {
        "sample.structure", "sample.u", "sample.v", "sample.psi_offset_deg", "parameters.prior",
        "motion.limits_deg", "motion.speed_deg_per_s", "motion.overhead_s",
    }  # fmt: skip
    assert set(told["unknown"]) >= {todo["field"] for todo in told["todo"]}
    assert told["experiment"]["sample"]["u"] == "TODO"
    path = str(tmp_path / "sub" / "e.yaml")
    for verb, extra in (("replay", []), ("fold", []), ("train", None)):
        files = [] if extra is None else [str(virtual_scan.histograms[0]), "-e"]
        said = refused([verb, *files, path, "-o", str(tmp_path / "o")], capsys)
        assert "e.yaml: line 6: sample.u is TODO; expected three numbers, hkl along" in said
        assert ("motion.limits_deg is TODO" in said) == (verb != "fold")
    assert cli.run(["inspect", path]) == 3
    assert "line 6: sample.u is TODO" in " ".join(capsys.readouterr().out.split())


def test_a_scan_tells_its_limits_and_pauses_and_options_tell_the_rest(
    virtual_scan: VirtualScan, tmp_path, capsys
):
    options = ["-s", "germanium", "--u", "1,1,0", "--v", "0,0,1", "--psi-offset", "0.5"]
    text, told = written(tmp_path, list(virtual_scan.events), capsys, *options, "--speed", "2")
    assert told["todo"] == []
    described = load_experiment(tmp_path / "sub" / "e.yaml")
    assert described.motion.limits_deg == (5.0, 88.0)
    assert described.motion.overhead_s == pytest.approx(30.0, abs=0.2)
    assert described.sample.psi_offset_deg == 0.5
    assert described.parameters.prior == "germanium"
    assert text.count("#") > 10
    assert told["next"][0].startswith("beamsteer align ")
    assert "*.nxs.h5" in told["next"][0]
    odd = [virtual_scan.events[0], virtual_scan.events[0]]
    _, told = written(tmp_path, odd, capsys, *options)
    assert any("comes more than once" in note for note in told["unknown"].values())


def test_a_structure_file_and_the_prior_beside_it_are_named_from_the_draft(
    virtual_scan: VirtualScan, tmp_path, capsys
):
    (tmp_path / "POSCAR").write_text(POSCAR)
    given = ["-s", str(tmp_path / "POSCAR")]
    _, told = written(tmp_path, [virtual_scan.histograms[0]], capsys, *given)
    assert told["experiment"]["sample"]["structure"] == "../POSCAR"
    assert told["experiment"]["parameters"]["prior"] == "TODO"
    assert "beamsteer prior" in told["unknown"]["parameters.prior"]
    (tmp_path / "prior.yaml").write_text("of no matter here")
    _, told = written(tmp_path, [virtual_scan.histograms[0]], capsys, *given)
    assert told["experiment"]["parameters"]["prior"] == "../prior.yaml"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--u", "1,1"], "--u is '1,1'; expected three numbers"),
        (["--u", "1,1,0", "--v", "2,2,0"], "not parallel to u"),
        (["--limits", "40:-40"], "--limits is '40:-40'; expected lower:upper"),
        (["--prior", "none.yaml"], "--prior is 'none.yaml'; expected the name of a stored prior"),
        (["-s", "none.cif"], "none.cif"),
        (["--psi-offset", "nan"], "psi_offset_deg is 'nan'"),
        (["--speed", "inf"], "speed_deg_per_s is 'inf'"),
    ],
)
def test_a_wrong_option_of_init_ends_with_2_and_writes_nothing(
    options, words, virtual_scan: VirtualScan, tmp_path, capsys
):
    path = tmp_path / "e.yaml"
    command = ["init", str(virtual_scan.histograms[0]), "-o", str(path), *options]
    assert words in refused(command, capsys)
    assert not path.exists()
