from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest

from model_server.direct.bundle import (
    CARD,
    MODEL_CARD,
    WEIGHTS,
    DirectBundle,
    DirectBundleError,
    load_direct_bundle,
    load_progressed,
    save_progressed,
)
from model_server.direct.calibration import calibrate
from model_server.direct.training import Recipe, site_loss, train_member
from model_server.networks.bundle import shipped_bundles
from tests.model_server.direct.crystals import SMALL, random_crystal, small_network
from tests.model_server.direct.test_calibration import crystal
from tests.model_server.direct.test_training import lessons


def made() -> DirectBundle:
    rng = np.random.default_rng(0)
    judged = []
    for _ in range(25):
        one = crystal(rng)
        latent = rng.normal(0, 1, (4, SMALL.readout))
        said = type(one.said)(shares=one.said.shares, totals=one.said.totals, latent=latent)
        judged.append(type(one)(said=said, true=one.true, numbers=one.numbers))
    return DirectBundle(
        networks=(small_network(0), small_network(1, replace(SMALL, reach_A=3.5, radii=True))),
        calibration=calibrate(
            judged,
            [rng.normal(0, 1, (4, SMALL.readout)) for _ in range(30)],
            [np.array([14, 8])] * 30,
            most_atoms=40,
        ),
        card={
            "name": "a test",
            "training": {"crystals for training": 30, "crystals for calibration": 25},
            "measured": [{"what": "mean absolute error", "figure": "0.1"}],
        },
    )


def test_a_bundle_says_the_same_after_it_was_written_and_read(tmp_path):
    bundle = made()
    bundle.save(tmp_path / "direct")
    back = load_direct_bundle(tmp_path / "direct")
    one = random_crystal(0)
    before, after = bundle.ask(*one), back.ask(*one)
    np.testing.assert_array_equal(before.shares, after.shares)
    assert after.totals.shape == (2, 128)
    np.testing.assert_allclose(
        back.calibration.band(after), bundle.calibration.band(before), rtol=1e-6
    )
    assert back.calibration.distance(after) == pytest.approx(
        bundle.calibration.distance(before), rel=1e-4
    )
    assert back.calibration.rare(np.array([1, 14])) == (1,)
    assert "mean absolute error | 0.1" in (tmp_path / "direct" / MODEL_CARD).read_text()


@pytest.mark.parametrize("harm", ["no card", "no weights", "format", "cut", "shape"])
def test_a_damaged_bundle_is_refused_with_what_to_do(tmp_path, harm):
    folder = tmp_path / "direct"
    made().save(folder)
    card = json.loads((folder / CARD).read_text())
    if harm == "no card":
        (folder / CARD).unlink()
    elif harm == "no weights":
        (folder / WEIGHTS).unlink()
    elif harm == "cut":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:5000])
    elif harm == "format":
        (folder / CARD).write_text(json.dumps({**card, "format": 99}))
    else:
        shapes = [{**card["shapes"][0], "channels": 13}, card["shapes"][1]]
        (folder / CARD).write_text(json.dumps({**card, "shapes": shapes}))
    with pytest.raises(DirectBundleError, match="train-direct|Train it again"):
        load_direct_bundle(folder)


def test_where_a_training_stands_is_read_back(tmp_path):
    path = tmp_path / "member0.safetensors"
    assert load_progressed(path) is None
    given, kept = lessons(4), []
    recipe = Recipe(epochs=2, atoms=24)

    def keep(state, network):
        save_progressed(path, state)
        kept.append(state)
        return state.epoch == 1

    train_member(given, site_loss, SMALL, recipe, after=keep)
    back = load_progressed(path)
    assert back is not None
    assert back.epoch == 1
    assert back.tensors.keys() == kept[0].tensors.keys()
    whole = train_member(given, site_loss, SMALL, recipe)
    resumed = train_member(given, site_loss, SMALL, recipe, begun=back)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DirectBundleError, match="Remove it to begin anew"):
        load_progressed(path)


def test_the_bundle_that_ships_is_small_and_no_model_of_experiments():
    folder = resources.files("model_server") / "bundles" / "direct"
    assert sum(len(one.read_bytes()) for one in folder.iterdir()) < 10e6
    assert "direct" not in shipped_bundles()
    bundle = load_direct_bundle()
    assert len(bundle.networks) >= 2
    card = (folder / MODEL_CARD).read_text(encoding="utf-8")
    for row in bundle.card["measured"]:
        assert row["figure"] in card
