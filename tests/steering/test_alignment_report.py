"""`beamsteer align` on files of a virtual scan with a known mount, and on the real crystal."""

from __future__ import annotations

import json

import numpy as np
import pytest

from consumers.sns_event_file import write_sns_events
from simulations.crystal_file import read_crystal
from simulations.instruments import instrument_idf, load_instrument
from simulations.virtual import (
    VirtualExperiment,
    bragg_rate,
    elastic_rate,
    lab_from_crystal,
    lattice_of,
    time_of_flight,
)
from steering.alignment_report import align_files, corrected
from steering.cli import run
from steering.experiment_file import dump_experiment, load_experiment
from tests.simulations.test_alignment import germanium_model
from tests.steering.virtual_scan import EXAMPLES

OFFSET, GL = 1.7, -0.5
INSTRUMENT = load_instrument("ARCS/4")


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Twelve files of elastic scattering, the crystal off by 1.7 and -0.5 degrees."""
    folder = tmp_path_factory.mktemp("scan")
    experiment = VirtualExperiment(
        model=germanium_model(),
        phi=germanium_model().values,
        instrument=INSTRUMENT,
        u=(1, 1, 0),
        v=(0, 0, 1),
        ei_meV=40.0,
        temperature_K=5.0,
        flux=1500.0,
        bragg_scale=1.0,
        psi_offset_deg=OFFSET,
        gl_deg=GL,
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
            tof_us=time_of_flight(experiment, pixel, energy),
            ei_meV=40.0,
            psi_deg=float(psi),
            proton_charge=1e-3,
            minutes=1.0,
            run_number=str(100 + i),
            temperature_K=5.0,
            start_time_ns=1_700_000_000_000_000_000 + i * 90_000_000_000,
            title="elastic",
            psi_log="s1",
        )
    return files


def test_a_mount_that_is_not_the_experiments_raises_an_alarm(scan, capsys, tmp_path):
    files = [str(f) for f in scan]
    fixed = tmp_path / "corrected.yaml"
    command = ["align", *files, "-e", str(EXAMPLES / "ge-arcs.yaml"), "--json"]
    assert run([*command, "--correct", str(fixed)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["alarm"] is True
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

    assert run(["align", *files, "-e", str(fixed)]) == 0
    assert "no alarm" in capsys.readouterr().out
    sample = load_experiment(fixed).sample
    assert sample.psi_offset_deg == pytest.approx(OFFSET, abs=0.1)
    assert sample.gl_deg == pytest.approx(GL, abs=0.1)


def test_a_structure_alone_gives_directions_and_nothing_to_correct(scan):
    report = align_files(scan, read_crystal("germanium"))
    assert report.method == "spots"
    assert not report.alarms
    assert {check.quantity for check in report.checks} == {"a", "drift of psi"}
    UB = np.asarray(report.UB)
    a = 5.64633
    np.testing.assert_allclose(UB @ UB.T, np.eye(3) / a**2, atol=3e-4)
    with pytest.raises(ValueError, match="nothing to correct"):
        corrected(load_experiment(EXAMPLES / "ge-arcs.yaml"), report)


def test_one_file_or_none_says_what_is_missing(scan, capsys):
    assert run(["align", str(scan[0])]) == 2
    assert "--experiment nor --structure" in capsys.readouterr().err
    assert run(["align", str(scan[0]), "-s", "germanium", "--propagation", "half"]) == 2
    assert "three numbers such as 0.5,0.5,0.5" in capsys.readouterr().err


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
    assert run([*command, str(tmp_path / "turned.yaml")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["alarm"] is True
    assert told["alarms"][0].startswith("psi offset is")
