"""`beamsteer align` on files of a virtual scan with a known mount, and on the real crystal."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from consumers.fold import EventBlock
from consumers.recorded import recorded_source, write_sns_events
from simulations.crystal import read_crystal, structure_notes
from simulations.errors import InputError
from simulations.instrument import instrument_idf, load_instrument
from simulations.virtual import VirtualExperiment, lattice_of
from simulations.virtual.experiment import lab_from_crystal
from simulations.virtual.sampling import bragg_rate, elastic_rate, time_of_flight
from steering.cli import run
from steering.cli._terminal import ALARM
from steering.experiment import dump_experiment, load_experiment
from steering.report import align_files, alignment_first, corrections_of
from steering.report.check import Check
from tests.simulations.instrument.test_alignment import germanium_model
from tests.steering.virtual_scan import EXAMPLES

OFFSET, GL = 1.7, -0.5
INSTRUMENT = load_instrument("ARCS/4")


def write_scan(
    folder: Path,
    *,
    psi_offset_deg: float = 0.0,
    gl_deg: float = 0.0,
    ei_meV: float = 40.0,
    t0_us: float = 0.0,
    monitors: tuple[float, ...] = (),
) -> list[Path]:
    """Twelve files of elastic scattering that log an Ei of 40 meV and a T0 of 0, whatever holds.

    Monitors stand at distances from the source, in metres.
    """
    experiment = VirtualExperiment(
        model=germanium_model(),
        phi=germanium_model().values,
        instrument=INSTRUMENT,
        u=(1, 1, 0),
        v=(0, 0, 1),
        ei_meV=ei_meV,
        temperature_K=5.0,
        flux=1500.0,
        bragg_scale=1.0,
        psi_offset_deg=psi_offset_deg,
        gl_deg=gl_deg,
    )
    lattice = lattice_of(experiment)
    rng = np.random.default_rng(1)
    files = []
    for i, psi in enumerate(np.arange(0, 60, 5.0)):
        turn = lab_from_crystal(experiment, psi)
        rate = bragg_rate(experiment, lattice, turn) + elastic_rate(experiment, lattice, turn)
        pixel = np.repeat(np.arange(INSTRUMENT.n_pixels), rng.poisson(rate)).astype(np.int32)
        energy = rng.normal(0, 0.4, len(pixel))
        files.append(folder / f"ge_{i:02d}.nxs.h5")
        write_sns_events(
            files[-1],
            idf_xml=instrument_idf("ARCS/4"),
            instrument_name="ARCS/4",
            detector_id=INSTRUMENT.detector_id[pixel],
            tof_us=time_of_flight(experiment, pixel, energy) + t0_us,
            ei_meV=40.0,
            psi_deg=float(psi),
            proton_charge=1e-3,
            minutes=1.0,
            run_number=str(100 + i),
            temperature_K=5.0,
            start_time_ns=1_700_000_000_000_000_000 + i * 90_000_000_000,
            title="elastic",
            ids_per_bank=1_000_000,
            psi_log="s1",
        )
        speed = np.sqrt(ei_meV / 5.2270375e-6)  # metres per second; E = m v^2 / 2
        with h5py.File(files[-1], "a") as file:
            for k, metres in enumerate(monitors):
                group = file["entry"].create_group(f"monitor{k + 1}")
                group.attrs["NX_class"] = "NXmonitor"
                group["distance"] = [metres - INSTRUMENT.source_to_sample_m]
                passed = rng.normal(t0_us + 1e6 * metres / speed, 12.0, 2000)
                group["event_time_offset"] = passed.astype(np.float32)
    return files


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """The crystal off by 1.7 and -0.5 degrees; no monitors."""
    return write_scan(tmp_path_factory.mktemp("scan"), psi_offset_deg=OFFSET, gl_deg=GL)


def test_a_mount_that_is_not_the_experiments_raises_an_alarm(scan, capsys, tmp_path):
    files = [str(f) for f in scan]
    fixed = tmp_path / "corrected.yaml"
    command = ["align", *files, "-e", str(EXAMPLES / "ge-arcs.yaml"), "--json"]
    assert run(command) == ALARM
    before = json.loads(capsys.readouterr().out)
    assert run([*command, "--correct", str(fixed)]) == 0  # every alarm is answered
    told = json.loads(capsys.readouterr().out)
    assert told == before
    assert told["alarm"] is True
    assert told["mended"] == told["alarms"]
    assert told["method"] == "spots"
    checks = {check["quantity"]: check for check in told["checks"]}
    for name, truth in (("psi offset", OFFSET), ("gl", GL), ("gs", 0.0)):
        assert abs(checks[name]["found"] - truth) < 3.5 * checks[name]["sigma"]
    assert checks["psi offset"]["agrees"] is False
    assert checks["gl"]["agrees"] is False
    assert checks["gs"]["agrees"] is True
    assert checks["a"]["agrees"] is True
    assert checks["drift of psi"]["agrees"] is True
    assert any(alarm.startswith("psi offset is 1.") for alarm in told["alarms"])
    assert {one["reason"] for one in told["beam"]} == {"not recorded: no monitors"}
    assert checks["T0 (elastic line)"]["agrees"] is True  # the one that the files log

    assert run(["align", *files, "-e", str(fixed)]) == 0
    assert "no alarm" in capsys.readouterr().out
    described = load_experiment(fixed)
    sample, off = described.sample, described.missetting
    assert sample.psi_offset_deg == pytest.approx(OFFSET, abs=0.1)
    assert sample.gl_deg == pytest.approx(GL, abs=0.1)
    # fits of the corrected experiment know how well the mount was found
    assert 0.02 <= off.psi_offset_deg == off.tilt_deg < 0.1
    assert abs(sample.psi_offset_deg - OFFSET) < 3.5 * off.psi_offset_deg
    assert abs(sample.gl_deg - GL) < 3.5 * off.tilt_deg
    assert 0.02 <= off.lattice_percent < 0.2
    assert (off.ei_percent, off.t0_us) == (0.5, 0.5)  # no monitors: as usual


def test_a_structure_alone_gives_directions_and_nothing_to_correct(scan):
    report = align_files(scan, read_crystal("germanium"))
    assert report.method == "spots"
    assert not report.alarms
    assert {check.quantity for check in report.checks} == {"a", "drift of psi", "T0 (elastic line)"}
    UB = np.asarray(report.UB)
    a = 5.64633
    np.testing.assert_allclose(UB @ UB.T, np.eye(3) / a**2, atol=3e-4)
    with pytest.raises(InputError, match="nothing to correct"):
        corrections_of(report)


def test_the_isotopes_of_the_sample_section_are_those_of_the_reflections(scan, tmp_path, capsys):
    experiment = load_experiment(EXAMPLES / "ge-arcs.yaml")
    sample = experiment.sample.model_copy(update={"isotopes": {"Ge": "28Si"}})
    dump_experiment(experiment.model_copy(update={"sample": sample}), tmp_path / "x.yaml")
    assert run(["align", *map(str, scan), "-e", str(tmp_path / "x.yaml")]) == 2
    assert "isotopes of Ge are '28Si'; expected isotopes of Ge" in capsys.readouterr().err


def test_one_file_or_none_says_what_is_missing(scan, capsys):
    assert run(["align", str(scan[0])]) == 2
    assert "--experiment nor --structure" in capsys.readouterr().err
    assert run(["align", str(scan[0]), "-s", "germanium", "--propagation", "half"]) == 2
    assert "three numbers such as 0.5,0.5,0.5" in capsys.readouterr().err


MONITORS = (11.825, 18.5)  # where ARCS has them
POSCAR = """diamond
5.64633291
1 0 0
0 1 0
0 0 1
Ge
8
Direct
0 0 0
0 0.5 0.5
0.5 0 0.5
0.5 0.5 0
0.25 0.25 0.25
0.25 0.75 0.75
0.75 0.25 0.75
0.75 0.75 0.25
"""


@pytest.mark.parametrize(
    ("truth", "wrong"),
    [
        ({}, set()),
        ({"ei_meV": 41.2}, {"Ei (monitors)"}),
        ({"t0_us": 30.0}, {"T0 (elastic line)"}),
        ({"ei_meV": 41.2, "t0_us": 30.0}, {"Ei (monitors)", "T0 (monitors)"}),
    ],
)
def test_a_wrong_ei_or_t0_raises_an_alarm_and_is_corrected(truth, wrong, tmp_path, capsys):
    files = write_scan(tmp_path, monitors=MONITORS, **truth)
    names, example, fixed = [str(f) for f in files], EXAMPLES / "ge-arcs.yaml", tmp_path / "x.yaml"
    command = ["align", *names, "--json", "-e"]
    ended = run([*command, str(example), "--correct", str(fixed)])
    told = json.loads(capsys.readouterr().out)
    left = set(told["alarms"]) - set(told["mended"])  # with a wrong Ei no spot is at its place
    assert ended == (ALARM if left else 0)
    assert bool(left) == bool(wrong)
    assert all("agree with no mount" in one or "one of several" in one for one in left)
    checks = {check["quantity"]: check for check in told["checks"]}
    beam = {name: check for name, check in checks.items() if name[:2] in ("Ei", "T0")}
    assert {name for name, check in beam.items() if check["agrees"] is False} == wrong
    assert {name for name in wrong if any(a.startswith(name) for a in told["alarms"])} == wrong
    for name, check in beam.items():
        held = truth.get("ei_meV", 40.0) if name.startswith("Ei") else truth.get("t0_us", 0.0)
        assert abs(check["found"] - held) < 4 * check["sigma"]
        assert check["sigma"] < (0.2 if name.startswith("Ei") else 20.0)
    changed = {
        f"{part}.{name}" for part in told["corrections"] for name in told["corrections"][part]
    }
    assert ("source.t0_us" in changed) == bool(wrong)
    assert ("source.ei_meV" in changed) == ("instrument.ei_meV" in changed) == ("ei_meV" in truth)

    assert run([*command, str(fixed)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["alarms"] == []
    described = load_experiment(fixed)
    assert described.instrument.ei_meV == pytest.approx(truth.get("ei_meV", 40.0), rel=0.01)
    assert (described.source.t0_us is not None) == bool(wrong)
    # what folds is what was corrected, and the elastic line lies where it must
    lines = [
        np.median(p.energy_transfer_meV)
        for m in recorded_source(
            names, run="r", ei_meV=described.source.ei_meV, t0_us=described.source.t0_us
        ).messages()
        if isinstance(p := m.payload, EventBlock)
    ]
    assert np.abs(lines).max() < 0.1


def test_an_experiment_with_another_ei_takes_that_of_files_and_monitors(tmp_path, capsys):
    files = [str(f) for f in write_scan(tmp_path, monitors=MONITORS)]
    described = load_experiment(EXAMPLES / "ge-arcs.yaml")
    other = described.instrument.model_copy(update={"ei_meV": 38.5})
    wrong, fixed = tmp_path / "wrong.yaml", tmp_path / "fixed.yaml"
    dump_experiment(described.model_copy(update={"instrument": other}), wrong)
    assert run(["align", *files, "-e", str(wrong), "--correct", str(fixed)]) == 0
    assert "instrument.ei_meV = 40" in " ".join(capsys.readouterr().out.split())
    found = load_experiment(fixed)
    assert (found.instrument.ei_meV, found.source.ei_meV) == (40.0, None)
    assert run(["align", *files, "-e", str(fixed)]) == 0
    assert "no alarm" in capsys.readouterr().out


def test_an_ei_that_no_reader_would_take_is_an_alarm_without_a_correction(tmp_path):
    files = write_scan(tmp_path, monitors=MONITORS, ei_meV=43.0)
    report = align_files(
        files, read_crystal("germanium"), experiment=load_experiment(EXAMPLES / "ge-arcs.yaml")
    )
    assert any("more than 5% from the 40 meV" in alarm for alarm in report.alarms)
    assert not {"instrument", "source"} & set(report.corrections)


def test_what_is_certain_but_small_is_a_note_and_no_alarm(tmp_path):
    files = write_scan(tmp_path, monitors=MONITORS, ei_meV=40.36)
    report = align_files(files[6:9], read_crystal("germanium"))
    check = next(c for c in report.checks if c.quantity.startswith("Ei"))
    assert check.agrees is True
    assert abs(check.sigmas or 0.0) > 3.0
    assert any(note.startswith("Ei (monitors) is") for note in report.notes)
    assert not any(alarm.startswith("Ei") for alarm in report.alarms)


def test_a_difference_must_be_certain_and_matter_to_disagree() -> None:
    def judged(found: float, sigma: float) -> bool | None:
        check = Check(
            quantity="Ei", unit="meV", found=found, sigma=sigma, expected=40.0, matters=0.4
        )
        return check.agrees

    assert judged(41.0, 0.1) is False
    assert judged(41.0, 0.5) is True
    assert judged(40.3, 0.01) is True
    assert judged(np.float64(41.0), np.float64(0.1)) is False


def test_a_wrong_lattice_constant_is_an_alarm(scan):
    crystal = read_crystal("germanium")
    wide = replace(
        crystal,
        lattice=1.006 * crystal.lattice,
        conventional_lattice=1.006 * crystal.conventional_lattice,
    )
    assert any(alarm.startswith("a is 5.64") for alarm in align_files(scan, wide).alarms)


def test_a_single_orientation_does_not_tell_the_sense(scan):
    report = align_files(scan[4:5], read_crystal("germanium"))
    assert report.method == "spots"
    assert any("do not tell the mount from another" in alarm for alarm in report.alarms)
    assert report.corrections == {}


def test_a_left_handed_log_is_not_corrected_by_an_offset(scan, tmp_path):
    files = [tmp_path / file.name for file in scan]
    for source, target in zip(scan, files, strict=True):
        shutil.copy(source, target)
        with h5py.File(target, "a") as file:
            for name in ("value", "average_value"):
                file[f"entry/DASlogs/s1/{name}"][...] *= -1
    report = align_files(
        files, read_crystal("germanium"), experiment=load_experiment(EXAMPLES / "ge-arcs.yaml")
    )
    assert any("left-handed" in alarm for alarm in report.alarms)
    assert "sample" not in report.corrections


def test_correct_prints_first_and_writes_a_file_that_loads_from_its_new_folder(
    scan, tmp_path, capsys
):
    home, away = tmp_path / "home", tmp_path / "deep" / "away" / "fixed.yaml"
    home.mkdir()
    (home / "POSCAR").write_text(POSCAR)
    text = (EXAMPLES / "ge-arcs.yaml").read_text()
    (home / "x.yaml").write_text(text.replace("structure: germanium", "structure: POSCAR", 1))
    names = [str(f) for f in scan]
    assert run(["align", *names, "-e", str(home / "x.yaml"), "--correct", str(away)]) == 0
    assert load_experiment(away).sample.structure == str((home / "POSCAR").resolve())
    assert run(["align", *names, "-e", str(away)]) == 0
    assert "no alarm" in capsys.readouterr().out

    one = tmp_path / "one.yaml"
    assert (
        run(["align", names[0], "-e", str(EXAMPLES / "ge-arcs.yaml"), "--correct", str(one)]) == 2
    )
    shown = capsys.readouterr()
    assert "ALARM" in shown.out
    assert "nothing to correct" in shown.err
    assert "u, v and offset are one of several" in " ".join(shown.err.split())  # why not
    assert not one.exists()


TURNED = [[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 0]], [[1, 1, 1], [1, -1, 0]]


@pytest.mark.parametrize("wrong", [None, *TURNED])
def test_a_mount_that_is_open_or_of_another_plane_is_written_with_plain_directions(
    wrong, scan, tmp_path, capsys
):
    """Whatever u and v the file had, the corrected one puts the crystal where it is."""
    path, fixed = tmp_path / "e.yaml", tmp_path / "new" / "fixed.yaml"
    text = (EXAMPLES / "ge-arcs.yaml").read_text()
    u, v = ("TODO", "TODO") if wrong is None else map(str, wrong)
    text = text.replace("u: [1, 1, 0]", f"u: {u}").replace("v: [0, 0, 1]", f"v: {v}")
    if wrong is None:
        text = text.replace("psi_offset_deg: 0", "psi_offset_deg: TODO")
        text = text.replace("speed_deg_per_s: 2", "speed_deg_per_s: TODO")
    path.write_text(text)
    files = [str(f) for f in scan]
    assert run(["align", *files, "-e", str(path), "--correct", str(fixed)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert ("another plane is horizontal" in shown) == (wrong is not None)
    assert "# along the beam at psi = 0" in fixed.read_text()  # comments stay
    assert ("still open" in shown) == (wrong is None)
    described = load_experiment(fixed, spared=["motion"])
    sample = described.sample
    assert (sample.u, sample.v) == ((1, 1, 0), (0, 0, 1))
    assert sample.psi_offset_deg == pytest.approx(OFFSET, abs=0.1)
    assert sample.gl_deg == pytest.approx(GL, abs=0.1)
    assert run(["align", *files, "-e", str(fixed)]) == 0
    assert "no alarm" in capsys.readouterr().out


GERMANIUM_CIF = """data_ge
_cell_length_a 5.652
_cell_length_b 5.652
_cell_length_c 5.652
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F d -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Ge1 Ge 0 0 0
"""


def test_what_was_decided_of_the_structures_file_is_told(scan, tmp_path, capsys):
    path = tmp_path / "ge.cif"
    path.write_text(GERMANIUM_CIF)
    decided = structure_notes(path)
    assert decided
    run(["align", str(scan[0]), "-s", str(path), "--json"])
    assert set(decided) <= set(json.loads(capsys.readouterr().out)["notes"])


def test_a_run_is_blamed_on_its_alignment_before_its_model(scan):
    crystal = read_crystal("germanium")
    described = load_experiment(EXAMPLES / "ge-arcs.yaml")
    off = alignment_first(scan, described, crystal)
    assert off.code == "off"
    assert any(word.startswith("psi offset is 1.") for word in off.words)
    right = described.sample.model_copy(update={"psi_offset_deg": OFFSET, "gl_deg": GL})
    agrees = alignment_first(scan, described.model_copy(update={"sample": right}), crystal)
    assert agrees.code == "agrees"
    assert "it is the model" in agrees.words[0]
    unknown = alignment_first(scan[:1], described, crystal)
    assert unknown.code == "unknown"
    assert "one of several" in unknown.words[1]


@pytest.mark.shared_data
def test_real_files_without_their_magnetic_reflections_are_never_confident(shared_data, capsys):
    files = [str(f) for f in sorted((shared_data / "hyspec-mno").glob("*.nxs.h5"))]
    for some in (files[:1], files[:2], files):
        assert run(["align", *some, "-s", "MnO"]) == ALARM
        shown = " ".join(capsys.readouterr().out.split())
        assert "no alarm" not in shown
        assert "give --propagation" in shown
        assert "\u00b1 0.5 degrees" not in shown
        assert "a guess, see ALARM" in shown
        assert "Ei (monitors) is 3." in shown  # certain, and too small to matter
    assert run(["align", *files[:2], "-s", "MnO", "--propagation", "0.5,0.5,0.5"]) == ALARM
    assert "rests on 2 orientation(s)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.shared_data
def test_one_reduced_file_shows_no_empty_table_and_no_error_of_a_guess(shared_data, capsys):
    file = shared_data / "nxspe" / "CNCS_7860_coarse.nxspe"
    assert run(["align", str(file), "-s", "MnO"]) == ALARM
    shown = capsys.readouterr().out
    assert "sigma away" not in shown
    assert "degrees" not in shown
    assert "ALARM" in shown


@pytest.mark.shared_data
def test_the_real_crystal_agrees_with_its_experiment_and_its_monitor(shared_data, capsys, tmp_path):
    files = [str(f) for f in sorted((shared_data / "hyspec-mno").glob("*.nxs.h5"))]
    example = EXAMPLES / "mno-hyspec.yaml"
    command = ["align", *files, "--propagation", "0.5,0.5,0.5", "--json", "-e"]
    assert run([*command, str(example)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["alarm"] is False
    assert told["method"] == "intensity"  # the spots are cuts through a broad mosaic
    checks = {check["quantity"]: check for check in told["checks"]}
    assert abs(checks["psi offset"]["found"]) < 3.0
    assert 0.5 <= checks["psi offset"]["sigma"] < 4.0
    energy = checks["Ei (monitors)"]
    assert energy["found"] == pytest.approx(25.0, rel=0.01)
    assert energy["sigma"] < 0.1
    assert all(one["monitors"][0]["name"] == "monitor2" for one in told["beam"])

    described = load_experiment(example)
    turned = described.sample.model_copy(update={"psi_offset_deg": 20.0})
    dump_experiment(described.model_copy(update={"sample": turned}), tmp_path / "turned.yaml")
    assert run([*command, str(tmp_path / "turned.yaml")]) == ALARM
    told = json.loads(capsys.readouterr().out)
    assert told["alarm"] is True
    assert told["alarms"][0].startswith("psi offset is")
