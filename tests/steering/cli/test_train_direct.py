from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from model_server.direct import load_progressed, save_progressed
from steering import cli


def test_help_says_where_the_data_come_from_and_loads_no_torch():
    code = (
        "import sys; from steering import cli\n"
        "try: cli.run(['train-direct', '--help'])\n"
        "finally: assert 'torch' not in sys.modules and 'e3nn' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "beamsteer train-direct --data phonondb-2018.h5" in " ".join(done.stdout.split())
    assert "FORCE_SETS" in done.stdout


def test_data_that_are_not_there_are_refused(tmp_path, capsys):
    asked = ["train-direct", "--data", str(tmp_path / "none.h5"), "-o", str(tmp_path / "out")]
    assert cli.run(asked) == cli.BAD_INPUT
    assert "none.h5" in capsys.readouterr().err
    assert cli.run(["train-direct", "-o", str(tmp_path / "out")]) == cli.BAD_INPUT
    assert "--data" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.timeout(3600)
def test_one_command_trains_calibrates_measures_and_goes_on(shared_data, tmp_path, capsys):
    source = shared_data / "phonondb" / "phonondb-2018.h5"
    options = ["--crystals", "300", "--cycles", "2", "--epochs", "1", "--json"]
    out = tmp_path / "direct"
    assert cli.run(["train-direct", "--data", str(source), "-o", str(out), *options]) == cli.OK
    card = json.loads(capsys.readouterr().out)
    assert card["training"]["crystals for training"] > 200
    first = (out / "weights.safetensors").read_bytes()
    (out / "weights.safetensors").unlink()
    assert cli.run(["train-direct", "-o", str(out), *options]) == cli.OK  # from what is kept
    assert (out / "weights.safetensors").read_bytes() == first
    # Weights that have seen more passes than are asked for are none of a shorter training.
    member = tmp_path / "direct-work" / "member0-cycle1.safetensors"
    begun = load_progressed(member)
    assert begun is not None
    save_progressed(member, replace(begun, epoch=5))
    assert cli.run(["train-direct", "-o", str(out), *options]) == cli.BAD_INPUT
    assert "epochs is 1, but cycle 2 of member 1 in" in capsys.readouterr().err
