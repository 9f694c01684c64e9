from __future__ import annotations

import json

import numpy as np
import pytest

from simulations.errors import InputError
from steering.study import direct_targets_store as module
from steering.study.direct_targets_store import make_targets, read_targets

pytestmark = pytest.mark.shared_data


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 5)


@pytest.fixture
def source(shared_data):
    return shared_data / "phonondb" / "phonondb-2018.h5"


def test_an_interrupted_computation_goes_on_and_ends_alike(source, tmp_path, monkeypatch):
    whole = make_targets(source, tmp_path / "whole", crystals=4, most_atoms=12)
    assert len(whole.crystals) == 4
    assert sum(whole.aside.values()) + 4 <= whole.looked_at
    assert whole.aside.get("too many atoms", 0) > 0

    real, calls = module.site_densities, []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "site_densities", dies)
    with pytest.raises(KeyboardInterrupt):
        make_targets(source, tmp_path / "half", crystals=4, most_atoms=12)
    monkeypatch.setattr(module, "site_densities", real)
    assert len(list((tmp_path / "half").glob("*.npz"))) == 1
    told = []
    again = make_targets(
        source, tmp_path / "half", crystals=4, most_atoms=12, progress=lambda m, f: told.append(f)
    )
    assert [one.id for one in again.crystals] == [one.id for one in whole.crystals]
    for a, b in zip(again.crystals, whole.crystals, strict=True):
        np.testing.assert_array_equal(a.shares, b.shares)
        np.testing.assert_array_equal(a.positions, b.positions)
    assert told[-1] == 1.0
    kept = read_targets(tmp_path / "half")
    assert {one.id for one in whole.crystals} <= {one.id for one in kept.crystals}


def test_a_folder_of_other_options_is_refused(source, tmp_path):
    make_targets(source, tmp_path, crystals=1, most_atoms=12)
    with pytest.raises(InputError, match="another seed"):
        make_targets(source, tmp_path, crystals=1, most_atoms=12, seed=5)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["most_atoms"] == 12


def test_an_empty_folder_holds_no_targets(tmp_path):
    with pytest.raises(InputError, match="holds no site densities"):
        read_targets(tmp_path)
