"""A newcomer's path from own files to a trusted fit: `init`, `align`, `replay`, and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steering import cli
from steering.experiment import dump_experiment, load_experiment
from steering.study import simulate
from tests.steering.virtual_scan import EXAMPLES

PSI_DEG = (3.0, 15.0, 27.0, 39.0, 51.0, 63.0)
OFFSET_DEG = 1.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a germanium scan, u = 110 and v = 001, a degree off; nothing but raw events."""
    folder = tmp_path_factory.mktemp("beamtime") / "data"
    experiment = load_experiment(EXAMPLES / "ge-arcs.yaml")
    changes = {
        "sample": {"psi_offset_deg": OFFSET_DEG},
        "instrument": {"coarsen": 4},
        "virtual": {"bragg": 0.03, "counts_per_minute": 1500, "background_ratio": 0.5},
    }
    for section, values in changes.items():
        changed = getattr(experiment, section).model_copy(update=values)
        experiment = experiment.model_copy(update={section: changed})
    simulate(
        experiment,
        experiment_dir=EXAMPLES,
        output=folder,
        psi_deg=PSI_DEG,
        minutes=2.0,
        seed=3,
        formats=("sns",),
        processes=1,
    )
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("wrong", [True, False])
def test_three_commands_lead_from_files_of_an_unknown_mount_to_a_trusted_fit(
    wrong, files, tmp_path, capsys, monkeypatch
):
    """With u and v of another plane, and with u and v left open; each command prints the next."""
    monkeypatch.chdir(tmp_path)
    names = sorted(str(path) for path in files.glob("*.nxs.h5"))
    mount = ["--u", "1,0,0", "--v", "0,1,0", "--psi-offset", "0"] if wrong else []

    init = ["init", *names, "-s", "germanium", "--speed", "2", *mount, "--json"]
    assert cli.run(init) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["todo"]) == (0 if wrong else 3)
    if not wrong:  # nothing is folded with a mount that nobody knows
        assert cli.run(["replay", *names, "-e", "experiment.yaml", "-o", "replay"]) == 2
        assert told["next"][0] in capsys.readouterr().err

    assert told["next"][0].endswith("-e experiment.yaml --correct experiment-aligned.yaml")
    align = ["align", *names, "-e", "experiment.yaml", "--correct", "experiment-aligned.yaml"]
    assert cli.run(align) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert ("ALARM another plane is horizontal" in shown) == wrong
    sample = load_experiment(Path("experiment-aligned.yaml")).sample
    assert (sample.u, sample.v) == ((1, 1, 0), (0, 0, 1))
    assert abs(sample.psi_offset_deg - OFFSET_DEG) < 0.05

    assert told["next"][1].endswith("-e experiment-aligned.yaml -o replay")
    ended = cli.run(["replay", *names, "-e", "experiment-aligned.yaml", "-o", "replay", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert (ended, result["trusted"], result["reasons"]) == (0, True, [])
    found = {one["name"]: one["value"] for one in result["parameters"]}
    assert found["1NN xx"] == pytest.approx(-2.944, abs=0.02)
    assert found["1NN xy"] == pytest.approx(-2.136, abs=0.02)


def test_an_untrusted_run_is_blamed_on_its_mount_first(files, tmp_path, capsys):
    """A degree of psi offset that nobody corrected, in a small fit."""
    experiment = load_experiment(EXAMPLES / "ge-arcs.yaml")
    path = experiment.path.model_copy(
        update={
            "points": experiment.path.points[:2],
            "bins": (10,),
            "half_width_rlu": 0.1,
            "voxel_rlu": 0.035,
            "energy": experiment.path.energy.model_copy(update={"max_meV": 39.0, "bins": 39}),
        }
    )
    free = {"free": ("1NN xx", "1NN xy"), "others": "held"}
    small = experiment.model_copy(
        update={
            "path": path,
            "instrument": experiment.instrument.model_copy(update={"coarsen": 4}),
            "parameters": experiment.parameters.model_copy(update=free),
            "model": None,
        }
    )
    dump_experiment(small, tmp_path / "e.yaml")
    names = sorted(str(path) for path in files.glob("*.nxs.h5"))
    command = ["replay", *names[::2], names[1], "-e", str(tmp_path / "e.yaml"), "-o"]
    ended = cli.run([*command, str(tmp_path / "replay")])
    told = capsys.readouterr()
    shown = " ".join(told.out.split())
    assert ended == 3, told.err
    assert shown.index("The alignment is wrong") < shown.index("Not trusted")
    assert "psi offset is" in shown
    assert f"-e {tmp_path / 'e.yaml'} --correct {tmp_path / 'e-aligned.yaml'}" in shown
