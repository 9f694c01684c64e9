from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import structlog

from steering import cli
from steering.cli.demo import minutes_saved, true_values
from steering.cli.invert_powder import print_powder
from steering.cli.predict import print_prediction
from steering.cli.simulate import orientations
from steering.experiment_file import dump_experiment, load_experiment
from steering.run_store import save_snapshot
from tests.steering.fabricated import snapshot
from tests.steering.virtual_scan import VirtualScan, virtual_scan

__all__ = ["virtual_scan"]

ROOT = Path(__file__).resolve().parents[2]
VERBS = (
    "init",
    "inspect",
    "doctor",
    "simulate",
    "replay",
    "fold",
    "align",
    "phonons",
    "spectrum",
    "prior",
    "predict",
    "invert-powder",
    "serve",
    "consume",
    "model-server",
    "record",
    "train",
    "demo",
)


def beamsteer(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "steering.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_names_every_verb_and_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from steering import cli\n"
        "status = cli.run(['--help'])\n"
        "heavy = {'torch', 'numba', 'numpy', 'h5py', 'matplotlib', 'fastapi', 'pymatgen', "
        "'phonopy', 'pydantic'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)), 'status:', status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "heavy: [] status: 0" in done.stdout
    for verb in VERBS:
        assert verb in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_json(verb, capsys):
    assert cli.run([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example: beamsteer {verb}" in " ".join(shown.split())
    assert "--json" in shown


def bad_field(tmp_path: Path) -> Path:
    text = (ROOT / "examples" / "ge-arcs.yaml").read_text()
    path = tmp_path / "wrong.yaml"
    path.write_text(text.replace("limits_deg: [0, 120]", "limits_deg: [40, -40]"))
    return path


@pytest.mark.parametrize("verb", ["replay", "fold"])
def test_a_wrong_field_ends_with_2_and_one_clear_line(verb, tmp_path, capsys):
    (tmp_path / "a.nxspe").write_bytes(b"")
    arguments = [verb, str(tmp_path / "a.nxspe"), "-e", str(bad_field(tmp_path))]
    assert cli.run([*arguments, "-o", str(tmp_path)]) == cli.BAD_INPUT
    told = capsys.readouterr()
    assert told.out == ""
    assert (
        "error: wrong.yaml: motion.limits_deg is [40, -40]; expected lower < upper. Swap the two."
        in told.err
    )
    assert "Traceback" not in told.err


def test_a_file_set_aside_is_told_once_and_the_last_line_counts(
    virtual_scan: VirtualScan, tmp_path, capsys
):
    dump_experiment(virtual_scan.experiment, tmp_path / "e.yaml")
    bad = tmp_path / "bad.nxspe"
    bad.write_bytes(b"junk")
    files = [str(virtual_scan.histograms[0]), str(bad)]
    fold = ["fold", *files, "-e", str(tmp_path / "e.yaml"), "-o", str(tmp_path / "o")]
    before = structlog.get_config()["processors"]
    for options in ([], ["--powder"]):
        assert cli.run([*fold, *options]) == 0
        told = capsys.readouterr()
        assert (told.out + told.err).count("no HDF5 file") == 1
        assert (told.out + told.err).count(str(bad)) == 1
        assert told.out.splitlines()[-1].endswith("; 1 of 2 files set aside")
    assert structlog.get_config()["processors"] is before
    assert cli.run([*fold[:2], *fold[3:]]) == 0
    assert "set aside" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "No such command"),
        (["replay"], "Missing argument"),
        (["replay", "none.nxspe", "-e", "none.yaml"], "beamsteer init"),
        (["replay", "none.nxspe", "-e", "examples/ge-arcs.yaml"], "none.nxspe: is no file"),
        (["init", "none.nxspe"], "none.nxspe: is no file"),
        (["simulate", "examples/ge-arcs.yaml", "-o", "x", "--psi", "a"], "start:stop:step"),
        (["simulate", "examples/ge-arcs.yaml", "-o", "x", "--format", "xml"], "nxspe or sns"),
        (["predict", "germanium", "--ei", "-4"], "ei_meV is -4"),
        (["predict", "germanium", "--route", "guess"], "route is 'guess'; expected one of"),
        (["serve", "none"], "none: is not there"),
        (["serve", "--host", "0.0.0.0", "--check"], "expected loopback, or a token"),  # noqa: S104
    ],
)
def test_bad_input_ends_with_2_and_says_what_to_do(arguments, says, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("BEAMSTEER_TOKEN", raising=False)
    assert cli.run(arguments) == cli.BAD_INPUT
    assert says in " ".join(capsys.readouterr().err.split())


def test_a_fault_of_ours_ends_with_1_and_asks_for_a_report(capsys, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("steering.cli.doctor.examine", broken)
    assert cli.run(["doctor"]) == cli.INTERNAL
    told = capsys.readouterr().err
    assert "RuntimeError: boom" in told
    assert "BEAMSTEER_DEBUG=1" in told


def test_doctor_reports_every_check_as_json():
    done = beamsteer("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ready"] else 2)
    names = [finding["name"] for finding in report["findings"]]
    assert names[:3] == ["python", "packages", "force fields"]
    assert {finding["state"] for finding in report["findings"]} <= {"ok", "optional", "broken"}
    for finding in report["findings"]:
        assert finding["state"] == "ok" or finding["remedy"] or "nothing needs" in finding["found"]


def test_serve_shows_stored_runs_and_stops_by_itself_when_asked(tmp_path):
    save_snapshot(snapshot("stored", status="finished"), tmp_path / "snapshot.npz")
    done = beamsteer("serve", str(tmp_path), "--port", "0", "--check", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["runs"] == ["stored"]
    assert told["url"].startswith("http://127.0.0.1:")


def test_serve_answers_until_it_is_asked_to_stop(tmp_path):
    save_snapshot(snapshot("stored"), tmp_path / "snapshot.npz")
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "steering.cli", "serve", str(tmp_path), "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split("at ")[1].split(";")[0]
        assert httpx.get(f"{url}runs").json()["runs"][0]["run_id"] == "stored"
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.shared_data
def test_init_drafts_an_experiment_from_a_recorded_file(shared_data, tmp_path, capsys):
    recorded = shared_data / "hyspec-mno" / "HYS_178921.nxs.h5"
    output = tmp_path / "experiment.yaml"
    arguments = ["init", str(recorded), "-o", str(output), "--structure", "MnO"]
    assert cli.run([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"sample.u, sample.v", "sample.psi_offset_deg", "motion"} <= set(told["unknown"])
    assert "sample.structure" not in told["unknown"]
    drafted = load_experiment(output)
    assert drafted.instrument.name == "HYSPEC"
    assert drafted.instrument.ei_meV == pytest.approx(25, abs=0.5)
    assert drafted.sample.temperature_K == pytest.approx(4.1, abs=1)
    assert cli.run(arguments) == cli.BAD_INPUT  # it would overwrite
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n truncated", b"hello"])
def test_init_refuses_a_file_that_is_no_recording(tmp_path, capsys, content):
    path = tmp_path / "x.nxspe"
    path.write_bytes(content)
    assert cli.run(["init", str(path), "-o", str(tmp_path / "e.yaml")]) == cli.BAD_INPUT
    assert "x.nxspe: is no recorded file" in capsys.readouterr().err
    assert not (tmp_path / "e.yaml").exists()


def fake_engines(monkeypatch) -> None:
    """Stand-ins that keep to the engines' signatures; the real ones take minutes."""

    def simulate(experiment, *, experiment_dir, output, psi_deg, minutes, seed, formats, progress):
        for i, _ in enumerate(psi_deg):
            (output / f"ge_{i}.nxs.h5").write_bytes(b"")
            (output / f"ge_{i}.nxspe").write_bytes(b"")
        progress("simulated", 1.0)
        return {"parameters": snapshot().result["parameters"]}  # type: ignore[index]

    def replay(
        files, experiment, *, experiment_dir, output, speed, store, run_id, psi_deg, progress
    ):
        assert {path.suffix for path in files} == {".h5"}  # one format, or events count twice
        store.publish(snapshot(run_id, status="finished"))
        progress("replayed", 1.0)
        return snapshot().result

    def invert_powder(spectrum, *, temperature_K, progress):
        return {
            "spectrum": spectrum,
            "temperature_K": temperature_K,
            "ei_meV": 50.0,
            "parameters": [{"name": "1NN xy", "unit": "eV", "value": -0.7, "sigma": 0.1}],
            "error_bars": "Scaled by the misfit.",
        }

    monkeypatch.setattr("steering.simulate.simulate", simulate)
    monkeypatch.setattr("steering.runs.replay", replay)
    monkeypatch.setattr("model_server.powder_inversion.invert_powder", invert_powder)


def test_the_demonstration_ends_with_truth_estimate_advice_and_where_to_look(
    tmp_path, capsys, monkeypatch
):
    fake_engines(monkeypatch)
    assert cli.run(["demo", "-o", str(tmp_path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("truth", "holds truth", "psi, degrees", "would save", "folded.png", "make serve"):
        assert part in shown
    assert "Measured aluminium" in shown
    assert (tmp_path / "replay" / "folded.png").read_bytes().startswith(b"\x89PNG")
    assert cli.run(["serve", str(tmp_path), "--port", "0", "--check"]) == 0
    assert "runs: demo" in capsys.readouterr().out


def test_the_demonstration_speaks_json(tmp_path, capsys, monkeypatch):
    fake_engines(monkeypatch)
    assert cli.run(["demo", "-o", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"truth", "result", "powder", "url"}


def test_replay_leaves_what_serve_and_people_look_at(tmp_path, capsys, monkeypatch):
    fake_engines(monkeypatch)
    recorded = tmp_path / "a.nxs.h5"
    recorded.write_bytes(b"")
    output = tmp_path / "out"
    output.mkdir()
    arguments = ["replay", str(recorded), "-e", str(ROOT / "examples" / "ge-arcs.yaml")]
    assert cli.run([*arguments, "-o", str(output), "--serve", "--port", "0"]) == 0
    assert "psi is NaN" in capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == {"folded.png", "snapshot.npz"}
    assert cli.run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trusted"] is True


# --- small pieces ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "angles"),
    [
        ("0,30,60", [0, 30, 60]),
        ("0:120:60", [0, 60, 120]),
        ("10:-10:-10", [10, 0, -10]),
        ("5", [5]),
        ("0:0.3:0.1", [0, 0.1, 0.2, 0.3]),
    ],
)
def test_orientations_are_read(text, angles):
    assert orientations(text) == pytest.approx(angles)


@pytest.mark.parametrize("text", ["", "a", "0:1", "0:10:0", "0:10:-1", "nan", "0:1e9:1e-9", "inf"])
def test_orientations_that_make_no_sense_are_refused(text):
    with pytest.raises(ValueError, match="--psi is"):
        orientations(text)


def test_json_output_turns_nan_into_null(capsys):
    cli._terminal.print_json({"a": np.array([1.0, np.nan]), "b": Path("x"), "c": np.int64(2)})
    assert json.loads(capsys.readouterr().out) == {"a": [1.0, None], "b": "x", "c": 2}


def test_a_result_prints_as_tables(capsys):
    result = snapshot().result
    assert result is not None
    truth = {p["name"]: p["value"] for p in result["parameters"]}
    cli._terminal.print_result(result, truth=truth)
    shown = capsys.readouterr().out
    assert shown.count("yes") == 8
    for part in ("1NN xx", "90 % interval", "psi, degrees", "trusted", "go on", "168,280"):
        assert part in shown


def test_a_prediction_prints_its_approximation_and_the_shape_of_arrays(capsys):
    prediction = {"route": {"name": "given"}, "dos": {"total": np.ones((3, 2)), "warnings": []}}
    print_prediction("Ge", prediction)
    shown = capsys.readouterr().out
    assert "route.name" in shown
    assert "array of 3 x 2" in shown


def test_a_powder_result_claims_no_trust(capsys):
    result = {
        "spectrum": "aluminium_arcs",
        "temperature_K": 50.0,
        "ei_meV": 50.0,
        "parameters": [{"name": "1NN xy", "unit": "eV", "value": 1.0, "sigma": 0.1}],
        "derived": [{"name": "on-site", "unit": "eV", "value": 3.0, "sigma": 0.2}],
        "nmse_free": 0.02,
        "error_bars": "Scaled by the misfit.",
        "outside_prior": [],
    }
    print_powder(result)
    shown = capsys.readouterr().out
    assert "trusted" not in shown.lower()
    assert "on-site: 3 +- 0.2" in shown


def test_logs_go_to_stderr_and_leave_stdout_to_results(capsys):
    import structlog

    assert cli.run(["train", "--help"]) == 0
    capsys.readouterr()
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("message_set_aside", reason="psi is NaN")
    told = capsys.readouterr()
    assert told.out == ""
    assert "quiet" not in told.err
    assert "message_set_aside" in told.err


def test_truth_and_savings_of_the_demonstration():
    assert true_values({"parameters": [{"name": "a", "value": 2}]}) == {"a": 2.0}
    assert true_values({"parameters": {"a": 2}}) == {"a": 2.0}
    result = {"minutes_used": 20.0, "stop": {"minutes_to_target": 30.0}}
    line = minutes_saved(result, (0.0, 120.0))
    assert "100 of the 120 minutes" in line
    assert "first, 70" in line
