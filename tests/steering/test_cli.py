from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import structlog
import yaml
from fastapi.testclient import TestClient

from steering import cli
from steering.cli._verbs import VERBS, verb
from steering.cli.demo import minutes_saved, true_values
from steering.cli.invert_powder import print_powder
from steering.cli.predict import print_prediction
from steering.cli.simulate import orientations
from steering.experiment import dump_experiment, load_experiment
from steering.run import now_ns, save_snapshot
from steering.web import create_app
from tests.steering.fabricated import snapshot, store
from tests.steering.virtual_scan import VirtualScan, virtual_scan

__all__ = ["virtual_scan"]

ROOT = Path(__file__).resolve().parents[2]


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
        "'phonopy', 'pydantic', 'structlog', 'asyncio', 'steering.cli.replay'}\n"
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
    for name in VERBS:
        assert name in done.stdout


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_with_an_example_and_json(name, capsys):
    assert cli.run([name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Example: beamsteer {name}" in shown
    assert "--json" in shown


@pytest.mark.parametrize("name", VERBS)
def test_what_help_says_of_a_verb_is_the_first_sentence_of_its_own(name):
    told = " ".join(verb(name).help.split())
    assert told.partition(". ")[0].rstrip(".") == VERBS[name].rstrip(".")


def commands(command):
    """A command and all below it."""
    yield command
    for below in getattr(command, "commands", {}).values():
        yield from commands(below)


@pytest.mark.parametrize("name", VERBS)
def test_an_output_of_the_wrong_kind_is_refused_before_anything_is_computed(name):
    """But for those of several files, and those of a backup and a fold: either kind."""
    for one in commands(verb(name)):
        for option in one.params:
            either = option.multiple or name in ("backup", "fold")
            if option.name == "output" and not either:
                told = option.type_descriptor.parameter_info
                assert told.dir_okay is not told.file_okay


def test_a_folder_is_no_file_for_a_result_and_a_file_is_no_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    file = tmp_path / "file"
    file.touch()
    for verb_and_file, output in (
        (["invert-powder", "aluminium"], tmp_path),
        (["train", "examples/ge-arcs.yaml"], file),
    ):
        assert cli.run([*verb_and_file, "-o", str(output)]) == cli.BAD_INPUT
        assert "is a" in " ".join(capsys.readouterr().err.split())


def test_every_module_of_the_command_line_is_a_verb():
    modules = {path.stem for path in (ROOT / "steering" / "cli").glob("[!_]*.py")}
    assert modules == {name.replace("-", "_") for name in VERBS}


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
        (["predict", "germanium", "--ei", "1e-300"], "ei_meV is 1e-300"),
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


@pytest.mark.kafka
def test_doctor_tells_what_consume_would_look_at_of_the_broker(kafka, kafka_topics, tmp_path):
    topics = kafka_topics("detector", "runInfo", "motion", "sampleEnv")
    described = yaml.safe_load((ROOT / "examples" / "ge-arcs.yaml").read_text())
    names = {"prefix": kafka_topics.prefix, "reduced": None, "bluesky": None}
    described["source"] = {
        "kind": "kafka",
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topics": names},
    }
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(described))
    told = json.loads(beamsteer("doctor", "--json", "--experiment", str(file)).stdout)
    (broker,) = (f for f in told["findings"] if f["name"] == "broker")
    assert all(f"{topic}: 1 partitions" in broker["found"] for topic in topics)
    assert broker["state"] == "optional"
    assert f"{kafka_topics.prefix}_beamsteer_dead_letters not there" in broker["remedy"]


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
    assert {"sample.u", "sample.v", "sample.psi_offset_deg", "motion.speed_deg_per_s"} <= set(
        told["unknown"]
    )
    assert "sample.structure" not in told["unknown"]
    drafted = load_experiment(output, spared=("sample", "motion"))
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
        return {"parameters": snapshot().result.document()["parameters"]}  # type: ignore[union-attr]

    def replay(
        files, experiment, *, experiment_dir, output, speed, store, run_id, psi_deg, progress
    ):
        assert {path.suffix for path in files} == {".h5"}  # one format, or events count twice
        store.publish(snapshot(run_id, status="finished"))
        progress("replayed", 1.0)
        return snapshot().result.document()  # type: ignore[union-attr]

    def invert_powder(spectrum, *, temperature_K, progress):
        return {
            "spectrum": spectrum,
            "temperature_K": temperature_K,
            "ei_meV": 50.0,
            "parameters": [{"name": "1NN xy", "unit": "eV", "value": -0.7, "sigma": 0.1}],
            "error_bars": "Scaled by the misfit.",
        }

    monkeypatch.setattr("steering.study.simulate", simulate)
    monkeypatch.setattr("steering.run.replay", replay)
    monkeypatch.setattr("model_server.powder.invert_powder", invert_powder)


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
    assert cli.run([*arguments, "-o", str(output), "--serve", "--port", "0"]) == 3  # one set aside
    assert "psi is NaN" in capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == {"folded.png", "snapshot.npz"}
    assert cli.run([*arguments, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["trusted"] is True


POSCAR = "Al\n1\n0 2 2\n2 0 2\n2 2 0\nAl\n1\nDirect\n0 0 0\n"
CIF = (
    "data_x\n_cell_length_a {a}\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha {alpha}\n"
    "_cell_angle_beta 90\n_cell_angle_gamma 90\nloop_\n_atom_site_label\n_atom_site_fract_x\n"
    "_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy\nAl 0 0 0 {occupancy}\n"
)
HOSTILE_STRUCTURES = {
    "empty": "",
    "words": "hello\nworld\n",
    "nul": "a\0b",
    "brackets": "[" * 5000,
    "number": "1e999\n",
    "nan.POSCAR": POSCAR.replace("2", "nan"),
    "flat.POSCAR": POSCAR.replace("2", "0"),
    "needle.POSCAR": POSCAR.replace("0 2 2", "0 2e9 2e9"),
    "unknown.POSCAR": POSCAR.replace("Al\n1\nD", "Xx\n1\nD"),
    "many.POSCAR": POSCAR.replace("Al\n1\nD", "Al\n1000000\nD"),
    "negative.POSCAR": POSCAR.replace("Al\n1\nD", "Al\n-1\nD"),
    "overlap.POSCAR": POSCAR.replace("Al\n1\nD", "Al\n2\nD") + "0 0 0\n",
    "short.POSCAR": POSCAR[:20],
    "short.cif": "data_x\n_cell_length_a 3\n",
    "nan.cif": CIF.format(a="nan", alpha=90, occupancy=1),
    "angle.cif": CIF.format(a=4, alpha=900, occupancy=1),
    "partial.cif": CIF.format(a=4, alpha=90, occupancy=0.5),
    "rows.yaml": "unit_cell:\n  lattice:\n  - [ 1, 0 ]\n",
    "types.yaml": "unit_cell: 3\nprimitive_cell: x\n",
    "tag.yaml": "unit_cell: !!python/object/apply:os.system ['true']\n",
}


@pytest.mark.parametrize("name", HOSTILE_STRUCTURES)
@pytest.mark.parametrize("verb", [["phonons"], ["spectrum", "vision"], ["predict"]])
def test_a_hostile_structure_is_bad_input_and_no_fault_of_ours(verb, name, tmp_path, capsys):
    path = tmp_path / name
    path.write_text(HOSTILE_STRUCTURES[name])
    assert cli.run([*verb, str(path)]) == cli.BAD_INPUT
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert "fault of Beamsteer" not in told


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", bytes(range(256)) * 8, b"0\n", b"2 2\n1 1 1\n"]
)
@pytest.mark.parametrize("name", ["FORCE_CONSTANTS", "FORCE_SETS", "BORN", "force_constants.hdf5"])
def test_hostile_force_constants_are_bad_input(name, content, tmp_path, capsys):
    (tmp_path / "POSCAR").write_text(POSCAR)
    (tmp_path / name).write_bytes(content)
    for structure in (tmp_path, tmp_path / "POSCAR"):
        assert cli.run(["phonons", str(structure), "--route", "given"]) == cli.BAD_INPUT
        assert "fault of Beamsteer" not in capsys.readouterr().err


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
    shown_run = snapshot().result
    assert shown_run is not None
    result = shown_run.document()
    truth = {p["name"]: p["value"] for p in result["parameters"]}
    cli._terminal.print_result(result, truth=truth)
    shown = capsys.readouterr().out
    assert shown.count("yes") == 8
    for part in (
        "1NN xx",
        "90 % interval",
        "psi, degrees",
        "✓ Trusted",
        "Ended, short by 12 min",
        "168,280",
    ):
        assert part in shown


def test_the_words_are_those_of_api_and_page(capsys, tmp_path):
    shown = snapshot("stored", status="finished")
    assert shown.result is not None
    save_snapshot(shown, tmp_path / "snapshot.npz")
    assert cli.run(["status", str(tmp_path), "--json"]) == 0
    (verdict,) = json.loads(capsys.readouterr().out)["verdicts"]
    assert cli.run(["status", str(tmp_path)]) == 0
    status = capsys.readouterr().out
    cli._terminal.print_result(shown.result.document(), status="finished")
    result = capsys.readouterr().out
    client = TestClient(create_app(store(shown)), base_url="http://127.0.0.1")
    told = client.get("/runs/stored/verdict").json()
    for name in ("trust", "stop", "advice", "coverage"):
        assert {**told[name], "age_s": 0} == {**verdict[name], "age_s": 0}
        for line in (told[name]["word"].removesuffix("°"), *told[name]["evidence"]):
            assert line in status
            assert line in result


def test_what_is_not_trusted_is_faint_and_advised_to_test_the_model(capsys):
    shown = snapshot().result
    assert shown is not None
    cli._terminal.print_result(shown.document() | {"trusted": False, "reasons": 3 * ["why " * 40]})
    told = capsys.readouterr().out
    assert "Ended untrusted" in told
    assert told.count("to test the model") == 6
    assert told.count("  - " + ("why " * 40).strip()) == 3  # whole
    # What cannot tell yet is advised by information, with the minutes that it takes.
    unsure = {"trusted": False, "trust": "cannot tell yet", "reasons": ["why"]}
    cli._terminal.print_result(shown.document() | unsure)
    assert "to test the model" not in capsys.readouterr().out


def test_status_is_75_while_what_feeds_a_run_is_gone_and_says_so(capsys, tmp_path):
    from steering.web import HeartbeatFile

    save_snapshot(snapshot("night"), tmp_path / "snapshot.npz")
    beat = HeartbeatFile(tmp_path, "consume", clock=lambda: now_ns() - 60 * 10**9)
    beat.write(partitions=(0,), reasons=(), runs={"night": {"folded": 8}})
    assert cli.run(["status", str(tmp_path)]) == 75
    told = capsys.readouterr().out
    assert "running, old, as of" in told
    assert "! The fold worker is gone: silent for 60 s." in told
    assert cli.run(["status", str(tmp_path), "--run", "other"]) == 2
    assert "expected one in" in capsys.readouterr().err
    assert cli.run(["status", str(tmp_path / "nowhere")]) == 2


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


def test_output_that_finds_no_room_is_told_with_what_to_do(small_disk, capsys):
    small_disk.fill()
    arguments = ["phonons", "germanium", "--points", "20", "-o", str(small_disk.folder / "out")]
    assert cli.run(arguments) == cli.AWAY
    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert "Make room" in told
