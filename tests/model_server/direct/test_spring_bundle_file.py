"""Bundles of springs, written and read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from model_server.direct import SpringBundle, SpringBundleError, load_spring_bundle
from model_server.networks.bundle import shipped_bundles
from tests.model_server.direct.test_springs import bonds_of, trained


def test_a_bundle_comes_back_as_it_was_and_a_bad_one_says_so(tmp_path):
    card = {"training": {"epochs": 30}, "measured": [{"what": "R2", "figure": "0.9"}]}
    bundle = SpringBundle(network=trained(), card=card)
    bundle.save(tmp_path / "springs")
    found = load_spring_bundle(tmp_path / "springs")
    bonds, stiffness = bonds_of(2), np.full(len(bonds_of(2).numbers), 4.0)
    np.testing.assert_array_equal(found.ask(bonds, stiffness), bundle.ask(bonds, stiffness))
    assert "| R2 | 0.9 |" in (tmp_path / "springs" / "MODEL_CARD.md").read_text()
    with pytest.raises(SpringBundleError, match="train-springs"):
        load_spring_bundle(tmp_path / "none")
    told = tmp_path / "springs" / "springs.json"
    (tmp_path / "other").mkdir()
    other = tmp_path / "other"
    (other / "weights.safetensors").write_bytes(
        (tmp_path / "springs" / "weights.safetensors").read_bytes()
    )
    (other / "springs.json").write_text(json.dumps({**json.loads(told.read_text()), "format": 9}))
    with pytest.raises(SpringBundleError, match="format is 9"):
        load_spring_bundle(other)


def test_what_ships_is_no_model_of_experiments():
    assert "springs" not in shipped_bundles()


def test_what_ships_tells_most_of_how_stiff_bonds_are():
    measured = {row["what"]: row["figure"] for row in load_spring_bundle().card["measured"]}
    assert float(measured["stiffness along bonds, R2"]) > 0.9
    assert float(measured["stiffness across bonds, R2"]) > 0.75
    assert int(measured["unseen crystals"]) >= 100
