from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import beamsteer
from steering.run import save_snapshot
from tests.steering.fabricated import snapshot

ROOT = Path(__file__).resolve().parents[2]


def test_importing_it_loads_nothing():
    code = (
        "import sys, time\n"
        "since = time.process_time()\n"
        "import beamsteer\n"
        "spent = time.process_time() - since\n"
        "dir(beamsteer), beamsteer.__version__\n"
        "heavy = {'torch', 'numba', 'numpy', 'httpx', 'pydantic', 'steering', 'simulations'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert spent < 0.5, spent\n"
        "from beamsteer import Client\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_all_that_is_offered_is_there_and_typed():
    assert sorted(beamsteer.__all__) == beamsteer.__all__
    for name in beamsteer.__all__:
        assert getattr(beamsteer, name).__doc__, name
    assert (ROOT / "beamsteer" / "py.typed").exists()
    with pytest.raises(AttributeError, match="no_such"):
        _ = beamsteer.no_such  # pyright: ignore[reportAttributeAccessIssue]


def test_a_run_is_opened_from_its_folder_or_its_result(tmp_path):
    original = snapshot()
    save_snapshot(original, tmp_path / "snapshot.npz")
    (tmp_path / "result.json").write_text("{}")
    for place in (tmp_path, str(tmp_path), tmp_path / "result.json"):
        run = beamsteer.open_run(place)
        assert run.result == original.result
        np.testing.assert_array_equal(run.spectrum.intensity, original.spectrum.intensity)
    (alone,) = beamsteer.open_runs(tmp_path)
    assert alone.run_id == original.run_id
    for place in (tmp_path, tmp_path / "result.json"):
        assert beamsteer.verdict(place).trust.code == "trusted"


@pytest.mark.parametrize("name", [None, "other"])
def test_one_of_several_is_named(tmp_path, name):
    for one in ("a", "b"):
        (tmp_path / one).mkdir()
        save_snapshot(snapshot(run_id=one), tmp_path / one / "snapshot.npz")
    with pytest.raises(beamsteer.InputError, match="expected one of: a, b"):
        beamsteer.open_run(tmp_path, name)
    assert beamsteer.open_run(tmp_path, "b").run_id == "b"


def test_a_place_without_a_run_says_what_makes_one(tmp_path):
    with pytest.raises(beamsteer.InputError, match="beamsteer"):
        beamsteer.open_run(tmp_path)
