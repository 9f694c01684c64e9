"""Springs of bonds learned from a database of phonons."""

from __future__ import annotations

import json

import numpy as np
import pytest

from model_server.direct import load_spring_bundle
from simulations.errors import InputError
from steering import cli
from steering.database import constants_of, open_source
from steering.study import SpringTraining, spring_training, train_springs_on
from steering.study.spring_training import spring_lesson


@pytest.fixture(scope="module")
def phonondb(shared_data):
    return shared_data / "phonondb" / "phonondb-2018.h5"


def entry_of(phonondb, name: str):
    source = open_source(phonondb)
    return source.entry(list(source.ids).index(name))


@pytest.mark.shared_data
def test_springs_of_an_entry_are_its_force_constants_along_and_across(phonondb):
    entry = entry_of(phonondb, "mp-2133")  # zinc oxide
    lesson, constants = spring_lesson(entry), constants_of(entry, "entry")
    assert set(lesson.bonds.numbers.tolist()) == {8, 30}
    root = np.sqrt(lesson.stiffness[lesson.bonds.first] * lesson.stiffness[lesson.bonds.second])
    nearest = np.argmin(constants.lengths)
    way = constants.vectors[nearest] / constants.lengths[nearest]
    along = way @ constants.tensors[nearest] @ way
    at = np.argmin(lesson.bonds.length_A)
    assert (lesson.target * root[:, None])[at, 0] == pytest.approx(along, rel=0.02)
    assert along < -3.0  # eV/angstrom^2, a bond that holds
    # nine in ten of what a bond does lies along and across it
    table = constants.tensors[constants.lengths <= 6.0]
    whole = (table**2).sum()
    kept = ((lesson.target * root[:, None]) ** 2 @ [1.0, 2.0]).sum()
    assert 0.9 < kept / whole <= 1.0 + 1e-9


@pytest.mark.shared_data
def test_one_command_trains_and_measures_and_the_same_options_give_the_same_bundle(
    phonondb, tmp_path, monkeypatch
):
    monkeypatch.setattr(spring_training, "LEAST_CRYSTALS", 10)
    told = []
    training = SpringTraining(crystals=25, epochs=12)
    card = train_springs_on(
        phonondb, tmp_path / "one", training, lambda words, share: told.append(share)
    )
    assert card["training"]["crystals for training"] == 25
    assert told == sorted(told)
    assert told[-1] == 1.0
    train_springs_on(phonondb, tmp_path / "two", training)
    weights = [(tmp_path / one / "weights.safetensors").read_bytes() for one in ("one", "two")]
    assert weights[0] == weights[1]
    measured = {row["what"]: row["figure"] for row in card["measured"]}
    assert float(measured["stiffness along bonds, R2"]) > 0.3
    found = load_spring_bundle(tmp_path / "one")
    lesson = spring_lesson(entry_of(phonondb, "mp-2133"))
    said = found.ask(lesson.bonds, lesson.stiffness)
    assert said.shape == lesson.target.shape
    assert said[np.argmin(lesson.bonds.length_A), 0] < 0
    monkeypatch.undo()
    with pytest.raises(InputError, match="25 crystals of use for training.*at least 100"):
        train_springs_on(phonondb, tmp_path / "three", SpringTraining(crystals=25))


def test_the_verb_says_what_it_makes_and_refuses_data_that_are_not_there(tmp_path, capsys):
    asked = ["train-springs", "--data", str(tmp_path / "none.h5"), "-o", str(tmp_path / "out")]
    assert cli.run(asked) == cli.BAD_INPUT
    assert "none.h5" in capsys.readouterr().err


def test_the_card_that_ships_names_its_command():
    card = json.loads(json.dumps(dict(load_spring_bundle().card)))
    assert card["training"]["command"].startswith("beamsteer train-springs --crystals ")
